"""Plots as inline SVG, in colours that the page's style sheet gives: they follow light and dark."""

import html
import math
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]

_LOG_FROM = 8.0


def intervals(rows: Mapping[str, tuple[Sequence[float], float, float]], label: str) -> str:
    """A line a row: a dot a seed, and the mean with its confidence interval (mean, half, or nan).

    Logarithmic where the means differ by more than a factor of eight.
    """
    width, left, right, height = 460, 130, 14, 20
    values = [v for dots, mean, half in rows.values() for v in (*dots, *_ends(mean, half))]
    # An interval of two seeds reaches far: what is drawn is where the seeds are, and a bit more.
    dots = [v for found, _, _ in rows.values() for v in found]
    log = min(dots) > 0 and max(dots) / min(dots) > _LOG_FROM
    if log:
        values = [max(v, min(dots) / 2) for v in values]
    spread = max(dots) - min(dots) or abs(dots[0]) or 1.0
    low = max(min(values), min(dots) / 2 if log else min(dots) - spread)
    high = min(max(values), max(dots) * 2 if log else max(dots) + spread)
    axis = _Axis(low, high, left, width - right, log)
    bottom = 6 + height * len(rows)
    parts = [f'<svg viewBox="0 0 {width} {bottom + 34}" role="img" class="intervals">']
    for tick in axis.ticks():
        x = axis(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} 4V{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 13}" class="tick mid">{_number(tick)}</text>')
    for number, (name, (found, mean, half)) in enumerate(rows.items()):
        y = 6 + height * (number + 0.5)
        parts.append(f'<text x="{left - 8}" y="{y + 4}" class="end">{_short(name, 22)}</text>')
        if not math.isnan(half):
            ends = [axis(end) for end in _ends(mean, half)]
            parts.append(f'<path class="bar" d="M{ends[0]:.1f} {y}H{ends[1]:.1f}"/>')
        parts += [f'<circle class="seed" cx="{axis(v):.1f}" cy="{y}" r="2.4"/>' for v in found]
        x = axis(mean)
        parts.append(f'<path class="mean" d="M{x:.1f} {y - 6}V{y + 6}"/>')
    middle = (left + width - right) / 2
    scale = ", logarithmic" if log else ""
    text = html.escape(label + scale)
    parts.append(f'<text x="{middle}" y="{bottom + 29}" class="mid">{text}</text></svg>')
    return "".join(parts)


def _ends(mean: float, half: float) -> tuple[float, float]:
    return (mean, mean) if math.isnan(half) else (mean - half, mean + half)


def multiples(curves: Mapping[str, Sequence[Points]], x_label: str, y_label: str) -> str:
    """A panel a name, with its runs on those of all others, all to one scale."""
    points = [point for runs in curves.values() for run in runs for point in run]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    log = min(ys) > 0 and max(ys) / min(ys) > _LOG_FROM
    width, height, left, bottom = 220, 150, 40, 118
    across = _Axis(0.0, max(xs), left, width - 8, False)
    up = _Axis(min(ys), max(ys), bottom, 24, log)
    frame = []
    for tick in up.ticks(4):
        frame.append(f'<path class="grid" d="M{left} {up(tick):.1f}H{width - 8}"/>')
        frame.append(
            f'<text x="{left - 4}" y="{up(tick) + 3:.1f}" class="tick end">{_number(tick)}</text>'
        )
    for tick in across.ticks(3):
        x = across(tick)
        frame.append(f'<text x="{x:.1f}" y="{bottom + 13}" class="tick mid">{_number(tick)}</text>')
    labels = (
        f'<text x="{(left + width - 8) / 2}" y="{bottom + 27}" class="tick mid">'
        f"{html.escape(x_label)}</text>"
    )

    def line(run: Points, kind: str) -> str:
        joined = "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in run)
        return f'<path class="{kind}" d="M{joined}"/>'

    panels = []
    for name, runs in curves.items():
        rivals = [theirs for other, theirs in curves.items() if other != name]
        others = [line(run, "other") for theirs in rivals for run in theirs]
        own = [line(run, "own") for run in runs]
        ends = [(across(run[-1][0]), up(run[-1][1])) for run in runs]
        dots = [f'<circle class="seed" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in ends]
        panels.append(
            f'<svg viewBox="0 0 {width} {height}" role="img">'
            f'<text x="{left}" y="13" class="name">{_short(name, 30)}</text>'
            f"{''.join(frame)}{labels}{''.join(others)}{''.join(own)}{''.join(dots)}</svg>"
        )
    note = f"{y_label}{', logarithmic' if log else ''}, over {x_label}; a line a seed"
    return (
        f'<figure><div class="multiples">{"".join(panels)}</div>'
        f"<figcaption>{html.escape(note)}</figcaption></figure>"
    )


class _Axis:
    """From values to where they are drawn."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool):
        if high <= low:
            low, high = (low / 2, high * 2) if log else (low - 1.0, high + 1.0)
        self._low, self._high, self._start, self._end, self._log = low, high, start, end, log

    def __call__(self, value: float) -> float:
        value = min(max(value, self._low), self._high)
        low, high = self._low, self._high
        if self._log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self._start + (value - low) / (high - low) * (self._end - self._start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers within the axis, at most so many."""
        if self._log:
            powers = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [s * 10.0**power for power in powers for s in steps]
                found = [tick for tick in found if self._low <= tick <= self._high]
                if len(found) <= most:
                    break
            if len(found) >= 2:
                return found[:: -(-len(found) // most)]
        span = self._high - self._low
        unit = 10.0 ** math.floor(math.log10(span / most))
        step = next(unit * s for s in (1, 2, 5, 10) if span / (unit * s) <= most)
        first = math.ceil(self._low / step - 1e-9)
        last = math.floor(self._high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value / 1000:.4g}k"
    return f"{value:.3g}"


def _short(name: str, most: int) -> str:
    return html.escape(name if len(name) <= most else f"{name[: most - 1]}…")
