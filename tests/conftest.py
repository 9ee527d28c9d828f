"""What all tests share: TensorFlow as the zoo sets it up, and one cache of drawn data."""

import signal

import pytest

from zoo import runtime

runtime.import_tensorflow()
# Started in the background of a script, SIGINT is ignored, and what we start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def data_cache(tmp_path_factory):
    """A directory that each data set is drawn into once, by this process or those it starts."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE_DIR", str(directory))
        yield directory
