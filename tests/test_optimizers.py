"""The fused Adam against Kingma & Ba's formula and against Keras's."""

import keras
import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo.optimizers import Adam  # noqa: E402


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
