"""`python -m experiments.bench_runtimes --savedmodel=DIR --onnx=DIR --litert=DIR`: their latency.

Three exports of one run, one endpoint of each asked for the same pictures, in turns: what they
take to answer, and how many times faster than the SavedModel's signature they are. Every runtime
has all cores; the first answers, which a server gives before it is asked, are not counted.
"""

import dataclasses
import os
import pathlib
import statistics
import time
from collections.abc import Callable

from zoo import flags
from zoo.errors import UsageError, check_positive


@dataclasses.dataclass(frozen=True)
class BenchFlags:
    """What the command can be told."""

    savedmodel: str = ""
    """Version directory of a SavedModel: served/vae/1."""
    onnx: str = ""
    """Directory of its export with --format=onnx."""
    litert: str = ""
    """Directory of its export with --format=litert."""
    endpoint: str = "decode"
    """Which endpoint; all three must have it."""
    image_size: int = 96
    """Height and width of pictures that may have any: of the --image_size of the LiteRT export."""
    calls: int = 10
    """Answers in a round."""
    rounds: int = 15
    """Rounds, in each of which every runtime has its turn."""

    def __post_init__(self):
        if not (self.savedmodel and self.onnx and self.litert):
            raise UsageError("--savedmodel, --onnx and --litert are needed: three exports of a run")
        check_positive(image_size=self.image_size, calls=self.calls, rounds=self.rounds)


Answer = Callable[[dict], object]


def main(argv: list[str]) -> int:
    """Prints a line for each runtime and batch size; returns the exit code."""
    usage = "python -m experiments.bench_runtimes --savedmodel=DIR --onnx=DIR --litert=DIR"
    options = flags.parse_options(BenchFlags, usage, argv)
    if options is None:
        return 0
    from zoo import runtime

    tf = runtime.import_tensorflow()
    import numpy as np

    from experiments import measure

    loaded = tf.saved_model.load(options.savedmodel)
    if options.endpoint not in loaded.signatures:
        names = ", ".join(loaded.signatures)
        raise UsageError(f"{options.savedmodel} has no {options.endpoint}: it has {names}")
    signature = loaded.signatures[options.endpoint]
    specs = signature.structured_input_signature[1]
    answers = {
        "savedmodel": _savedmodel(signature),
        "onnx": _onnx(pathlib.Path(options.onnx), options.endpoint),
        "litert": _litert(pathlib.Path(options.litert), options.endpoint),
    }
    generator = np.random.Generator(np.random.PCG64(0))
    print(f"{options.endpoint}, milliseconds an answer, and times as fast as the SavedModel")
    for batch in (1, 32):
        feeds = {}
        for name, spec in specs.items():
            sizes = [options.image_size if size is None else size for size in spec.shape[1:]]
            feeds[name] = generator.random((batch, *sizes)).astype(spec.dtype.as_numpy_dtype)
        runners = {name: _runner(answer, feeds) for name, answer in answers.items()}
        rates = measure.race(runners, steps=options.calls, rounds=options.rounds)
        for name, values in rates.items():
            median, first, third = measure.ratios(values, rates["savedmodel"])
            print(
                f"batch {batch:2}  {name:10} {1e3 / statistics.median(values):8.2f} ms  "
                f"{median:5.2f} ({first:.2f}-{third:.2f})",
                flush=True,
            )
    return 0


def _runner(answer: Answer, feeds: dict) -> Callable[[int], float]:
    def run(calls: int) -> float:
        """Answers a second."""
        start = time.perf_counter()
        for _ in range(calls):
            answer(feeds)
        return calls / (time.perf_counter() - start)

    return run


def _savedmodel(signature) -> Answer:
    import tensorflow as tf

    def answer(feeds):
        answers = signature(**{name: tf.constant(value) for name, value in feeds.items()})
        return {name: value.numpy() for name, value in answers.items()}

    return answer


def _onnx(directory: pathlib.Path, endpoint: str) -> Answer:
    import onnxruntime

    path = directory / f"{endpoint}.onnx"
    if not path.exists():
        raise UsageError(f"{directory} has no {path.name}")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def _litert(directory: pathlib.Path, endpoint: str) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    path = directory / "model.tflite"
    if not path.exists():
        raise UsageError(f"{directory} has no {path.name}")
    # It takes one thread unless told otherwise.
    threads = len(os.sched_getaffinity(0))
    interpreter = Interpreter(str(path), num_threads=threads)
    runner = interpreter.get_signature_runner(endpoint)
    return lambda feeds: runner(**feeds)


if __name__ == "__main__":
    flags.run_command(main)
