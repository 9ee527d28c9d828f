import itertools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from zoo.data import cache
from zoo.errors import UsageError

ROOT = Path(__file__).parents[1]


def drawn() -> dict[str, np.ndarray]:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 1)
    return {"image": images, "label": np.array([3, 1], np.int32)}


def cached(name, draw, directory=None):
    """`cache.cached` of one part."""
    return cache.cached(name, lambda: [draw()], 100, directory)


def content(directory: Path, key: str = "image.npy") -> Path:
    return directory / "set.arrays" / key


def never() -> dict[str, np.ndarray]:
    raise AssertionError("drawn although it was cached")


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]) for key in a
    )


def run(code: str, *arguments: object, **options) -> subprocess.Popen:
    """A Python process that runs `code` in the root of the repository."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, **options)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def test_roundtrip(tmp_path):
    assert same(cached("set", drawn, tmp_path), drawn())
    again = cached("set", never, tmp_path)
    assert same(again, drawn())
    assert again["image"].flags.writeable
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set.arrays", "set.lock"]


def test_names_are_kept_apart(tmp_path):
    cached("one", drawn, tmp_path)
    other = {"image": np.ones((1, 2, 2, 1), np.uint8)}
    assert same(cached("two", lambda: other, tmp_path), other)
    assert same(cached("one", never, tmp_path), drawn())


def test_directory_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.default_directory() == tmp_path / "mine"
    monkeypatch.delenv("ZOO_CACHE_DIR")
    assert cache.default_directory() == tmp_path / "xdg" / "zoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.default_directory() == tmp_path / "home" / ".cache" / "zoo"
    cached("set", drawn)
    assert (tmp_path / "home" / ".cache" / "zoo" / "set.arrays").exists()


@pytest.mark.parametrize("key", ("image.npy", "label.npy", "contents.json"))
def test_every_flipped_byte_is_noticed_or_harmless(tmp_path, caplog, key):
    cached("set", drawn, tmp_path)
    path = content(tmp_path, key)
    good = path.read_bytes()
    harmless = set()
    for position, bits in itertools.product(range(len(good)), (0x01, 0xFF)):
        damaged = bytearray(good)
        damaged[position] ^= bits
        path.write_bytes(damaged)
        caplog.clear()
        assert same(cached("set", drawn, tmp_path), drawn())
        if not caplog.records:
            harmless.add(position)
            continue
        assert len(caplog.records) == 1 and "\n" not in caplog.text.rstrip("\n")
        assert "damaged" in caplog.text and "set.arrays" in caplog.text
        assert path.read_bytes() == good
    # White space, one sort for another; native byte order, which is the same.
    assert all(good[position] in b" \n<" for position in harmless)


@pytest.mark.parametrize(
    "damage",
    (
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"not an array at all\n" * 100,
        lambda content: bytes(len(content)),
    ),
    ids=("empty", "half", "last byte cut", "garbage", "zeros"),
)
@pytest.mark.parametrize("key", ("image.npy", "contents.json"))
def test_damaged_files_are_drawn_again(tmp_path, caplog, damage, key):
    cached("set", drawn, tmp_path)
    path = content(tmp_path, key)
    path.write_bytes(damage(path.read_bytes()))
    assert same(cached("set", drawn, tmp_path), drawn())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "damaged" in caplog.text
    assert same(cached("set", never, tmp_path), drawn())


def test_a_file_that_is_gone_is_noticed(tmp_path, caplog):
    for key in ("image.npy", "label.npy", "contents.json"):
        cached("set", drawn, tmp_path)
        content(tmp_path, key).unlink()
        assert same(cached("set", drawn, tmp_path), drawn())
    assert len(caplog.records) == 3
    assert same(cached("set", never, tmp_path), drawn())


def test_another_set_under_our_name_is_not_ours(tmp_path, caplog):
    cached("other", lambda: {"image": np.zeros(3)}, tmp_path)
    os.replace(tmp_path / "other.arrays", tmp_path / "set.arrays")
    assert same(cached("set", drawn, tmp_path), drawn())
    assert len(caplog.records) == 1 and "other" in caplog.text


def test_the_warning_goes_to_stderr_without_any_logging_set_up(tmp_path):
    content(tmp_path).parent.mkdir()
    content(tmp_path, "contents.json").write_bytes(b"x")
    code = """
        import sys, numpy as np
        from pathlib import Path
        from zoo.data import cache
        cache.cached("set", lambda: [{"image": np.zeros(3)}], 3, Path(sys.argv[1]))
    """
    process = run(code, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate()
    assert process.returncode == 0 and out == ""
    assert err.count("\n") == 1 and "damaged" in err


@pytest.mark.parametrize("below", ("", "deeper"))
def test_an_unusable_directory_is_no_failure(tmp_path, caplog, below):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert same(cached("set", drawn, blocked / below), drawn())
    assert len(caplog.records) == 1 and "ZOO_CACHE_DIR" in caplog.text
    assert blocked.read_text() == "in the way"


def test_a_readable_file_is_used_although_nothing_can_be_written(tmp_path, monkeypatch):
    cached("set", drawn, tmp_path)
    (tmp_path / "set.lock").unlink()
    (tmp_path / "set.lock").mkdir()  # opening it to lock would fail
    assert same(cached("set", never, tmp_path), drawn())


def test_a_full_disk_is_no_failure(tmp_path):
    code = """
        import resource, sys, numpy as np
        from zoo.data import cache
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        parts = lambda: ({"image": np.ones(10**5, np.uint8)} for _ in range(10))
        arrays = cache.cached("set", parts, 10**6, sys.argv[1])
        assert arrays["image"].sum() == 10**6
    """
    process = run(code, tmp_path, stderr=subprocess.PIPE, text=True)
    err = process.communicate()[1]
    assert process.returncode == 0, err
    assert err.count("\n") == 1 and "ZOO_CACHE_DIR" in err
    assert [p.name for p in tmp_path.iterdir()] == ["set.lock"]


def test_an_error_while_drawing_is_passed_on_and_leaves_the_lock_free(tmp_path):
    with pytest.raises(AssertionError, match="drawn although"):
        cached("set", never, tmp_path)
    assert same(cached("set", drawn, tmp_path), drawn())


def test_concurrent_processes_draw_once(tmp_path):
    code = """
        import sys, time, numpy as np
        from zoo.data import cache
        def draw():
            with open(sys.argv[1] + "/draws", "a") as file:
                file.write("drawn\\n")
            time.sleep(0.7)
            yield {"image": np.arange(50_000)}
        print(cache.cached("set", draw, 50_000, sys.argv[1] + "/cache")["image"].sum())
    """
    processes = [run(code, tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    sums = [process.communicate()[0].strip() for process in processes]
    assert sums == [str(sum(range(50_000)))] * 4
    assert (tmp_path / "draws").read_text() == "drawn\n"


KILLED_WRITER = """
    import pathlib, sys, time, numpy as np
    from zoo.data import cache
    directory = pathlib.Path(sys.argv[1])
    def stop(*_):
        (directory / "here").touch()
        time.sleep(60)
    if sys.argv[2] == "half":
        def draw():
            yield {"image": np.ones(10_000)}
            stop()
    else:
        pathlib.Path.rename = stop
        def draw():
            yield {"image": np.ones(10_000)}
    cache.cached("set", draw, 20_000, directory)
"""


@pytest.mark.parametrize("moment", ("half", "before rename"))
def test_killed_while_writing(tmp_path, moment):
    process = run(KILLED_WRITER, tmp_path, moment)
    try:
        wait_for(tmp_path / "here")
        # Alive, it holds its lock: another name may be written, and its file is left alone.
        cached("other", drawn, tmp_path)
        assert (tmp_path / "set.zoo-partial").exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "set.arrays").exists()
    cached("third", drawn, tmp_path)
    assert not list(tmp_path.glob("*.zoo-partial"))
    assert same(cached("set", drawn, tmp_path), drawn())


def test_what_lies_under_the_temporary_name_is_replaced(tmp_path):
    (tmp_path / "set.zoo-partial").mkdir()
    (tmp_path / "set.zoo-partial" / "image.npy").write_bytes(b"x" * 100_000)
    cached("set", drawn, tmp_path)
    assert same(cached("set", never, tmp_path), drawn())
    assert not list(tmp_path.glob("*.zoo-partial"))


def test_parts_are_gathered_whatever_their_lengths(tmp_path):
    for _ in range(2):  # drawn, then read
        arrays = cache.cached("set", parts, 9, tmp_path)
        assert same(arrays, whole())
        assert all(array.flags.writeable and array.flags.carray for array in arrays.values())
        assert all(array.ctypes.data % cache.ALIGNMENT == 0 for array in arrays.values())


# What is too large for the memory.


def parts():
    """Three parts of 3, 0 and 2 rows."""
    for start, stop in ((0, 3), (3, 3), (3, 5)):
        labels = np.arange(start, stop, dtype=np.int32)
        images = np.broadcast_to(labels[:, None, None, None], (stop - start, 2, 2, 1))
        yield {"image": images.astype(np.uint8), "label": labels}


def whole():
    several = list(parts())
    return {key: np.concatenate([part[key] for part in several]) for key in several[0]}


def no_parts():
    raise AssertionError("drawn although it was cached")


def test_mapped_arrays_are_written_part_by_part_and_read_from_disk(tmp_path):
    arrays = cache.mapped("set", parts, 100, tmp_path)
    assert same(arrays, whole())
    assert isinstance(arrays["image"], np.memmap) and not arrays["image"].flags.writeable
    assert not isinstance(arrays["label"], np.memmap)
    assert same(cache.mapped("set", no_parts, 100, tmp_path), whole())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set.arrays", "set.lock"]
    # They are files as NumPy writes them.
    np.save(tmp_path / "image.npy", whole()["image"])
    ours = (tmp_path / "set.arrays" / "image.npy").read_bytes()
    assert ours == (tmp_path / "image.npy").read_bytes()


def test_the_size_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "memory", lambda: 1000)
    in_memory = cache.kept("small", parts, 5, 1000, tmp_path)
    on_disk = cache.kept("large", parts, 5, 1001, tmp_path)
    assert same(in_memory, whole()) and same(on_disk, whole())
    assert not isinstance(in_memory["image"], np.memmap)
    assert isinstance(on_disk["image"], np.memmap)


@pytest.mark.parametrize("damage", ("cut", "emptied", "text"))
def test_mapped_arrays_that_are_cut_short_are_drawn_again(tmp_path, damage):
    cache.mapped("set", parts, 100, tmp_path)
    file = tmp_path / "set.arrays" / "image.npy"
    content = file.read_bytes()
    file.write_bytes({"cut": content[:-1], "emptied": b"", "text": b"words" * 40}[damage])
    assert same(cache.mapped("set", parts, 100, tmp_path), whole())
    assert same(cache.mapped("set", no_parts, 100, tmp_path), whole())


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / "set.zoo-partial").mkdir()
    (tmp_path / "set.zoo-partial" / "image.npy").write_bytes(b"half")
    (tmp_path / "other.zoo-partial").mkdir()
    assert same(cache.mapped("set", parts, 100, tmp_path), whole())
    assert not list(tmp_path.glob("*.zoo-partial"))


def test_an_error_while_drawing_leaves_nothing(tmp_path):
    def failing():
        yield from itertools.islice(parts(), 2)
        raise UsageError("this picture")

    with pytest.raises(UsageError, match="^this picture$"):
        cache.mapped("set", failing, 100, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["set.lock"]


def test_no_room_is_told_before_anything_is_drawn(tmp_path):
    with pytest.raises(
        UsageError, match=r"set takes 1073741824.0 GiB.*GiB are free.*ZOO_CACHE_DIR"
    ):
        cache.mapped("set", no_parts, 2**60, tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    with pytest.raises(UsageError, match="cannot be kept in the cache directory"):
        cache.mapped("set", no_parts, 100, blocked)
