"""Style transfer: nets against the papers and NumPy, what a style is, what training may move."""

import functools

import keras
import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo import losses  # noqa: E402
from zoo.data import pipeline  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import Noise  # noqa: E402
from zoo.loop import Loop  # noqa: E402
from zoo.models import adain, style  # noqa: E402
from zoo.style_nets import (  # noqa: E402
    Decoder,
    TransformerNet,
    fixed_grain,
    normalise,
    pad_to_multiple,
)

SIZE = 16
RANDOM = np.random.default_rng(0)


def pictures(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(count).random((count, height, width, 3)).astype(np.float32)


def examples() -> dict[str, np.ndarray]:
    images = (255 * pictures(12)).astype(np.uint8)
    return {
        "image": images,
        "label": np.zeros(12, np.int32),
        "style": images[:3],
        "style_label": np.arange(3, dtype=np.int32),
    }


def build(module=style, num_styles: int = 3, **config):
    keras.utils.set_random_seed(0)
    settings = module.Config(**{**vars(module.TINY), **config})
    model = module.build(
        settings, image_shape=(SIZE, SIZE, 3), num_classes=num_styles, total_steps=20
    )
    model.prepare()
    return model


def train(model, steps: int, data=None) -> None:
    data = data or examples()
    Loop(model, lambda step, context: pipeline.batches(data, 4), total_steps=steps).train()


@functools.cache
def trained() -> style.StyleTransfer:
    model = build()
    train(model, 8)
    return model


# ---- nets


def test_the_net_of_the_paper_has_its_parameters():
    """Johnson et al., supplement, table 1: 1.68 million (pytorch/examples: 1,679,235)."""
    net = TransformerNet(1)
    net(tf.zeros([1, 16, 16, 3]), tf.ones([1, 1]))
    kernels = 81 * 3 * 32 + 9 * 32 * 64 + 9 * 64 * 128 + 10 * 9 * 128 * 128
    kernels += 9 * 128 * 64 + 9 * 64 * 32 + 81 * 32 * 3 + 3
    channels = 32 + 64 + 128 + 10 * 128 + 64 + 32
    grain = 128 + 64
    assert net.count_params() == kernels + 2 * channels + grain
    # Theirs has a bias in each normalised convolution, ours grain.
    assert net.count_params() - grain + channels == 1_679_235


def test_normalise_gives_the_asked_moments():
    x = RANDOM.normal(3.0, 2.0, (2, 5, 6, 4)).astype(np.float32)
    mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
    scale = tf.constant(RANDOM.random((2, 4)), tf.float32)
    shift = tf.constant(RANDOM.random((2, 4)), tf.float32)
    y = normalise(tf.constant(x), mean, variance, scale, shift).numpy()
    np.testing.assert_allclose(y.mean((1, 2)), shift, atol=1e-5)
    np.testing.assert_allclose(y.std((1, 2)), scale, rtol=1e-4)


def test_a_mixture_of_styles_mixes_their_vectors():
    net = trained().net
    vectors = np.stack([variable.numpy() for variable in net.styles])
    weights = np.array([[0.2, 0.5, 0.3]], np.float32)
    found = net.affine(tf.constant(weights))
    scales = np.concatenate([scale.numpy() for scale, _ in found], axis=1)
    shifts = np.concatenate([shift.numpy() for _, shift in found], axis=1)
    mixed = np.concatenate([scales, shifts], axis=1)
    np.testing.assert_allclose(mixed, weights @ vectors, rtol=1e-5, atol=1e-6)
    assert [scale.shape[1] for scale, _ in found] == [layer.filters for layer in net.convolutions]


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (9, 50)])
def test_any_size_is_painted_at_its_own_size(size):
    images = tf.constant(pictures(2, *size))
    painted = trained().net(images, tf.one_hot([0, 2], 3))
    assert painted.shape == (2, *size, 3)
    assert painted.numpy().min() >= 0
    assert painted.numpy().max() <= 1


def test_padding_continues_by_reflection():
    images = tf.constant(pictures(1, 5, 7))
    padded = pad_to_multiple(images, 4).numpy()
    np.testing.assert_array_equal(
        padded, np.pad(images, [(0, 0), (0, 3), (0, 1), (0, 0)], mode="reflect")
    )


def test_pictures_do_not_depend_on_their_company_and_grain_is_fixed():
    model = trained()
    assert any((variable.numpy() != 0).any() for variable in model.net.grain)
    images, weights = tf.constant(pictures(3)), tf.one_hot([0, 1, 2], 3)
    together = model.net(images, weights).numpy()
    for row in range(3):
        alone = model.net(images[row : row + 1], weights[row : row + 1]).numpy()
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)
    other = [2.0 * grain for grain in fixed_grain(SIZE, SIZE)]
    assert np.abs(model.net(images, weights, other).numpy() - together).max() > 1e-4


def test_the_decoder_of_vgg19_is_the_paper_s():
    """Huang & Belongie's code, decoder.lua: nine 3x3 convolutions, enlarged three times."""
    decoder = Decoder([[64, 64], [128, 128], [256] * 4, [512]], "nearest")
    assert decoder(tf.zeros([1, 4, 5, 512])).shape == (1, 32, 40, 3)
    filters = [layer.filters for layer in decoder.convolutions]
    assert filters == [256, 256, 256, 256, 128, 128, 64, 64, 3]
    enlarged = [number for number, layer in enumerate(decoder.convolutions) if layer.upsampling]
    assert enlarged == [1, 5, 7]
    kernels = sum(9 * a * b + b for a, b in zip([512, *filters], filters, strict=False))
    assert decoder.count_params() == kernels


# ---- the network of many styles


def test_strength_fades_from_the_picture_to_the_painting():
    model = trained()
    images, weights = tf.constant(pictures(2)), tf.one_hot([1, 2], 3)
    painted = model.net(images, weights)
    for strength, expected in (
        (0.0, images),
        (1.0, painted),
        (0.25, 0.75 * images + 0.25 * painted),
    ):
        found = model.stylize(images, weights, tf.fill([2], strength))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_objective_is_the_weighted_sum_of_what_is_reported():
    model = build(content_weight=0.7, style_weight=2.0, patch_weight=0.3, edge_weight=1.5)
    data = {name: tf.constant(values[:3]) for name, values in examples().items()}
    found = model.compute_losses(data, Noise(0, tf.constant(0), 3), training=True)
    reports = found.reports
    weights = {"content": 0.7, "style": 2.0, "patches": 0.3, "edges": 1.5, "total_variation": 0.1}
    expected = sum(weight * reports[name] for name, weight in weights.items())
    np.testing.assert_allclose(found.objectives["stylization"], expected, rtol=1e-5)
    layers = [value for name, value in reports.items() if name.startswith("style/")]
    np.testing.assert_allclose(reports["style"], np.mean(layers, axis=0), rtol=1e-5)


def test_each_style_is_learned_from_its_own_picture():
    """A style without examples keeps its vector; one with examples does not."""
    model = build()
    data = examples() | {"style": examples()["style"][1:2], "style_label": np.array([1], np.int32)}
    train(model, 3, data)
    neutral = np.repeat([1.0, 0.0], model.net.style_size // 2)
    for number, variable in enumerate(model.net.styles):
        assert (variable.numpy() == neutral).all() == (number != 1)


def test_an_added_style_leaves_net_and_other_styles_as_they_are():
    base = trained()
    model = build(num_styles=4, add_style="new.png", base_run="runs/base")
    model.adopt(base)
    before = [variable.numpy() for variable in base.net.styles]
    np.testing.assert_allclose(model.net.styles[-1], np.mean(before, axis=0), atol=1e-6)
    images = tf.constant(pictures(2))
    old = base.net(images, tf.one_hot([0, 2], 3)).numpy()
    new = model.net.styles[-1].numpy()
    data = examples() | {"style": examples()["style"][:1], "style_label": np.array([3], np.int32)}
    train(model, 3, data)
    assert (model.net.styles[-1].numpy() != new).any()
    np.testing.assert_array_equal(model.net(images, tf.one_hot([0, 2], 4)), old)


def test_a_style_and_its_network_belong_together():
    for options in ({"add_style": "a.png"}, {"base_run": "runs/base"}):
        with pytest.raises(UsageError, match="--add_style=PICTURE and --base_run=RUN belong"):
            style.Config(**options)


# ---- adain


def test_the_exchange_gives_the_style_s_moments_and_keeps_a_picture_in_its_own_style():
    model = build(adain)
    content, other = (tf.constant(RANDOM.random((2, 4, 5, 128)), tf.float32) for _ in range(2))
    exchanged = model.exchange(content, 3.0 * other + 1.0).numpy()
    wanted = (3.0 * other + 1.0).numpy()
    np.testing.assert_allclose(exchanged.mean((1, 2)), wanted.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(exchanged.std((1, 2)), wanted.std((1, 2)), rtol=1e-3)
    np.testing.assert_allclose(model.exchange(content, content), content, atol=1e-4)


def test_adain_s_strength_0_is_the_picture_and_its_features_are_mixed():
    model = build(adain)
    train(model, 3)
    images, styles = tf.constant(pictures(2, 13, 18)), tf.constant(pictures(3)[:2])
    none = model.stylize(images, styles, tf.zeros([2]))
    np.testing.assert_allclose(none, images, atol=1e-6)
    whole = model.stylize(images, styles, tf.ones([2])).numpy()
    encoded = model.encoder(pad_to_multiple(images, 4))
    decoded = model.decoder(model.exchange(encoded, model.encoder(styles)))[:, :13, :18]
    np.testing.assert_allclose(whole, tf.clip_by_value(decoded, 0, 1), atol=1e-5)
    assert np.abs(whole - model.stylize(images, styles[::-1], tf.ones([2])).numpy()).max() > 1e-4


def test_adain_is_judged_by_its_own_distances():
    model = build(adain)
    features, other = (tf.constant(pictures(2, 4, 4)) for _ in range(2))
    np.testing.assert_array_equal(
        model.style_distance(features, 2 * other), losses.moments_loss(features, 2 * other)
    )


def test_adain_s_encoder_is_in_the_checkpoint_and_does_not_move():
    model = build(adain)
    before = [variable.numpy() for variable in model.encoder.variables]
    assert any(value.any() for value in before)
    train(model, 2)
    for variable, value in zip(model.encoder.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    held = {id(variable) for variable in model.state()}
    assert all(id(variable.value) in held for variable in model.encoder.variables)


# ---- both


@pytest.mark.parametrize("module", [style, adain])
def test_grey_pictures_and_wrong_weights_are_refused(module):
    with pytest.raises(UsageError, match="works on colour pictures, these have 1 channel"):
        module.build(module.TINY, image_shape=(16, 16, 1), num_classes=2, total_steps=2)
    with pytest.raises(UsageError, match="--edge_weight=-1.0: expected 0 or more"):
        module.Config(edge_weight=-1.0)


def test_nothing_is_compared_before_prepare():
    model = style.build(style.TINY, image_shape=(16, 16, 3), num_classes=3, total_steps=2)
    data = {name: tf.constant(values[:3]) for name, values in examples().items()}
    with pytest.raises(RuntimeError, match="before prepare"):
        model.compute_losses(data, Noise(0, tf.constant(0), 3), training=True)
