"""What all tests share: TensorFlow as the zoo sets it up, and one cache of drawn data."""

import fcntl
import os
import pathlib
import signal

import pytest

from zoo import runtime
from zoo.data import source

# Started in the background of a script, SIGINT is ignored, and what we start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collectstart(collector):
    """Before any test file is imported; the process that only hands tests out collects none."""
    if isinstance(collector, pytest.Session):
        runtime.import_tensorflow()


@pytest.fixture(scope="session", autouse=True)
def data_cache(tmp_path_factory):
    """A directory that each data set is drawn into once, by the tests' processes or theirs."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a directory of its own within that of all
        base = base.parent
    directory = base / "cache"
    directory.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE_DIR", str(directory))
        # Before any command needs them, and says that it waits for another that draws them.
        for split in ("train", "test"):
            source.load("glyphs").arrays(split)
        yield directory


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """name -> directory of that model exported, at its TINY config with three classes.

    Each is exported once, whichever of the tests' processes needs it first.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def export(name: str) -> pathlib.Path:
        import contract

        from export import savedmodel

        directory = base / "served" / name
        directory.parent.mkdir(exist_ok=True)
        with open(directory.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (directory / "1").exists():
                model = contract.build(name, num_classes=3)
                contract.make_loop(model).run_block(2)
                savedmodel.write(model, directory)
        return directory

    return export


@pytest.fixture
def off_by_a_little(monkeypatch):
    """What a live model answers to three decodings is not what its export will answer."""
    from export import savedmodel

    live_requests = savedmodel.live_requests

    def changed(*arguments):
        arrays = live_requests(*arguments)
        arrays["decode/3/out/images"] = arrays["decode/3/out/images"] + 1e-3
        return arrays

    monkeypatch.setattr(savedmodel, "live_requests", changed)
