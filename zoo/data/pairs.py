"""Pairs: pictures A and B of the same thing, to learn to make B of A, `--dataset=pairs:PATH`.

Each example has A as "image" and B as "target", cut and resized alike; there is one class. PATH
is one of

- a folder of pictures that show A in their left half and B in their right one; or its sub-folder
  `train` of such, and `test` (or `val`) to test on;
- two sub-folders `A` and `B`, whose files go together by name, whatever their endings; or `trainA`
  and `trainB`, with `testA` and `testB` (or `valA` and `valB`) to test on.

Where there is nothing to test on, a tenth is held out as of a folder: see `zoo.data.folder`.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from zoo import photos
from zoo.data import folder
from zoo.errors import UsageError

_TESTS = ("test", "val")
# Between the two paths of a pair: no path has it.
_BETWEEN = "\0"


@dataclasses.dataclass(frozen=True)
class PairsSource(folder.FolderSource):
    """A folder of pairs as a `Source`; a path in `files` is "A\\0B" where those are two files."""

    def example(self, index: int, split: str = "train") -> dict[str, np.ndarray | int]:
        example = super().example(index, split)
        both: np.ndarray = example["image"]  # type: ignore[assignment]
        return {**example, "image": both[0], "target": both[1]}

    def arrays_and_digests(
        self, split: str = "train", on_progress: Callable[[int, int], None] | None = None
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """{"image": A, "target": B, both uint8 [N, H, W, 3], "label": int32 [N]}, and digests."""
        arrays, digests = super().arrays_and_digests(split, on_progress)
        both = arrays["image"]
        return {**arrays, "image": both[:, 0], "target": both[:, 1]}, digests

    def _reader(self) -> Callable[[Path, str, int], np.ndarray]:
        return read

    def _stored_shape(self) -> tuple[int, ...]:
        return (2, *self.image_shape)


def load(name: str, image_size: int | None = None) -> PairsSource:
    """The pairs of "pairs:PATH", listed and not read yet.

    Raises UsageError if there is no such folder, or none of the layouts, or fewer than two pairs,
    for a picture of A or B without its partner, and for a size out of range.
    """
    root = folder.find(name, image_size)
    train = _listed(name, root, "train")
    splits = {}
    if train:
        tests = (found for test in _TESTS if (found := _listed(name, root, test)))
        if test := next(tests, None):
            splits = {"train": _files(train), "test": _files(test)}
    else:
        train = _listed(name, root, "")
    if len(train) < 2:
        raise UsageError(
            f"{name}: {len(train)} pairs found in {root}; expected two or more: pictures with A "
            "in their left half and B in the right one, or sub-folders A and B (or trainA and "
            "trainB) with files of the same names"
        )
    return PairsSource(
        class_names=(root.name or "pairs",),
        **folder.described(name, root, image_size, splits or folder.split_up(_files(train))),
    )


def read(root: Path, path: str, size: int) -> np.ndarray:
    """A and B, uint8 [2, size, size, 3]; or UsageError."""
    if _BETWEEN in path:
        return np.stack([photos.read_square(root / part, size) for part in path.split(_BETWEEN)])
    both = photos.read(root / path)
    half = both.shape[1] // 2
    if not half:
        raise UsageError(f"{root / path}: one pixel wide; expected two pictures side by side")
    return np.stack([photos.crop_square(part, size) for part in (both[:, :half], both[:, -half:])])


def _files(paths: Sequence[bytes]) -> folder.Files:
    return folder.Files(np.array(paths), np.zeros(len(paths), np.int32))


def _listed(name: str, root: Path, split: str) -> list[bytes]:
    """The pairs of a split, "" where there is none: of two sub-folders, else of whole pictures."""
    sides = [split + side for side in "AB"]
    there = [side for side in sides if (root / side).is_dir()]
    if there:
        if len(there) == 1:
            other = sides[1 - sides.index(there[0])]
            raise UsageError(f"{name}: {root} has a sub-folder {there[0]}, but no {other}")
        return _matched(name, root, sides)
    where = root / split
    return folder.pictures(where, f"{split}/" if split else "") if where.is_dir() else []


def _matched(name: str, root: Path, sides: list[str]) -> list[bytes]:
    by_name: list[dict[bytes, bytes]] = []
    for side in sides:
        found: dict[bytes, bytes] = {}
        for path in folder.pictures(root / side, f"{side}/"):
            stem = os.path.splitext(os.path.basename(path))[0]
            if stem in found:
                both = f"{os.fsdecode(found[stem])} and {os.fsdecode(path)}"
                raise UsageError(f"{name}: {both} have the same name; expected one of them")
            found[stem] = path
        by_name.append(found)
    first, second = by_name
    if alone := sorted(first.keys() ^ second.keys()):
        missing = next(found[alone[0]] for found in by_name if alone[0] in found)
        raise UsageError(
            f"{name}: {len(alone)} pictures are only in {sides[0]} or only in {sides[1]}, the "
            f"first is {os.fsdecode(missing)}; expected files of the same names in both"
        )
    return [path + os.fsencode(_BETWEEN) + second[stem] for stem, path in first.items()]
