"""Data: one file, one source of labelled images; each is listed by its name.

Our own sets are data sets of TensorFlow Datasets too, `tfds.load("glyphs")`, wherever both packages
are imported, in either order.
"""

import sys


class _Registration:
    """Finds `tensorflow_datasets` as any finder does, and tells it of our sets once it is there."""

    def find_spec(self, name: str, path=None, target=None):
        if name != "tensorflow_datasets":
            return None
        import importlib.util

        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_register(module) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    from zoo.data import builders  # noqa: F401  # the classes register themselves


if "tensorflow_datasets" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _Registration())  # type: ignore[arg-type]
