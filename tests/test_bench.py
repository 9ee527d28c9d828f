"""The benchmark command, end to end, and what it counts; no speed is judged here."""

import json
import os
import pathlib
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import commands
import numpy as np
import pytest
import tensorflow as tf

from experiments import measure, processes
from zoo.errors import UsageError

ROOT = pathlib.Path(__file__).parent.parent
PEER = """
import time

def contenders(name, config, data, batch_size):
    def run(steps):
        time.sleep(1e-4 * steps)
        return 1e4
    assert data["image"].dtype == "uint8" and batch_size > 0
    return {"sleeper": run} if name == "conv" and config.latent_dim == 16 else {}
"""


def bench(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def measured(tmp_path: pathlib.Path, *arguments: object) -> tuple[dict, str]:
    """The figures of a benchmark that must end well, and what it printed."""
    out = tmp_path / "new" / "figures.json"
    done = bench("--quick", f"--out={out}", *arguments)
    commands.assert_done(done)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    figures = json.loads(out.read_text())
    for check in figures["checks"]:
        assert set(check) == {"part", "of", "name", "value", "target", "passed"}
        verdict = "PASS" if check["passed"] else "FAIL"
        lines = [line for line in done.stdout.splitlines() if check["name"] in line]
        assert any(line.endswith(verdict) for line in lines), check
    return figures, done.stdout


@pytest.mark.slow
def test_the_steps_figures(tmp_path):
    peer = tmp_path / "peer.py"
    peer.write_text(PEER)
    figures, text = measured(tmp_path, "--parts=step", f"--peer={peer}")
    assert figures["quick"] is True
    assert figures["cores"] >= 1
    assert figures["cpu"]
    assert figures["date"].endswith("+00:00")
    assert {"python", "keras", "zoo"} <= set(figures["versions"])
    step = figures["step"]
    assert {speed["model"] for speed in step["speed"]} == {"small_mlp", "conv", "dcgan"}
    for speed in step["speed"]:
        assert all(ratio["median"] > 0 for ratio in speed["ratios"].values())
        assert all(value > 0 for value in speed["steps_per_second"].values())
        assert 0 <= speed["input_wait"] <= 1
        # A peer stands beside the loop in what it has, without a target.
        assert ("loop/peer sleeper" in speed["ratios"]) == (speed["model"] == "conv")
    assert "loop / peer sleeper" in text
    assert not any("sleeper" in check["name"] for check in figures["checks"])
    assert step["dcgan"]["gigaflop_per_step"] > 0
    assert len(step["memory"]) == 5
    assert min(step["memory"]) > 0
    # That nothing is traced anew is no matter of speed: it must hold on any machine.
    assert set(step["traces"]["counts"]) == {step["traces"]["counts"][0]}


@pytest.mark.slow
def test_a_cell_that_fails_is_a_line_of_the_grid(tmp_path):
    arguments = ("--models=vae", "--batch_sizes=3,2", "--strategies=mirrored")
    figures, text = measured(tmp_path, "--parts=grid,preview", *arguments)
    failed, cell = figures["grid"]["cells"]
    assert "does not divide by 2" in failed["failed"]
    (line,) = [line for line in text.splitlines() if "failed" in line]
    assert line.startswith("| vae ") and failed["failed"] in line
    assert (cell["devices"], cell["precision"]) == (2, "float32")
    assert cell["images_per_second"] == 2 * cell["steps_per_second"] > 0
    # TensorFlow alone takes more than that; the kernel counts some pages of each thread late.
    assert cell["peak_bytes"] + 2**22 > max(cell["resident_bytes"]) > 2**27
    seconds = cell["seconds_to_first_step"]
    assert seconds["of_process"] > seconds["of_training"] > 0
    # Two devices share the work of one.
    alone = measure.step_flops(measure.build(measure.CONV), measure.made_up(1, (28, 28, 1)), 2)
    assert 1e9 * cell["gigaflop_per_step"] == pytest.approx(alone, rel=0.01)
    ratio = cell["gigaflop_per_step"] * cell["steps_per_second"] / cell["share_of_peak"]
    assert ratio == pytest.approx(figures["grid"]["peak_gigaflops"]["float32"])

    for line, clients in zip(figures["preview"]["clients"], (1, 8), strict=True):
        assert (line["clients"], line["requests"], line["errors"]) == (clients, 10, 0)
        assert line["requests_per_second"] > 0
        assert line["p99_ms"] >= line["median_ms"] > 0


@pytest.mark.slow
def test_growth_is_compared_in_every_direction(tmp_path):
    figures, _ = measured(tmp_path, "--parts=growth")
    growth = figures["growth"]
    ratios = [growth[kind]["ratios"] for kind in ("examples", "steps", "checkpoints")]
    assert [list(by_name) for by_name in ratios] == [
        ["100,000 examples"],
        ["after 1,000 steps", "from step 1,000,000 on"],
        ["saving beside 100 files"],
    ]
    assert all(ratio["median"] > 0 for by_name in ratios for ratio in by_name.values())
    assert list(growth["batch"]["rounds"]) == ["16", "32", "64"]
    assert growth["batch"]["r2"] <= 1


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--quik", "quick"),
        ("--quick=perhaps", "perhaps"),
        ("fast", "fast"),
        ("--out=.", "--out"),
        ("--parts=step,gird", "did you mean grid"),
        ("--parts=,", "--parts"),
        ("--models=vea", "did you mean vae"),
        ("--batch_sizes=8,0", "--batch_sizes=0"),
        ("--batch_sizes=8,many", "--batch_sizes=many"),
        ("--precisions=float23", "float32"),
        ("--strategies=miror", "mirrored"),
        ("--peer=nowhere.py", "--peer=nowhere.py"),
    ],
)
def test_wrong_flags_exit_2_with_one_line(flag, words):
    done = bench(flag)
    commands.assert_refused(done, words)
    assert done.stdout == ""


@pytest.mark.slow
def test_serving_is_measured_at_both_batch_sizes(tmp_path):
    figures, text = measured(tmp_path, "--parts=serving", "--models=gan,style")
    assert set(figures["serving"]) == {"gan", "style"}
    for name, batches in (("gan", {"1", "32"}), ("style", {"1", "4"})):
        model = figures["serving"][name]
        assert set(model["requests"]) == batches
        for result in model["requests"].values():
            assert set(result["p50_ms"]) == {"saved_model", "predict", "call", "tf_function"}
            assert set(result["ratios"]) == {"predict", "call", "tf_function"}
            assert min(result["p50_ms"].values()) > 0
        assert model["start"]["warm"]["warm_up_ms"] > model["start"]["cold"]["warm_up_ms"] == 0
        assert all(size > 1000 for size in model["bytes"].values())
        assert f"\n{name}\n" in text
    assert text.count("saved_model / predict") == 4


@pytest.mark.parametrize("text", ["contenders_ = None", ""])
def test_a_peer_without_contenders_is_refused(tmp_path, text):
    peer = tmp_path / "peer.py"
    peer.write_text(text)
    with pytest.raises(UsageError, match="contenders"):
        measure.load_peer(str(peer))


def test_operations_of_dense_layers_are_counted_forward_and_backward():
    """[B, I] W [I, H] V [H, O]: three products of each layer, but no gradient of the input."""
    first, second = tf.Variable(tf.ones([7, 11])), tf.Variable(tf.ones([11, 3]))

    def step(inputs):
        with tf.GradientTape() as tape:
            outputs = tf.matmul(tf.matmul(inputs, first), second)
        return outputs, tape.gradient(outputs, [first, second])

    inputs = tf.TensorSpec([5, 7], tf.float32)
    assert measure.flops(step, inputs) == 2 * 5 * (2 * 7 * 11 + 3 * 11 * 3)


def test_operations_of_convolutions_are_counted_forward_and_backward():
    """5x5, stride 2, 3 to 4 to 6 channels: multiply-adds at each place of the outputs."""
    first, second = tf.Variable(tf.ones([5, 5, 3, 4])), tf.Variable(tf.ones([5, 5, 4, 6]))

    def step(images):
        with tf.GradientTape() as tape:
            outputs = tf.nn.conv2d(tf.nn.conv2d(images, first, 2, "SAME"), second, 2, "SAME")
        return outputs, tape.gradient(outputs, [first, second])

    # The gradient of the images is in the graph, and never computed.
    images = tf.TensorSpec([2, 16, 16, 3], tf.float32)
    multiplications = 2 * 8 * 8 * 25 * 3 * 4, 2 * 4 * 4 * 25 * 4 * 6
    assert measure.flops(step, images) == 2 * (2 * multiplications[0] + 3 * multiplications[1])


def test_the_body_of_a_loop_is_not_counted():
    def step(values):
        return tf.while_loop(lambda v: v[0, 0] < 9.0, lambda v: (tf.matmul(v, v),), [values])

    assert measure.flops(step, tf.TensorSpec([4, 4], tf.float32)) == 0


def test_the_dense_vaes_operations_are_those_of_its_layers():
    """784-400-40: three products a layer, but for the gradient of the pictures."""
    data = measure.made_up(1, (28, 28, 1))
    products = 784 * 400 + 400 * 80 + 40 * 400 + 400 * 784
    expected = 2 * 64 * (3 * products - 784 * 400)
    counted = measure.step_flops(measure.build(measure.MLP), data, 64)
    # Losses, activations and sums are operations too, and few.
    assert expected < counted < 1.03 * expected


def test_the_gans_operations_are_those_of_the_layer_table():
    """Radford et al.'s nets at 64 pixels: multiply-adds of each layer, by hand.

    The generator has one pass forward and one back; the discriminator one of each over real and
    over generated pictures, and once more back to the generator.
    """
    middle = [16 * 16 * c * 2 * c * side**2 for c, side in ((64, 16), (128, 8), (256, 4))]
    edge, latents = 16 * 3 * 64 * 32**2, 100 * 4 * 4 * 512
    generator = latents + sum(middle) / 16 + edge
    discriminator = edge + sum(middle) / 16 + 4 * 4 * 512
    expected = 2 * 2 * (3 * generator - latents + 7 * discriminator - 2 * edge)
    shape = (64, 64, 3)
    model = measure.build_gan(measure.gan_config(64), shape)
    counted = measure.step_flops(model, measure.made_up(1, shape), 2)
    # Without those that the regularisation and the averages add for each weight.
    assert expected < counted < 1.03 * expected


def test_the_peak_of_memory_stays():
    array = np.ones(2**27, np.uint8)
    held = measure.resident_bytes()
    del array
    # The kernel counts some pages of each thread late.
    assert measure.peak_bytes() > held - 2**22 > measure.resident_bytes()


def test_a_function_of_a_fresh_process_returns_raises_and_may_be_killed():
    assert processes.fresh(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        processes.fresh(int, "x")
    with pytest.raises(BrokenProcessPool):
        processes.fresh(signal.raise_signal, signal.SIGKILL)
