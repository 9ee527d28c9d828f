"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


def write(path: pathlib.Path, data: bytes) -> None:
    """Writes a file under a temporary name, `.NAME.PID.tmp`, then renames it; or OSError."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """That temporary name, to be written to: renamed at the end, removed when anything fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
