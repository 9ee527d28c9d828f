"""The one exception that stands for bad input, and the checks that raise it."""

import difflib
import re
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input: one line that says what came, what was expected and how to fix it.

    Commands print the line and exit with code 2; library callers meet a ValueError.
    """


def reason(error: Exception) -> str:
    """What went wrong, in one line: without the names that TensorFlow puts around it."""
    text = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return re.sub(r"^\{\{.*?\}\} | \[Op:\w+\]$", "", text)


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
