"""Comparisons: what may stand in one column, what is computed, and what survives a kill."""

import csv
import html.parser
import json
import os
import pathlib
import re
import subprocess
import time

import numpy as np
import pytest
from commands import assert_done, assert_refused, contents, run, start, temporary_files

from zoo import runtime

tf = runtime.import_tensorflow()

from experiments import comparison, exhibits, records, report, suites  # noqa: E402
from experiments.records import Took  # noqa: E402
from zoo import flags, restore  # noqa: E402
from zoo.data import source  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import row_seeds, sample_images  # noqa: E402
from zoo.metrics.extractors import Extractor  # noqa: E402
from zoo.rundir import Run  # noqa: E402

# Student 1908: additional hours of sleep of ten patients by two drugs.
DRUG_A = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
DRUG_B = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


def make_run(path, *arguments, fd=1.0, protocol=(), curve=(), events=()) -> pathlib.Path:
    """A finished run's files, without the training; curve: (step, fd); events: a process each of
    (step, {tag: value})."""
    settings = flags.parse_training(["--model=dcgan", "--image_size=28", *arguments])
    held = Run.lock(path, settings.recorded())
    held.record(settings.recorded(), {"image_shape": [28, 28, 1], "class_names": []})
    held.close()
    held.write_json(
        "metrics.json",
        {
            "step": settings.run.total_steps,
            "split": "test",
            "examples": 10000,
            "protocol": {"extractor": "glyphs", "num_real": 4000, **dict(protocol)},
            "measures": {"discriminator": 1.0, "generator": 2.0},
            "thorough_measures": {},
            "sample_measures": {"fd_glyphs": fd, "recall": 0.5},
            "best": {"step": 1, "measure": "fd_glyphs", "value": fd},
        },
    )
    processes = [("eval", [(step, {"samples/fd_glyphs": value}) for step, value in curve])]
    for split, written in [*processes, *(("train", process) for process in events)]:
        with tf.summary.create_file_writer(str(path / split)).as_default():
            for step, values in written:
                for tag, value in values.items():
                    tf.summary.scalar(tag, value, step)
    return path


def compare(*arguments, **options) -> subprocess.CompletedProcess:
    return run("experiments.compare", *arguments, **{"timeout": 500, **options})


def read(*paths) -> list[records.Record]:
    return comparison.named([records.read(path) for path in paths])


# Suites


@pytest.mark.parametrize("name", suites.names())
def test_the_suites_that_come_with_the_zoo(name, tmp_path):
    suite = suites.load(suites.find(name), tmp_path)
    assert len({run.run.path for run in suite.runs}) == len(suite.runs)
    assert {p.name for p in suite.published} <= {run.name for run in suite.runs}
    if name == "quick":
        import zoo.models

        assert {run.settings.run.model for run in suite.runs} == set(zoo.models.names())


def test_a_suite_is_read_as_it_is_written(tmp_path):
    file = tmp_path / "mine.suite"
    (tmp_path / "base.flags").write_text("--model=vae\n--width=8\n")
    file.write_text(
        "# comment\n\nseeds 3 1\nall --eval_every=7  # also a comment\n"
        "one --flagfile=base.flags --beta=2\n  two --model=dcgan\n"
        "published two | FID | 3.5 ± 0.1 | 50,000 samples | a paper\n"
    )
    suite = suites.load(file, tmp_path / "out")
    shown = [(r.name, r.seed, r.run.path.name, r.settings.run.model) for r in suite.runs]
    assert shown == [
        ("one", 3, "one-3", "vae"),
        ("two", 3, "two-3", "dcgan"),
        ("one", 1, "one-1", "vae"),
        ("two", 1, "two-1", "dcgan"),
    ]
    assert {r.settings.run.eval_every for r in suite.runs} == {7}
    assert suite.runs[0].settings.config["width"] == 8
    assert suite.published == (
        suites.Published("two", "FID", "3.5 ± 0.1", "50,000 samples", "a paper"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    (
        ("", ("names no runs",)),
        ("vae --model=vea", ("line 1", "did you mean vae")),
        ("\nvae --model=vae --lattent_dim=3", ("line 2", "Did you mean: latent_dim")),
        ("vae --model=vae\nvae --model=vae", ("line 2", "a second 'vae', after line 1")),
        ("seeds 1 1\nvae --model=vae", ("line 1", "different numbers")),
        ("seeds\nvae --model=vae", ("line 1", "seeds 0 1 2")),
        ("--model=vae", ("line 1", "no name")),
        ("a/b --model=vae", ("line 1", "no name")),
        ("vae --model='vae", ("line 1", "No closing quotation")),
        ("vae --model=vae\npublished vae | FID | 3", ("line 2", "published name | measure")),
    ),
)
def test_wrong_suites_name_the_line(text, words, tmp_path):
    file = tmp_path / "x.suite"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        suites.load(file, tmp_path)
    assert all(word in str(error.value) for word in (str(file), *words)), error.value


def test_a_run_with_other_flags_is_not_taken_for_the_suites(tmp_path):
    make_run(tmp_path / "a-0", "--width=16", "--eval_every=9")
    file = tmp_path / "x.suite"
    file.write_text("a --model=dcgan --width=16 --image_size=28")
    (planned,) = suites.load(file, tmp_path).runs
    assert planned.finished()
    file.write_text("a --model=dcgan --width=16 --total_steps=5000")
    (planned,) = suites.load(file, tmp_path).runs
    assert not planned.finished()
    file.write_text("a --model=dcgan --width=8")
    (planned,) = suites.load(file, tmp_path).runs
    with pytest.raises(UsageError, match="--width was 16, is 8"):
        planned.finished()


# Columns and tests


def test_different_protocols_are_not_in_one_column(tmp_path):
    found = read(
        make_run(tmp_path / "a", "--width=8"),
        make_run(tmp_path / "b", "--width=16", protocol={"num_real": 2000}),
        make_run(tmp_path / "c", "--width=32", protocol={"sampler": "prior"}),
        # Of the model's own bound, not of its samples.
        make_run(tmp_path / "d", "--width=64", protocol={"likelihood": "gaussian"}),
    )
    samples = [t for t in comparison.tables(found) if "sample_measures" in t.kinds]
    assert [list(t.rows) for t in samples] == [
        ["dcgan width=8", "dcgan width=32", "dcgan"],
        ["dcgan width=16"],
    ]
    (line,) = comparison.kept_apart(samples)
    assert line.endswith("protocols differ in num_real (4000; 2000)")


def test_one_models_losses_of_another_weight_are_no_column(tmp_path):
    found = read(
        make_run(tmp_path / "a", "--loss=hinge"), make_run(tmp_path / "b", "--loss=wasserstein")
    )
    own = [t for t in comparison.tables(found) if "measures" in t.kinds]
    assert len(own) == 2
    assert "loss (hinge; wasserstein)" in comparison.kept_apart(own)[0]
    samples = [t for t in comparison.tables(found) if "sample_measures" in t.kinds]
    assert len(samples) == 1


def test_names_are_what_differs_and_is_no_default(tmp_path):
    found = read(
        make_run(tmp_path / "a", "--seed=1"),
        make_run(tmp_path / "b", "--seed=2", "--eval_every=3"),
        make_run(tmp_path / "c", "--seed=1", "--beta_1=0.9", "--latent_dim=5"),
    )
    assert [r.name for r in found] == ["dcgan", "dcgan", "dcgan latent_dim=5 beta_1=0.9"]
    with pytest.raises(UsageError, match="same flags and seed"):
        read(tmp_path / "a", make_run(tmp_path / "d", "--seed=1"))


def test_a_textbooks_paired_test(tmp_path):
    paths = [
        make_run(tmp_path / f"{drug}-{seed}", *arguments, f"--seed={seed}", fd=10 + hours)
        for drug, arguments, gains in (("a", [], DRUG_A), ("b", ["--width=8"], DRUG_B))
        for seed, hours in enumerate(gains)
    ]
    table = comparison.tables(read(*paths))[0]
    (pair,) = table.pairs()
    assert pair.seeds == tuple(range(10))
    assert pair.difference == pytest.approx(-1.58)
    assert pair.half_width == pytest.approx(0.8799, abs=1e-4)
    assert pair.t_test == pytest.approx(0.002833, abs=1e-6)
    assert pair.sign_flip == 4 / 1024
    out = tmp_path / "out"
    done = compare(f"--run_dirs={tmp_path}/*-*", f"--out={out}", "--pictures=false")
    assert_done(done)
    text = (out / "report.md").read_text()
    assert "| **10.8 ± 1.3** |" in text
    assert "| −1.58 ± 0.88 | **0.003** | 0.004 |" in text
    assert "dcgan − dcgan width=8" in text
    lines = list(csv.DictReader((out / "measures.csv").read_text().splitlines()))
    values = {
        int(x["seed"]): float(x["value"])
        for x in lines
        if x["measure"] == "fd_glyphs" and x["name"] == "dcgan width=8"
    }
    assert values == {seed: 10 + hours for seed, hours in enumerate(DRUG_B)}


def test_without_common_seeds_nothing_is_tested(tmp_path):
    table = comparison.tables(
        read(
            make_run(tmp_path / "a", "--seed=0"),
            make_run(tmp_path / "b", "--seed=1"),
            make_run(tmp_path / "c", "--seed=2", "--width=8"),
        )
    )[0]
    (pair,) = table.pairs()
    assert pair.seeds == ()
    grid = report._pairs_grid([pair], "fd")
    assert grid.rows[0][1:] == ["none in common", "–", "–", "–"]
    assert "nothing can be tested" in report._tests_note([pair])
    assert not report._tested([pair])


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    (
        (2.2391, 0.3164, "2.24 ± 0.32"),
        (12345.6, 120.0, "12,346 ± 120"),
        (0.25841, 0.0049, "0.2584 ± 0.0049"),
        (-1.5, 0.1, "−1.50 ± 0.10"),
        (0.1, 1e-18, "0.1 ± 0"),
        (3.14159, float("nan"), "3.142"),
    ),
)
def test_figures_end_where_their_error_does(mean, half, text):
    assert report.with_error(mean, half) == text


# Curves


def test_what_a_kill_made_twice_counts_once(tmp_path):
    def block(step, rate, processor, peak):
        return step, {
            "speed/steps_per_second": rate,
            "speed/images_per_second": 64 * rate,
            "process/processor_seconds": processor,
            "process/peak_mebibytes": peak,
        }

    path = make_run(
        tmp_path / "a",
        curve=[(20, 9.0), (40, 8.0), (20, 7.0), (60, 6.0)],
        events=[
            [block(10, 1.0, 5.0, 300.0), block(20, 10.0, 8.0, 320.0), block(30, 1.0, 9.0, 320.0)],
            [block(25, 5.0, 4.0, 310.0), block(30, 2.5, 6.0, 330.0)],
        ],
    )
    record = records.read(path)
    assert record.curve("fd_glyphs") == {20: 7.0, 60: 6.0}
    assert record.curve("frechet_distance") == record.curve("fd_glyphs")
    assert record.curve("nothing") == {}
    assert record.seconds() == {10: 10.0, 20: 11.0, 25: 12.0, 30: 14.0}
    assert record.took() == Took(14.0, 15.0, 64 * 3.75, 330.0)
    with open(next((path / "train").glob("events*")), "r+b") as file:
        file.truncate(os.path.getsize(file.name) - 5)
    assert records.read(path).seconds()[10] == 10.0


# The page


class Page(html.parser.HTMLParser):
    """Checks that what is opened is closed, and keeps what refers to something."""

    VOID = {"meta", "img", "br", "wbr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.tables = [], [], 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.tables += tag == "table"
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_repeats_byte_for_byte(tmp_path):
    for seed in range(3):
        for number, width in enumerate((8, 16)):
            curve = [(100, 50.0 - seed), (200, 5.0 + seed)]
            make_run(
                tmp_path / f"{number}-{seed}",
                *(f"--seed={seed}", f"--width={width}"),
                fd=float(seed + width),
                curve=curve,
                events=[[(100, {"speed/steps_per_second": 10.0})]],
            )
    results = tmp_path / "RESULTS.md"
    results.write_text("before\n<!-- out: begin -->\nWHAT WAS\n<!-- out: end -->\nafter\n")
    arguments = [f"--run_dirs={tmp_path}/?-?", "--pictures=false", "--times=false"]
    arguments += [f"--out={tmp_path / 'out'}", f"--results={results}"]
    assert_done(compare(*arguments))
    first = {k: v[0] for k, v in contents(tmp_path / "out").items()}
    section = results.read_text()
    assert section.startswith("before\n<!-- out: begin -->\n\n## Out\n")
    assert section.endswith("\n<!-- out: end -->\nafter\n")
    assert "WHAT WAS" not in section
    assert_done(compare(*arguments))
    assert {k: v[0] for k, v in contents(tmp_path / "out").items()} == first
    assert results.read_text() == section
    assert sorted(first) == ["measures.csv", "report.html", "report.md"]
    text = first["report.html"].decode()
    page = Page(text)
    assert page.references == []
    assert page.tables >= 4
    assert "prefers-color-scheme: dark" in text
    assert "@import" not in text and "url(" not in text
    # Three steps each: the curves of both, over steps; times are left out.
    assert text.count('class="own"') == 6
    assert "seconds of training" not in text
    # Rows end at 6.0 on average, which every seed but the last has reached.
    assert re.search(r"reached fd_<wbr>glyphs ≤ 6", text)
    assert text.count("<td>2 of 3</td>") == 2


def test_results_need_their_marks(tmp_path):
    path = make_run(tmp_path / "a")
    results = tmp_path / "R.md"
    results.write_text("nothing\n")
    done = compare(f"--run_dirs={path}", f"--out={tmp_path / 'o'}", f"--results={results}")
    assert_refused(done, str(results), "<!-- o: begin -->")
    assert results.read_text() == "nothing\n"
    assert_refused(compare(f"--run_dirs={path}", f"--results={tmp_path / 'no.md'}"), "no.md")


# Bad input


def damage(path: pathlib.Path, name: str, text: str | bytes) -> None:
    (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def test_bad_runs_are_refused_in_one_line(tmp_path):
    def refused(*words):
        done = compare(f"--run_dirs={tmp_path / 'bad'}", "--out=out", cwd=tmp_path)
        assert_refused(done, str(tmp_path / "bad"), *words)
        assert not (tmp_path / "out").exists()

    refused("not a run directory")
    (tmp_path / "bad").mkdir()
    refused("not a run directory")
    path = make_run(tmp_path / "bad")
    good = contents(path)
    damage(path, "metrics.json", "{")
    refused("metrics.json is damaged")
    damage(path, "metrics.json", "[]")
    refused("metrics.json is damaged")
    metrics = json.loads(good["metrics.json"][0])
    damage(path, "metrics.json", json.dumps({**metrics, "step": 300}))
    refused("not finished, at step 0 of 4000", "--flagfile=")
    damage(path, "metrics.json", json.dumps({k: v for k, v in metrics.items() if k != "protocol"}))
    refused("another version of the zoo", "'protocol'")
    damage(path, "metrics.json", good["metrics.json"][0])
    damage(path, "flags.txt", good["flags.txt"][0] + b"--of_tomorrow=3\n")
    refused("another version of the zoo", "of_tomorrow")
    damage(path, "flags.txt", os.urandom(100))
    refused("flags.txt is damaged")


def test_bad_commands_are_refused_in_one_line(tmp_path):
    assert_refused(compare(), "--suite", "quick")
    assert_refused(compare("--suite=quik"), "unknown suite 'quik'", "did you mean quick?")
    assert_refused(compare("--suite=quick", "--run_dirs=a"), "one of --suite")
    assert_refused(compare("--suite=quick", "--jobs=0"), "--jobs=0")
    assert_refused(compare(f"--run_dirs={tmp_path}/*"), "no directory has such a name")
    path = make_run(tmp_path / "a")
    assert_refused(compare(f"--run_dirs={path},{path}"), "twice")


# From end to end


SUITE = """
seeds 5 6
all --model=vae --latent_dim=4 --width=4 --hidden=8 --importance_samples=2 --batch_size=8
all --checkpoint_every=5 --eval_every=10 --sample_every=20 --steps_per_loop=5
vae --total_steps=20
"""


def test_a_suite_is_trained_compared_and_not_trained_again(tmp_path):
    file = tmp_path / "small.suite"
    file.write_text(SUITE.replace("5 6", "5") + "absent --dataset=folder:nowhere\n")
    out = tmp_path / "out"
    arguments = (f"--suite={file}", f"--out={out}", "--times=false")
    done = compare(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, ""), done
    assert "vae, seed 5: finished" in done.stdout
    text = (out / "report.md").read_text()
    assert "- Not run: absent (seeds 5): " in text and "nowhere" in text
    assert (out / "times.csv").exists() is False
    before = contents(out)
    metrics = json.loads((out / "vae-5" / "metrics.json").read_text())
    assert f"{metrics['sample_measures']['fd_glyphs']:.4g}" in text
    assert f"{metrics['measures']['negative_elbo']:.4g}" in text
    assert "vae-5" in (out / "logs" / "vae-5.log").read_text()
    assert len(Page((out / "report.html").read_text()).references) == 2
    again = compare(*arguments, cwd=tmp_path)
    assert "vae, seed 5: training" not in again.stdout
    after = contents(out)
    trained = [name for name in before if name.startswith("vae-5/")]
    assert all(after[name] == before[name] for name in trained)
    names = ("report.html", "report.md", "measures.csv", "pictures/vae-failures.png")
    assert all(after[name][0] == before[name][0] for name in names)
    # The failures, found again by other means.
    exhibit = exhibits.make(records.read(out / "vae-5", "vae"))
    model = restore.restore(out / "vae-5", "last").model
    samples = sample_images(model, row_seeds(0, exhibits.NUM_JUDGED))
    extractor = Extractor.load("glyphs")
    real = extractor.features(source.load("glyphs").arrays("test")["image"][:4000])
    apart = [np.linalg.norm(real - row, axis=1).min() for row in extractor.features(samples)]
    worst = np.sort(apart)[::-1][: exhibits.NUM_FAILURES]
    assert [apart[seed] for seed in exhibit.seeds] == pytest.approx(list(worst))
    assert exhibit.distances == pytest.approx(worst / np.median(apart))
    assert (out / "pictures" / "vae-failures.png").read_bytes() == exhibit.failures


@pytest.mark.slow
def test_killed_at_random_it_ends_with_the_same_report(tmp_path):
    file = tmp_path / "small.suite"
    file.write_text(SUITE)
    arguments = (f"--suite={file}", "--times=false", "--jobs=2", "--out=out")
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
    began = time.monotonic()
    assert_done(compare(*arguments, cwd=tmp_path / "calm"))
    seconds = time.monotonic() - began
    random = np.random.Generator(np.random.PCG64(0))
    kills = 0
    while True:
        with start("experiments.compare", *arguments, cwd=tmp_path / "killed") as process:
            try:
                # Later each time, or it might never end.
                process.wait(timeout=random.uniform(0.05, 0.3 + 0.15 * kills) * seconds)
                assert process.communicate()[1] == ""
                assert process.returncode == 0
                break
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
    assert kills >= 3
    calm, killed = (contents(tmp_path / name / "out") for name in ("calm", "killed"))
    names = [n for n in calm if "/" not in n or n.startswith("pictures/")]
    assert {"report.html", "report.md", "measures.csv", "pictures/vae-samples.png"} <= set(names)
    for name in names:
        assert killed[name][0] == calm[name][0], name
    assert not temporary_files(tmp_path / "killed")
