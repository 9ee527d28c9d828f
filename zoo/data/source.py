"""Sources: the labelled image data sets by name, each drawn by its module in `zoo.data`.

A module of this package that defines `NUM_EXAMPLES` is a data set; the module's name is its name,
and the first line of its docstring its summary. Beside that it defines `draw`, `class_names`,
`DEFAULT_SIZE`, `MIN_SIZE`, `MAX_SIZE`, `CHANNELS` and `VARIANTS`; "name/variant" names a variant.
Others are named by a prefix, each with a module of its own: "folder:PATH" and "pairs:PATH" are the
user's own pictures, "tfds:NAME" a data set of TensorFlow Datasets.
"""

import dataclasses
import hashlib
import importlib
import inspect
import logging
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, one_line, unknown

if TYPE_CHECKING:  # names() is for --help: it must not wait for NumPy
    import numpy as np


FOLDER, PAIRS, TFDS = "folder:", "pairs:", "tfds:"
# What `python -m zoo` lists beside our own; of TensorFlow Datasets any other image set works too.
OTHERS = {
    "tfds:mnist": "handwritten digits, 28x28 grey, ten classes, 70,000.",
    "tfds:fashion_mnist": "clothes, 28x28 grey, ten classes, 70,000.",
    "tfds:kmnist": "cursive Japanese characters, 28x28 grey, ten classes, 70,000.",
    "tfds:emnist": "handwritten letters and digits, 28x28 grey, 62 classes, 814,255.",
    "tfds:cifar10": "small photographs, 32x32 colour, ten classes, 60,000.",
    "tfds:cifar100": "small photographs, 32x32 colour, a hundred classes, 60,000.",
    "tfds:celeb_a": "faces, 202,599, without classes.",
    "tfds:oxford_flowers102": "flowers, 102 classes, 8,189; its download needs scipy.",
    "tfds:coco": "everyday scenes, content pictures for style transfer, 123,287.",
    "tfds:NAME": "any other of TensorFlow Datasets that has a feature `image`.",
    "folder:PATH": "your own pictures.",
    "pairs:PATH": "your own pairs of pictures, A|B in one file or in two folders A and B.",
}
AUGMENTATIONS = ("crop", "flip", "color")
"""What can be done to training pictures at random, in this order; see `zoo.data.pipeline`."""
DEFAULT_SIZE = 128
"""Of pictures that come from files; they can be read at:"""
MIN_SIZE, MAX_SIZE = 8, 2048
UNREADABLE = -1
"""As the label of a picture that is left out."""

_logger = logging.getLogger("zoo")
# Of the cached arrays; another number leaves older files behind.
_LAYOUT = 3


@dataclasses.dataclass(frozen=True)
class Source:
    """A labelled image data set with random access.

    Attributes:
      name: as the user wrote it: "glyphs", "glyphs/hard", "paintings/hills".
      image_shape: (H, W, C).
      class_names: what the labels 0, 1, ... stand for.
      num_examples: how many examples each split has, by its name.
      seed: of the drawing; another seed is another data set.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    num_examples: Mapping[str, int]
    seed: int = 0

    def example(self, index: int, split: str = "train") -> "dict[str, np.ndarray | int]":
        """{"image": uint8 [H, W, C], "label": int}, drawn now and equal to that row of `arrays`.

        Raises IndexError for an index outside 0 ... num_examples[split] - 1 and UsageError for an
        unknown split, or a picture that cannot be read.
        """
        self._check_index(index, split)
        images, labels = self._module().draw([index], **self._options(split))
        return {"image": images[0], "label": int(labels[0])}

    def arrays(
        self, split: str = "train", on_progress: Callable[[int, int], None] | None = None
    ) -> "dict[str, np.ndarray]":
        """{"image": uint8 [N, H, W, C], "label": int32 [N]}: a whole split, in order of index.

        Read from the disk cache; drawn first, by all processors, if it is not there. Meanwhile
        on_progress(done, N) is called now and then. Images too large for the memory are an
        `np.memmap`: see `zoo.data.cache`.
        """
        return self.arrays_and_digests(split, on_progress)[0]

    def arrays_and_digests(
        self, split: str = "train", on_progress: Callable[[int, int], None] | None = None
    ) -> "tuple[dict[str, np.ndarray], np.ndarray]":
        """`arrays`, and of each example a checksum of its pixels and its label, uint64 [N].

        Pictures that cannot be read are in neither; one warning tells of all of them. UsageError if
        that is all pictures.
        """
        from zoo.data import cache

        count = self._count(split)

        def parts() -> "Iterator[dict[str, np.ndarray]]":
            done = 0
            for images, labels in self._drawn(split):
                readable = labels != UNREADABLE
                kept = images if readable.all() else images[readable]
                digests = _digests(kept, labels[readable])
                # All labels, so that it is known which pictures are left out.
                yield {"image": kept, "label": labels, "digest": digests}
                done += len(labels)
                if on_progress is not None:
                    on_progress(done, count)

        num_bytes = count * math.prod(self._stored_shape())
        stored = cache.kept(self._cache_name(split), parts, count, num_bytes)
        readable = stored["label"] != UNREADABLE
        if not readable.all():
            left_out = int(count - readable.sum())
            why = self._why_left_out(split, int(readable.argmin()))
            if left_out == count:
                raise UsageError(
                    f"{one_line(self.name)}: none of the {count} pictures of the {split} split can "
                    f"be read, {why}"
                )
            _logger.warning(
                "%s: %d of %d pictures of the %s split cannot be read and are left out, %s",
                one_line(self.name),
                left_out,
                count,
                split,
                why,
            )
        arrays = {"image": stored["image"], "label": stored["label"][readable]}
        return arrays, stored["digest"]

    # What a kind of source says of itself.

    def _drawn(self, split: str) -> "Iterator[tuple[np.ndarray, np.ndarray]]":
        """Images and labels of the whole split, part by part, UNREADABLE where there is none."""
        from zoo.data import parallel

        tasks = parallel.split_up(range(self._count(split)), self.image_shape[0])
        return parallel.draw_in_parallel(self._module().__name__, tasks, **self._options(split))

    def _cache_name(self, split: str) -> str:
        """Another one for whatever makes other arrays."""
        name = f"{short_name(self.name)}-{self.image_shape[0]}px-{split}-{self._count(split)}"
        return f"{name}-seed{self.seed}-{code_hash(self._module())}-{_LAYOUT}"

    def _stored_shape(self) -> tuple[int, ...]:
        """Of one of the images that `_drawn` gives."""
        return self.image_shape

    def _why_left_out(self, split: str, index: int) -> str:
        """Why the first picture that is left out cannot be read."""
        raise NotImplementedError  # our own can all be drawn

    def _check_index(self, index: int, split: str) -> None:
        count = self._count(split)
        if not 0 <= index < count:
            raise IndexError(f"example {index} of {self.name} ({split}): expected 0 to {count - 1}")

    def _count(self, split: str) -> int:
        if split not in self.num_examples:
            raise unknown("split", split, self.num_examples)
        return self.num_examples[split]

    def _module(self):
        return importlib.import_module(f"zoo.data.{self.name.partition('/')[0]}")

    def _options(self, split: str) -> dict[str, Any]:
        return {
            "split": split,
            "seed": self.seed,
            "image_size": self.image_shape[0],
            "variant": self.name.partition("/")[2],
        }


def code_hash(module: ModuleType) -> str:
    """12 hexadecimal digits for the code that draws: no cache is ever older than that.

    Of the module's file and of those of `zoo` that it imports as modules, `brushes` for one.
    """
    used = [
        value
        for value in vars(module).values()
        if inspect.ismodule(value) and value.__name__.startswith("zoo.")
    ]
    used.sort(key=lambda value: value.__name__)
    texts = [Path(str(used.__file__)).read_bytes() for used in [module, *used]]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:12]


def _digests(images: "np.ndarray", labels: "np.ndarray") -> "np.ndarray":
    """uint64 [N]: the CRC-32 of each image in the upper half, its label in the lower.

    It is to notice a change, not to resist forgery; BLAKE2 took 0.21 ms of a picture of 256 pixels,
    a quarter of what reading it takes, this 0.05.
    """
    import numpy as np

    digests = [zlib.crc32(image) for image in images]
    return np.array(digests, np.uint64) << 32 | labels.astype(np.uint32)


def path_of(name: str) -> Path:
    """The absolute path of "folder:PATH" or "pairs:PATH"."""
    return Path(os.path.abspath(os.path.expanduser(name.partition(":")[2])))


def check_size(image_size: int) -> None:
    """UsageError for a size at which pictures are not read from files."""
    if not MIN_SIZE <= image_size <= MAX_SIZE:
        raise UsageError(
            f"image_size is {image_size}: pictures of files can be read at {MIN_SIZE} to "
            f"{MAX_SIZE} pixels"
        )


def is_drawn(name: str) -> bool:
    """Whether a data set is one that our own code draws."""
    return name.partition("/")[0] in names()


def short_name(name: str) -> str:
    """A data set's name as part of a file name: "glyphs-hard"; of a folder, its own name."""
    if name.startswith((FOLDER, PAIRS)):
        name = path_of(name).name
    name = name.removeprefix(TFDS)
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "folder"


def names() -> dict[str, str]:
    """Name -> one-line summary of every data set, read from the files without importing them."""
    texts = {path.stem: path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))}
    return {
        name: text.partition("\n")[0].partition(": ")[2]
        for name, text in texts.items()
        if "\nNUM_EXAMPLES = " in text
    }


def load(name: str, image_size: int | None = None, seed: int = 0) -> Source:
    """The data set `name`, at `image_size` or at its own default; nothing is drawn yet.

    Raises UsageError with the nearest names for an unknown data set or variant, for a size at which
    the data set cannot be drawn, and for a folder without pictures. A folder has no use for a seed.
    """
    for prefix in (FOLDER, PAIRS, TFDS):
        if name.startswith(prefix):
            return importlib.import_module(f"zoo.data.{prefix[:-1]}").load(name, image_size)
    base, slash, variant = name.partition("/")
    if base not in names():
        known = [*names(), *(other for other in OTHERS if other.islower())]
        hint = f"; or {FOLDER}PATH for your own pictures, {PAIRS}PATH for pairs, {TFDS}NAME"
        raise unknown("data set", base, known, hint)
    module = importlib.import_module(f"zoo.data.{base}")
    if variant not in module.VARIANTS or (slash and not variant):
        known = [f"{base}/{known}" if known else base for known in module.VARIANTS]
        raise unknown("data set", name, known)
    size = module.DEFAULT_SIZE if image_size is None else image_size
    if not module.MIN_SIZE <= size <= module.MAX_SIZE:
        raise UsageError(
            f"image_size is {size}: {base} can be drawn at {module.MIN_SIZE} to "
            f"{module.MAX_SIZE} pixels"
        )
    return Source(
        name=name,
        image_shape=(size, size, module.CHANNELS),
        class_names=module.class_names(variant),
        num_examples=module.NUM_EXAMPLES,
        seed=seed,
    )
