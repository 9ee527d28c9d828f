"""What all tests share: TensorFlow as the zoo sets it up, and one cache of drawn data."""

import pytest

from zoo import runtime

runtime.import_tensorflow()


@pytest.fixture(scope="session", autouse=True)
def data_cache(tmp_path_factory):
    """A directory that each data set is drawn into once, by this process or those it starts."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE_DIR", str(directory))
        yield directory
