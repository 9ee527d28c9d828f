"""Noise, seeds and the one train_step."""

import keras
import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo import generative  # noqa: E402
from zoo.generative import GenerativeModel, Losses, Noise  # noqa: E402


def noise(seed=0, step=0, size=1000):
    return Noise(seed, tf.constant(step), size)


def test_noise_is_a_function_of_seed_step_and_purpose():
    first = noise(1, 2).normal("latents", 3)
    assert first.shape == (1000, 3)
    np.testing.assert_array_equal(first, noise(1, 2).normal("latents", 3))
    for other in (
        noise(2, 2).normal("latents", 3),
        noise(1, 3).normal("latents", 3),
        noise(1, 2).normal("dropout", 3),
    ):
        assert abs(np.corrcoef(first.numpy().ravel(), other.numpy().ravel())[0, 1]) < 0.1


def test_noise_has_the_named_distribution():
    normal = noise(size=200_000).normal("a").numpy()
    assert normal.mean() == pytest.approx(0, abs=0.01)
    assert normal.std() == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(normal) < 1) == pytest.approx(0.6827, abs=0.005)
    uniform = noise(size=200_000).uniform("a").numpy()
    assert np.abs(noise(size=200_000).normal("tail").numpy()).max() > 4
    assert 0 <= uniform.min() < 0.001
    assert 0.999 < uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_noise_is_the_same_under_xla(distribution):
    step = tf.Variable(3, dtype=tf.int64)

    def draw():
        return getattr(Noise(1, step.read_value(), 500), distribution)("a", 3)

    plain, compiled = tf.function(draw)(), tf.function(draw, jit_compile=True)()
    np.testing.assert_allclose(plain, compiled, rtol=1e-4, atol=1e-5)


def test_folded_seeds_differ_and_fit():
    seeds = {
        generative.fold_seed(seed, purpose)
        for seed in (0, 1, 2**31 - 1)
        for purpose in ("latents", "importance", "component")
    }
    assert len(seeds) == 9
    assert max(seeds) < 2**63


def test_draws_per_seed_depend_on_their_row_alone():
    seeds = np.array([[0, 0], [0, 1], [5, -3], [2**62, 2**62]], np.int64)
    together = generative.normal_per_seed(tf.constant(seeds), 4).numpy()
    assert together.shape == (4, 4)
    for row in range(4):
        alone = generative.normal_per_seed(tf.constant(seeds[row : row + 1]), 4).numpy()
        np.testing.assert_array_equal(alone[0], together[row])
    assert len({tuple(row) for row in together}) == 4


def test_draws_per_seed_have_the_named_distribution_and_purposes_differ():
    seeds = tf.constant(generative.row_seeds(9, 4000))
    normal = tf.function(generative.normal_per_seed)(seeds, 2).numpy()
    assert normal.mean() == pytest.approx(0, abs=0.05)
    assert normal.std() == pytest.approx(1, abs=0.05)
    uniform_per_seed = tf.function(generative.uniform_per_seed)
    uniform = uniform_per_seed(seeds, "component").numpy()
    assert uniform.shape == (4000,)
    assert np.histogram(uniform, 4, (0, 1))[0].min() > 900
    other = uniform_per_seed(seeds, "other").numpy()
    assert abs(np.corrcoef(uniform, other)[0, 1]) < 0.06


def test_row_seeds_name_a_place_on_a_sheet():
    np.testing.assert_array_equal(generative.row_seeds(7, 3, start=2), [[7, 2], [7, 3], [7, 4]])


def test_to_float_and_back():
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = generative.to_float(tf.constant(values))
    assert floats.dtype == tf.float32
    assert float(tf.reduce_max(floats)) == 1.0
    np.testing.assert_array_equal(generative.to_uint8(floats.numpy()), values)
    np.testing.assert_array_equal(generative.to_uint8(np.array([-1.0, 2.0])), [0, 255])
    already = tf.constant([0.25])
    np.testing.assert_array_equal(generative.to_float(already), already)


class Tug(GenerativeModel):
    """Two objectives pull at two scalars: the closed form of each step is known."""

    scalar_names = ("left", "right", "sum")

    def __init__(self):
        super().__init__(image_shape=(1, 1, 1), seed=0, name="tug")
        self.a = self.add_weight(shape=(), initializer="ones", name="a")
        self.b = self.add_weight(shape=(), initializer="ones", name="b")
        self.built = True

    def objective_variables(self):
        return {"left": [self.a], "right": [self.b]}

    def compute_losses(self, batch, noise, training):
        product = tf.convert_to_tensor(self.a) * tf.convert_to_tensor(self.b)
        values = generative.to_float(batch["image"])[:, 0, 0, 0]
        return Losses(
            objectives={"left": product * values, "right": -3.0 * product * values},
            reports={"sum": product + 0.0 * values},
        )


def test_each_objective_descends_its_own_gradient_from_the_same_point():
    model = Tug()
    model.compile({"left": keras.optimizers.SGD(0.1), "right": keras.optimizers.SGD(0.01)})
    batch = {"image": tf.constant([1.0, 3.0], shape=[2, 1, 1, 1])}
    scalars = model.train_step(batch)
    # d left/da = b·mean = 2; d right/db = -3·a·mean = -6; both at a = b = 1.
    assert float(model.a) == pytest.approx(1 - 0.1 * 2)
    assert float(model.b) == pytest.approx(1 + 0.01 * 6)
    assert float(scalars["left"]) == pytest.approx(2.0)
    assert float(scalars["right"]) == pytest.approx(-6.0)
    assert float(scalars["sum"]) == pytest.approx(1.0)
    assert int(model.step) == 1


def test_every_objective_needs_its_optimizer():
    with pytest.raises(ValueError, match=r"\['left'\], expected .*\['left', 'right'\]"):
        Tug().compile({"left": keras.optimizers.SGD()})


def test_a_model_without_the_contract_says_what_is_missing():
    model = GenerativeModel(image_shape=(4, 4, 1))
    for call in (
        model.objective_variables,
        model.endpoints,
        lambda: model.compute_losses({}, None, True),
        lambda: model.sample(tf.zeros([1, 2], tf.int64)),
        lambda: model.decode(tf.zeros([1, 2])),
    ):
        with pytest.raises(NotImplementedError, match="GenerativeModel"):
            call()
    assert model.embed(np.zeros([1, 4, 4, 1], np.uint8)) is None
    assert model.thorough_measures({}, None) == {}


def test_batch_size_is_static_where_it_can_be():
    assert generative.batch_size({"image": tf.zeros([3, 1, 1, 1])}) == 3

    @tf.function(input_signature=[tf.TensorSpec([None, 1, 1, 1])])
    def dynamic(images):
        return generative.batch_size({"image": images})

    assert int(dynamic(tf.zeros([5, 1, 1, 1]))) == 5
