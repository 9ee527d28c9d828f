"""A comparison as Markdown, as CSV and as one HTML page that loads nothing from elsewhere.

What differs when the same command is repeated, times and the date, is in parts of its own, which
can be left out: the rest is equal byte for byte.
"""

import base64
import csv
import dataclasses
import html
import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from experiments import plots, significance
from experiments.comparison import Pair, Table, better, kept_apart
from experiments.records import Record, Took
from experiments.suites import Published

if TYPE_CHECKING:
    from experiments.exhibits import Exhibit

_MARKS = {-1: " ↓", 0: "", 1: " ↑"}
_SIGNIFICANT = 0.05


class Grid(NamedTuple):
    """Cells of text; `**` around a cell makes it bold."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a comparison has found.

    Attributes:
      exhibits: name -> the run whose pictures they are, and they or why there are none.
      missing: of the runs that were asked for, by name and seed, why they are not there.
      took: by the runs' order; None: leave out what differs from time to time.
      date: when it was made; "": leave it out.
    """

    title: str
    command: str
    records: Sequence[Record]
    tables: Sequence[Table]
    exhibits: Mapping[str, "tuple[Record, Exhibit | str]"]
    published: Sequence[Published]
    missing: Mapping[tuple[str, int], str]
    took: Sequence[Took | None] | None
    date: str


# What all forms share


def with_error(mean: float, half: float) -> str:
    """The mean to the digit in which its error has its second one; no ± for one seed."""
    if math.isnan(half):
        return _figure(mean)
    if half <= 1e-9 * abs(mean):  # seeds that do not differ but by rounding
        return f"{_figure(mean)} ± 0"
    digits = min(8, max(0, 1 - math.floor(math.log10(half))))
    return f"{mean:,.{digits}f} ± {half:,.{digits}f}".replace("-", "−")


def _figure(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return text.replace("-", "−")


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def _measures_grid(table: Table) -> Grid:
    measures = table.measures()
    best = {}
    if table.primary and len(table.rows) > 1:
        means = {name: table.values(name, table.primary).values() for name in table.rows}
        named = {name: statistics.fmean(values) for name, values in means.items() if values}
        best = {table.primary: min(named, key=named.__getitem__)} if named else {}
    rows = []
    for name, records in table.rows.items():
        cells = []
        for measure in measures:
            values = list(table.values(name, measure).values())
            text = with_error(*significance.interval(values)) if values else "–"
            cells.append(f"**{text}**" if best.get(measure) == name else text)
        steps = _set(f"{record.settings.run.total_steps:,}" for record in records)
        how = _set(value for record in records for value in record.method.values())
        shown = f"{name} ({how})" if how else name
        rows.append([shown, steps, str(len(records)), *cells])
    head = [f"{name}{_MARKS[better(name)]}" for name in measures]
    return Grid(["", "steps", "seeds", *head], rows)


def _set(texts) -> str:
    return ", ".join(dict.fromkeys(texts))


def _pairs_grid(pairs: Sequence[Pair], measure: str) -> Grid:
    rows = []
    for pair in pairs:
        seeds = ", ".join(map(str, pair.seeds)) or "none in common"
        difference = "–" if math.isnan(pair.difference) else _signed(pair)
        strong = pair.t_test < _SIGNIFICANT
        t_test = f"**{_p(pair.t_test)}**" if strong else _p(pair.t_test)
        rows.append(
            [f"{pair.first} − {pair.second}", seeds, difference, t_test, _p(pair.sign_flip)]
        )
    head = ["", "common seeds", measure, "paired t, p (Holm)", "sign flips, p"]
    return Grid(head, rows)


def _tested(pairs: Sequence[Pair]) -> bool:
    return any(not math.isnan(pair.t_test) for pair in pairs)


def _signed(pair: Pair) -> str:
    text = with_error(pair.difference, pair.half_width)
    return text if pair.difference < 0 else f"+{text}"


def _tests_note(pairs: Sequence[Pair]) -> str:
    most = max(len(pair.seeds) for pair in pairs)
    if most < 2:
        return "No two rows have two training seeds in common, so nothing can be tested."
    least = significance.least_sign_flip(most)
    if least >= _SIGNIFICANT:
        return (
            f"With {most} common seeds the exact sign-flip test cannot give less than "
            f"p = {least:.3g}: it can never be significant at .05 (six seeds are the least). "
            "The t test can, if differences are normal."
        )
    return "The sign-flip test is exact and supposes no distribution; it is not corrected."


def _target_grid(table: Table, curves: Mapping[str, Sequence[Mapping[int, float]]], took) -> Grid:
    """When each run first reached what the worst of the rows ended with."""
    target = _target(curves)
    rows = []
    for name, runs in curves.items():
        reached = [next((s for s, v in run.items() if v <= target), None) for run in runs]
        steps = [step for step in reached if step is not None]
        cells = [name, f"{len(steps)} of {len(runs)}"]
        cells.append(f"{statistics.median(steps):,.0f}" if steps else "–")
        if took:
            seconds = [
                record.seconds().get(step)
                for record, step in zip(table.rows[name], reached, strict=True)
                if step is not None
            ]
            known = [second for second in seconds if second is not None]
            cells.append(f"{statistics.median(known):,.0f}" if known else "–")
        rows.append(cells)
    head = ["", f"reached {table.primary} ≤ {target:.3g}", "steps, median"]
    return Grid([*head, "seconds of training, median"] if took else head, rows)


def _target(curves: Mapping[str, Sequence[Mapping[int, float]]]) -> float:
    return max(statistics.fmean(list(run.values())[-1] for run in runs) for runs in curves.values())


def _curves(table: Table) -> dict[str, list[dict[int, float]]]:
    """Name -> each run's; without the names whose runs were not evaluated by this measure."""
    if not table.primary:
        return {}
    found = {
        name: [record.curve(table.primary) for record in records]
        for name, records in table.rows.items()
    }
    return {name: runs for name, runs in found.items() if all(runs)}


def _took_grid(records: Sequence[Record], took: Sequence[Took | None]) -> Grid:
    rows = []
    for name in dict.fromkeys(record.name for record in records):
        known = [t for record, t in zip(records, took, strict=True) if record.name == name and t]
        if not known:
            rows.append([name, *["not recorded"] + ["–"] * 3])
            continue
        figures = zip(*known, strict=True)
        seconds, processor, rate, peak = (statistics.median(values) for values in figures)
        rows.append([name, f"{seconds:,.0f}", f"{processor:,.0f}", f"{rate:,.0f}", f"{peak:,.0f}"])
    head = ["", "training, s", "processor, s", "images/s", "peak memory, MiB"]
    return Grid(head, rows)


def _size_grid(report: Report) -> Grid:
    rows = []
    for name, (_, exhibit) in report.exhibits.items():
        rows.append([name, exhibit if isinstance(exhibit, str) else exhibit.size])
    return Grid(["", "size"], rows)


def _published_grid(published: Sequence[Published], there: Sequence[str]) -> Grid:
    return Grid(
        ["", "measure", "published", "how it was measured", "source", "here"],
        [
            [p.name, p.measure, p.value, p.protocol, p.source,
             "run, by another protocol" if p.name in there else "not run"]
            for p in published
        ],
    )  # fmt: skip


def _made(report: Report) -> list[str]:
    """Command, software, machine: what a reader needs to repeat it."""
    lines = [f"`{report.command}`"]
    for key, words in (("commit", "commit"), ("zoo", "zoo"), ("processors", "")):
        found = _set(filter(None, (record.versions.get(key, "") for record in report.records)))
        if found:
            lines.append(f"{words} {found}".strip())
    for package in ("tensorflow", "keras"):
        found = _set(filter(None, (record.versions.get(package) for record in report.records)))
        lines += [f"{package} {found}"] if found else []
    return lines + ([report.date] if report.date else [])


def _notes(report: Report) -> list[str]:
    reasons: dict[str, dict[str, list[str]]] = {}
    for (name, seed), reason in report.missing.items():
        reasons.setdefault(reason, {}).setdefault(name, []).append(str(seed))
    notes = []
    for reason, runs in reasons.items():
        named = ", ".join(f"{name} (seeds {', '.join(seeds)})" for name, seeds in runs.items())
        notes.append(f"Not run: {named}: {reason}")
    notes += kept_apart(report.tables)
    for key in ("zoo", "commit", "tensorflow"):
        found = {record.versions.get(key, "unknown") for record in report.records}
        if len(found) > 1:
            notes.append(f"Runs of different versions: {key} {', '.join(sorted(found))}")
    return notes


_READING = (
    "Means over training seeds ± half of the 95 % confidence interval by Student's t; of one seed "
    "there is none. Weights of the last step: choosing the best by test pictures would favour "
    "what varies most. Bold: the lowest mean of the first measure, which alone is tested."
)


# Markdown and CSV


def markdown(report: Report, *, level: int = 1, pictures: str | None = "pictures") -> str:
    """level: of the heading; pictures: the folder they lie in, None: leave them out."""
    mark = "#" * level
    parts = [f"{mark} {report.title}", " · ".join(_made(report)), _READING]
    if notes := _notes(report):
        parts.append("\n".join(f"- {note}" for note in notes))
    for table in report.tables:
        parts += [f"{mark}# {table.title}", _text(_measures_grid(table))]
        parts.append(f"Protocol: {_protocol(table)}.")
        if pairs := table.pairs():
            if _tested(pairs):
                parts.append(_text(_pairs_grid(pairs, table.primary)))
            parts.append(_tests_note(pairs))
        if len(curves := _curves(table)) > 1:
            parts.append(_text(_target_grid(table, curves, report.took)))
    if report.exhibits:
        parts += [f"{mark}# Models", _text(_size_grid(report))]
    if report.took is not None:
        parts += [f"{mark}# Time and memory", _text(_took_grid(report.records, report.took))]
        parts.append(_TOOK)
    if report.published:
        grid = _published_grid(report.published, [record.name for record in report.records])
        parts += [f"{mark}# Published", _text(grid)]
    if pictures is not None:
        for name, file in picture_files(report).items():
            parts.append(f"![{name}]({pictures}/{file[0]})")
    return "\n\n".join(parts) + "\n"


_TOOK = (
    "Medians over seeds. Training: without start-up, evaluations and pictures. Processor: of all "
    "cores, with those, but for the evaluation at the end. On a machine that does other work too, "
    "times say little."
)


def _protocol(table: Table) -> str:
    return ", ".join(f"{key} {value}" for key, value in table.protocol.items())


def _text(grid: Grid) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([line(grid.head), "|---" * len(grid.head) + "|", *map(line, grid.rows)])


def picture_files(report: Report) -> dict[str, tuple[str, bytes]]:
    """What is shown -> file name and PNG bytes."""
    found = {}
    for name, (_, exhibit) in report.exhibits.items():
        if isinstance(exhibit, str):
            continue
        stem = re.sub(r"[^\w.=-]+", "_", name)
        for kind, data in (("samples", exhibit.samples), ("failures", exhibit.failures)):
            if data:
                found[f"{name}: {kind}"] = (f"{stem}-{kind}.png", data)
    return found


def measures_csv(report: Report) -> str:
    """A line a run and measure."""
    lines = [["table", "name", "model", "seed", "step", "measure", "value"]]
    for table in report.tables:
        for name, records in table.rows.items():
            steps = {record.seed: record.settings.run.total_steps for record in records}
            for measure in table.measures():
                for seed, value in table.values(name, measure).items():
                    model = records[0].model
                    row = [table.title, name, model, seed, steps[seed], measure, repr(value)]
                    lines.append([str(cell) for cell in row])
    return _csv(lines)


def took_csv(report: Report) -> str:
    """A line a run; only of a report that has times."""
    lines = [["name", "seed", *Took._fields]]
    for record, took in zip(report.records, report.took or (), strict=True):
        if took:
            lines.append([record.name, str(record.seed), *(f"{value:.6g}" for value in took)])
    return _csv(lines)


def _csv(lines: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


# HTML


def page(report: Report) -> str:
    """One file, with all pictures in it."""
    body = [
        f"<header><h1>{_escape(report.title)}</h1>",
        f'<p class="made">{" · ".join(map(_inline, _made(report)))}</p>',
        f"<p>{_escape(_READING)}</p></header>",
    ]
    if notes := _notes(report):
        items = "".join(f"<li>{_escape(note)}</li>" for note in notes)
        body.append(f'<ul class="notes">{items}</ul>')
    of_samples = [table for table in report.tables if "sample_measures" in table.kinds]
    own = [table for table in report.tables if table not in of_samples]
    body += [_table_section(report, table) for table in of_samples]
    if report.exhibits:
        body.append(_pictures_section(report))
    body += [_table_section(report, table) for table in own]
    if report.took is not None:
        grid = _took_grid(report.records, report.took)
        body.append(f"<section><h2>Time and memory</h2>{_html(grid)}<p>{_TOOK}</p></section>")
    if report.published:
        grid = _published_grid(report.published, [record.name for record in report.records])
        body.append(
            "<section><h2>Published</h2><p>Figures of the literature, by protocols that are not "
            f"ours: they compare with none of the above.</p>{_html(grid, words=True)}</section>"
        )
    body.append(_runs_section(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{_escape(report.title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def _table_section(report: Report, table: Table) -> str:
    parts = [f"<section><h2>{_escape(table.title)}</h2>", _html(_measures_grid(table))]
    items = "".join(
        f"<dt>{_escape(key.replace('_', ' '))}</dt><dd>{_escape(value)}</dd>"
        for key, value in table.protocol.items()
    )
    parts.append(f"<details><summary>Protocol</summary><dl>{items}</dl></details>")
    if pairs := table.pairs():
        rows = {}
        for name in table.rows:
            values = list(table.values(name, table.primary).values())
            rows[name] = (values, *significance.interval(values))
        parts.append(
            f'<div class="side"><figure>{plots.intervals(rows, table.primary)}<figcaption>Dots: '
            "seeds. Line: mean and 95 % confidence interval.</figcaption></figure><div>"
        )
        if _tested(pairs):
            parts.append(_html(_pairs_grid(pairs, table.primary)))
        parts.append(f"<p>{_escape(_tests_note(pairs))}</p></div></div>")
    curves = _curves(table)
    left_out = [name for name in table.rows if name not in curves]
    if curves:
        over_steps = {name: [list(run.items()) for run in runs] for name, runs in curves.items()}
        parts.append(plots.multiples(over_steps, "steps", table.primary))
        if report.took is not None:
            timed = {
                name: [_timed(record, run) for record, run in zip(records, runs, strict=True)]
                for name, records in table.rows.items()
                if (runs := curves.get(name))
            }
            timed = {name: runs for name, runs in timed.items() if all(runs)}
            if timed:
                parts.append(plots.multiples(timed, "seconds of training", table.primary))
        if left_out:
            parts.append(
                f"<p>Without a curve, as {_escape(table.primary)} is taken at the end only: "
                f"{_escape(', '.join(left_out))}.</p>"
            )
    if len(curves) > 1:
        parts.append(_html(_target_grid(table, curves, report.took)))
    return "".join([*parts, "</section>"])


def _timed(record: Record, run: Mapping[int, float]) -> list[tuple[float, float]]:
    seconds = record.seconds()
    return [(seconds[step], value) for step, value in run.items() if step in seconds]


def _pictures_section(report: Report) -> str:
    cards = []
    for name, (record, exhibit) in report.exhibits.items():
        head = f"<h3>{_escape(name)} <small>seed {record.seed}</small></h3>"
        if isinstance(exhibit, str):
            cards.append(f'<article class="card">{head}<p>{_escape(exhibit)}</p></article>')
            continue
        parts = [head, f"<p>{_escape(exhibit.size)}</p>"]
        for what, data in (("samples", exhibit.samples), ("failures", exhibit.failures)):
            if data:
                encoded = base64.b64encode(data).decode()
                alt = _escape(f"{name}: {what}")
                parts.append(f'<img alt="{alt}" src="data:image/png;base64,{encoded}">')
        if exhibit.failures:
            apart = "; ".join(
                f"{seed}: {distance:.1f}"
                for seed, distance in zip(exhibit.seeds, exhibit.distances, strict=True)
            )
            parts.append(f"<p>Least real (number: distance over the median): {apart}</p>")
        cards.append(f'<article class="card">{"".join(parts)}</article>')
    return (
        "<section><h2>Pictures</h2><p>Samples of seed 0, pictures 0 to 39 of "
        "<code>python -m zoo.sample --seed=0</code>, the same latents where models have as many. "
        "Below them, of the first 500, the ten whose features are farthest from any real test "
        "picture, and under each the real picture nearest to it. Nobody chose. Models that "
        f'repaint show their last sheet.</p><div class="cards">{"".join(cards)}</div></section>'
    )


def _runs_section(report: Report) -> str:
    rows = [
        [record.name, str(record.seed), f"`{record.path}`"]
        for record in sorted(report.records, key=lambda record: (record.name, record.seed))
    ]
    grid = _html(Grid(["", "seed", "directory"], rows), words=True)
    return f"<section><details><summary>{len(rows)} runs</summary>{grid}</details></section>"


def _html(grid: Grid, *, words: bool = False) -> str:
    """words: its cells are texts, to be wrapped; else figures, which are not."""
    head = "".join(f"<th>{_inline(cell).replace('_', '_<wbr>')}</th>" for cell in grid.head)
    rows = []
    for first, *cells in grid.rows:
        rest = "".join(f"<td>{_inline(cell)}</td>" for cell in cells)
        rows.append(f"<tr><th>{_inline(first)}</th>{rest}</tr>")
    kind = ' class="words"' if words else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _inline(text: str) -> str:
    if text.startswith("**") and text.endswith("**"):
        return f"<strong>{_escape(text[2:-2])}</strong>"
    if text.startswith("`") and text.endswith("`"):
        return f"<code>{_escape(text[1:-1])}</code>"
    escaped = _escape(text)
    return re.sub(r"https://[^\s<]+[^\s<.,;)]", r'<a href="\g<0>">\g<0></a>', escaped)


def _escape(text: str) -> str:
    return html.escape(text)


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1c20; --soft: #5d636e; --line: #d9dce1;
  --paper: #fff; --tint: #f5f6f8; --own: #0b62c4; --other: #c3c8d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --soft: #9aa1ac; --line: #34383f;
  --paper: #131518; --tint: #1b1e22; --own: #6cb2ff; --other: #474d57; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 25px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 16px; margin: 0 0 10px; }
h3 { font-size: 14px; margin: 0; } h3 small { color: var(--soft); font-weight: 400; }
p, figcaption, .notes, dl, summary { color: var(--soft); max-width: 78ch; margin: 6px 0; }
.made { font-size: 12.5px; }
section { border-top: 1px solid var(--line); margin-top: 26px; padding-top: 16px; }
.notes { padding-left: 18px; } .notes li { margin: 3px 0; }
.scroll { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: 4px 14px 4px 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom-color: transparent; }
thead th { color: var(--soft); font-weight: 500; font-size: 12px; border-bottom-color: var(--soft);
  vertical-align: bottom; white-space: normal; }
tr > :first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
tbody th { font-weight: 500; }
.words td, .words th { text-align: left; white-space: normal; vertical-align: top; min-width: 7em; }
code { font: 12.5px/1.4 ui-monospace, SFMono-Regular, Menlo, "Liberation Mono", monospace;
  overflow-wrap: anywhere; }
a { color: var(--own); overflow-wrap: anywhere; }
summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 1px 14px; font-size: 12.5px; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 12px 0; }
figcaption { font-size: 12.5px; }
.side { display: grid; grid-template-columns: minmax(0, 470px) minmax(0, 1fr); gap: 8px 36px;
  align-items: start; }
.multiples { display: grid; gap: 10px 14px; grid-template-columns: repeat(auto-fill,
  minmax(205px, 1fr)); }
svg { display: block; width: 100%; height: auto; max-width: 560px; }
.multiples svg { max-width: 300px; }
text { fill: var(--ink); font-size: 11px; font-family: inherit; }
.tick { fill: var(--soft); font-size: 9.5px; } .mid { text-anchor: middle; }
.end { text-anchor: end; } .name { font-weight: 600; }
path { fill: none; } .grid { stroke: var(--line); stroke-width: .7; }
.other { stroke: var(--other); stroke-width: .8; } .own { stroke: var(--own); stroke-width: 1.5; }
.bar { stroke: var(--own); stroke-width: 1.5; opacity: .55; }
.mean { stroke: var(--own); stroke-width: 2.2; } .seed { fill: var(--own); }
.intervals .seed { fill: var(--ink); opacity: .55; }
.cards { display: grid; gap: 22px 26px; margin-top: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.card p { font-size: 12.5px; } .card img { display: block; width: 100%; margin: 6px 0;
  image-rendering: pixelated; border-radius: 3px; }
@media (max-width: 760px) { .side { grid-template-columns: minmax(0, 1fr); }
  main { padding: 20px 14px 40px; } h1 { font-size: 21px; }
  .multiples { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media print { body { font-size: 11px; } section { break-inside: avoid; } }
"""
