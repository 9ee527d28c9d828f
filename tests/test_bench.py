"""The benchmark command, end to end; no figure of it is judged here."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def bench(*arguments: object, module: str = "experiments.bench") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_quick_writes_every_figure(tmp_path):
    out = tmp_path / "new" / "figures.json"
    done = bench("--quick", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    figures = json.loads(out.read_text())
    assert figures["quick"] is True
    assert figures["cores"] >= 1
    assert figures["cpu"]
    assert figures["date"].endswith("+00:00")
    assert {"python", "keras", "zoo"} <= set(figures["versions"])
    assert {speed["model"] for speed in figures["speed"]} == {"small_mlp", "conv", "dcgan"}
    for speed in figures["speed"]:
        assert speed["ratios"]
        assert all(ratio["median"] > 0 for ratio in speed["ratios"].values())
        assert all(value > 0 for value in speed["steps_per_second"].values())
        assert 0 <= speed["input_wait"] <= 1
    assert figures["dcgan"]["gigaflop_per_step"] > 0
    assert len(figures["memory"]) == 5
    assert min(figures["memory"]) > 0
    # That nothing is traced anew is no matter of speed: it must hold on any machine.
    assert set(figures["traces"]["counts"]) == {figures["traces"]["counts"][0]}
    for check in figures["checks"]:
        assert set(check) == {"name", "value", "target", "passed"}
        verdict = "PASS" if check["passed"] else "FAIL"
        lines = [line for line in done.stdout.splitlines() if check["name"] in line]
        assert any(line.endswith(verdict) for line in lines), check


@pytest.mark.parametrize(
    ("flag", "words"),
    [("--quik", "quick"), ("--quick=perhaps", "perhaps"), ("fast", "fast"), ("--out=.", "--out")],
)
def test_wrong_flags_exit_2_with_one_line(flag, words):
    done = bench(flag)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_serving_is_measured_at_both_batch_sizes(tmp_path):
    out = tmp_path / "figures.json"
    arguments = ("--models=cgan,style", "--requests=3", "--starts=1", f"--out={out}")
    done = bench(*arguments, module="experiments.bench_serving")
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())["models"]
    assert set(figures) == {"cgan", "style"}
    for name, batches in (("cgan", {"1", "32"}), ("style", {"1", "4"})):
        model = figures[name]
        assert set(model["requests"]) == batches
        for result in model["requests"].values():
            assert set(result["p50_ms"]) == {"saved_model", "predict", "call", "tf_function"}
            assert set(result["ratios"]) == {"predict", "call", "tf_function"}
            assert min(result["p50_ms"].values()) > 0
        assert model["start"]["warm"]["warm_up_ms"] > model["start"]["cold"]["warm_up_ms"] == 0
        assert all(size > 1000 for size in model["bytes"].values())
        assert f"\n{name}\n" in done.stdout
    assert done.stdout.count("saved_model / predict") == 4


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--models=vea", "did you mean vae"),
        ("--requests=0", "--requests=0"),
        ("--out=no/where", "--out"),
    ],
)
def test_the_serving_benchmark_refuses(flag, words):
    done = bench(flag, module="experiments.bench_serving")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_steps_operations_are_those_of_the_layer_table():
    """Radford et al.'s nets at 64 pixels: multiply-adds of each layer, by hand."""
    from experiments import measure

    middle = [16 * 16 * c * 2 * c * side**2 for c, side in ((64, 16), (128, 8), (256, 4))]
    edge = 16 * 3 * 64 * 32**2
    generator = 100 * 4 * 4 * 512 + sum(middle) / 16 + edge
    discriminator = edge + sum(middle) / 16 + 4 * 4 * 512
    expected = 2 * (3 * generator + 7 * discriminator - 2 * edge)
    measured = measure.gan_step_flops(64, 64, 2) / 2
    # Normalisation and activations are operations too, and few.
    assert expected < measured < 1.03 * expected
