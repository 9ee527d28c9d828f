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
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from zoo import photos
from zoo.data import parallel, source
from zoo.errors import UsageError, one_line, reason

_TEST_SHARE = 0.1
# A large photo takes a third of a second.
_PICTURES_PER_TASK = 16


class Files(Sequence):
    """Paths and labels of many files, as compact as NumPy has them: (path, label) by index.

    Attributes:
      paths: bytes [N], as the file system spells them, within the folder.
      labels: int32 [N].
    """

    def __init__(self, paths: np.ndarray, labels: np.ndarray):
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        """(path, label); of a slice or mask the `Files` there."""
        if isinstance(index, slice | np.ndarray):
            return Files(self.paths[index], self.labels[index])
        return os.fsdecode(self.paths[index]), int(self.labels[index])


@dataclasses.dataclass(frozen=True)
class FolderSource(source.Source):
    """A folder of pictures as a `Source`.

    Files that turn out not to be readable are left out of `arrays`, which may thus have fewer rows
    than `num_examples` tells; `example` raises UsageError for them, and counts them.

    Attributes:
      root: the folder.
      files: of each split, sorted by path.
    """

    root: Path = Path()
    files: dict[str, Files] = dataclasses.field(default_factory=dict)

    def example(self, index: int, split: str = "train") -> dict[str, np.ndarray | int]:
        self._check_index(index, split)
        path, label = self.files[split][index]
        return {"image": self._reader()(self.root, path, self.image_shape[0]), "label": label}

    def _reader(self) -> Callable[[Path, str, int], np.ndarray]:
        """A function of the folder, a path in it and a size, that reads one picture."""
        return read

    def _drawn(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        files = self.files[split]
        return parallel.draw_in_parallel(
            __name__,
            (
                files[at : at + _PICTURES_PER_TASK]
                for at in range(0, len(files), _PICTURES_PER_TASK)
            ),
            threads=True,  # Pillow decodes and resizes without Python's lock
            root=self.root,
            shape=self._stored_shape(),
            reader=self._reader(),
        )

    def _cache_name(self, split: str) -> str:
        kind = self.name.partition(":")[0]
        size, count = self.image_shape[0], self._count(split)
        name = f"{kind}-{source.short_name(self.name)}-{size}px-{split}-{count}"
        return f"{name}-{self._listing_hash(split)}"

    def _module(self) -> ModuleType:
        return sys.modules[type(self).__module__]

    def _listing_hash(self, split: str) -> str:
        """Another one for any other code, folder, file name, label, size or time of change."""
        listing = hashlib.sha256(source.code_hash(self._module()).encode())
        listing.update(os.fsencode(self.root))
        for path, label in self.files[split]:
            line = f"\n{path}\0{label}"
            for part in path.split("\0"):
                try:
                    status = os.stat(os.path.join(self.root, part))
                except OSError:  # removed meanwhile: it cannot be read either
                    continue
                line += f"\0{status.st_size}\0{status.st_mtime_ns}"
            listing.update(os.fsencode(line))
        return listing.hexdigest()[:16]

    def _why_left_out(self, split: str, index: int) -> str:
        path = self.files[split][index][0]
        try:
            self._reader()(self.root, path, source.MIN_SIZE)
        except UsageError as error:
            why = one_line(error)
        else:
            first = one_line(self.root / path.replace("\0", " or "))
            why = f"{first}, which can be read now: change its time by `touch`"
        if not self.name.startswith(source.FOLDER):
            return f"the first is {why}"
        return f"the first is {why}; {advice(self.name)}"


def advice(name: str) -> str:
    """The command that tells all about a folder."""
    return f"for all of it: python -m zoo.data doctor --dataset={one_line(name)}"


def load(name: str, image_size: int | None = None) -> FolderSource:
    """The pictures of "folder:PATH", listed and not read yet.

    Raises UsageError if there is no such folder, if it holds fewer than two pictures, or pictures
    both beside and inside its sub-folders, and for a size out of range.
    """
    root = find(name, image_size)
    class_names, files = _listing(name, root)
    return FolderSource(
        class_names=class_names, **described(name, root, image_size, split_up(files))
    )


def find(name: str, image_size: int | None) -> Path:
    """The folder that a data set names; UsageError if there is none, or for a size out of range."""
    if image_size is not None:
        source.check_size(image_size)
    kind, _, path = name.partition(":")
    if not path:
        raise UsageError(f"{name!r} names no folder: expected {kind}:PATH")
    root = source.path_of(name)
    if not root.is_dir():
        what = "is no folder" if root.exists() else "does not exist"
        raise UsageError(f"{name}: {root} {what}; expected a folder of pictures")
    return root


def described(name: str, root: Path, image_size: int | None, files: dict[str, Files]) -> dict:
    """What a source of files is made of, but for its classes."""
    size = source.DEFAULT_SIZE if image_size is None else image_size
    counts = {split: len(its) for split, its in files.items()}
    return {
        "name": name,
        "image_shape": (size, size, 3),
        "num_examples": counts,
        "root": root,
        "files": files,
    }


def draw(
    files: Sequence[tuple[str, int]],
    *,
    root: Path,
    shape: tuple[int, ...],
    reader: Callable[[Path, str, int], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Reads pictures: uint8 [N, *shape] and labels int32 [N].

    A picture that cannot be read is black, and its label UNREADABLE.
    """
    images = np.zeros((len(files), *shape), np.uint8)
    labels = np.full(len(files), source.UNREADABLE, np.int32)
    for row, (path, label) in enumerate(files):
        try:
            images[row] = reader(root, path, shape[-2])
        except UsageError:
            continue
        labels[row] = label
    return images, labels


def read(root: Path, path: str, size: int) -> np.ndarray:
    """The picture at root/path, uint8 [size, size, 3]; or UsageError."""
    return photos.read_square(root / path, size)


def pictures(folder: Path, within: str = "") -> list[bytes]:
    """The names of the pictures directly in a folder, sorted, `within` before each.

    None is no error, a folder that cannot be read is a UsageError. Links to nowhere and hidden
    files are left out.
    """
    try:
        with os.scandir(folder) as entries:
            found = [
                os.fsencode(within + entry.name)
                for entry in entries
                if entry.name.lower().endswith(photos.PICTURES) and not entry.name.startswith(".")
                if os.path.isfile(entry)  # entry.is_file raises for some links to nowhere
            ]
    except OSError as error:
        raise UsageError(f"cannot read the folder {folder}: {reason(error)}") from error
    found.sort()
    return found


def _listing(name: str, root: Path) -> tuple[tuple[str, ...], Files]:
    """Class names, and the pictures, sorted by class, then by path."""
    flat = pictures(root)
    folders = sorted(
        entry.name
        for entry in os.scandir(root)
        if os.path.isdir(entry) and not entry.name.startswith(".")
    )
    classes = {
        folder: found for folder in folders if (found := pictures(root / folder, f"{folder}/"))
    }
    if flat and classes:
        raise UsageError(
            f"{name}: pictures lie both in the folder and in its sub-folder {next(iter(classes))}: "
            "expected either, where each sub-folder is a class"
        )
    if flat:
        classes = {root.name or "folder": flat}
    counts = [len(its) for its in classes.values()]
    if sum(counts) < 2:
        raise UsageError(
            f"{name}: {sum(counts)} pictures found in {root} and its sub-folders; expected two or "
            f"more files ending in {' '.join(photos.PICTURES)}"
        )
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return tuple(classes), Files(np.concatenate([np.array(c) for c in classes.values()]), labels)


def split_up(files: Files) -> dict[str, Files]:
    """ "train" and "test" of two or more files."""
    tested = held_out(files.paths)
    return {"train": files[~tested], "test": files[tested]}


def held_out(paths: Sequence[bytes] | np.ndarray) -> np.ndarray:
    """bool [N]: which of two or more paths are for testing."""
    hashes = b"".join(hashlib.sha256(path).digest()[:8] for path in paths)
    shares = np.frombuffer(hashes, ">u8") / 2**64
    # The lowest is always for testing, the highest never.
    return shares < min(max(_TEST_SHARE, np.nextafter(shares.min(), 1)), shares.max())
