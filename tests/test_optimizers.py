"""The fused Adam against Kingma & Ba's formula and against Keras's; float16's loss scale."""

import keras
import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo.optimizers import Adam, LossScale  # noqa: E402


def run(optimizer, gradients):
    variable = keras.Variable(np.linspace(-1, 1, 5, dtype=np.float32))
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [variable])
    return variable.numpy(), [v.numpy() for v in optimizer.variables]


def gradients(steps=7):
    random = np.random.Generator(np.random.PCG64(0))
    return random.standard_normal((steps, 5)).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}])
def test_it_is_adam(options):
    rate = {"learning_rate": 0.1}
    ours, ours_state = run(Adam(**rate, **options), gradients())
    theirs, theirs_state = run(keras.optimizers.Adam(**rate, **options), gradients())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for one, other in zip(ours_state, theirs_state, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    beta_1, beta_2 = options.get("beta_1", 0.9), options.get("beta_2", 0.999)
    epsilon = options.get("epsilon", 1e-7)
    value = np.linspace(-1, 1, 5)
    first = second = np.zeros(5)
    for step, gradient in enumerate(gradients().astype("f8"), start=1):
        first = beta_1 * first + (1 - beta_1) * gradient
        second = beta_2 * second + (1 - beta_2) * gradient**2
        size = 0.1 * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        value = value - size * first / (np.sqrt(second) + epsilon)
    np.testing.assert_allclose(ours, value, rtol=1e-4, atol=1e-5)


def test_it_follows_a_schedule():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 5, 0.01)
    ours, _ = run(Adam(schedule), gradients())
    theirs, _ = run(keras.optimizers.Adam(schedule), gradients())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_clipping_and_averaging_of_keras_still_work():
    options = {"learning_rate": 0.1, "global_clipnorm": 0.5, "use_ema": True, "ema_momentum": 0.5}
    ours, ours_state = run(Adam(**options), gradients())
    theirs, theirs_state = run(keras.optimizers.Adam(**options), gradients())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for one, other in zip(ours_state, theirs_state, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def update(scale, optimizer, variable, gradient):
    """One update by the gradient of gradient · variable, taken in float16; the scale it had."""
    with tf.GradientTape() as tape:
        half = tf.cast(variable.value, tf.float16)
        loss = scale.scale(tf.reduce_sum(tf.cast(half, tf.float32) * gradient))
    (scaled,) = tape.gradient(loss, [variable.value])
    return float(scale.apply(optimizer, scale.unscale([scaled]), [variable]))


def test_loss_scale_keeps_small_gradients_and_skips_large_ones():
    variable, optimizer = keras.Variable([0.0, 1.0]), keras.optimizers.SGD(1.0)
    optimizer.build([variable])
    scale = LossScale("loss")
    # 2**-26 is 0 in float16, whose least number is 2**-24.
    assert update(scale, optimizer, variable, [2.0**-26, 0.5]) == 2.0**15
    assert variable.numpy().tolist() == [-(2.0**-26), 0.5]
    variable.assign([1.0, 0.5])
    # 3 · 2**15 is more than float16's largest number, 65504: skipped, halved; then it fits.
    assert update(scale, optimizer, variable, [3.0, 0.0]) == 2.0**15
    assert variable.numpy().tolist() == [1.0, 0.5]
    assert int(optimizer.iterations) == 1
    assert update(scale, optimizer, variable, [3.0, 0.0]) == 2.0**14
    assert variable.numpy().tolist() == [-2.0, 0.5]
    assert int(optimizer.iterations) == 2


def test_loss_scale_grows_after_many_updates_and_tells_when_none_is_small_enough():
    variable, optimizer = keras.Variable([1.0]), keras.optimizers.SGD(1.0)
    optimizer.build([variable])
    scale = LossScale("loss")
    scale.count.assign(LossScale.GROWS_AFTER - 2)
    values = [update(scale, optimizer, variable, [0.0]) for _ in range(3)]
    assert values == [2.0**15, 2.0**15, 2.0**16]
    assert int(scale.count.numpy()) == 1
    values = [update(scale, optimizer, variable, [float("nan")]) for _ in range(33)]
    assert values[:3] == [2.0**16, 2.0**15, 2.0**14]
    assert np.isfinite(values[:31]).all()
    assert np.isnan(values[31:]).all()
    assert variable.numpy().tolist() == [1.0]
