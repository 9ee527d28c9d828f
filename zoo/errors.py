"""The one exception that stands for bad input, and the checks that raise it."""

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator


class UsageError(ValueError):
    """Bad input: one line that says what came, what was expected and how to fix it.

    Commands print the line and exit with code 2; library callers meet a ValueError.
    """


def reason(error: Exception) -> str:
    """What went wrong, in one line: without the names that TensorFlow puts around it."""
    text = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return re.sub(r"^\{\{.*?\}\} | \[Op:\w+\]$", "", text)


def one_line(text: object) -> str:
    """A path or message as it can be printed anywhere: on one line, what is no text escaped.

    Names of files may hold line breaks, terminal controls and bytes that are no text.
    """
    readable = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in readable
    )


@contextlib.contextmanager
def writing(path: os.PathLike, advice: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns a full or failing disk, met as OSError or as one of `errors`, into a UsageError."""
    kinds: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except kinds as error:
        known = ("No space left", "File too large", "Read-only", "quota", "Input/output error")
        if not any(text in reason(error) for text in known):
            raise
        raise UsageError(f"cannot write to {path}: {reason(error)}; {advice}") from error


def check_positive(**values: float | None) -> None:
    """Raises UsageError for the first keyword whose value is zero or negative; None is skipped."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UsageError(f"--{name}={value}: expected a number greater than zero")


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """UsageError for a name that is not among the known ones, with the nearest of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    suggestion = f"did you mean {' or '.join(near)}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}: {suggestion}known: {', '.join(known)}{hint}")
