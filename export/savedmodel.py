"""Writes a model's endpoints as a SavedModel, and proves it in another process.

`keras.export.ExportArchive` writes it: `tf.saved_model.save` of a Keras model loads in Python but
fails at its first request in the C++ loader that TF Serving uses.
"""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from export import card, verify, warmup
from zoo import runtime
from zoo.errors import UsageError
from zoo.generative import GenerativeModel

BATCHES = (1, 3, 16)
_PICTURE_SIZE = (37, 30)
# TF Serving looks at no name that is not a number.
_PREFIX = ".export-"


def write(
    model: GenerativeModel, directory: pathlib.Path, about: card.About | None = None
) -> pathlib.Path:
    """Writes directory/<next version>, verified, under its name only when it is right.

    `serving_default` is the model's first endpoint; about: where it comes from, for its card.
    Returns the version's path. RuntimeError if the artifact does not agree with the model: then
    nothing is left behind.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory):
            _remove_stale(directory)
            temporary = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=".tmp", dir=directory))
            ours = contextlib.ExitStack()
            ours.enter_context(_locked(temporary))
    except OSError as error:
        raise UsageError(f"cannot write {directory}: {error.strerror}; choose another --out") from (
            error
        )
    name = directory.resolve().name
    with ours:
        try:
            endpoints = model.endpoints()
            with _optimised_as_elsewhere():
                requests = live_requests(endpoints, model.num_classes)
            path = temporary / "model"
            write_archive(endpoints, path)
            (path / verify.REQUESTS).parent.mkdir()
            # An OSError, where savez would say that the file is not a ZIP file.
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **requests)  # type: ignore[arg-type]
            (path / verify.REQUESTS).write_bytes(buffer.getvalue())
            examples = {endpoint: inputs(requests, endpoint) for endpoint in endpoints}
            warmup.write(path, name, examples.items())
            report = _verify_in_fresh_process(path)
            (path / "verification.json").write_text(report, encoding="utf-8")
            text = card.text(name, model, endpoints, examples, path, about)
            (path / "README.md").write_text(text, encoding="utf-8")
            with _locked(directory):
                final = directory / str(_next_version(directory))
                os.rename(path, final)
            return final
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_archive(endpoints: dict, path: pathlib.Path) -> None:
    # The variables that endpoints use are found by themselves: a discriminator stays at home.
    archive = keras.export.ExportArchive()
    default = next(iter(endpoints.values()))
    for name, function in {**endpoints, "serving_default": default}.items():
        archive.add_endpoint(name, function)
    archive.write_out(str(path), verbose=False)


def inputs(requests: dict[str, np.ndarray], endpoint: str) -> dict[str, np.ndarray]:
    """The smallest request of an endpoint."""
    prefix = f"{endpoint}/{BATCHES[0]}/in/"
    return {key[len(prefix) :]: value for key, value in requests.items() if key.startswith(prefix)}


def live_requests(endpoints: dict, num_classes: int) -> dict[str, np.ndarray]:
    """ "endpoint/batch/in|out/name" -> array: what to ask, and what the live model answers."""
    arrays = {}
    generator = np.random.Generator(np.random.PCG64(0))
    for endpoint, function in endpoints.items():
        for batch in BATCHES:
            feeds = {
                spec.name: _example(spec, batch, generator, num_classes)
                for spec in function.input_signature
            }
            for name, value in feeds.items():
                arrays[f"{endpoint}/{batch}/in/{name}"] = value
            answers = function(*(tf.constant(value) for value in feeds.values()))
            for name, value in answers.items():
                # NumPy keeps bytes of unequal lengths without pickling only as "S".
                value = value.numpy()
                value = value.astype("S") if value.dtype == object else value
                arrays[f"{endpoint}/{batch}/out/{name}"] = value
    return arrays


@contextlib.contextmanager
def _optimised_as_elsewhere() -> Iterator[None]:
    """TensorFlow rewrites graphs as it does in a server, not as the zoo has it while training.

    Rounding is then the same, to the last bit.
    """
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options(dict.fromkeys(runtime.REWRITES, True))
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options(before)


def _example(
    spec: tf.TensorSpec, batch: int, generator: np.random.Generator, num_classes: int
) -> np.ndarray:
    if spec.dtype == tf.string:
        return np.array([_file(generator, "JPEG" if row % 2 else "PNG") for row in range(batch)])
    # A picture of any size: no multiple of what a net halves by.
    sizes = iter(_PICTURE_SIZE)
    shape = [batch, *(next(sizes) if size is None else size for size in spec.shape[1:])]
    values = generator.random(shape)
    if spec.dtype.is_integer:
        values *= num_classes if spec.name == "label" else 1000
    elif spec.name.endswith("_weights"):
        values /= values.sum(axis=1, keepdims=True)
    return values.astype(spec.dtype.as_numpy_dtype)


def _file(generator: np.random.Generator, kind: str) -> bytes:
    """A coloured slope as a picture file."""
    corners = generator.integers(0, 256, (2, 2, 3), np.uint8)
    picture = Image.fromarray(corners).resize(_PICTURE_SIZE, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def _verify_in_fresh_process(path: pathlib.Path) -> str:
    # -I: no environment, no working directory on the path; the script imports TensorFlow only.
    command = [sys.executable, "-I", verify.__file__, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise RuntimeError(f"the exported model failed its verification: {lines[-1]}")
    if not all(json.loads(done.stdout)["png_equal_bit_for_bit"].values()):
        raise RuntimeError("the exported model's PNG files are not equal bit for bit")
    return done.stdout


def _next_version(directory: pathlib.Path) -> int:
    versions = [int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal()]
    return max(versions, default=0) + 1


@contextlib.contextmanager
def _locked(directory: pathlib.Path, flags: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Holds a directory; the kernel lets go of it when the process ends, however it ends."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, flags)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(directory: pathlib.Path) -> None:
    """Removes what exports that were killed left here; those that still write hold theirs."""
    for path in directory.glob(f"{_PREFIX}*.tmp"):
        with (
            contextlib.suppress(BlockingIOError, FileNotFoundError, NotADirectoryError),
            _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            shutil.rmtree(path, ignore_errors=True)
