"""Training steps as XLA programs: they hold all that a step changes, and compute what it does."""

import gzip
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT, assert_refused, run
from test_imports import imports

from experiments import hlo_run
from zoo import flags

SUITE = "small --model=vae --latent_dim=4 --width=4 --hidden=8\n"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A directory of one model's programs, at two batch sizes in two precisions."""
    out = tmp_path_factory.mktemp("programs")
    (out / "one.suite").write_text(SUITE)
    sizes = ("--batch_sizes=6,3", "--precisions=float32,bfloat16")
    done = run("experiments.hlo", f"--suite={out / 'one.suite'}", *sizes, f"--out={out}")
    assert done.returncode == 0, done
    return out


@pytest.mark.slow
def test_a_program_changes_all_that_a_step_changes(programs):
    from experiments import steps

    records = json.loads((programs / "programs.json").read_text())
    names = [f"small-{kind}-{size}" for kind in ("float32", "bfloat16") for size in (3, 6)]
    assert [record["name"] for record in records] == names
    settings = flags.parse_training(SUITE.split()[1:])
    model = steps.prepare(settings).model
    kept = {tuple(variable.shape) for variable in model.state()}
    for record in records:
        state = np.load(programs / record["state"])
        shapes = [state[str(number)].shape for number in range(len(state.files))]
        assert set(shapes) == kept
        # All but the counter of roll-backs.
        assert len(record["updates"]) == len(shapes) - 1 == len(model.state()) - 1
        assert record["outputs"][: len(record["scalars"])] == [[[], "float32"]] * 3
        for number, output in record["updates"].items():
            assert record["outputs"][output][0] == list(shapes[int(number)])
        assert record["batch"][0]["shape"] == [record["batch_size"], 28, 28, 1]
        assert gzip.decompress((programs / record["program"]).read_bytes())
    assert [bool(record["expected"]) for record in records] == [True, False, True, False]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed")
def test_jax_computes_what_tensorflow_does(programs, tmp_path):
    command = [sys.executable, "hlo_run.py", ".", "--seconds=0.01", "--side=64"]
    command += [f"--out={tmp_path}"]
    subprocess.run([*command, "--only=small-float32"], cwd=programs, check=True)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert list(results) == ["small-float32-3", "small-float32-6"]
    first, second = results.values()
    assert first["check"]["passed"]
    assert first["check"]["distance"] < 1e-4
    assert second["operations"] == pytest.approx(2 * first["operations"], rel=0.05)
    assert "| small | float32 | 6 |" in (tmp_path / "results.md").read_text()


def test_the_script_stands_alone():
    assert {name.split(".")[0] for name in imports(ROOT / "experiments" / "hlo_run.py")} <= {
        "jax",
        "numpy",
        *sys.stdlib_module_names,
    }


def test_wrong_flags_are_refused():
    assert_refused(run("experiments.hlo", "--precisions=int8"), "expected some of float32, tf32")
    assert_refused(run("experiments.hlo", "--batch_sizes=few"), "--batch_sizes=few")
    assert_refused(run("experiments.hlo", "--only=vea"), "the suite has no vea")
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / "hlo_run.py", "nowhere"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "expected a directory that python -m experiments.hlo wrote" in done.stderr


def test_distance_is_over_what_the_step_moved():
    before = [np.array([1.0, 2.0], "f4"), np.array(4)]
    expected = [np.array([1.0, 2.5], "f4"), np.array(5)]
    found = [np.array([1.0, 2.25], "f4"), np.array(5)]
    assert hlo_run.distance(before, found, expected) == pytest.approx(0.5)
    assert hlo_run.distance(before, [found[0], np.array(4)], expected) == float("inf")
    with pytest.raises(ValueError, match="shape"):
        hlo_run.distance(before[:1], [np.zeros(3, "f4")], expected[:1])


def test_samples_are_spread_over_all_values():
    few = np.arange(hlo_run.SAMPLED).reshape(2, -1)
    np.testing.assert_array_equal(hlo_run.sample(few), few.reshape(-1))
    many = hlo_run.sample(np.arange(10 * hlo_run.SAMPLED + 1))
    assert len(many) <= hlo_run.SAMPLED
    assert set(np.diff(many)) == {11}


def test_batches_are_the_same_everywhere():
    specs = [
        {"shape": [5, 2], "dtype": "uint8", "below": 256},
        {"shape": [900], "dtype": "int32", "below": 3},
    ]
    images, labels = hlo_run.make_batch(specs)
    assert (images.dtype, images.shape) == (np.uint8, (5, 2))
    assert set(labels) == {0, 1, 2}
    np.testing.assert_array_equal(images, hlo_run.make_batch(specs)[0])
