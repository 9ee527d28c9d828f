"""Sources: the labelled image data sets by name, each drawn by its module in `zoo.data`.

A module of this package that defines `NUM_EXAMPLES` is a data set; the module's name is its name,
and the first line of its docstring its summary. Beside that it defines `draw`, `class_names`,
`DEFAULT_SIZE`, `MIN_SIZE`, `MAX_SIZE`, `CHANNELS` and `VARIANTS`; "name/variant" names a variant.
"folder:PATH" is a folder of the user's own pictures: see `zoo.data.folder`.
"""

import dataclasses
import hashlib
import importlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, unknown

if TYPE_CHECKING:  # names() is for --help: it must not wait for NumPy
    import numpy as np


FOLDER = "folder:"


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
        unknown split.
        """
        self._check_index(index, split)
        images, labels = self._module().draw([index], **self._options(split))
        return {"image": images[0], "label": int(labels[0])}

    def arrays(
        self, split: str = "train", on_progress: Callable[[int, int], None] | None = None
    ) -> "dict[str, np.ndarray]":
        """{"image": uint8 [N, H, W, C], "label": int32 [N]}: a whole split, in order of index.

        Read from the disk cache; drawn first, by all processors, if it is not there. Meanwhile
        on_progress(done, N) is called now and then.
        """
        from zoo.data import cache, parallel

        count = self._count(split)

        def draw() -> "dict[str, np.ndarray]":
            images, labels = parallel.draw_in_parallel(
                self._module().__name__,
                range(count),
                on_progress=on_progress,
                **self._options(split),
            )
            return {"image": images, "label": labels}

        name = f"{short_name(self.name)}-{self.image_shape[0]}px-{split}-{count}"
        return cache.cached(f"{name}-seed{self.seed}-{code_hash(self._module())}", draw)

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


def path_of(name: str) -> Path:
    """The absolute path of "folder:PATH"."""
    return Path(os.path.abspath(os.path.expanduser(name.removeprefix(FOLDER))))


def short_name(name: str) -> str:
    """A data set's name as part of a file name: "glyphs-hard"; of a folder, its own name."""
    if name.startswith(FOLDER):
        name = path_of(name).name
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
    if name.startswith(FOLDER):
        from zoo.data import folder

        return folder.load(name, image_size)
    base, slash, variant = name.partition("/")
    if base not in names():
        raise unknown("data set", base, names(), f"; or {FOLDER}PATH for your own pictures")
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
