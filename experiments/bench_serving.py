"""`python -m experiments.bench_serving`: what serving costs, SavedModel against live Keras model.

For each model: a short run, its export, and then in one process interleaved rounds of the same work
by each contender, at batch 1 and 32 (of pictures to be repainted, 4); ratios are medians of the
rounds' ratios. Start-up is measured in fresh processes. Prints each figure, writes all as JSON.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from zoo import errors, files, flags, rundir
from zoo.errors import UsageError

BATCHES, STYLE_BATCHES = (1, 32), (1, 4)
MOST_OF_PREDICT = 0.5
"""Time of the SavedModel over that of Keras's predict, at batch 1: the target."""
STYLE_SIDE = 256
_BASE = "saved_model"


@dataclasses.dataclass(frozen=True)
class ServingBenchFlags:
    """What the benchmark can be told."""

    models: str = "vae,dcgan,style"
    """Which models, between commas; each at its own defaults."""
    requests: int = 200
    """Timed requests of each contender at batch 1; a tenth of it at the larger one."""
    starts: int = 5
    """Fresh processes that each measure one start, without and with warm-up."""
    out: str = "bench_serving.json"
    """File to write the figures to."""

    def __post_init__(self):
        errors.check_positive(requests=self.requests, starts=self.starts)


def main(argv: list[str]) -> int:
    """Measures, prints and writes; returns the exit code."""
    usage = "python -m experiments.bench_serving [--flag=value ...]"
    options = flags.parse_options(ServingBenchFlags, usage, argv)
    if options is None:
        return 0
    out = pathlib.Path(options.out)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"cannot write {out}: expected --out to name a file in a folder")
    for name in options.models.split(","):
        flags.parse_training([f"--model={name}"])
    figures: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg()[0],
        "versions": rundir.versions(),
        "models": {},
    }
    print(f"{figures['cores']} cores, load {os.getloadavg()[0]:.1f} before")
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            figures["models"][name] = _measure(name, pathlib.Path(folder), options)
    try:
        files.write(out, json.dumps(figures, indent=2).encode() + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    print(f"\nAll figures: {out}")
    return 0


def _measure(name: str, folder: pathlib.Path, options: ServingBenchFlags) -> dict[str, Any]:
    run_dir, served = folder / "run", folder / "served" / name
    print(f"\n{name}", flush=True)
    _command("zoo.train", f"--model={name}", "--total_steps=10", f"--run_dir={run_dir}")
    before = time.perf_counter()
    _command("export", f"--run_dir={run_dir}", f"--out={served}")
    seconds = time.perf_counter() - before
    path = served / "1"
    sizes = {
        part: sum(file.stat().st_size for file in path.glob(pattern) if file.is_file())
        for part, pattern in {
            "graph": "saved_model.pb", "weights": "variables/*", "extras": "assets.extra/*",
        }.items()
    }  # fmt: skip
    _line("export, with its verification", f"{seconds:.1f} s")
    _line("artifact", ", ".join(f"{part} {size / 1e6:.2f} MB" for part, size in sizes.items()))
    starts = [
        {way: json.loads(_output(START, path, way)) for way in ("cold", "warm")}
        for _ in range(options.starts)
    ]
    start = {
        way: {key: statistics.median(one[way][key] for one in starts) for key in starts[0][way]}
        for way in ("cold", "warm")
    }
    _line("load", f"{start['cold']['load_ms']:.0f} ms")
    _line("warm-up", f"{start['warm']['warm_up_ms']:.0f} ms")
    _line("memory beyond TensorFlow's", f"{start['cold']['memory_mb']:.0f} MB")
    for way, words in (("cold", "without warm-up"), ("warm", "with it")):
        _line(f"first request {words}", f"{start[way]['first_ms']:.1f} ms")
    requests = json.loads(_output(RACE, run_dir, path, options.requests))
    for batch, result in requests.items():
        for contender, median in result["p50_ms"].items():
            text = f"{median:.3g} ms (p95 {result['p95_ms'][contender]:.3g}), "
            text += f"{1000 * int(batch) / median:.4g} pictures/s"
            _line(f"batch {batch}: {contender}", text)
        for contender, ratio in result["ratios"].items():
            target = ""
            if batch == "1" and contender == "predict":
                verdict = "PASS" if ratio <= MOST_OF_PREDICT else "FAIL"
                target = f"  <= {MOST_OF_PREDICT}  {verdict}"
            _line(f"batch {batch}: saved_model / {contender}", f"{ratio:.2f}{target}")
    return {
        "export_seconds": seconds, "bytes": sizes, "start": start, "requests": requests,
    }  # fmt: skip


def _line(name: str, text: str) -> None:
    print(f"  {name:44} {text}", flush=True)


def _command(module: str, *arguments: object) -> str:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} failed: {done.stderr.strip()}")
    return done.stdout


def _output(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a measuring process failed: {done.stderr.strip()}")
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

RACE = """
import sys
from experiments import bench_serving
bench_serving.race(*sys.argv[1:])
"""


def race(run_dir: str, path: str, requests: str) -> None:
    """Prints, as JSON, the times of every contender at every batch size."""
    from zoo import runtime

    runtime.import_tensorflow()
    from zoo import restore

    model = restore.restore(run_dir, say=lambda line: None).model
    results = {}
    for batch in BATCHES if model.draws else STYLE_BATCHES:
        rounds = max(int(requests) // (1 if batch == 1 else 10), 2)
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
    print(json.dumps(results))


def _contenders(model: Any, path: str, batch: int) -> dict[str, Callable[[], Any]]:
    """Name -> one request, answered to the last number; all do the same work on the same inputs.

    Models that draw decode latents, for so can they be compared with `predict`, which takes arrays;
    the others repaint pictures. Another runtime is one more entry here.
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
    loaded = tf.saved_model.load(path).signatures[endpoint]
    live = tf.function(answer, autograph=False)

    def feeds() -> dict[str, tf.Tensor]:
        return {name: tf.constant(value) for name, value in inputs.items()}

    return {
        _BASE: lambda: loaded(**feeds())["images"].numpy(),
        "predict": lambda: as_keras.predict(inputs, batch_size=batch, verbose=0),
        "call": lambda: as_keras(feeds(), training=False).numpy(),
        "tf_function": lambda: live(**feeds()).numpy(),
    }


if __name__ == "__main__":
    flags.run_command(main)
