"""TensorFlow Datasets: any of its image data sets, `--dataset=tfds:NAME`, `tfds:NAME/CONFIG`.

What has a feature `image` can be trained on: cut to its middle square and resized, in grey where
the data set is grey. Labels are those of the feature `label`, or of the supervised pair, if that is
a single class; any other label (attributes, boxes, several classes) is left aside, and all pictures
are of one class.

The splits are the data set's own: `train`, and `test` or else `validation`. Where one of them is
missing, a tenth of the first split is held out, by a draw of fixed seed.

A data set is looked for in $TFDS_DATA_DIR, else ~/tensorflow_datasets. One that is not there is
downloaded, by another process, which Ctrl-C ends; what can be known before is told at once.
"""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from zoo import photos, runtime
from zoo.data import parallel, source
from zoo.errors import UsageError, reason, unknown

_RECORDS_PER_TASK = 64
_TEST_SHARE, _SPLIT_SEED = 0.1, 0x5917
_SECONDS_TO_ANSWER = 5.0
_ELSEWHERE = "or use a data set that is drawn here: --dataset=glyphs, paintings or scenes"
_PREPARE = """
import sys
from zoo.data import tfds
tfds.prepare(sys.argv[1])
"""


@dataclasses.dataclass(frozen=True)
class TfdsSource(source.Source):
    """A prepared data set of TensorFlow Datasets as a `Source`.

    Attributes:
      builder: tfds's, prepared.
      label_key: the feature that is the class, if there is one.
      parts: split -> the builder's split, and which of its examples are meant (None: all).
    """

    builder: Any = None
    label_key: str | None = None
    parts: dict[str, tuple[str, np.ndarray | None]] = dataclasses.field(default_factory=dict)

    def example(self, index: int, split: str = "train") -> dict[str, np.ndarray | int]:
        self._check_index(index, split)
        name, chosen = self.parts[split]
        at = index if chosen is None else int(np.flatnonzero(chosen)[index])
        record = next(_records(self.builder, f"{name}[{at}:{at + 1}]", self.label_key))
        return {"image": _image(record[0], *self.image_shape[1:]), "label": record[1]}

    def _drawn(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        name, chosen = self.parts[split]
        records: Iterable = _records(self.builder, name, self.label_key)
        if chosen is not None:
            records = (record for record, is_in in zip(records, chosen, strict=True) if is_in)
        tasks = _grouped(records, _RECORDS_PER_TASK)
        return parallel.draw_in_parallel(__name__, tasks, threads=True, shape=self.image_shape)

    def _cache_name(self, split: str) -> str:
        size, count = self.image_shape[0], self._count(split)
        info = Path(self.builder.data_dir) / "dataset_info.json"
        told = (
            f"{source.code_hash(self._module())} {self.builder.data_dir} {info.stat().st_mtime_ns}"
        )
        mark = hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()[:16]
        return f"tfds-{source.short_name(self.name)}-{size}px-{split}-{count}-{mark}"

    def _module(self) -> ModuleType:
        return sys.modules[__name__]

    def _why_left_out(self, split: str, index: int) -> str:
        return f"the first is number {index}: it is damaged, or has no label"


def load(name: str, image_size: int | None = None) -> TfdsSource:
    """The data set "tfds:NAME", downloaded first if need be, and not read yet.

    Raises UsageError for an unknown name, one without pictures, one that is neither there nor can
    be downloaded, and for a size out of range.
    """
    if image_size is not None:
        source.check_size(image_size)
    with _quiet():
        builder = _builder(name)
        channels, native = _shape(name, builder)
        if not builder.is_prepared():
            _download(name, builder)
            builder = _builder(name)
        label_key, class_names = _classes(builder)
        parts = _splits(name, builder)
    size = image_size or native or source.DEFAULT_SIZE
    return TfdsSource(
        name=name,
        image_shape=(size, size, channels),
        class_names=class_names,
        num_examples={
            split: int(builder.info.splits[own].num_examples if chosen is None else chosen.sum())
            for split, (own, chosen) in parts.items()
        },
        builder=builder,
        label_key=label_key,
        parts=parts,
    )


def draw(
    records: Sequence[tuple[bytes, int]], *, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(content of a picture file, label) -> images uint8 [N, H, W, C] and labels int32 [N].

    A picture that cannot be read is black, and its label UNREADABLE.
    """
    images = np.zeros((len(records), *shape), np.uint8)
    labels = np.full(len(records), source.UNREADABLE, np.int32)
    for row, (content, label) in enumerate(records):
        try:
            images[row] = _image(content, *shape[1:])
        except UsageError:
            continue
        labels[row] = label
    return images, labels


def _image(content: bytes, size: int, channels: int) -> np.ndarray:
    return photos.read_square(content, size)[..., :channels]  # a grey one has three equal channels


@functools.cache
def _tfds() -> ModuleType:
    """The package, which takes a second and TensorFlow."""
    runtime.import_tensorflow()
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UsageError(
            f"{source.TFDS}NAME needs another package ({reason(error)}): pip install "
            "tensorflow-datasets importlib_resources"
        ) from error
    tensorflow_datasets.disable_progress_bar()
    return tensorflow_datasets


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without tfds's warnings, which ask nothing of the user."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _open(spec: str) -> Any:
    # tfds itself reads the variable only when it is imported.
    return _tfds().builder(spec, data_dir=os.environ.get("TFDS_DATA_DIR"))


def _builder(name: str) -> Any:
    if name == source.TFDS:
        raise UsageError(f"{name!r} names no data set: expected {source.TFDS}NAME")
    tfds = _tfds()
    try:
        return _open(name.removeprefix(source.TFDS))
    except tfds.core.registered.DatasetNotFoundError as error:
        known = [other for other in source.OTHERS if other.islower()]
        raise unknown("data set", name, known, ", and all others of tfds") from error
    except Exception as error:  # each builder is a program of its own
        raise UsageError(f"{name}: {_line(error)}") from error


def _shape(name: str, builder: Any) -> tuple[int, int | None]:
    """Channels, 1 or 3, and the side if all pictures are squares of one; UsageError for none."""
    tfds = _tfds()
    image = dict(builder.info.features).get("image")
    if not isinstance(image, tfds.features.Image):
        has = ", ".join(builder.info.features) or "nothing"
        raise UsageError(
            f"{name} has no feature `image`, which is what is trained on: it has {has}"
        )
    if np.dtype(image.np_dtype) not in (np.uint8, np.uint16):
        raise UsageError(f"{name} has pictures of {image.np_dtype}: expected uint8 or uint16")
    height, width, channels = image.shape
    return (1 if channels == 1 else 3), (height if height == width else None)


def _classes(builder: Any) -> tuple[str | None, tuple[str, ...]]:
    """The feature that is the class, and the names of the classes; or none, and one name."""
    tfds = _tfds()
    pair = builder.info.supervised_keys or ()
    for key in ("label", *(key for key in pair if isinstance(key, str))):
        feature = dict(builder.info.features).get(key)
        if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes:
            return key, tuple(feature.names)
    return None, (builder.name,)


def _splits(name: str, builder: Any) -> dict[str, tuple[str, np.ndarray | None]]:
    own = builder.info.splits
    test = next((split for split in ("test", "validation") if split in own), None)
    if "train" in own and test:
        return {"train": ("train", None), "test": (test, None)}
    only = "train" if "train" in own else next(iter(own), "")
    count = own[only].num_examples if only else 0
    if count < 2:
        raise UsageError(f"{name} has {count} examples; expected two or more")
    draws = np.random.Generator(np.random.PCG64(_SPLIT_SEED)).random(count)
    tested = draws <= max(_TEST_SHARE, draws.min())
    return {"train": (only, ~tested), "test": (only, tested)}


def _records(builder: Any, split: str, label_key: str | None) -> Iterator[tuple[bytes, int]]:
    """Picture files and labels of a split of the builder, always in the same order."""
    tfds = _tfds()
    keys = {"image": True} | ({label_key: True} if label_key else {})
    decoders = tfds.decode.PartialDecoding(keys, {"image": tfds.decode.SkipDecoding()})
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    try:
        with _quiet():
            dataset = builder.as_dataset(
                split=split, shuffle_files=False, decoders=decoders, read_config=config
            )
        for example in dataset.as_numpy_iterator():
            yield example["image"], int(example[label_key]) if label_key else 0
    except Exception as error:
        raise UsageError(f"cannot read {builder.data_dir}: {_line(error)}") from error


def _grouped(records: Iterable[Any], size: int) -> Iterator[list[Any]]:
    group = []
    for record in records:
        group.append(record)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


# Downloading. tfds itself retries for minutes, in threads that outlive Ctrl-C.


def prepare(spec: str) -> None:
    """Downloads and prepares a data set, in a process of its own; exits with why it cannot."""
    tfds = _tfds()
    tfds.enable_progress_bar()
    try:
        from tensorflow_datasets.core.download import downloader

        downloader.MAX_RETRIES = 3
        _open(spec).download_and_prepare()
    except Exception as error:
        print(_line(error))
        sys.stdout.flush()
        os._exit(1)


def _download(name: str, builder: Any) -> None:
    spec = name.removeprefix(source.TFDS)
    missing = f"{name} is not in {builder.data_dir}, and cannot be downloaded"
    hint = (
        f"prepare it where there is a network (`tfds build {spec}`) and copy it there, set "
        f"TFDS_DATA_DIR to where it is, {_ELSEWHERE}"
    )
    addresses = [url for url in builder.url_infos or () if url.startswith("http")]
    if addresses and not _answers(addresses[0]):
        host = urllib.parse.urlsplit(addresses[0]).hostname
        raise UsageError(f"{missing} ({host} does not answer): {hint}")
    print(f"Downloading {name} to {builder.data_dir}", flush=True)
    command = [sys.executable, "-c", _PREPARE, spec]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        why = done.stdout.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise UsageError(f"{missing} ({why}): {hint}")


def _answers(address: str) -> bool:
    """Whether something answers at an address, whatever it says, within seconds."""
    import requests  # tfds's own

    answered = threading.Event()

    def ask() -> None:
        try:
            requests.head(address, timeout=_SECONDS_TO_ANSWER)
        except requests.RequestException:
            return
        answered.set()

    # A look-up of a name knows no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SECONDS_TO_ANSWER + 1)
    return answered.is_set()


def _line(error: Exception) -> str:
    """What went wrong, in one line that is not too long."""
    text = " ".join((reason(error) or type(error).__name__).split())
    return text if len(text) <= 300 else f"{text[:300]}..."
