"""Part `runtimes` of the benchmark: one run in TensorFlow, ONNX Runtime and LiteRT.

Of a short run its three exports, one endpoint of each asked for the same pictures, in turns: what
they take to answer, and how many times faster than the SavedModel's signature they are. Every
runtime has all cores; the first answers, which a server gives before it is asked, are not counted.
A runtime that is not installed is left out.
"""

import importlib.util
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments import bench_serving

if TYPE_CHECKING:
    from experiments.bench import BenchFlags, Report

BATCHES = (1, 32)
SIDE = 96
"""Of pictures that may have any, as they are for a net that repaints."""

Answer = Callable[[dict], object]


def run(options: "BenchFlags", report: "Report") -> dict[str, Any]:
    """Prints to the report; returns all figures."""
    from experiments.bench import listed

    figures: dict[str, Any] = {}
    for name in listed(options.models) or ["dcgan"]:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = _measure(name, pathlib.Path(folder), options.quick, report)
    return figures


def _measure(name: str, folder: pathlib.Path, quick: bool, report: "Report") -> dict[str, Any]:
    from zoo import runtime

    tf = runtime.import_tensorflow()
    import numpy as np

    from experiments import measure

    run_dir = bench_serving.train_briefly(name, folder)
    served = bench_serving.export(run_dir, folder / "served") / "1"
    signatures = tf.saved_model.load(str(served)).signatures
    endpoint = "decode" if "decode" in signatures else "stylize"
    specs = signatures[endpoint].structured_input_signature[1]
    report.title(f"{name}, {endpoint}: an answer, and times as fast as the SavedModel")
    answers = {"savedmodel": _savedmodel(signatures[endpoint])}
    for form, package, extra, load in (
        ("onnx", "onnxruntime", (), _onnx),
        ("litert", "ai_edge_litert", (f"--image_size={SIDE}",), _litert),
    ):
        if importlib.util.find_spec(package) is None:
            report.figure(f"{form} is not installed", f"pip install 'zoo-art[{form}]'")
            continue
        extra = extra if endpoint == "stylize" else ()
        out = bench_serving.export(run_dir, folder / form, f"--format={form}", *extra)
        answers[form] = load(out, endpoint)
    generator = np.random.Generator(np.random.PCG64(0))
    figures: dict[str, Any] = {}
    for batch in BATCHES:
        feeds = {}
        for key, spec in specs.items():
            sizes = [SIDE if size is None else size for size in spec.shape[1:]]
            feeds[key] = generator.random((batch, *sizes)).astype(spec.dtype.as_numpy_dtype)
        runners = {form: _runner(answer, feeds) for form, answer in answers.items()}
        rates = measure.race(runners, steps=2 if quick else 10, rounds=2 if quick else 15)
        figures[str(batch)] = rates
        for form, values in rates.items():
            median, first, third = measure.ratios(values, rates["savedmodel"])
            report.figure(
                f"batch {batch}: {form}, {1e3 / statistics.median(values):.2f} ms",
                f"{median:.2f} ({first:.2f}-{third:.2f})",
            )
    return figures


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
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def _litert(directory: pathlib.Path, endpoint: str) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    # It takes one thread unless told otherwise.
    threads = len(os.sched_getaffinity(0))
    interpreter = Interpreter(str(directory / "model.tflite"), num_threads=threads)
    runner = interpreter.get_signature_runner(endpoint)
    return lambda feeds: runner(**feeds)
