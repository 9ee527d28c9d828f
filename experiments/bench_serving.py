"""Part `serving` of the benchmark: what serving costs, SavedModel against live Keras model.

For each model: a short run, its export, and then in one process interleaved rounds of the same work
by each contender, at batch 1 and 32 (of pictures to be repainted, 4); ratios are medians of the
rounds' ratios. Start-up is measured in fresh processes.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments import processes

if TYPE_CHECKING:
    from experiments.bench import BenchFlags, Report

BATCHES, STYLE_BATCHES = (1, 32), (1, 4)
MOST_OF_PREDICT = 0.5
"""Time of the SavedModel over that of Keras's predict, at batch 1: the target."""
STYLE_SIDE = 256
_BASE = "saved_model"


def run(options: "BenchFlags", report: "Report") -> dict[str, Any]:
    """Prints to the report; returns all figures."""
    from experiments.bench import listed

    # Timed requests at batch 1, a tenth of it at the larger one; processes that measure a start.
    requests, starts = (3, 1) if options.quick else (200, 5)
    figures: dict[str, Any] = {}
    for name in listed(options.models) or ["vae", "dcgan", "style"]:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = _measure(name, pathlib.Path(folder), requests, starts, report)
    return figures


def _measure(
    name: str, folder: pathlib.Path, requests: int, starts: int, report: "Report"
) -> dict[str, Any]:
    report.title(name)
    run_dir = train_briefly(name, folder)
    before = time.perf_counter()
    path = export(run_dir, folder / "served" / name) / "1"
    seconds = time.perf_counter() - before
    sizes = {
        part: sum(file.stat().st_size for file in path.glob(pattern) if file.is_file())
        for part, pattern in {
            "graph": "saved_model.pb", "weights": "variables/*", "extras": "assets.extra/*",
        }.items()
    }  # fmt: skip
    report.figure("export, with its verification", f"{seconds:.1f} s")
    for part, size in sizes.items():
        report.figure(f"artifact: {part}", f"{size / 1e6:.2f} MB")
    started = [
        {way: json.loads(_output(START, path, way)) for way in ("cold", "warm")}
        for _ in range(starts)
    ]
    start = {
        way: {key: statistics.median(one[way][key] for one in started) for key in started[0][way]}
        for way in ("cold", "warm")
    }
    report.figure("load", f"{start['cold']['load_ms']:.0f} ms")
    report.figure("warm-up", f"{start['warm']['warm_up_ms']:.0f} ms")
    report.figure("memory beyond TensorFlow's", f"{start['cold']['memory_mb']:.0f} MB")
    for way, words in (("cold", "without warm-up"), ("warm", "with it")):
        report.figure(f"first request {words}", f"{start[way]['first_ms']:.1f} ms")
    answered = processes.fresh(race, run_dir, path, requests)
    for batch, result in answered.items():
        for contender, median in result["p50_ms"].items():
            report.figure(
                f"batch {batch}: {contender}, {1000 * batch / median:.4g} pictures/s",
                f"{median:.3g} ms (p95 {result['p95_ms'][contender]:.3g})",
            )
        for contender, ratio in result["ratios"].items():
            words = f"batch {batch}: saved_model / {contender}"
            if batch == 1 and contender == "predict":
                passed = ratio <= MOST_OF_PREDICT
                report.check(words, ratio, f"{ratio:.2f}", f"<= {MOST_OF_PREDICT}", passed)
            else:
                report.figure(words, f"{ratio:.2f}")
    return {"export_seconds": seconds, "bytes": sizes, "start": start, "requests": answered}


def train_briefly(name: str, folder: pathlib.Path) -> pathlib.Path:
    """The directory of a run of ten steps, of this model at its own defaults."""
    run_dir = folder / "run"
    _output(None, "zoo.train", f"--model={name}", "--total_steps=10", f"--run_dir={run_dir}")
    return run_dir


def export(run_dir: pathlib.Path, out: pathlib.Path, *arguments: str) -> pathlib.Path:
    """That run, exported to `out` by these other flags of `python -m export`."""
    _output(None, "export", f"--run_dir={run_dir}", f"--out={out}", *arguments)
    return out


def _output(code: str | None, *arguments: object) -> str:
    """The last line that code, or for None a module, prints; RuntimeError if it fails."""
    how = ["-m"] if code is None else ["-c", code]
    done = subprocess.run(
        [sys.executable, *how, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"a measured process failed: {done.stderr.strip()}")
    return done.stdout.splitlines()[-1]


# A start as a server has it: no zoo and no Keras in the process.
START = """
import json, os, pathlib, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.modules["keras"] = None
import numpy as np, tensorflow as tf
tf.constant(0)
path, way = pathlib.Path(sys.argv[1]), sys.argv[2]
def memory():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
before = memory()
requests = {}
with np.load(path / "assets.extra" / "verification.npz") as arrays:
    for key in arrays:
        endpoint, batch, direction, name = key.split("/")
        if batch == "1" and direction == "in":
            value = arrays[key]
            value = value.astype(object) if value.dtype.kind == "S" else value
            requests.setdefault(endpoint, {})[name] = tf.constant(value)
start = time.perf_counter()
loaded = tf.saved_model.load(str(path))
figures = {"load_ms": 1000 * (time.perf_counter() - start), "warm_up_ms": 0.0}
def ask(endpoint):
    return [v.numpy() for v in loaded.signatures[endpoint](**requests[endpoint]).values()]
if way == "warm":
    start = time.perf_counter()
    for endpoint in requests:
        ask(endpoint)
    figures["warm_up_ms"] = 1000 * (time.perf_counter() - start)
start = time.perf_counter()
ask(next(iter(requests)))
figures["first_ms"] = 1000 * (time.perf_counter() - start)
figures["memory_mb"] = memory() - before
print(json.dumps(figures))
"""


def race(run_dir: pathlib.Path, path: pathlib.Path, requests: int) -> dict[int, dict[str, Any]]:
    """By batch size, the times of every contender."""
    from zoo import runtime

    runtime.import_tensorflow()
    from zoo import restore

    model = restore.restore(run_dir, say=lambda line: None).model
    results = {}
    for batch in BATCHES if model.draws else STYLE_BATCHES:
        rounds = max(requests // (1 if batch == 1 else 10), 2)
        contenders = _contenders(model, path, batch)
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds + 2):
            for name, ask in contenders.items():
                start = time.perf_counter()
                ask()
                if number >= 2:  # the first ones trace
                    times[name].append(1000 * (time.perf_counter() - start))
        results[batch] = {
            "p50_ms": {name: statistics.median(values) for name, values in times.items()},
            "p95_ms": {
                name: sorted(values)[int(0.95 * len(values))] for name, values in times.items()
            },
            "ratios": {
                name: statistics.median(
                    one / other for one, other in zip(times[_BASE], times[name], strict=True)
                )
                for name in contenders
                if name != _BASE
            },
        }
    return results


def _contenders(model: Any, path: pathlib.Path, batch: int) -> dict[str, Callable[[], Any]]:
    """Name -> one request, answered to the last number; all do the same work on the same inputs.

    Models that draw decode latents, for so can they be compared with `predict`, which takes arrays;
    the others repaint pictures.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    generator = np.random.default_rng(0)
    if model.draws:
        endpoint = "decode"
        inputs = {"latents": generator.standard_normal((batch, model.config.latent_dim), "f4")}
        if model.conditional:
            inputs["label"] = np.arange(batch, dtype="i4") % model.num_classes

        def answer(latents, label=None):
            return model.decode(latents, label)
    else:
        endpoint = "stylize"
        sides = (STYLE_SIDE, STYLE_SIDE, 3)
        inputs = {"images": generator.random((batch, *sides), "f4")}
        if "style_weights" in {spec.name for spec in model.endpoints()[endpoint].input_signature}:
            inputs["style_weights"] = np.eye(model.num_classes, dtype="f4")[[0] * batch]
        else:
            inputs["style_images"] = generator.random((batch, *sides), "f4")
        inputs["strength"] = np.ones(batch, "f4")
        answer = model.stylize

    class Answer(keras.layers.Layer):
        def call(self, values):
            return answer(**values)

        def compute_output_shape(self, shapes):
            shape = next(iter(shapes.values()))
            return (shape[0], *(shape[1:] if len(shape) == 4 else model.image_shape))

    # What a Keras user would have in place of the artifact.
    tensors = {
        name: keras.Input(value.shape[1:], name=name, dtype=value.dtype.name)
        for name, value in inputs.items()
    }
    as_keras = keras.Model(tensors, Answer()(tensors))
    loaded = tf.saved_model.load(str(path)).signatures[endpoint]
    live = tf.function(answer, autograph=False)

    def feeds() -> dict[str, tf.Tensor]:
        return {name: tf.constant(value) for name, value in inputs.items()}

    return {
        _BASE: lambda: loaded(**feeds())["images"].numpy(),
        "predict": lambda: as_keras.predict(inputs, batch_size=batch, verbose=0),
        "call": lambda: as_keras(feeds(), training=False).numpy(),
        "tf_function": lambda: live(**feeds()).numpy(),
    }
