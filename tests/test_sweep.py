"""Sweeps: what may be searched, trials that are runs, and a study that survives a kill."""

import csv
import sqlite3

import pytest
from commands import SMALL, assert_done, assert_refused, run, start, wait_for

from experiments import sweep
from zoo.errors import UsageError

pytest.importorskip("optuna")


def test_a_search_is_read_by_the_types_of_the_flags():
    space = sweep.parse_search("learning_rate=1e-4:1e-2:log, latent_dim=2:8,width=4|16", "vae")
    assert [dimension.field.name for dimension in space] == ["learning_rate", "latent_dim", "width"]
    rate, latents, width = space
    assert (rate.low, rate.high, rate.log) == (1e-4, 1e-2, True)
    assert (latents.low, latents.high, latents.log) == (2, 8, False)
    assert width.values == (4, 16)
    (named,) = sweep.parse_search("architecture=mlp|conv", "vae")
    assert named.values == ("mlp", "conv")


@pytest.mark.parametrize(
    ("search", "words"),
    (
        ("lattent_dim=2|4", ("unknown flag 'lattent_dim'", "latent_dim")),
        ("latent_dim=8:2", ("latent_dim=8:2", "empty range")),
        ("latent_dim=2.5:8", ("latent_dim=2.5:8",)),
        ("learning_rate=0:1:log", ("logarithm",)),
        ("learning_rate=1:2:linear", ("no range",)),
        ("architecture=a:b", ("no range of str",)),
        ("architecture=mlp|resnet", ("resnet",)),
        ("width=", ("empty value",)),
        ("width=4|8,width=16|32", ("twice",)),
    ),
)
def test_wrong_searches_are_refused(search, words):
    with pytest.raises(UsageError) as error:
        sweep.parse_search(search, "vae")
    assert all(word in str(error.value) for word in words), error.value


def test_wrong_commands_are_refused_before_anything_is_written(tmp_path):
    def refused(*arguments, words):
        assert_refused(run("experiments.sweep", *arguments, cwd=tmp_path), *words)
        assert list(tmp_path.iterdir()) == []

    search = ("--study=s", "--search=latent_dim=2|4")
    refused("--model=vae", words=("--search is missing",))
    refused(*search, words=("--model is missing",))
    refused(*search, "--model=vae", "--run_dir=x", words=("--run_dir",))
    refused(*search, "--model=vae", "--trails=3", words=("'trails'",))
    refused(*search, "--model=vae", "--trials=0", words=("--trials=0",))


@pytest.mark.slow
def test_killed_and_repeated_it_has_its_trials_once(tmp_path):
    study = tmp_path / "study"
    arguments = (
        f"--study={study}",
        "--search=learning_rate=1e-4:1e-2:log,latent_dim=2|4",
        "--trials=3",
        *SMALL[:1],
        *SMALL[2:],
        "--total_steps=30",
        "--eval_every=10",
        "--checkpoint_every=5",
        "--steps_per_loop=5",
    )
    with start("experiments.sweep", *arguments) as process:
        saved = "trial-0000/checkpoints/step-*"
        wait_for(lambda: bool(list(study.glob(saved))), process, seconds=300)
        process.kill()
    done = run("experiments.sweep", *arguments, timeout=500)
    assert_done(done)
    rows = list(csv.DictReader((study / "trials.csv").read_text().splitlines()))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert {row["state"] for row in rows} == {"complete"}
    assert all(1e-4 <= float(row["learning_rate"]) <= 1e-2 for row in rows)
    for number, row in enumerate(rows):
        flags = (study / f"trial-{number:04d}" / "flags.txt").read_text()
        assert f"--learning_rate={row['learning_rate']}\n" in flags
        assert f"--latent_dim={row['latent_dim']}\n" in flags
        assert (study / f"trial-{number:04d}" / "metrics.json").exists()
    best = min(rows, key=lambda row: float(row["value"]))
    line = f"trial {best['trial']}: {float(best['value']):.5g} by --learning_rate="
    assert done.stdout.split("the best:\n")[1].strip().startswith(line)
    # What a kill interrupts is what an uninterrupted sweep would have proposed.
    with sqlite3.connect(study / "study.db") as database:
        (count,) = database.execute("select count(*) from trial_params").fetchone()
    database.close()
    assert count == 6
    assert_refused(run("experiments.sweep", *arguments, "--beta=2"), "other flags")


@pytest.mark.slow
def test_a_bad_trial_is_stopped_early(tmp_path):
    """Four with a good rate set the median; the fifth learns nothing."""
    study = tmp_path / "study"
    common = (
        f"--study={study}",
        "--search=learning_rate=1e-9|1e-2",
        *SMALL,
        "--total_steps=100000",
        "--eval_every=100",
    )
    import optuna

    from zoo import flags

    settings = flags.parse_training(common[2:])
    study.mkdir()
    made = sweep._open(study, sweep.SweepFlags(study=str(study), search=common[1][9:]), settings)
    (space,) = sweep.parse_search("learning_rate=1e-9|1e-2", "vae")
    for _ in range(4):
        trial = made.ask()
        space.suggest(trial)
        for step in range(100, 3000, 100):
            trial.report(100.0, step)
        made.tell(trial, 90.0)
    made.enqueue_trial({"learning_rate": 1e-9})
    done = run("experiments.sweep", *common, "--trials=5", timeout=500)
    assert_done(done)
    assert "stopped early" in done.stdout
    assert made.trials[4].state == optuna.trial.TrialState.PRUNED
    log = (study / "logs" / "trial-0004.log").read_text()
    assert "all saved" in log
