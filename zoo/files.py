"""Files that are written whole or not at all."""

import os
import pathlib


def write(path: pathlib.Path, data: bytes) -> None:
    """Writes a file under a temporary name, `.NAME.PID.tmp`, then renames it; or OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
