"""`python -m experiments.scaling`: the efficiency to expect on many GPUs, computed, not measured.

Reads a file of numbers (experiments/scaling.json: what each model's step computes and exchanges,
the network, the assumptions) and prints the tables of SCALING.md, which explains them. With
--results, step times are those that `hlo_run.py` measured instead of assumed ones. --count=SUITE
counts the collectives of every model of a suite anew, in the real graph of two replicas.
"""

import dataclasses
import json
import math
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from zoo import files, flags
from zoo.errors import UsageError, reason

NUMBERS = pathlib.Path(__file__).with_name("scaling.json")
GPUS = (8, 64, 512)
KINDS = ("statistics", "gradients")


@dataclasses.dataclass(frozen=True)
class ScalingFlags:
    """What the command can be told."""

    numbers: str = ""
    """File of numbers to compute with; experiments/scaling.json by default."""
    results: str = ""
    """results.json of `hlo_run.py`: measured step times."""
    precision: str = "tf32"
    """Of the step times: float32, tf32 or bfloat16."""
    count: str = ""
    """A suite whose collectives are counted, and written to the file of numbers."""


@dataclasses.dataclass(frozen=True)
class Network:
    """What joins the GPUs; seconds, bytes per second of one GPU one way."""

    gpus_per_host: int
    host_bandwidth: float
    """Between the GPUs of a host."""
    network_bandwidth: float
    """Between hosts."""
    start_latency: float
    """Of each collective."""
    host_latency: float
    """Of each step from GPU to GPU."""
    network_latency: float
    """Of each step from host to host."""

    def all_reduce(self, size: int, gpus: int) -> float:
        """Seconds to sum so many bytes over all GPUs, in two stages.

        The GPUs of a host each sum a part (a ring), the hosts sum these parts (each GPU over its
        own network card), the host's GPUs hand them round. Steps are as many as in a chain within
        the host and a tree between hosts, there and back: NCCL's model of its algorithm "tree".
        """
        local = min(gpus, self.gpus_per_host)
        hosts = math.ceil(gpus / self.gpus_per_host)
        steps = self.host_latency * (local - 1)
        steps += self.network_latency * math.floor(math.log2(hosts))
        within = 2 * (local - 1) / local * size / self.host_bandwidth
        between = 2 * (hosts - 1) / hosts * size / local / self.network_bandwidth
        return self.start_latency + 2 * steps + within + between


def exchange(
    collectives: Mapping[str, Sequence[tuple[int, int]]], gpus: int, network: Network
) -> float:
    """Seconds of all collectives of a step, one after the other; (how many, bytes) by kind."""
    return sum(
        count * network.all_reduce(size, gpus)
        for pairs in collectives.values()
        for count, size in pairs
    )


@dataclasses.dataclass(frozen=True)
class Compute:
    """Seconds of a step on one GPU: `fixed`, and so much for each example of its batch."""

    fixed: float
    per_example: float

    def seconds(self, batch_size: float) -> float:
        """Of one step."""
        return self.fixed + self.per_example * batch_size


def weak(compute: Compute, batch_size: int, exchanged: float) -> float:
    """Efficiency where each GPU keeps its batch: the step alone, over the step with exchange."""
    alone = compute.seconds(batch_size)
    return alone / (alone + exchanged)


def strong(compute: Compute, batch_size: int, gpus: int, exchanged: float) -> float:
    """Efficiency where the GPUs share one batch: its time on one, over their time together."""
    share = compute.seconds(batch_size / gpus)
    return compute.seconds(batch_size) / (gpus * (share + exchanged))


def computes(numbers: Mapping[str, Any], precision: str) -> dict[str, Compute]:
    """By model: the operations of its step over the assumed share of the vendor's peak."""
    rate = numbers["peak"][precision] * numbers["share_of_peak"]
    return {
        name: Compute(0.0, model["operations_per_example"] / rate)
        for name, model in numbers["models"].items()
        if "operations_per_example" in model
    }


def measured(results: Mapping[str, Any], precision: str) -> dict[str, Compute]:
    """By model: the straight line through what `hlo_run.py` measured, by least squares."""
    points: dict[str, list[tuple[float, float]]] = {}
    for result in results["results"].values():
        if result["precision"] == precision and "error" not in result:
            point = (result["batch_size"], 1 / result["steps_per_second"])
            points.setdefault(result["model"], []).append(point)
    return {name: _line(pairs) for name, pairs in points.items()}


def _line(points: Sequence[tuple[float, float]]) -> Compute:
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    if slope <= 0 or mean_y - slope * mean_x < 0:  # one point, or no fixed part
        return Compute(0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points))
    return Compute(mean_y - slope * mean_x, slope)


def tables(numbers: Mapping[str, Any], steps: Mapping[str, Compute], source: str) -> str:
    """The Markdown tables; source: where the step times are from, in words."""
    network = Network(**numbers["network"])
    each, shared = numbers["batch_each"], numbers["batch_shared"]
    lines = [
        "| model | parameters | collectives a step | of them statistics, gradients "
        "| MB a step | of them gradients |",
        "|---|---|---|---|---|---|",
    ]
    for name, model in numbers["models"].items():
        pairs = model["collectives"]
        counts = [sum(count for count, _ in pairs[kind]) for kind in KINDS]
        size = {kind: sum(count * size for count, size in pairs[kind]) / 1e6 for kind in KINDS}
        lines.append(
            f"| {name} | {model['parameters']:,} | {sum(counts)} "
            f"| {', '.join(map(str, counts))} | {sum(size.values()):.2f} "
            f"| {size['gradients']:.2f} |"
        )
    heads = " | ".join(f"{gpus} GPUs" for gpus in GPUS)
    lines += [
        "",
        f"Exchange in ms, and efficiency; step times: {source}. Weak: {each} examples on each GPU; "
        f"strong: {shared} on all together.",
        "",
        f"| model | step of {each}, ms | exchange, ms: {heads} | weak: {heads} | strong: {heads} |",
        "|---|---|" + "---|" * (3 * len(GPUS)),
    ]
    for name, compute in steps.items():
        pairs = numbers["models"][name]["collectives"]
        exchanged = {gpus: exchange(pairs, gpus, network) for gpus in GPUS}
        cells = [f"{1e3 * seconds:.2f}" for seconds in exchanged.values()]
        cells += [f"{weak(compute, each, seconds):.0%}" for seconds in exchanged.values()]
        cells += [f"{strong(compute, shared, gpus, s):.0%}" for gpus, s in exchanged.items()]
        lines.append(f"| {name} | {1e3 * compute.seconds(each):.3g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def count(suite: str) -> dict[str, dict[str, Any]]:
    """Model -> its parameters and collectives, in the graph of a step on two replicas.

    That of several hosts: each replica is one of two devices that this process's CPU is split into.
    """
    from experiments import steps, suites
    from zoo import runtime

    def split(tf) -> None:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, parts)

    tf = runtime.import_tensorflow(split, gpu=False)
    # There is no public way to have the strategy of several hosts on two devices of one.
    make = tf.distribute.MultiWorkerMirroredStrategy._from_local_devices
    found = {}
    for run in suites.load(suites.find(suite), pathlib.Path("unused")).runs:
        strategy = make(("/device:CPU:0", "/device:CPU:1"))
        with strategy.scope():
            model, specs, _ = steps.prepare(run.settings)
        rows = 2 * model.batches_per_step
        batch = {
            name: tf.zeros([rows, *spec["shape"]], spec["dtype"]) for name, spec in specs.items()
        }

        @tf.function(autograph=False)
        def step(strategy=strategy, model=model, batch=batch):
            return strategy.run(model.train_step, args=(batch,))

        reductions = [
            operation
            for operation in step.get_concrete_function().graph.get_operations()
            if operation.type.startswith("CollectiveReduce") and operation.device.endswith("CPU:0")
        ]
        found[run.name] = {
            "parameters": model.count_params(),
            "collectives": _by_kind(
                [("sum_of_gradients" in one.name, one.inputs[0]) for one in reductions]
            ),
        }
    return found


def _by_kind(reductions: Sequence[tuple[bool, Any]]) -> dict[str, list[tuple[int, int]]]:
    """(whether it sums gradients, tensor) -> kind -> (how many, bytes), largest first."""
    kinds: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
    for of_gradients, tensor in reductions:
        size = tensor.dtype.size * tensor.shape.num_elements()
        kinds["gradients" if of_gradients else "statistics"][size] += 1
    return {
        kind: [(sizes[size], size) for size in sorted(sizes, reverse=True)]
        for kind, sizes in kinds.items()
    }


def _read(path: str | pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from error


def main(argv: list[str]) -> int:
    """Prints the tables, or counts; returns the exit code."""
    options = flags.parse_options(
        ScalingFlags, "python -m experiments.scaling [--flag=value ...]", argv
    )
    if options is None:
        return 0
    path = pathlib.Path(options.numbers or NUMBERS)
    numbers = _read(path)
    if options.precision not in numbers["peak"]:
        raise UsageError(f"--precision={options.precision}: expected {', '.join(numbers['peak'])}")
    if options.count:
        for name, counted in count(options.count).items():
            numbers["models"][name] = {**numbers["models"].get(name, {}), **counted}
        text = json.dumps(numbers, indent=1)
        files.write(path, text.encode() + b"\n")
        return 0
    if options.results:
        results = _read(options.results)
        found = measured(results, options.precision)
        steps = {name: found[name] for name in numbers["models"] if name in found}
        if not steps:
            raise UsageError(
                f"{options.results} has no step in {options.precision} of any model in {path}: "
                "expected another --precision, or programs of --suite=large"
            )
        source = f"measured on {results['device']}, {options.precision}"
    else:
        steps = computes(numbers, options.precision)
        source = (
            f"assumed, {numbers['share_of_peak']:.0%} of {numbers['accelerator']}'s "
            f"{numbers['peak'][options.precision] / 1e12:g} TFLOP/s in {options.precision}"
        )
    print(tables(numbers, steps, source), end="")
    return 0


if __name__ == "__main__":
    flags.run_command(main)
