"""Progress of a long job: a live bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Mapping

import tqdm

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts steps up to `total`; `say` prints a line without tearing the bar."""

    def __init__(self, label: str, total: int, start: int = 0, unit: str = "step"):
        self._label, self._total, self._unit = label, total, unit
        self._start, self._began = start, time.monotonic()
        self._done = start
        self._printed = self._began
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                desc=label, total=total, initial=start, unit=unit, dynamic_ncols=True, leave=False
            )

    def update(self, done: int, scalars: Mapping[str, float] | None = None) -> None:
        """Shows that `done` of the total are done, and beside it the scalars, not their parts.

        `style/conv1_1` is a part of `style`.
        """
        if done < self._done:  # training went back: the rate is that of what follows
            self._start, self._began = done, time.monotonic()
        self._done = done
        whole = {name: value for name, value in (scalars or {}).items() if "/" not in name}
        shown = {name: f"{value:.4g}" for name, value in whole.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if done < self._total and now - self._printed < _SECONDS_BETWEEN_LINES:
            return
        self._printed = now
        rate = (done - self._start) / max(now - self._began, 1e-9)
        left = tqdm.tqdm.format_interval((self._total - done) / rate) if rate else "?"
        values = "".join(f", {name} {value}" for name, value in shown.items())
        print(
            f"{self._label}: {self._unit} {done}/{self._total}, {rate:.3g} {self._unit}s/s, "
            f"{left} left{values}",
            flush=True,
        )

    def say(self, line: str) -> None:
        """Prints a line on stdout."""
        if self._bar is not None:
            self._bar.write(line)
        else:
            print(line, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
