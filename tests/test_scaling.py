"""What many GPUs are expected to do, by hand; and what two replicas really exchange."""

import json
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT, assert_refused, run

from experiments import scaling
from experiments.scaling import Compute, Network
from zoo import flags

# Round numbers, so that a person can follow.
NETWORK = Network(
    gpus_per_host=4,
    host_bandwidth=100.0,
    network_bandwidth=10.0,
    start_latency=1.0,
    host_latency=2.0,
    network_latency=5.0,
)


def test_all_reduce_on_one_host():
    # 1 to start, 3 steps of 2 there and back; each GPU sends 2 · 3/4 of 200 bytes at 100 a second.
    assert NETWORK.all_reduce(200, 4) == pytest.approx(1 + 2 * 3 * 2 + 2 * 3 / 4 * 2)
    # On fewer GPUs than a host has, these alone take part.
    assert NETWORK.all_reduce(200, 2) == pytest.approx(1 + 2 * 1 * 2 + 2 * 1 / 2 * 2)
    assert NETWORK.all_reduce(200, 1) == pytest.approx(1)


def test_all_reduce_between_hosts():
    # Eight hosts are three steps deep; each GPU takes a quarter of the bytes to the others.
    within = 2 * 3 * 2 + 2 * 3 / 4 * 2
    between = 2 * 3 * 5 + 2 * 7 / 8 * (200 / 4) / 10
    assert NETWORK.all_reduce(200, 32) == pytest.approx(1 + within + between)


def test_collectives_follow_one_another():
    collectives = {"statistics": [(3, 0)], "gradients": [(1, 200), (2, 100)]}
    alone = [NETWORK.all_reduce(size, 4) for size in (0, 200, 100)]
    expected = 3 * alone[0] + alone[1] + 2 * alone[2]
    assert scaling.exchange(collectives, 4, NETWORK) == pytest.approx(expected)


def test_efficiencies():
    compute = Compute(fixed=2.0, per_example=0.5)
    # A batch of 16 takes 10 s; with 2.5 s of exchange four fifths of the time are work.
    assert scaling.weak(compute, 16, 2.5) == pytest.approx(0.8)
    # Four GPUs share it: 2 + 0.5 · 4 = 4 s and 1 s of exchange; 10 s of work in 4 · 5 s.
    assert scaling.strong(compute, 16, 4, 1.0) == pytest.approx(0.5)


def test_measured_steps_are_a_line_through_the_batches():
    def result(model: str, batch_size: int, seconds: float, precision: str = "tf32") -> dict:
        return {
            "model": model, "batch_size": batch_size, "steps_per_second": 1 / seconds,
            "precision": precision,
        }  # fmt: skip

    results = [result("vae", size, 0.5 + 0.25 * size) for size in (2, 4, 8)]
    results += [result("gan", 4, 2.0), result("vae", 4, 99.0, "float32")]
    results += [{"model": "vae", "precision": "tf32", "batch_size": 99, "error": "of memory"}]
    found = scaling.measured({"results": dict(enumerate(results))}, "tf32")
    assert found["vae"].fixed == pytest.approx(0.5)
    assert found["vae"].per_example == pytest.approx(0.25)
    assert found["gan"] == Compute(0.0, 0.5)  # one point tells nothing of what is fixed


def test_the_document_holds_what_the_command_prints():
    done = run("experiments.scaling")
    assert done.returncode == 0, done
    text = (ROOT / "experiments" / "SCALING.md").read_text(encoding="utf-8")
    assert done.stdout in text


def test_wrong_numbers_are_refused(tmp_path):
    assert_refused(run("experiments.scaling", "--numbers=nowhere.json"), "cannot read nowhere.json")
    assert_refused(run("experiments.scaling", "--precision=int8"), "expected float32, tf32")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert_refused(run("experiments.scaling", f"--numbers={broken}"), "broken.json")


@pytest.mark.slow
def test_collectives_are_those_of_the_graph(tmp_path):
    """Those of a conditional GAN with two discriminator updates a step."""
    from experiments import steps
    from zoo.layers import BatchNormalization

    suite = tmp_path / "one.suite"
    suite.write_text("small --model=cgan --width=4 --latent_dim=4 --discriminator_steps=2\n")
    numbers = tmp_path / "numbers.json"
    numbers.write_text(json.dumps({"peak": {"tf32": 1.0}, "models": {}}))
    command = [sys.executable, "-m", "experiments.scaling", f"--count={suite}"]
    subprocess.run([*command, f"--numbers={numbers}"], cwd=ROOT, check=True, capture_output=True)
    found = json.loads(numbers.read_text())["models"]["small"]["collectives"]
    settings = flags.parse_training(suite.read_text().split()[1:])
    model = steps.prepare(settings).model
    variables = model.objective_variables()
    sizes = {
        name: 4 * sum(int(np.prod(variable.shape)) for variable in of_objective)
        for name, of_objective in variables.items()
    }
    # All gradients of an update in one piece, float32.
    expected = sorted([[2, sizes["discriminator"]], [1, sizes["generator"]]])
    assert sorted(found["gradients"]) == expected
    of_generator, of_discriminator = (
        sum(isinstance(layer, BatchNormalization) for layer in net._flatten_layers())
        for net in (model.generator, model.discriminator)
    )
    # Three passes of the generator, of the discriminator over real and over generated pictures,
    # and back: twice through the discriminator's two, once through one and the generator.
    forward = 3 * (of_generator + 2 * of_discriminator)
    back = 2 * 2 * of_discriminator + of_discriminator + of_generator
    assert sum(count for count, _ in found["statistics"]) == forward + back > 0
    # Mean and mean square of 4, 8 or 16 channels.
    assert {size for _, size in found["statistics"]} <= {4 * 2 * count for count in (4, 8, 16)}
