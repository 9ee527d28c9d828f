"""`python hlo_run.py PROGRAMS`: training steps of the zoo on whatever device JAX finds, measured.

PROGRAMS is a directory that `python -m experiments.hlo` wrote; this script lies in it too. It needs
jax and numpy alone, neither TensorFlow nor the zoo. Each program is a whole training step as XLA's
HLO: it is compiled here, its outputs after one step are held against TensorFlow's on a CPU, and it
is timed, its state fed back in place, step after step. Results go to results.json beside it, or
where --out says, after each program: a run that was cut short goes on where it was.
"""

import argparse
import dataclasses
import gzip
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SAMPLED = 1024
"""Most values of each output that are compared with TensorFlow's."""
# Of what a step moves. Rounding alone, which Adam's first step makes larger: where a gradient is
# little more than rounding, it moves a weight as far as any other, one way or the other.
TOLERANCES = {"float32": 1e-3, "tf32": 1e-1, "bfloat16": 5e-1}
ROUNDS = 3


def sample(values: np.ndarray) -> np.ndarray:
    """At most SAMPLED of the values, evenly spaced: [N] in their own type."""
    flat = np.asarray(values).reshape(-1)
    return flat[:: max(1, -(-flat.size // SAMPLED))]


def make_batch(specs: Sequence[dict[str, Any]], seed: int = 0) -> list[np.ndarray]:
    """Random examples, the same everywhere: of each spec its shape and type, from 0 to `below`."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return [
        generator.integers(0, spec["below"], spec["shape"]).astype(spec["dtype"]) for spec in specs
    ]


def distance(
    before: Sequence[np.ndarray], found: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> float:
    """Of all tensors together: how far `found` is from `expected`, over how far that moved.

    Whole numbers are counters and must be equal, else it is infinite.
    """
    squares = moved = 0.0
    for old, one, other in zip(before, found, expected, strict=True):
        if one.shape != other.shape:
            raise ValueError(f"shape {one.shape} where {other.shape} was expected")
        if np.issubdtype(other.dtype, np.floating):
            squares += float(np.sum((one.astype("f8") - other) ** 2))
            moved += float(np.sum((other.astype("f8") - old) ** 2))
        elif not np.array_equal(one, other):
            return float("inf")
    return float(np.sqrt(squares / moved))


class Program:
    """One exported training step, for the device that JAX finds; `compile` comes first."""

    def __init__(self, directory: pathlib.Path, record: dict[str, Any]):
        import jax

        self.record, self._directory = record, directory
        state = np.load(directory / record["state"])
        self._state = [state[str(number)] for number in range(len(state.files))]
        batch = make_batch(record["batch"])
        step = self._function([*batch, *self._state])
        self.lowered = jax.jit(step, donate_argnums=0).lower(self._state, batch)
        self.batch = jax.device_put(batch)

    def compile(self) -> float:
        """Returns how many seconds it took."""
        began = time.perf_counter()
        self.compiled = self.lowered.compile()
        return time.perf_counter() - began

    def initial_state(self):
        """On the device."""
        import jax

        return jax.device_put(self._state)

    def _function(self, inputs: Sequence[np.ndarray]) -> Callable:
        """(state, batch) -> (state after the step, scalars)."""
        import jax
        import jax.export

        # JAX calls programs that it exported itself: ours takes the place of one of the same
        # signature, so that jit, donation and the analyses are those of any JAX function.
        outputs = [np.zeros(shape, dtype) for shape, dtype in self.record["outputs"]]
        stand_in = jax.export.export(jax.jit(lambda *_: outputs))(*inputs)
        exported = dataclasses.replace(
            stand_in,
            mlir_module_serialized=_portable(self._directory / self.record["program"]),
            module_kept_var_idx=tuple(range(len(inputs))),
        )
        updates = {int(number): output for number, output in self.record["updates"].items()}
        scalars = len(self.record["scalars"])

        def step(state, batch):
            results = exported.call(*batch, *state)
            after = [
                results[updates[i]] if i in updates else value for i, value in enumerate(state)
            ]
            return after, results[:scalars]

        return step

    def error(self) -> float | None:
        """The `distance` to TensorFlow's outputs after one step; None where there are none.

        Of the scalars that the step reports, and of the variables that it changes: the larger.
        """
        if not self.record["expected"]:
            return None
        stored = np.load(self._directory / self.record["expected"])
        expected = [stored[str(number)] for number in range(len(stored.files))]
        state, scalars = self.compiled(self.initial_state(), self.batch)
        numbers = [int(number) for number in self.record["updates"]]
        before = [sample(self._state[number]) for number in numbers]
        after = [sample(state[number]) for number in numbers]
        count = len(scalars)
        zeros = [np.zeros(1, np.float32)] * count
        return max(
            distance(zeros, [sample(value) for value in scalars], expected[:count]),
            distance(before, after, expected[count:]),
        )

    def steps_per_second(self, seconds: float) -> list[float]:
        """Of ROUNDS rounds of about so many seconds; each step takes the state of the one before.

        Steps are handed to the device one by one, as it takes them, and waited for at the end.
        """
        import jax

        state, scalars = self.initial_state(), None
        rates: list[float] = []
        count = 1
        # The first fills caches, the second tells how many steps a round has.
        for number in range(-2, ROUNDS):
            began = time.perf_counter()
            for _ in range(count):
                state, scalars = self.compiled(state, self.batch)
            jax.block_until_ready((state, scalars))
            rate = count / (time.perf_counter() - began)
            if number == -1:
                count = max(1, round(rate * seconds))
            elif number >= 0:
                rates.append(rate)
        return rates

    def operations(self) -> float:
        """Floating-point operations of a step, by XLA's analysis before it optimises."""
        costs = self.lowered.cost_analysis()
        return float((costs[0] if isinstance(costs, list) else costs)["flops"])

    def memory(self) -> dict[str, int]:
        """Bytes on the device: of inputs, of what is computed on the way, of all at once."""
        sizes = self.compiled.memory_analysis()
        inputs, temporary = sizes.argument_size_in_bytes, sizes.temp_size_in_bytes
        outputs = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
        return {"inputs": inputs, "temporary": temporary, "total": inputs + outputs + temporary}


def _portable(path: pathlib.Path) -> bytes:
    """A file of gzipped HLO as the StableHLO that jax.export keeps."""
    from jax.extend import mlir
    from jax.extend.mlir import ir
    from jax.extend.mlir.dialects import stablehlo
    from jax.interpreters.mlir import make_ir_context

    copies: list[Any] = []

    def find(operation):
        if operation.name == "mhlo.copy":
            copies.append(operation)
        return ir.WalkResult.ADVANCE

    with make_ir_context():
        module = ir.Module.parse(mlir.hlo_to_stablehlo(gzip.decompress(path.read_bytes())))
        # What StableHLO has no words for: copies, and which outputs may lie where inputs did,
        # which donation says anew.
        module.operation.walk(find)
        for copy in copies:
            copy.results[0].replace_all_uses_with(copy.operands[0])
            copy.erase()
        for name in list(module.operation.attributes):
            if (name := getattr(name, "name", name)).startswith("mhlo."):
                del module.operation.attributes[name]
        return mlir.serialize_portable_artifact(str(module), stablehlo.get_current_version())


def peak(precision: str, side: int) -> float:
    """The most operations a second that a product of two side x side matrices reaches here."""
    import jax
    import jax.numpy as jnp

    number = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    exact = jax.lax.Precision.HIGHEST if precision == "float32" else jax.lax.Precision.DEFAULT
    one = jax.random.normal(jax.random.key(0), (side, side), jnp.float32)
    one = (one / side**0.5).astype(number)
    chain = 10

    @jax.jit
    def products(value):
        return jax.lax.fori_loop(
            0, chain, lambda _, value: jnp.matmul(value, one, precision=exact), value
        )

    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        products(one).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2.0 * side**3 * chain / min(seconds)


def measure(
    directory: pathlib.Path, record: dict[str, Any], peaks: dict[str, float], seconds: float
) -> dict[str, Any]:
    """All figures of one program; or {"error": the reason} where the device cannot run it."""
    result = {key: record[key] for key in ("name", "model", "precision", "batch_size", "images")}
    try:
        program = Program(directory, record)
        compile_seconds = program.compile()
        error = program.error()
        rates = program.steps_per_second(seconds)
    except Exception as failure:  # of memory, most often: the other programs may run
        return {**result, "error": " ".join(str(failure).split())[:200]}
    rate, operations = statistics.median(rates), program.operations()
    if error is not None:
        tolerance = TOLERANCES[record["precision"]]
        result["check"] = {"distance": error, "tolerance": tolerance, "passed": error <= tolerance}
    return {
        **result,
        "steps_per_second": rate,
        "rounds": rates,
        "images_per_second": rate * record["images"],
        "operations": operations,
        "share_of_peak": rate * operations / peaks[record["precision"]],
        "memory": program.memory(),
        "compile_seconds": compile_seconds,
    }


def table(figures: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    peaks = ", ".join(
        f"{name} {value / 1e12:.3g} TFLOP/s" for name, value in figures["peaks"].items()
    )
    lines = [
        f"# Training steps on {figures['device']}",
        "",
        f"JAX {figures['jax']}; median of {figures['rounds']} rounds of {figures['seconds']:g} s. "
        f"A large matrix product reaches {peaks}. A step of a model that updates its discriminator "
        "several times takes as many batches.",
        "",
        "| model | precision | batch | steps/s | images/s | GFLOP a step | of the peak "
        "| memory, MiB | compiled in, s | distance to TensorFlow |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in figures["results"].values():
        start = f"| {result['model']} | {result['precision']} | {result['batch_size']} |"
        if "error" in result:
            lines.append(f"{start} not run: {result['error']} | | | | | | |")
            continue
        check = result.get("check")
        verdict = ""
        if check:
            verdict = f"{check['distance']:.1e}"
            verdict += "" if check["passed"] else f" **above {check['tolerance']:.0e}**"
        lines.append(
            f"{start} {result['steps_per_second']:.4g} | {result['images_per_second']:.4g} "
            f"| {result['operations'] / 1e9:.4g} | {result['share_of_peak']:.1%} "
            f"| {result['memory']['total'] / 2**20:.0f} | {result['compile_seconds']:.1f} "
            f"| {verdict} |"
        )
    return "\n".join(lines) + "\n"


def _write(path: pathlib.Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and writes; returns the exit code, 1 if a step does not compute what it should."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("programs", type=pathlib.Path, help="directory of exported programs")
    parser.add_argument("--only", default="", help="those whose names begin so; commas between")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of three rounds")
    parser.add_argument("--side", type=int, default=8192, help="of the matrices of the peak")
    parser.add_argument("--out", type=pathlib.Path, help="directory for results.json, results.md")
    options = parser.parse_args(argv)
    try:
        records = json.loads((options.programs / "programs.json").read_text(encoding="utf-8"))
    except OSError as error:
        parser.error(f"{options.programs} holds no programs ({error.strerror}): expected a "
                     "directory that python -m experiments.hlo wrote")  # fmt: skip
    starts = tuple(options.only.split(","))
    records = [record for record in records if record["name"].startswith(starts)]
    if not records:
        parser.error(f"--only={options.only}: no program has a name that begins so")

    import jax

    jax.config.update("jax_enable_x64", True)  # the step's number is an int64
    device = jax.devices()[0]
    name = f"{device.device_kind} ({device.platform})"
    out = options.out or options.programs
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.json"
    figures: dict[str, Any] = {}
    if path.exists():
        figures = json.loads(path.read_text(encoding="utf-8"))
        if figures["device"] != name:
            parser.error(f"{path} holds results of {figures['device']}: choose another --out")
    figures = {"device": name, "peaks": {}, "results": {}} | figures
    figures |= {"jax": jax.__version__, "seconds": options.seconds, "rounds": ROUNDS}
    for precision in dict.fromkeys(record["precision"] for record in records):
        if precision not in figures["peaks"]:
            figures["peaks"][precision] = peak(precision, options.side)
            print(
                f"peak in {precision}: {figures['peaks'][precision] / 1e12:.4g} TFLOP/s", flush=True
            )
    for record in records:
        if record["name"] in figures["results"]:
            continue
        result = measure(options.programs, record, figures["peaks"], options.seconds)
        figures["results"][record["name"]] = result
        _write(path, json.dumps(figures, indent=1) + "\n")
        _write(path.with_suffix(".md"), table(figures))
        words = result.get("error") or (
            f"{result['steps_per_second']:.4g} steps/s, {result['share_of_peak']:.1%} of the peak, "
            f"distance {result.get('check', {}).get('distance', float('nan')):.1e}"
        )
        print(f"{record['name']}: {words}", flush=True)
    print(f"All figures: {path}, {path.with_suffix('.md')}")
    checks = [result.get("check") for result in figures["results"].values()]
    return int(any(check and not check["passed"] for check in checks))


if __name__ == "__main__":
    sys.exit(main())
