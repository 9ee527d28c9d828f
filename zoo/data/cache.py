"""Disk cache of drawn arrays: read if it is there and whole, else drawn once and written.

What fits into a quarter of the memory is held there (`cached`); anything larger stays on disk and
is read row by row (`mapped`); `kept` chooses.

Each set is a directory of .npy files, written while the rest is drawn, and a list of its contents
with a CRC-32 of each file's data, verified on every read into memory; of what is mapped, lengths
alone. Not one .npz, which can be written only when all is drawn; nor array_record (groups of 64
records): a random batch of 64 images of 28x28 takes it 1,500 us, an array in memory 7.

Directories live in $ZOO_CACHE_DIR, else $XDG_CACHE_HOME/zoo, else ~/.cache/zoo, which may be
deleted at any time. One is written under another name and then renamed, so that one with the
real name is always whole, whenever a process was killed. A lock file beside it (never removed: that
would be a race) makes concurrent runs draw once. A cache that cannot be read or written costs time
and one warning, never the run; only what does not fit into memory must be written.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from zoo.errors import UsageError, reason

Arrays = dict[str, np.ndarray]

_logger = logging.getLogger("zoo")
# Ours alone: the directory may be one that others write to.
_PARTIAL = "zoo-partial"
# What a directory holds: two might be mixed up, and one can lose a file unseen.
_CONTENTS = "contents.json"
_ARRAYS = ".arrays"
# TensorFlow takes arrays that begin at such addresses as they are, and copies others.
ALIGNMENT = 64


class _DamagedError(Exception):
    """A cached set that is not what was written."""


def default_directory() -> Path:
    """The cache directory that the environment asks for; it need not exist."""
    if chosen := os.environ.get("ZOO_CACHE_DIR"):
        return Path(chosen).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "zoo"
    return Path.home() / ".cache" / "zoo"


def memory() -> int:
    """Bytes of arrays that are held in memory: a quarter of it, for training takes them twice."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def kept(
    name: str,
    draw: Callable[[], Iterable[Arrays]],
    rows: int,
    num_bytes: int,
    cache_dir: Path | None = None,
) -> Arrays:
    """`cached` for up to `memory()` bytes, else `mapped`."""
    if num_bytes > memory():
        return mapped(name, draw, num_bytes, cache_dir)
    return cached(name, draw, rows, cache_dir)


def mapped(
    name: str, draw: Callable[[], Iterable[Arrays]], num_bytes: int, cache_dir: Path | None = None
) -> Arrays:
    """The rows of all parts that draw() yields, read from disk as they are asked for.

    Arrays of one dimension come in memory, the others as read-only `np.memmap`. At most one part
    is held. UsageError if there is no room for `num_bytes`, or no writing, in the cache directory.
    """
    try:
        directory = Path(cache_dir) if cache_dir is not None else default_directory()
        with contextlib.suppress(_DamagedError):
            if (arrays := _map(directory, name)) is not None:
                return arrays
        directory.mkdir(parents=True, exist_ok=True)
        with _lock(directory, name):
            with contextlib.suppress(_DamagedError):
                if (arrays := _map(directory, name)) is not None:
                    return arrays
            with contextlib.closing(_Writer(directory, name)) as writer:
                if (free := shutil.disk_usage(directory).free) < num_bytes:
                    raise OSError(f"{free / 2**30:.1f} GiB are free")
                for part in draw():
                    writer.add(part)
                writer.finish(flush=True)
            arrays = _map(directory, name)
            assert arrays is not None
            return arrays
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"{name} takes {num_bytes / 2**30:.1f} GiB: too much for this machine's memory, and it "
            f"cannot be kept in the cache directory ({reason(error)}): set ZOO_CACHE_DIR to a "
            "directory with more room, or use a smaller --image_size"
        ) from error


def cached(
    name: str,
    draw: Callable[[], Iterable[Arrays]],
    rows: int,
    cache_dir: Path | None = None,
) -> Arrays:
    """The rows of all parts that draw() yields, from the cached set `name`, written if not there.

    Args:
      name: file name without its ending; it must determine what draw() returns.
      draw: is called at most once, and by one process at a time.
      rows: the most that an array may have.
      cache_dir: the directory; `default_directory()` by default.

    Returns:
      arrays by name, dtypes and shapes as drawn, in memory of their own.
    """
    try:
        directory = Path(cache_dir) if cache_dir is not None else default_directory()
        with contextlib.suppress(_DamagedError):  # reported below, where it is also replaced
            if (arrays := _read(directory, name)) is not None:
                return arrays
        directory.mkdir(parents=True, exist_ok=True)
        lock = _lock(directory, name)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        _warn_not_cached(name, error)
        return _gathered(draw(), rows)
    with lock:
        try:
            arrays = _read(directory, name)  # a process that held the lock may have written it
            if arrays is not None:
                return arrays
        except _DamagedError as error:
            _logger.warning(
                "cached set %s is damaged (%s): drawing it again",
                directory / f"{name}{_ARRAYS}",
                error,
            )
        return _gathered(_written(directory, name, draw()), rows)


def _written(directory: Path, name: str, parts: Iterable[Arrays]) -> Iterator[Arrays]:
    """The same parts, written as they pass; if that fails, a warning, and the rest is not."""
    with contextlib.ExitStack() as stack:
        writer: _Writer | None = None
        failure: OSError | None = None
        try:
            writer = stack.enter_context(contextlib.closing(_Writer(directory, name)))
        except OSError as error:
            failure = error
        for part in parts:
            if writer and not failure:
                try:
                    writer.add(part)
                except OSError as error:
                    failure = error
                    writer.close()  # room for others
            yield part
        if writer and not failure:
            try:
                writer.finish()
            except OSError as error:
                failure = error
        if failure:
            _warn_not_cached(name, failure)


def _gathered(parts: Iterable[Arrays], rows: int) -> Arrays:
    """Up to so many rows of all parts, in arrays of their own."""
    arrays: Arrays = {}
    filled: dict[str, int] = {}
    for part in parts:
        for key, values in part.items():
            if key not in arrays:
                arrays[key] = _empty((rows, *values.shape[1:]), values.dtype)
            start = filled.get(key, 0)
            filled[key] = start + len(values)
            arrays[key][start : filled[key]] = values
    return {key: values[: filled[key]] for key, values in arrays.items()}


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`np.empty`, but aligned."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _warn_not_cached(name: str, error: Exception) -> None:
    _logger.warning(
        "cannot cache %s (%s): it is drawn anew in each run; to cache it, set ZOO_CACHE_DIR to a "
        "directory with room that you may write to",
        name,
        error,
    )


def _stored(directory: Path, name: str) -> dict[str, tuple[np.memmap, int]] | None:
    """Each array of a set and its checksum, nothing of it read yet; None if there is no such set.

    _DamagedError if a file is missing, cut short or not of the form that was written.
    """
    final = directory / f"{name}{_ARRAYS}"
    if not final.is_dir():
        return None
    try:
        contents = json.loads((final / _CONTENTS).read_text())
        if contents["name"] != name:
            raise ValueError(f"it holds {contents['name']}")
        stored = {}
        for key, (shape, dtype, crc) in contents["arrays"].items():
            array = np.load(final / f"{key}.npy", mmap_mode="r", allow_pickle=False)
            if [list(array.shape), array.dtype.str] != [shape, dtype]:
                raise ValueError(f"{key} is {array.dtype.str} {list(array.shape)}")
            stored[key] = array, crc
    except Exception as error:  # whatever parsers can raise on arbitrary bytes
        raise _damaged(error) from error
    return stored


def _map(directory: Path, name: str) -> Arrays | None:
    """The arrays, those of several dimensions on disk; else as `_stored`."""
    if (stored := _stored(directory, name)) is None:
        return None
    return {key: a if a.ndim > 1 else np.array(a) for key, (a, _) in stored.items()}


def _read(directory: Path, name: str) -> Arrays | None:
    """The arrays in memory, every byte of them checked; else as `_stored`."""
    if (stored := _stored(directory, name)) is None:
        return None
    arrays = {}
    try:
        for key, (array, crc) in stored.items():
            arrays[key] = _empty(array.shape, array.dtype)
            data = _bytes(arrays[key])
            # Not copied from the map: a failing disk would end the process.
            with open(str(array.filename), "rb") as file:
                file.seek(array.offset)
                file.readinto(data)
            if zlib.crc32(data) != crc:
                raise ValueError(f"another checksum of {key}")
    except (OSError, ValueError) as error:
        raise _damaged(error) from error
    return arrays


def _damaged(error: Exception) -> _DamagedError:
    return _DamagedError(ascii(str(error))[1:-1][:100])


def _bytes(values: np.ndarray) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


class _Writer:
    """Writes a set part by part, into a directory that gets its name when all is there.

    What the set was before is replaced. The lock must be held. OSError if anything fails.
    """

    def __init__(self, directory: Path, name: str):
        _remove_stale(directory)
        self._name, self._final = name, directory / f"{name}{_ARRAYS}"
        self._temporary = directory / f"{name}.{_PARTIAL}"
        shutil.rmtree(self._temporary, ignore_errors=True)  # what a killed process left behind
        self._temporary.mkdir()
        self._files: dict[str, IO[bytes]] = {}
        self._headers: dict[str, dict] = {}
        self._checksums: dict[str, int] = {}

    def add(self, part: Arrays) -> None:
        for key, values in part.items():
            if key not in self._files:
                self._files[key] = open(self._temporary / f"{key}.npy", "wb")
                self._headers[key] = np.lib.format.header_data_from_array_1_0(values[:0].copy())
                self._checksums[key] = 0
                np.lib.format.write_array_header_1_0(self._files[key], self._headers[key])
            data = _bytes(values)
            self._files[key].write(data)
            self._checksums[key] = zlib.crc32(data, self._checksums[key])
            length, *shape = self._headers[key]["shape"]
            self._headers[key]["shape"] = (length + len(values), *shape)

    def finish(self, flush: bool = False) -> None:
        """flush: to the disk, for a set that is not checked whenever it is read."""
        for key, file in self._files.items():
            # As long as before: NumPy leaves room for any number of rows.
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, self._headers[key])
        arrays = {
            key: (header["shape"], header["descr"], self._checksums[key])
            for key, header in self._headers.items()
        }
        file = self._files[_CONTENTS] = open(self._temporary / _CONTENTS, "wb")
        file.write(json.dumps({"name": self._name, "arrays": arrays}).encode())
        for file in self._files.values():
            file.flush()
            if flush:
                os.fsync(file.fileno())
        shutil.rmtree(self._final, ignore_errors=True)
        self._temporary.rename(self._final)
        if flush:
            descriptor = os.open(self._final.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Removes what is not finished."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # of a full disk
                file.close()
        self._files.clear()
        shutil.rmtree(self._temporary, ignore_errors=True)


def _lock(directory: Path, name: str) -> IO[bytes]:
    """An open file that holds the lock of `name` until it is closed or its process ends."""
    file = open(directory / f"{name}.lock", "ab")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.info("another process is drawing %s: waiting for it", name)
            fcntl.flock(file, fcntl.LOCK_EX)
    except BaseException:
        file.close()
        raise
    return file


def _remove_stale(directory: Path) -> None:
    """Removes temporary files that no live process is writing: those whose lock is free."""
    for temporary in directory.glob(f"*.{_PARTIAL}"):
        with open(temporary.with_suffix(".lock"), "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)
