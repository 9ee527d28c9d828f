"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib

from zoo.errors import UsageError


def write(path: pathlib.Path, data: bytes) -> None:
    """Writes a file under a temporary name, then renames it; UsageError if it cannot."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}; choose another path") from error
