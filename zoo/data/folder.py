"""Folders: the user's own pictures as a data set, `--dataset=folder:PATH`.

The pictures lie in the folder, or in sub-folders, one for each class, whose sorted names are the
names of the classes. Each is cut to its middle square and resized, in colour; deeper folders and
hidden files are not looked at. A tenth of the pictures is the test split: those whose path within
the folder has a hash that is low enough, so a picture stays in its split whichever others come and
go; but each split has one at least. What was read is cached until a picture is added, removed or
changed.
"""

import dataclasses
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from zoo import photos
from zoo.data import cache, parallel
from zoo.data.source import FOLDER, Source, code_hash, path_of, short_name
from zoo.errors import UsageError, reason

DEFAULT_SIZE = 128
MIN_SIZE, MAX_SIZE = 8, 2048

_TEST_SHARE = 0.1
# A large photo takes a third of a second.
_PICTURES_PER_TASK = 16
_UNREADABLE = -1  # as a label

_logger = logging.getLogger("zoo")


@dataclasses.dataclass(frozen=True)
class FolderSource(Source):
    """A folder of pictures as a `Source`.

    Files that turn out not to be readable are left out of `arrays`, which may thus have fewer rows
    than `num_examples` tells; `example` raises UsageError for them, and counts them.

    Attributes:
      root: the folder.
      files: split -> (path within the folder, label) of each picture, sorted.
    """

    root: Path = Path()
    files: dict[str, tuple[tuple[str, int], ...]] = dataclasses.field(default_factory=dict)

    def example(self, index: int, split: str = "train") -> dict[str, np.ndarray | int]:
        """{"image": uint8 [H, W, 3], "label": int}, read now.

        Raises IndexError for an index outside 0 ... num_examples[split] - 1, UsageError for an
        unknown split or a file that cannot be read.
        """
        self._check_index(index, split)
        path, label = self.files[split][index]
        image = photos.crop_square(photos.read(self.root / path), self.image_shape[0])
        return {"image": image, "label": label}

    def arrays(
        self, split: str = "train", on_progress: Callable[[int, int], None] | None = None
    ) -> dict[str, np.ndarray]:
        """{"image": uint8 [N, H, W, 3], "label": int32 [N]}: a whole split, in order of path.

        Read from the disk cache; from the pictures first, by all processors, if it is not there.
        Meanwhile on_progress(done, N) is called now and then. One warning tells of all files that
        cannot be read. UsageError if that is all of them.
        """
        count = self._count(split)
        files = self.files[split]
        size = self.image_shape[0]

        def read() -> dict[str, np.ndarray]:
            images, labels = parallel.draw_in_parallel(
                __name__,
                range(count),
                image_size=size,
                examples_per_task=_PICTURES_PER_TASK,
                on_progress=on_progress,
                root=self.root,
                files=files,
            )
            return {"image": images, "label": labels}

        name = f"folder-{short_name(self.name)}-{size}px-{split}-{count}"
        arrays = cache.cached(f"{name}-{self._listing_hash(split)}", read)
        readable = arrays["label"] != _UNREADABLE
        if readable.all():
            return arrays
        first = self.root / files[int(np.argmin(readable))][0]
        why = f"the first is {_error(first)}"
        if not readable.any():
            raise UsageError(
                f"{self.name}: none of the {count} pictures of the {split} split can be read, "
                f"{why}; expected {' '.join(photos.PICTURES)}"
            )
        _logger.warning(
            "%s: %d of %d pictures of the %s split cannot be read and are left out, %s",
            self.name,
            count - readable.sum(),
            count,
            split,
            why,
        )
        return {key: values[readable] for key, values in arrays.items()}

    def _listing_hash(self, split: str) -> str:
        """Another one for any other code, folder, file name, label, size or time of change."""
        lines = [code_hash(sys.modules[__name__]), os.fspath(self.root)]
        for path, label in self.files[split]:
            try:
                status = (self.root / path).stat()
            except OSError:  # removed meanwhile: it cannot be read either
                lines.append(f"{path}\0{label}")
            else:
                lines.append(f"{path}\0{label}\0{status.st_size}\0{status.st_mtime_ns}")
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


def load(name: str, image_size: int | None = None) -> FolderSource:
    """The pictures of "folder:PATH", listed and not read yet.

    Raises UsageError if there is no such folder, if it holds fewer than two pictures, or pictures
    both beside and inside its sub-folders, and for a size out of range.
    """
    size = DEFAULT_SIZE if image_size is None else image_size
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UsageError(
            f"image_size is {size}: pictures of a folder can be read at {MIN_SIZE} to {MAX_SIZE} "
            "pixels"
        )
    if name == FOLDER:
        raise UsageError(f"{name!r} names no folder: expected {FOLDER}PATH")
    root = path_of(name)
    if not root.is_dir():
        what = "is no folder" if root.exists() else "does not exist"
        raise UsageError(f"{name}: {root} {what}; expected a folder of pictures")
    class_names, files = _listing(name, root)
    splits = _split([path for path, _ in files])
    return FolderSource(
        name=name,
        image_shape=(size, size, 3),
        class_names=class_names,
        num_examples={split: splits.count(split) for split in ("train", "test")},
        root=root,
        files={
            split: tuple(file for file, its in zip(files, splits, strict=True) if its == split)
            for split in ("train", "test")
        },
    )


def draw(
    indices: Sequence[int] | np.ndarray,
    *,
    image_size: int,
    root: Path,
    files: Sequence[tuple[str, int]],
) -> tuple[np.ndarray, np.ndarray]:
    """Reads files[i] for each i of indices: images uint8 [N, H, W, 3] and labels int32 [N].

    A picture that cannot be read is black, and its label -1.
    """
    images = np.zeros((len(indices), image_size, image_size, 3), np.uint8)
    labels = np.full(len(indices), _UNREADABLE, np.int32)
    for row, index in enumerate(indices):
        path, label = files[index]
        try:
            images[row] = photos.crop_square(photos.read(root / path), image_size)
        except UsageError:
            continue
        labels[row] = label
    return images, labels


def _listing(name: str, root: Path) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """Class names, and each picture's path within the folder and label, sorted by path."""
    flat = _pictures(root)
    try:
        folders = sorted(
            entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError as error:
        raise UsageError(f"cannot read the folder {root}: {reason(error)}") from error
    classes = {folder.name: pictures for folder in folders if (pictures := _pictures(folder))}
    if flat and classes:
        raise UsageError(
            f"{name}: pictures lie both in the folder and in its sub-folder {next(iter(classes))}: "
            "expected either, where each sub-folder is a class"
        )
    if flat:
        classes = {root.name or "folder": flat}
    files = [
        (picture.relative_to(root).as_posix(), label)
        for label, pictures in enumerate(classes.values())
        for picture in pictures
    ]
    if len(files) < 2:
        raise UsageError(
            f"{name}: {len(files)} pictures found in {root} and its sub-folders; expected two or "
            f"more files ending in {' '.join(photos.PICTURES)}"
        )
    return tuple(classes), files


def _pictures(folder: Path) -> list[Path]:
    """The pictures directly in a folder; none is no error, a folder that cannot be read is one."""
    try:
        return photos.paths(folder)
    except UsageError:
        if os.access(folder, os.R_OK | os.X_OK):
            return []
        raise


def _split(paths: Sequence[str]) -> list[str]:
    """ "train" or "test" for each of two or more paths."""
    shares = [
        int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8], "big") / 2**64
        for path in paths
    ]
    # The lowest is always for testing, the highest never.
    limit = min(max(_TEST_SHARE, np.nextafter(min(shares), 1)), max(shares))
    return ["test" if share < limit else "train" for share in shares]


def _error(path: Path) -> str:
    """Why a picture cannot be read."""
    try:
        photos.read(path)
    except UsageError as error:
        return str(error)
    return f"{path}, which can be read now: change its time with `touch`"
