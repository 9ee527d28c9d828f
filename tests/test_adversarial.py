"""Adversarial models: every loss with every regulariser, and what a step does and does not move."""

import dataclasses
import itertools
import math

import keras
import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

import zoo.models  # noqa: E402
from zoo.adversarial import JUDGED_AFTER, optimizers  # noqa: E402
from zoo.checkpoints import Checkpoints  # noqa: E402
from zoo.data import glyphs  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import Noise, row_seeds  # noqa: E402
from zoo.models import gan  # noqa: E402

BATCH = 6
LOSSES = ("non_saturating", "least_squares", "hinge", "wasserstein")


def build(name: str = "dcgan", *, num_classes: int = 10, **settings):
    module = zoo.models.load(name)
    keras.utils.set_random_seed(7)
    return module.build(
        dataclasses.replace(module.TINY, **settings),
        image_shape=(8, 8, 1),
        num_classes=num_classes,
        total_steps=10,
        seed=7,
    )


def batch_of(count: int = BATCH, start: int = 0) -> dict[str, tf.Tensor]:
    images, labels = glyphs.draw(range(start, start + count), image_size=8)
    return {"image": tf.constant(images), "label": tf.constant(labels % 10)}


def noise_of(step: int = 0, count: int = BATCH) -> Noise:
    return Noise(7, tf.constant(step), count)


def values(variables) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


def assert_same(first, second) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def differ(first, second) -> bool:
    return any((one != other).any() for one, other in zip(first, second, strict=True))


class Calls:
    """What a real net was called with and gave, in order, while it still does its work."""

    def __init__(self, patch: pytest.MonkeyPatch, net):
        self.inputs, self.outputs = [], []
        call = net.call

        def recorded(*args, **kwargs):
            given = call(*args, **kwargs)
            self.inputs.append(args[0])
            self.outputs.append(given)
            return given

        patch.setattr(net, "call", recorded)


REGULARISERS = {
    "none": {},
    "r1": {"r1": 2.0, "discriminator_norm": "none"},
    "gradient_penalty": {"gradient_penalty": 10.0, "discriminator_norm": "layer"},
    "spectral_norm": {"spectral_norm": True, "discriminator_norm": "none"},
    "augment": {"augment": "color,translation,cutout,flip"},
    "smoothing": {"label_smoothing": 0.3},
}


@pytest.mark.parametrize("regulariser", REGULARISERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_with_every_regulariser(loss, regulariser):
    model = build(loss=loss, **REGULARISERS[regulariser])
    variables = model.objective_variables()
    names = {
        *("discriminator", "generator", "discriminator_gradient_norm", "generator_gradient_norm"),
        *("real_score", "fake_score", "real_accuracy", "fake_accuracy"),
        *{"r1": ["r1_penalty"], "gradient_penalty": ["gradient_penalty"]}.get(regulariser, []),
    }
    for _ in range(2):
        before = {name: values(owned) for name, owned in variables.items()}
        scalars = model.train_step(batch_of())
        assert set(scalars) == set(model.scalar_names) == names
        assert all(math.isfinite(value) for value in scalars.values())
        assert scalars["generator_gradient_norm"] > 0
        assert scalars["discriminator_gradient_norm"] > 0
        assert all(differ(before[name], values(owned)) for name, owned in variables.items())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_pays_what_the_losses_say_about_the_verdicts(loss, monkeypatch):
    model = build(loss=loss, label_smoothing=0.2, gradient_penalty=3.0, r1=2.0,
                  discriminator_norm="none")  # fmt: skip
    calls = Calls(monkeypatch, model.discriminator)
    paid = model.compute_losses(batch_of(), noise_of(), training=True)
    real, fake = (verdict.logits.numpy().astype("f8") for verdict in calls.outputs[:2])
    np.testing.assert_array_equal(
        calls.inputs[0], np.float32(2) * (batch_of()["image"].numpy() / np.float32(255)) - 1
    )
    below = np.log1p(np.exp(-real)), np.log1p(np.exp(-fake))
    discriminator, generator = {
        "non_saturating": (below[0] + 0.2 * real + below[1] + fake, below[1]),
        "least_squares": ((real - 0.8) ** 2 / 2 + fake**2 / 2, (fake - 1) ** 2 / 2),
        "hinge": (np.maximum(0, 1 - real) + np.maximum(0, 1 + fake), -fake),
        "wasserstein": (fake - real, -fake),
    }[loss]
    penalties = (paid.reports["gradient_penalty"], paid.reports["r1_penalty"])
    assert all(penalty.shape == (BATCH,) for penalty in penalties)
    expected = discriminator + 3.0 * penalties[0].numpy() + 2.0 * penalties[1].numpy()
    np.testing.assert_allclose(paid.objectives["discriminator"], expected, rtol=1e-5)
    np.testing.assert_allclose(paid.objectives["generator"], generator, rtol=1e-5)
    np.testing.assert_array_equal(paid.reports["real_score"], real)
    np.testing.assert_array_equal(paid.reports["fake_score"], fake)
    np.testing.assert_array_equal(paid.reports["real_accuracy"], real > 0)
    np.testing.assert_array_equal(paid.reports["fake_accuracy"], fake < 0)
    evaluated = model.evaluate_batch(batch_of(), noise_of())
    assert set(evaluated) == set(model.evaluation_names)  # no penalties


@pytest.mark.parametrize("penalty", ["r1", "gradient_penalty"])
@pytest.mark.parametrize("name", ["dcgan", "cgan"])
def test_penalties_beside_batch_norm_are_refused(name, penalty):
    config = zoo.models.load(name).Config
    with pytest.raises(UsageError, match="add --discriminator_norm=layer or none"):
        config(**{penalty: 1.0})
    for norm in ("layer", "none"):
        config(**{penalty: 1.0}, discriminator_norm=norm)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("dcgan", "latent_dim", 0),
        ("dcgan", "learning_rate", 0.0),
        ("dcgan", "discriminator_learning_rate", -1.0),
        ("dcgan", "discriminator_steps", 0),
        ("dcgan", "label_smoothing", 1.0),
        ("dcgan", "label_smoothing", -0.1),
        ("dcgan", "ema_decay", 1.0),
        ("dcgan", "beta_1", 1.0),
        ("dcgan", "beta_2", -0.5),
        ("wgan_gp", "r1", -1.0),
        ("wgan_gp", "gradient_penalty", float("nan")),
        ("dcgan", "final_learning_rate", -0.1),
        ("cgan", "class_weight", -1.0),
        ("gan", "hidden", 0),
        ("gan", "maxout_units", -3),
        ("sngan", "discriminator_width", 0),
        ("sngan", "width", 0),
        ("dcgan", "width", 0),
        ("cgan", "width", 0),
        ("wgan_gp", "width", 0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, field, value):
    with pytest.raises(UsageError, match=f"--{field}={value}: expected"):
        zoo.models.load(name).Config(**{field: value})


def test_unknown_augmentations_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match="'cutuot': did you mean cutout"):
        zoo.models.load("dcgan").Config(augment="color,cutuot")


def test_conditional_gans_need_labels():
    with pytest.raises(UsageError, match="learns from labels, and this data set has none"):
        build("cgan", num_classes=0)


@pytest.mark.parametrize("name", ["dcgan", "cgan", "gan", "sngan"])
def test_a_step_makes_one_pass_of_each_net_over_its_pictures(name, monkeypatch):
    model = build(name)
    generator, average = (
        Calls(monkeypatch, net) for net in (model.generator, model.average_generator)
    )
    discriminator = Calls(monkeypatch, model.discriminator)
    model.train_step(batch_of())
    assert len(generator.inputs) == 1
    assert not average.inputs
    real, fake = discriminator.inputs
    assert real.shape == fake.shape == (BATCH, 8, 8, 1)
    np.testing.assert_array_equal(fake, generator.outputs[0])


@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("penalty", ["r1", "gradient_penalty"])
def test_penalties_are_the_discriminators_alone(penalty, norm):
    without, heavy = (
        build(discriminator_norm=norm, **{penalty: weight}) for weight in (0.0, 1000.0)
    )
    for model in (without, heavy):
        model.train_step(batch_of())
    assert_same(values(without.generator.variables), values(heavy.generator.variables))
    assert differ(values(without.discriminator.variables), values(heavy.discriminator.variables))
    with tf.GradientTape() as tape:
        reports = heavy.compute_losses(batch_of(), noise_of(), training=True).reports
        paid = reports["r1_penalty" if penalty == "r1" else penalty]
    gradients = tape.gradient(paid, heavy.generator.trainable_variables)
    assert gradients == [None] * len(gradients)


@pytest.mark.parametrize("penalty", ["r1", "gradient_penalty"])
def test_penalties_are_slopes_of_the_logits(penalty, monkeypatch):
    """By central differences, pixel by pixel, in the discriminator as it is."""
    model = build("wgan_gp", r1=1.0, discriminator_steps=1)
    for variable in model.discriminator.trainable_variables:
        variable.assign(10 * variable)  # slopes well above rounding
    calls = Calls(monkeypatch, model.discriminator)
    batch = batch_of(2)
    reports = model.compute_losses(batch, noise_of(count=2), training=True).reports
    real, fake = (images.numpy() for images in calls.inputs[:2])
    mixing = noise_of(count=2).uniform("mixing").numpy()[:, None, None, None]
    at = real if penalty == "r1" else mixing * real + (1 - mixing) * fake
    step = 1e-2
    shifts = step * np.eye(64, dtype=np.float32).reshape(64, 8, 8, 1)
    for example in range(2):
        ahead, behind = (
            model.discriminator(at[example] + sign * shifts).logits.numpy() for sign in (1, -1)
        )
        squared = (((ahead - behind) / (2 * step)) ** 2).sum()
        if penalty == "r1":
            assert float(reports["r1_penalty"][example]) == pytest.approx(squared / 2, rel=0.02)
        else:
            found = float(reports["gradient_penalty"][example])
            assert found == pytest.approx((math.sqrt(squared) - 1) ** 2, rel=0.05)


def test_several_discriminator_steps_take_other_rows_and_other_noise(monkeypatch):
    model = build(discriminator_steps=3)
    assert model.batches_per_step == 3
    latents = Calls(monkeypatch, model.generator)
    seen = Calls(monkeypatch, model.discriminator)
    batch = batch_of(3 * BATCH)
    scalars = model.train_step(batch)
    assert set(scalars) == set(model.scalar_names)
    assert int(model.optimizers["discriminator"].iterations.numpy()) == 3
    assert int(model.optimizers["generator"].iterations.numpy()) == 1
    assert int(model.step.numpy()) == 1
    images = 2 * batch["image"].numpy().astype("f4") / 255 - 1
    for number in range(3):
        np.testing.assert_allclose(seen.inputs[2 * number], images[number::3], atol=1e-6)
    assert len(latents.inputs) == 4
    for one, other in itertools.combinations(latents.inputs, 2):
        assert one.shape == (BATCH, 4)
        assert np.abs(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]) < 0.9
    model.train_step(batch)
    assert int(model.optimizers["discriminator"].iterations.numpy()) == 6
    assert int(model.optimizers["generator"].iterations.numpy()) == 2


def test_the_generator_rests_while_the_discriminator_steps(monkeypatch):
    model = build(discriminator_steps=3)
    seen = []
    compute_losses = model.compute_losses

    def record(*args, **kwargs):
        nets = (model.generator, model.discriminator)
        seen.append([values(net.trainable_variables) for net in nets])
        return compute_losses(*args, **kwargs)

    monkeypatch.setattr(model, "compute_losses", record)
    model.train_step(batch_of(3 * BATCH))
    last = [values(net.trainable_variables) for net in (model.generator, model.discriminator)]
    assert len(seen) == 4
    for before, after in itertools.pairwise(seen):
        assert_same(before[0], after[0])
        assert differ(before[1], after[1])
    assert differ(seen[-1][0], last[0])
    assert_same(seen[-1][1], last[1])


@pytest.mark.parametrize("name", ["dcgan", "cgan"])
@pytest.mark.parametrize("decay", [0.6, 0.0])
def test_the_averaged_generator_follows_statistics_included(name, decay):
    model = build(name, ema_decay=decay)
    expected = [value.astype("f8") for value in values(model.generator.variables)]
    assert_same(values(model.average_generator.variables), values(model.generator.variables))
    for step in range(5):
        model.train_step(batch_of())
        kept = min(decay, (1 + step) / (10 + step))
        for average, value in zip(expected, values(model.generator.variables), strict=True):
            average *= kept
            average += (1 - kept) * value
        for average, value in zip(model.average_generator.variables, expected, strict=True):
            np.testing.assert_allclose(average, value, rtol=1e-4, atol=1e-6, err_msg=average.path)
    averages = model.average_generator.variables
    assert any((v.numpy() != 0).any() for v in averages if v.name == "mean")
    current = values(model.generator.variables)
    if decay:
        assert differ(values(averages), current)
    else:
        for average, value in zip(averages, current, strict=True):
            np.testing.assert_allclose(average, value, rtol=1e-6, atol=1e-7)


def test_samples_are_the_averaged_generators_with_its_statistics():
    model = build(ema_decay=0.9)
    for _ in range(3):
        model.train_step(batch_of())
    seeds = tf.constant(row_seeds(3, 4))
    latents = model.sample_latents(seeds)
    expected = (model.average_generator(latents, training=False).numpy() + 1) / 2
    np.testing.assert_allclose(model.sample(seeds), expected, atol=1e-6)
    own = (model.generator(latents, training=False).numpy() + 1) / 2
    assert np.abs(own - expected).max() > 1e-4


def test_a_rollback_has_noise_of_its_own():
    scores = []
    for rollbacks in (0, 1, 0, 2):
        model = build()
        model.rollbacks.assign(rollbacks)
        scores.append(float(model.train_step(batch_of())["fake_score"]))
    assert scores[0] == scores[2]
    assert len(set(scores)) == 3


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_latents_have_the_distribution_named_in_training_and_samples(kind, monkeypatch):
    model = build(latents=kind, latent_dim=16)
    calls = Calls(monkeypatch, model.generator)
    model.compute_losses(batch_of(200), noise_of(count=200), training=True)
    for latents in (calls.inputs[0], model.sample_latents(tf.constant(row_seeds(0, 200)))):
        assert latents.shape == (200, 16)
        assert np.mean(latents) == pytest.approx(0, abs=0.08)
        assert np.std(latents) == pytest.approx(1 if kind == "normal" else 3**-0.5, rel=0.05)
        assert (np.abs(latents).max() > 2) == (kind == "normal")
        assert np.abs(latents).max() <= (1 if kind == "uniform" else 6)


def test_histograms_are_of_the_scores():
    model, batch = build("gan"), batch_of()
    histograms = model.histograms(batch)
    measures = model.evaluate_batch(batch, noise_of())
    assert set(histograms) == {"scores/real", "scores/fake"}
    for side in ("real", "fake"):
        assert histograms[f"scores/{side}"].shape == (BATCH,)
        np.testing.assert_array_equal(histograms[f"scores/{side}"], measures[f"{side}_score"])


@pytest.mark.parametrize(
    ("step", "diversity", "distance", "best", "verdict"),
    [
        (JUDGED_AFTER - 1, 0.0, 900.0, 1.0, ""),
        (JUDGED_AFTER, 0.19, 3.0, 3.0, "diversity is 0.19 of the real pictures', less than 0.2"),
        (JUDGED_AFTER, 0.2, 3.0, 3.0, ""),
        (JUDGED_AFTER, 1.0, 15.0, 3.0, ""),
        (JUDGED_AFTER, 1.0, 15.1, 3.0, "distance is 15.1, more than 5 times the best, 3.00"),
        (JUDGED_AFTER, 1.0, 900.0, None, ""),
        (JUDGED_AFTER, 0.1, 900.0, None, "nearly all alike"),
    ],
)
def test_collapse_is_samples_alike_or_far_worse_than_the_best(
    step, diversity, distance, best, verdict
):
    model = build()
    model.step.assign(step)
    said = model.collapse({"diversity": diversity, "frechet_distance": distance}, best)
    assert bool(said) == bool(verdict)
    assert verdict in said


def test_labels_of_samples_are_the_classes_in_turn():
    model = build("cgan")
    seeds = row_seeds(0, 23)
    labels = model.default_labels(seeds)
    np.testing.assert_array_equal(labels, np.arange(23) % 10)
    assert labels.dtype == np.int32
    images = model.sample(tf.constant(seeds))
    np.testing.assert_array_equal(images, model.sample(tf.constant(seeds), tf.constant(labels)))
    assert build("dcgan").default_labels(seeds) is None
    with pytest.raises(ValueError, match="decode got no labels"):
        model.decode(tf.zeros([1, 4]))


def test_batch_norm_of_the_class_changes_samples_of_one_seed():
    model = build("cgan")
    average = model.average_generator
    seeds, labels = tf.constant(np.repeat(row_seeds(5, 1), 3, axis=0)), tf.constant([1, 4, 1])
    average.embedding.weights[0].assign(tf.zeros_like(average.embedding.weights[0]))
    plain = model.sample(seeds, labels).numpy()
    np.testing.assert_allclose(plain[0], plain[1], atol=1e-6)
    for norm in average.norms:
        gains = norm.gains.numpy()
        gains[4] *= 3
        norm.gains.assign(gains)
    images = model.sample(seeds, labels).numpy()
    np.testing.assert_allclose(images[0], plain[0], atol=1e-6)
    np.testing.assert_allclose(images[2], images[0], atol=1e-6)
    assert np.abs(images[1] - images[0]).max() > 1e-4


def test_training_pictures_have_the_labels_of_the_real_ones(monkeypatch):
    model, labels = build("cgan"), []
    for net in (model.generator, model.discriminator):
        call = net.call

        def recorded(inputs, given, *args, call=call, **kwargs):
            labels.append(given)
            return call(inputs, given, *args, **kwargs)

        monkeypatch.setattr(net, "call", recorded)
    batch = batch_of()
    model.train_step(batch)
    assert len(labels) == 3
    for given in labels:
        np.testing.assert_array_equal(given, batch["label"])


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_zeros_its_share_and_scales_the_rest(rate):
    given = np.random.Generator(np.random.PCG64(0)).uniform(1, 2, (200, 50))
    given = tf.constant(given, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        left = gan.dropout(given, rate, noise_of(count=200), "here")
    kept = left.numpy() != 0
    assert 1 - kept.mean() == pytest.approx(rate, abs=0.02)
    np.testing.assert_allclose(left.numpy()[kept], given.numpy()[kept] / (1 - rate), rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(left, given), kept / (1 - rate), rtol=1e-6)
    assert kept.any(axis=0).all()  # each unit, and each example, has a draw of its own
    assert (kept.mean(axis=1) > 0).all()
    assert kept.mean(axis=0).std() < 0.08
    assert kept.mean(axis=1).std() < 0.15
    again = gan.dropout(given, rate, noise_of(count=200), "here")
    np.testing.assert_array_equal(left, again)


def test_dropout_is_of_its_own_for_real_and_fake_and_not_in_evaluation():
    model = build("gan", maxout_units=32)
    images = 2 * tf.cast(batch_of()["image"], tf.float32) / 255 - 1

    def logits(purpose, training, step=0):
        return model.judge(images, None, noise_of(step), purpose, training).logits.numpy()

    np.testing.assert_array_equal(logits("real", True), logits("real", True))
    assert np.abs(logits("real", True) - logits("fake", True)).min() > 0
    assert np.abs(logits("real", True) - logits("real", True, step=1)).min() > 0
    still = logits("real", False)
    np.testing.assert_array_equal(still, logits("fake", False))
    np.testing.assert_array_equal(still, logits("real", False, step=1))
    # In expectation over masks the first layers' inputs are those of evaluation.
    weights = model.discriminator.hidden[0]
    pixels = tf.repeat(tf.reshape(images[:1], [1, 64]), 4000, axis=0)
    dropped = gan.dropout(pixels, gan.INPUT_DROPOUT, noise_of(count=4000), "mean")
    np.testing.assert_allclose(
        tf.reduce_mean(weights(dropped), 0), weights(pixels[:1])[0], atol=0.05
    )


def test_maxout_takes_the_largest_of_five_pieces():
    """Goodfellow et al. 2013, section 3, by NumPy from the weights."""
    model = build("gan", maxout_units=3)
    net = model.discriminator
    for variable in net.trainable_variables:
        variable.assign(np.random.Generator(np.random.PCG64(1)).standard_normal(variable.shape))
    images = np.random.Generator(np.random.PCG64(2)).uniform(-1, 1, (4, 8, 8, 1)).astype("f4")
    reached = images.reshape(4, 64)
    for layer in net.hidden:
        kernel, bias = values(layer.trainable_variables)
        assert kernel.shape[1] == 15
        reached = (reached @ kernel + bias).reshape(4, 3, 5).max(2)
    kernel, bias = values(net.last.trainable_variables)
    np.testing.assert_allclose(net(images).logits, (reached @ kernel + bias)[:, 0], rtol=1e-4)


@pytest.mark.parametrize("name", ["dcgan", "cgan", "gan", "wgan_gp", "sngan"])
def test_evaluation_and_sampling_change_nothing(name):
    model = build(name)
    model.train_step(batch_of(BATCH * model.batches_per_step))
    before = values(model.state())
    first = model.evaluate_batch(batch_of(), noise_of())
    model.histograms(batch_of())
    model.sheets(batch_of())
    assert_same(before, values(model.state()))
    again = model.evaluate_batch(batch_of(), noise_of())
    for measure in model.evaluation_names:
        assert first[measure].shape == (BATCH,)
        np.testing.assert_array_equal(first[measure], again[measure])


def test_evaluation_is_without_augmentation():
    plain, augmented = build(), build(augment="color,translation,cutout,flip")
    measures = [model.evaluate_batch(batch_of(), noise_of()) for model in (plain, augmented)]
    for name in plain.evaluation_names:
        np.testing.assert_array_equal(measures[0][name], measures[1][name])
    trained = [
        model.compute_losses(batch_of(), noise_of(), training=True).objectives["discriminator"]
        for model in (plain, augmented)
    ]
    assert np.abs(trained[0] - trained[1]).max() > 1e-3


def test_augmented_real_and_fake_pictures_are_changed_each_in_its_own_way(monkeypatch):
    model = build(augment="translation")
    generator = Calls(monkeypatch, model.generator)
    discriminator = Calls(monkeypatch, model.discriminator)
    model.compute_losses(batch_of(), noise_of(), training=True)
    real, fake = (images.numpy() for images in discriminator.inputs)
    images = 2 * batch_of()["image"].numpy().astype("f4") / 255 - 1

    def offsets(before, after):
        found = []
        for one, other in zip(before, after, strict=True):
            wide = np.pad(one, [(1, 1), (1, 1), (0, 0)])
            found.append([
                (down, right)
                for down, right in itertools.product(range(3), repeat=2)
                if np.allclose(wide[down : down + 8, right : right + 8], other, atol=1e-6)
            ])  # fmt: skip
        return found

    moved = offsets(images, real), offsets(generator.outputs[0].numpy(), fake)
    assert all(places for places in (*moved[0], *moved[1]))
    assert moved[0] != moved[1]


@pytest.mark.parametrize("name", ["sngan", "dcgan"])
def test_spectral_norm_moves_once_a_discriminator_update_and_is_kept(name, tmp_path):
    settings = {} if name == "sngan" else {"spectral_norm": True}
    model = build(name, **settings)
    vectors = [v for v in model.discriminator.variables if v.name == "singular_vector"]
    kernels = [v for v in model.discriminator.trainable_variables if v.name == "kernel"]
    assert len(vectors) == len(kernels)
    assert {id(v.value) for v in vectors} <= {id(v) for v in model.state()}
    expected = []
    for kernel, vector in zip(kernels, vectors, strict=True):
        matrix = kernel.numpy().reshape(-1, kernel.shape[-1]).astype("f8")
        right = matrix.T @ (matrix @ vector.numpy())
        expected.append(right / np.linalg.norm(right))
    model.train_step(batch_of())
    for vector, value in zip(vectors, expected, strict=True):
        np.testing.assert_allclose(vector, value, rtol=1e-3, atol=1e-5)
    saved = values(vectors)
    Checkpoints(model.checkpoint(), tmp_path).save(1)
    keras.utils.set_random_seed(99)
    other = build(name, **settings)
    own = [v for v in other.discriminator.variables if v.name == "singular_vector"]
    assert differ(saved, values(own))
    assert Checkpoints(other.checkpoint(), tmp_path).restore()
    assert_same(saved, values(own))


def cross_entropy(labels, logits) -> np.ndarray:
    logits = logits.numpy().astype("f8")
    chosen = logits[np.arange(len(labels)), labels]
    return np.log(np.exp(logits).sum(1)) - chosen


def test_auxiliary_classes_are_paid_by_the_discriminator_for_real_pictures_alone(monkeypatch):
    """Odena et al. 2017, section 3, real pictures; the generator at class_weight."""
    model = build("cgan", conditioning="auxiliary", class_weight=0.7, label_smoothing=0.1)
    # Class logits that matter.
    for variable in model.discriminator.head.classes.trainable_variables:
        variable.assign(np.random.Generator(np.random.PCG64(3)).standard_normal(variable.shape))
    calls = Calls(monkeypatch, model.discriminator)
    batch = batch_of()
    labels = batch["label"].numpy()
    for training in (True, False):
        calls.outputs.clear()
        paid = model.compute_losses(batch, noise_of(), training=training).objectives
        real, fake = calls.outputs
        one, other = (verdict.logits.numpy().astype("f8") for verdict in (real, fake))
        discriminator = np.log1p(np.exp(-one)) + 0.1 * one + np.log1p(np.exp(other))
        discriminator += cross_entropy(labels, real.class_logits)
        generator = np.log1p(np.exp(-other)) + 0.7 * cross_entropy(labels, fake.class_logits)
        np.testing.assert_allclose(paid["discriminator"], discriminator, rtol=1e-5)
        np.testing.assert_allclose(paid["generator"], generator, rtol=1e-5)


@pytest.mark.parametrize("conditioning", ["projection", "concat", "auxiliary"])
def test_every_conditioning_trains_and_tells_classes_apart(conditioning):
    model = build("cgan", conditioning=conditioning)
    for _ in range(2):
        scalars = model.train_step(batch_of())
        assert all(math.isfinite(value) for value in scalars.values())
    seeds = tf.constant(np.repeat(row_seeds(0, 1), 2, axis=0))
    images = model.sample(seeds, tf.constant([0, 1])).numpy()
    assert np.abs(images[0] - images[1]).max() > 1e-6
    verdict = model.discriminator(images, tf.constant([0, 1]))
    assert (verdict.class_logits is not None) == (conditioning == "auxiliary")


def test_learning_rates_fall_evenly_to_their_share_at_the_last_step():
    config = zoo.models.load("dcgan").Config(
        learning_rate=1e-3,
        discriminator_learning_rate=4e-3,
        final_learning_rate=0.25,
        discriminator_steps=5,
        beta_1=0.3,
        beta_2=0.8,
    )
    made = optimizers(config, total_steps=100)
    for name, rate, updates in (("generator", 1e-3, 100), ("discriminator", 4e-3, 500)):
        schedule = made[name]._learning_rate
        for share, left in ((0, 1.0), (0.5, 0.625), (1, 0.25), (1.5, 0.25)):
            assert float(schedule(share * updates)) == pytest.approx(rate * left, rel=1e-5)
        assert (made[name].beta_1, made[name].beta_2, made[name].epsilon) == (0.3, 0.8, 1e-8)


def test_the_papers_settings_are_the_defaults_that_the_files_say():
    wgan, sngan = zoo.models.load("wgan_gp").Config(), zoo.models.load("sngan").Config()
    assert (wgan.gradient_penalty, wgan.discriminator_steps, wgan.loss) == (10.0, 5, "wasserstein")
    assert (wgan.beta_1, wgan.beta_2, wgan.discriminator_norm) == (0.5, 0.9, "none")
    assert (sngan.loss, sngan.spectral_norm, sngan.beta_1, sngan.beta_2) == ("hinge", True, 0, 0.9)
