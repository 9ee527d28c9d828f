"""Part `data` of the benchmark: how fast a folder of photographs becomes batches.

Beside `keras.utils.image_dataset_from_directory` with prefetching, on the same files, the middle
square of each. Cold: from the listing to the end of the first epoch, with nothing of ours cached;
the files themselves are in the page cache, as both read them in turns. Then an epoch more, and the
training step on such a folder beside that on an embedded set of the same size.

The photographs are crops of `scenes`, 500x375 pixels, made once, in the cache directory.
"""

import os
import pathlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.bench import BenchFlags, Report

BATCH_SIZE = 64
WIDTH, HEIGHT = 500, 375
_DRAWN, _CROPS = 1024, 50  # pixels of a picture, and how many photographs are cut from it
TARGETS = {"cold": 1.3, "next": 5.0}


def run(options: "BenchFlags", report: "Report") -> dict[str, Any]:
    """Prints to the report; returns all figures."""
    count, rounds, steps = (200, 1, 2) if options.quick else (5000, 7, 20)
    folder = photographs(count)
    from zoo import runtime

    runtime.import_tensorflow()
    figures: dict[str, Any] = {"count": count}
    for size in (64, 256):
        report.title(f"{count} JPEGs of {WIDTH}x{HEIGHT} at {size} pixels, images/s")
        rates = read(folder, size, rounds)
        figures[str(size)] = rates
        for when, least in TARGETS.items():
            ours, keras = (rates[f"{name} {when}"] for name in ("zoo", "keras"))
            for name, values in (("zoo", ours), ("image_dataset_from_directory", keras)):
                report.figure(f"{name}, {when} epoch", f"{statistics.median(values):,.0f}")
            ratio = statistics.median(a / b for a, b in zip(ours, keras, strict=True))
            report.check(
                f"ratio, {when} epoch", ratio, f"{ratio:.2f}", f">= {least}", ratio >= least
            )
    report.title("Training step of the default VAE, 64 pixels, batch 64")
    share = train(folder, steps)
    report.check("on the folder / on scenes", share, f"{share:.3f}", "< 1.05", share < 1.05)
    return {**figures, "step_on_folder_over_scenes": share}


def photographs(count: int) -> pathlib.Path:
    """A folder of so many JPEGs, made if it is not in the cache directory."""
    import numpy as np
    from PIL import Image

    from zoo.data import cache, scenes

    folder = cache.default_directory() / f"photographs-{count}"
    if folder.is_dir():
        return folder
    print(f"Making {count} photographs in {folder}", flush=True)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        if number % _CROPS == 0:
            image = scenes.draw([number // _CROPS], image_size=_DRAWN)[0][0]
        top, left = random.integers(0, (_DRAWN - HEIGHT, _DRAWN - WIDTH))
        crop = image[top : top + HEIGHT, left : left + WIDTH]
        Image.fromarray(crop).save(partial / f"{number:06}.jpg", quality=90)
    partial.rename(folder)
    return folder


def read(folder: pathlib.Path, size: int, rounds: int) -> dict[str, list[float]]:
    """Images/s of both contenders in their first epoch and in the next, round after round.

    They begin in turns, for the machine may be slower after one than after the other.
    """
    rates: dict[str, list[float]] = {}
    contenders = [("zoo", _zoo), ("keras", _keras)]
    for number in range(rounds):
        for name, contender in contenders[:: -1 if number % 2 else 1]:
            epochs = contender(folder, size)
            for when in TARGETS:
                began = time.perf_counter()
                images = next(epochs)
                rates.setdefault(f"{name} {when}", []).append(
                    images / (time.perf_counter() - began)
                )
            epochs.close()
    return rates


def _zoo(folder: pathlib.Path, size: int) -> Generator[int, None, None]:
    """Yields the number of images after each epoch; so does the next."""
    from zoo.data import pipeline, source

    before = os.environ.get("ZOO_CACHE_DIR")
    with tempfile.TemporaryDirectory() as cache_dir:
        os.environ["ZOO_CACHE_DIR"] = cache_dir
        try:
            arrays = source.load(f"folder:{folder}", size).arrays("train")
        finally:
            os.environ.pop("ZOO_CACHE_DIR")
            if before is not None:
                os.environ["ZOO_CACHE_DIR"] = before
    steps = len(arrays["image"]) // BATCH_SIZE
    batches = iter(pipeline.batches(arrays, BATCH_SIZE))
    while True:
        for _ in range(steps):
            next(batches)
        yield steps * BATCH_SIZE


def _keras(folder: pathlib.Path, size: int) -> Generator[int, None, None]:
    import keras
    import tensorflow as tf

    dataset = keras.utils.image_dataset_from_directory(
        folder,
        labels=None,
        image_size=(size, size),
        crop_to_aspect_ratio=True,
        batch_size=BATCH_SIZE,
        verbose=False,
    ).prefetch(tf.data.AUTOTUNE)
    while True:
        yield sum(len(batch) for batch in dataset)


def train(folder: pathlib.Path, steps: int) -> float:
    """Seconds of a step on the folder, in those of a step on `scenes`; a median of ten rounds."""
    from experiments import measure
    from zoo.data import source
    from zoo.models import vae

    on_folder = source.load(f"folder:{folder}", 64).arrays("train")
    on_scenes = source.load("scenes", 64).arrays("train")
    runners: dict[str, Callable[[int], float]] = {}
    for name, arrays in (("folder", on_folder), ("scenes", on_scenes)):
        config = vae.Config()
        model = vae.VAE(config, image_shape=(64, 64, 3), num_classes=1)
        model.compile(vae.optimizers(config, total_steps=100_000))
        runners[name] = measure.LoopRunner(model, arrays, BATCH_SIZE)
    rates = measure.race(runners, steps=steps, rounds=10)
    return measure.ratios(rates["scenes"], rates["folder"])[0]
