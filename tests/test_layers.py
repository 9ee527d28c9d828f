"""Layers against NumPy: values, state and gradients, those of second order included."""

import keras
import numpy as np
import PIL.Image
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo import layers  # noqa: E402

RANDOM = np.random.Generator(np.random.PCG64(0))


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def by_channel(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1]).astype("f8")


def batch_norm(channels: int = 3, **kwargs) -> layers.BatchNormalization:
    """Built, with a gain and an offset that matter."""
    layer = layers.BatchNormalization(**kwargs)
    layer.build((None, 4, 4, channels))
    layer.gamma.assign(np.linspace(0.5, 2.0, channels))
    layer.beta.assign(np.linspace(-1.0, 1.0, channels))
    return layer


def normalised(values, mean, variance):
    """Ioffe & Szegedy 2015, algorithm 1, with the gain and offset of `batch_norm`."""
    channels = values.shape[-1]
    unit = (values.astype("f8") - mean) / np.sqrt(variance + 1e-5)
    return np.linspace(0.5, 2.0, channels) * unit + np.linspace(-1.0, 1.0, channels)


@pytest.mark.parametrize("shape", [(6, 4, 4, 3), (6, 3)])
def test_batch_norm_takes_the_batch_and_remembers_it(shape):
    layer = batch_norm()
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(3):
        values = 0.02 * normal(*shape) + np.array([5.0, 0.0, -1.0], np.float32)
        rows = by_channel(values)
        outputs = layer(values, training=True)
        expected = normalised(values, rows.mean(0), rows.var(0))
        np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-3)
        mean = 0.9 * mean + 0.1 * rows.mean(0)
        variance = 0.9 * variance + 0.1 * rows.var(0, ddof=1)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)
    outputs = layer(values)
    np.testing.assert_allclose(outputs, normalised(values, mean, variance), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)  # at rest in evaluation
    assert len(layer.trainable_variables) == len(layer.non_trainable_variables) == 2


def test_batch_norm_without_averages_always_takes_the_batch():
    layer, values = batch_norm(moving=False), 3 * normal(5, 4, 4, 3) + 1
    rows = by_channel(values)
    expected = normalised(values, rows.mean(0), rows.var(0))
    for training in (True, False):
        outputs = layer(values, training=training)
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    assert not layer.non_trainable_variables


def test_batch_norm_of_bfloat16_has_float32_statistics():
    layer = batch_norm(dtype="mixed_bfloat16")
    values = tf.cast(normal(64, 4, 4, 3) + 2, tf.bfloat16)
    rows = by_channel(tf.cast(values, tf.float32).numpy())
    for training in (True, False):
        assert layer(values, training=training).dtype == tf.bfloat16
    np.testing.assert_allclose(layer.moving_mean, 0.1 * rows.mean(0), rtol=1e-4)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-4)
    outputs = tf.cast(layer(values, training=True), tf.float32)
    expected = normalised(tf.cast(values, tf.float32).numpy(), rows.mean(0), rows.var(0))
    np.testing.assert_allclose(outputs, expected, rtol=2e-2, atol=2e-2)


def back(values: np.ndarray, upstream: np.ndarray) -> np.ndarray:
    """Gradient of Σ upstream · batch_norm(values): their page 4, in one line."""
    rows, slopes = by_channel(values), by_channel(upstream)
    scale = np.sqrt(rows.var(0) + 1e-5)
    unit = (rows - rows.mean(0)) / scale
    gains = np.linspace(0.5, 2.0, values.shape[-1])
    gradient = gains / scale * (slopes - slopes.mean(0) - unit * (slopes * unit).mean(0))
    return gradient.reshape(values.shape)


@pytest.mark.parametrize("shape", [(4, 3, 3, 2), (6, 2)])
def test_batch_norm_gradients_of_first_and_second_order(shape):
    layer = batch_norm(shape[-1], moving=False)
    values, upstream, direction = normal(*shape), normal(*shape), normal(*shape)
    with tf.GradientTape() as outer:
        inputs = tf.constant(values)
        outer.watch(inputs)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(inputs)
            paid = tf.reduce_sum(layer(inputs, training=True) * upstream)
        gradient = inner.gradient(paid, inputs)
        along = tf.reduce_sum(gradient * direction)
    np.testing.assert_allclose(gradient, back(values, upstream), rtol=1e-3, atol=1e-4)
    rows = by_channel(values)
    unit = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    gains, offsets = inner.gradient(paid, [layer.gamma.value, layer.beta.value])
    np.testing.assert_allclose(gains, (by_channel(upstream) * unit).sum(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(offsets, by_channel(upstream).sum(0), rtol=1e-4, atol=1e-4)
    # The Hessian times a direction, by central differences of the gradient.
    step = 1e-4 * direction.astype("f8")
    ahead, behind = back(values + step, upstream), back(values - step, upstream)
    second = outer.gradient(along, inputs)
    np.testing.assert_allclose(second, (ahead - behind) / 2e-4, rtol=1e-3, atol=1e-3)


def test_conditional_batch_norm_has_a_gain_and_an_offset_for_each_class():
    layer = layers.ConditionalBatchNormalization(4)
    values, labels = normal(6, 4, 4, 3), np.array([0, 2, 2, 3, 0, 3])
    plain = layer(values, labels, training=True).numpy()
    rows = by_channel(values)
    unit = (values - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    np.testing.assert_allclose(plain, unit, rtol=1e-4, atol=1e-4)  # gains of 1 at first
    gains, offsets = normal(4, 3), normal(4, 3)
    layer.gains.assign(gains)
    layer.offsets.assign(offsets)
    with tf.GradientTape() as tape:
        outputs = layer(values, labels, training=True)
    chosen = [array[labels][:, None, None, :] for array in (gains, offsets)]
    np.testing.assert_allclose(outputs, unit * chosen[0] + chosen[1], rtol=1e-4, atol=1e-4)
    gradient = tape.gradient(outputs, [layer.gains.value, layer.offsets.value])
    expected = np.zeros((4, 3))
    np.add.at(expected, labels, unit.sum((1, 2)))
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(gradient[1][:, 0], 16 * np.array([2, 0, 2, 2]))
    # One set of statistics for all classes, two steps on.
    np.testing.assert_allclose(layer.moving_mean, 0.19 * rows.mean(0), rtol=1e-4, atol=1e-6)
    still = layer(values, labels)
    unit = (values - layer.moving_mean.numpy()) / np.sqrt(layer.moving_variance.numpy() + 1e-5)
    np.testing.assert_allclose(still, unit * chosen[0] + chosen[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 4, 4, 2), (3, 6)])
def test_layer_norm_takes_each_example_alone(shape):
    layer = layers.LayerNormalization()
    layer.build(shape)
    gain, offset = normal(shape[-1]), normal(shape[-1])
    layer.gamma.assign(gain)
    layer.beta.assign(offset)
    values = normal(*shape) * np.array([1.0, 9.0, 0.01]).reshape(3, *[1] * (len(shape) - 1))
    rows = values.reshape(3, -1)
    unit = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    outputs = layer(tf.constant(values, tf.float32))
    expected = unit.reshape(shape) * gain + offset
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def spectral(kind: str, iterations: int = 100) -> tuple[keras.layers.Layer, np.ndarray]:
    """A built layer and its input; the singular vector after so many power iterations."""
    if kind == "conv":
        layer, values = layers.Conv2D(5, 3, spectral_norm=True), normal(2, 6, 6, 2)
    else:
        layer, values = layers.Dense(5, spectral_norm=True), normal(4, 7)
    layer.build(values.shape)
    # Clear largest singular values: power iterations converge soon.
    rows, columns = np.prod(layer._kernel.shape[:-1]), layer._kernel.shape[-1]
    left, _, right = np.linalg.svd(normal(rows, columns), full_matrices=False)
    weights = left * np.array([3.0, 1.5, 1.0, 0.5, 0.2]) @ right
    layer._kernel.assign(weights.reshape(layer._kernel.shape))
    for _ in range(iterations):
        layer.power_iteration()
    return layer, values


def stored(layer) -> np.ndarray:
    """[everything else, outputs], float64."""
    return layer._kernel.numpy().astype("f8").reshape(-1, layer._kernel.shape[-1])


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_spectral_norm_divides_by_the_largest_singular_value(kind):
    layer, values = spectral(kind)
    before = [variable.numpy() for variable in layer.variables]
    assert float(layer.sigma()) == pytest.approx(np.linalg.norm(stored(layer), 2), rel=1e-5)
    assert float(layer.sigma()) == pytest.approx(3.0, rel=1e-5)
    kernel = layer.kernel.numpy()
    assert np.linalg.norm(kernel.reshape(-1, 5), 2) == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(kernel, before[0] / 3.0, rtol=1e-5)
    outputs = layer(values)
    plain = tf.nn.conv2d if kind == "conv" else tf.matmul
    options = {"strides": 1, "padding": "VALID"} if kind == "conv" else {}
    np.testing.assert_allclose(outputs, plain(values, before[0] / 3.0, **options), atol=1e-5)
    for variable, value in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_spectral_norm_gradient_goes_through_sigma(kind):
    layer, values = spectral(kind)
    upstream = normal(*layer(values).shape)
    with tf.GradientTape() as tape:
        paid = tf.reduce_sum(layer(values) * upstream)
    gradient = tape.gradient(paid, layer._kernel.value).numpy().reshape(-1, 5)
    # The gradient of Σ upstream · layer is linear in the normalised kernel: its slopes.
    with tf.GradientTape() as tape:
        kernel = tf.constant(layer.kernel.numpy())
        tape.watch(kernel)
        outputs = (
            tf.matmul(values, kernel)
            if kind == "dense"
            else tf.nn.conv2d(values, kernel, 1, "VALID")
        )
        paid = tf.reduce_sum(outputs * upstream)
    slopes = tape.gradient(paid, kernel).numpy().reshape(-1, 5).astype("f8")

    def true(weights: np.ndarray) -> float:
        return (slopes * weights).sum() / np.linalg.norm(weights, 2)

    weights, step = stored(layer), 1e-5
    expected = np.zeros_like(weights)
    for index in np.ndindex(weights.shape):
        shift = np.zeros_like(weights)
        shift[index] = step
        expected[index] = (true(weights + shift) - true(weights - shift)) / (2 * step)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(gradient - slopes / 3.0).max() > 0.01  # what skips sigma


def test_spectral_norm_gradient_holds_the_vectors_still():
    """Miyato et al. 2018, equation 12, before the vectors have converged: (G - λ u vᵀ) / σ."""
    layer, values = spectral("dense", iterations=0)
    weights, start = stored(layer), layer.singular_vector.numpy().astype("f8")
    left = weights @ start / np.linalg.norm(weights @ start)
    right = weights.T @ left / np.linalg.norm(weights.T @ left)
    sigma = left @ weights @ right
    upstream = normal(4, 5)
    with tf.GradientTape() as tape:
        paid = tf.reduce_sum(layer(values) * upstream)
    slopes = values.astype("f8").T @ upstream
    share = (slopes * weights / sigma).sum()
    expected = (slopes - share * np.outer(left, right)) / sigma
    gradient = tape.gradient(paid, layer._kernel.value)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


def test_a_power_iteration_is_the_papers_and_calls_make_none():
    """Miyato et al. 2018, algorithm 1: u ← Wᵀv / ‖·‖ after v ← W u / ‖·‖, once."""
    layer, values = spectral("dense", iterations=0)
    start, weights = layer.singular_vector.numpy().astype("f8"), stored(layer)
    sigmas = [float(layer.sigma())]
    for training in (True, False):
        layer(values, training=training)
    np.testing.assert_array_equal(layer.singular_vector.numpy(), start.astype("f4"))
    assert float(layer.sigma()) == sigmas[0]
    left = weights @ start / np.linalg.norm(weights @ start)
    right = weights.T @ left / np.linalg.norm(weights.T @ left)
    assert sigmas[0] == pytest.approx(left @ weights @ right, rel=1e-5)
    layer.power_iteration()
    np.testing.assert_allclose(layer.singular_vector.numpy(), right, rtol=1e-4, atol=1e-6)
    for _ in range(20):
        sigmas.append(float(layer.sigma()))
        layer.power_iteration()
    assert np.diff(sigmas).min() > -1e-5
    assert max(sigmas) <= 3.0 + 1e-5


class Nested(keras.layers.Layer):
    """Normalised layers in lists, in a list of a layer, and one that is not normalised."""

    def __init__(self, depth: int = 1):
        super().__init__()
        self.row = [layers.Dense(3, spectral_norm=True), layers.Dense(3, spectral_norm=True)]
        self.plain = layers.Dense(3)
        self.below = [Nested(depth - 1)] if depth else []

    def call(self, values):
        for layer in (*self.row, self.plain, *self.below):
            values = layer(values)
        return values


def test_power_iterations_reach_layers_in_lists_once():
    net = Nested()
    net(tf.ones([1, 3]))
    normalised_layers = [*net.row, *net.below[0].row]
    plain = [net.plain.kernel.numpy(), net.below[0].plain.kernel.numpy()]
    expected = []
    for layer in normalised_layers:
        weights, start = stored(layer), layer.singular_vector.numpy().astype("f8")
        right = weights.T @ (weights @ start)
        expected.append(right / np.linalg.norm(right))
    layers.power_iterations(net)
    for layer, vector in zip(normalised_layers, expected, strict=True):
        np.testing.assert_allclose(layer.singular_vector.numpy(), vector, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(plain[0], net.plain.kernel.numpy())
    assert len(net.non_trainable_variables) == 4


def test_spectral_norm_in_bfloat16_keeps_sigma_in_float32():
    layer = layers.Dense(5, spectral_norm=True, dtype="mixed_bfloat16")
    outputs = layer(tf.ones([2, 7]))
    assert outputs.dtype == tf.bfloat16
    assert layer.sigma().dtype == tf.float32
    for _ in range(200):
        layer.power_iteration()
    assert float(layer.sigma()) == pytest.approx(np.linalg.norm(stored(layer), 2), rel=1e-3)


def test_double_nearest_repeats_pixels():
    values = normal(2, 3, 4, 5)
    expected = values.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(layers.double(tf.constant(values), "nearest"), expected)
    np.testing.assert_allclose(layers.halve(tf.constant(expected)), values, rtol=1e-6)


def test_the_gradient_of_repeated_pixels_is_their_sum_and_has_one_itself():
    values, upstream = tf.Variable(normal(2, 3, 4, 5)), tf.Variable(normal(2, 6, 8, 5))
    with tf.GradientTape() as outer:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layers.double(values, "nearest") * upstream)
        gradient = tape.gradient(total, values)
        squares = tf.reduce_sum(gradient**2)
    expected = upstream.numpy().reshape(2, 3, 2, 4, 2, 5).sum((2, 4))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
    again = 2 * expected.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(outer.gradient(squares, upstream), again, rtol=1e-5, atol=1e-5)


def test_double_bilinear_is_pillows():
    values = normal(2, 3, 4, 2)
    doubled = layers.double(tf.constant(values), "bilinear").numpy()
    assert doubled.shape == (2, 6, 8, 2)
    for example, channel in np.ndindex(2, 2):
        picture = PIL.Image.fromarray(values[example, :, :, channel])
        expected = np.asarray(picture.resize((8, 6), PIL.Image.Resampling.BILINEAR))
        np.testing.assert_allclose(doubled[example, :, :, channel], expected, atol=1e-6)


def test_halve_is_the_mean_of_four():
    values = normal(2, 4, 6, 3)
    expected = values.reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(layers.halve(tf.constant(values)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_double_keeps_bfloat16(how):
    values = tf.ones([1, 2, 2, 1], tf.bfloat16)
    assert layers.double(values, how).dtype == tf.bfloat16
    assert layers.halve(values).dtype == tf.bfloat16
