"""`python -m experiments.hlo --suite=NAME`: training steps as XLA programs, to be run elsewhere.

Traces the whole train step of each model of a suite, at several batch sizes and precisions, to HLO,
on a CPU, and writes the programs with what they are fed, and with what TensorFlow computes without
XLA, into a directory. `hlo_run.py`, written beside them, measures them on a machine that has JAX
and an accelerator but neither TensorFlow nor the zoo.
"""

import dataclasses
import gzip
import hashlib
import io
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Literal

from experiments import suites
from zoo import files, flags
from zoo.errors import UsageError, check_positive

PRECISIONS = ("float32", "tf32", "bfloat16")
_ALIAS = re.compile(r"\{(\d+)\}: \((\d+), \{\}, may-alias\)")


@dataclasses.dataclass(frozen=True)
class HLOFlags:
    """What the command can be told."""

    suite: str = "large"
    """Which models, with which flags: a suite's name or file."""
    only: str = ""
    """Names of its runs, commas between; all by default."""
    batch_sizes: str = "64,256,1024,4096"
    """Commas between; the smallest is checked against TensorFlow."""
    precisions: str = "float32,tf32,bfloat16"
    """Commas between; tf32 is float32 whose products may be rounded, as GPUs do."""
    out: str = "programs"
    """Directory to write to."""

    def __post_init__(self):
        self.sizes()
        self.asked()

    def sizes(self) -> list[int]:
        """The batch sizes, the smallest first; UsageError."""
        try:
            sizes = sorted({int(size) for size in self.batch_sizes.split(",")})
        except ValueError as error:
            raise UsageError(
                f"--batch_sizes={self.batch_sizes}: expected numbers, commas between"
            ) from error
        check_positive(batch_sizes=sizes[0])
        return sizes

    def asked(self) -> list[str]:
        """The precisions; UsageError."""
        asked = list(dict.fromkeys(self.precisions.split(",")))
        if not set(asked) <= set(PRECISIONS):
            raise UsageError(
                f"--precisions={self.precisions}: expected some of {', '.join(PRECISIONS)}"
            )
        return asked


def main(argv: list[str]) -> int:
    """Exports; returns the exit code."""
    options = flags.parse_options(
        HLOFlags, "python -m experiments.hlo [--suite=NAME] [--flag=value ...]", argv
    )
    if options is None:
        return 0
    out = pathlib.Path(options.out)
    # One seed of each: a step's cost does not depend on it.
    runs = {run.name: run for run in suites.load(suites.find(options.suite), out).runs}
    only = [name for name in options.only.split(",") if name]
    if unknown := sorted(set(only) - set(runs)):
        raise UsageError(f"--only={options.only}: the suite has no {', '.join(unknown)}")
    from zoo import runtime

    tf = runtime.import_tensorflow(gpu=False)
    tf.get_logger().setLevel("ERROR")  # that much is traced anew is no mistake here
    script = pathlib.Path(__file__).with_name("hlo_run.py")
    files.write(out / script.name, script.read_bytes())
    records: list[dict[str, Any]] = []
    for name in only or runs:
        for precision in options.asked():
            new = export(name, runs[name].settings, precision, options.sizes(), out)
            for record in new:
                print(f"{record['name']}: {record['bytes'] / 2**20:.2f} MiB", flush=True)
            records += new
            files.write(out / "programs.json", json.dumps(records, indent=1).encode() + b"\n")
    print(f"To measure them, where JAX and an accelerator are: python {out / script.name} {out}")
    return 0


def export(
    name: str,
    settings: flags.Settings,
    precision: str,
    batch_sizes: Sequence[int],
    out: pathlib.Path,
) -> list[dict[str, Any]]:
    """Writes a model's programs; returns their records, as programs.json has them."""
    import tensorflow as tf

    from experiments import hlo_run, steps

    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    kind: Literal["float32", "bfloat16"] = "bfloat16" if precision == "bfloat16" else "float32"
    run = dataclasses.replace(settings.run, precision=kind)
    model, specs, _ = steps.prepare(dataclasses.replace(settings, run=run))
    names = sorted(specs)

    def step(*batch):
        scalars = model.train_step(dict(zip(names, batch, strict=True)))
        return [tf.cast(scalars[scalar], tf.float32) for scalar in model.scalar_names]

    compiled = tf.function(step, jit_compile=True, autograph=False)
    variables = {id(variable.handle): variable for variable in model.state()}
    records: list[dict[str, Any]] = []
    for size in batch_sizes:
        rows = size * model.batches_per_step
        batch = [
            {"name": key, **specs[key], "shape": [rows, *specs[key]["shape"]]} for key in names
        ]
        asked = [tf.TensorSpec(spec["shape"], spec["dtype"]) for spec in batch]
        captured = [
            variables.get(id(capture), capture)
            for capture in compiled.get_concrete_function(*asked).captured_inputs
        ]
        state = [source.numpy() for source in captured]
        stem = f"{name}-{precision}-{size}"
        written = compiled.experimental_get_compiler_ir(*asked)
        program = gzip.compress(written(stage="hlo_serialized"), mtime=0)
        files.write(out / f"{stem}.hlo.gz", program)
        # Parameters are the batch, by name, then what the step captures; outputs the scalars, then
        # the variables that it changes, each of which may lie where its old value did.
        header = written(stage="hlo").partition("\n")[0]
        updates = {int(p) - len(batch): int(o) for o, p in _ALIAS.findall(header)}
        outputs = [((), "float32") for _ in model.scalar_names]
        outputs += [(state[number].shape, str(state[number].dtype)) for number in updates]
        if list(updates.values()) != list(range(len(model.scalar_names), len(outputs))):
            raise RuntimeError(f"{stem}: an output is neither a scalar nor a changed variable")
        records.append(
            {
                "name": stem,
                "model": name,
                "precision": precision,
                "batch_size": size,
                "images": rows,
                "flags": settings.recorded(),
                "program": f"{stem}.hlo.gz",
                "bytes": len(program),
                "batch": batch,
                "scalars": model.scalar_names,
                "outputs": outputs,
                "updates": updates,
                "state": _write_arrays(out, "state", state),
                "expected": "",
            }
        )
        if len(records) == 1:
            changed = [captured[number] for number in updates]
    # Last, as it changes the variables; without XLA, hence by other code than what is exported.
    first = records[0]
    scalars = tf.function(step, autograph=False)(*hlo_run.make_batch(first["batch"]))
    expected = [hlo_run.sample(value.numpy()) for value in (*scalars, *changed)]
    first["expected"] = _write_arrays(out, "expected", expected)
    return records


def _write_arrays(out: pathlib.Path, kind: str, arrays: Sequence[Any]) -> str:
    """Writes them as 0, 1, … into one file, named by what it holds; returns that name."""
    import numpy as np

    data = io.BytesIO()
    np.savez_compressed(data, **{str(number): array for number, array in enumerate(arrays)})
    name = f"{kind}-{hashlib.sha256(data.getvalue()).hexdigest()[:12]}.npz"
    if not (out / name).exists():
        files.write(out / name, data.getvalue())
    return name


if __name__ == "__main__":
    flags.run_command(main)
