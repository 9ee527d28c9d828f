"""Writes a model's endpoints as a SavedModel, and proves it in another process.

`keras.export.ExportArchive` writes it: `tf.saved_model.save` of a Keras model loads in Python but
fails at its first request in the C++ loader that TF Serving uses.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

from zoo.errors import UsageError
from zoo.generative import GenerativeModel

TOLERANCE = 1e-5
_BATCHES = (1, 3, 16)
_PICTURE_SIZE = (37, 30)
_VERIFY = pathlib.Path(__file__).with_name("verify.py")


def write(model: GenerativeModel, directory: pathlib.Path) -> pathlib.Path:
    """Writes directory/<next version>, verified, under its name only when it is right.

    `serving_default` is the model's first endpoint. Returns the version's path. RuntimeError if the
    artifact does not agree with the model: then nothing is left behind.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=directory))
    except OSError as error:
        raise UsageError(f"cannot write {directory}: {error.strerror}; choose another --out") from (
            error
        )
    try:
        endpoints = model.endpoints()
        _write_archive(model, endpoints, temporary / "model")
        requests = temporary / "requests.npz"
        np.savez(requests, **_requests(endpoints, model.num_classes))  # type: ignore[arg-type]
        verification = _verify_in_fresh_process(temporary / "model", requests)
        report = json.dumps(verification, indent=2) + "\n"
        (temporary / "model" / "verification.json").write_text(report, encoding="utf-8")
        path = directory / str(_next_version(directory))
        os.rename(temporary / "model", path)
        return path
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_archive(model: GenerativeModel, endpoints: dict, path: pathlib.Path) -> None:
    archive = keras.export.ExportArchive()
    archive.track(model)
    default = next(iter(endpoints.values()))
    for name, function in {**endpoints, "serving_default": default}.items():
        archive.add_endpoint(name, function)
    archive.write_out(str(path), verbose=False)


def _requests(endpoints: dict, num_classes: int) -> dict[str, np.ndarray]:
    """ "endpoint/batch/in|out/name" -> array: what to ask, and what the live model answers."""
    arrays = {}
    generator = np.random.Generator(np.random.PCG64(0))
    for endpoint, function in endpoints.items():
        for batch in _BATCHES:
            feeds = {
                spec.name: _example(spec, batch, generator, num_classes)
                for spec in function.input_signature
            }
            for name, value in feeds.items():
                arrays[f"{endpoint}/{batch}/in/{name}"] = value
            answers = function(*(tf.constant(value) for value in feeds.values()))
            for name, value in answers.items():
                arrays[f"{endpoint}/{batch}/out/{name}"] = value.numpy()
    return arrays


def _example(
    spec: tf.TensorSpec, batch: int, generator: np.random.Generator, num_classes: int
) -> np.ndarray:
    # A picture of any size: no multiple of what a net halves by.
    sizes = iter(_PICTURE_SIZE)
    shape = [batch, *(next(sizes) if size is None else size for size in spec.shape[1:])]
    if spec.dtype.is_integer:
        below = num_classes if spec.name == "label" else 1000
        return (generator.random(shape) * below).astype(spec.dtype.as_numpy_dtype)
    return generator.random(shape).astype(spec.dtype.as_numpy_dtype)


def _verify_in_fresh_process(path: pathlib.Path, requests: pathlib.Path) -> dict:
    # -I: no environment, no working directory on the path; the script imports TensorFlow only.
    command = [sys.executable, "-I", str(_VERIFY), str(path), str(requests), str(TOLERANCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise RuntimeError(f"the exported model failed its verification: {lines[-1]}")
    return json.loads(done.stdout)


def _next_version(directory: pathlib.Path) -> int:
    versions = [int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal()]
    return max(versions, default=0) + 1
