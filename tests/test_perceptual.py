"""Perceptual nets: the random one as it was made, VGG against Keras's own forward pass."""

import keras
import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from experiments import perceptual as maker  # noqa: E402
from zoo import perceptual  # noqa: E402
from zoo.data import paintings  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import to_float  # noqa: E402


def pictures(count: int = 2, size: int = 32) -> tf.Tensor:
    images, _ = paintings.draw(range(count), image_size=size)
    return to_float(tf.constant(images))


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """Weights of a VGG-16 of our own, with biases that are not 0."""
    keras.utils.set_random_seed(0)
    net = keras.applications.VGG16(include_top=False, weights=None)
    for layer in net.layers:
        if layer.get_weights():
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, bias + 0.01 * np.arange(len(bias))])
    path = tmp_path_factory.mktemp("vgg") / "vgg16_notop.weights.h5"
    net.save_weights(path)
    return path, net


@pytest.mark.slow
def test_the_shipped_random_net_is_what_its_maker_makes():
    made, shipped = maker.make(seed=0), perceptual.load_weights("random").arrays
    assert len(made) == 2 * len(shipped)
    for layer, arrays in shipped.items():
        for kind, array in zip(("kernel", "bias"), arrays, strict=True):
            # Linear algebra differs in last bits from machine to machine.
            np.testing.assert_allclose(made[f"{layer}_{kind}"], array, rtol=0.01, atol=0.01)


def test_random_features_of_unseen_paintings_are_as_calibrated():
    images, _ = paintings.draw(range(100, 140), image_size=64)
    found = perceptual.load("random")(to_float(tf.constant(images)))
    assert list(found) == ["conv1_1", "conv2_1", "conv3_1", "conv4_1"]
    sizes = {"conv1_1": (64, 32), "conv2_1": (32, 64), "conv3_1": (16, 128), "conv4_1": (8, 128)}
    for layer, (size, channels) in sizes.items():
        assert found[layer].shape == (40, size, size, channels)
        firing = float(tf.reduce_mean(tf.cast(found[layer] > 0, tf.float32)))
        # A standard normal response: half of it above 0, mean square 1/2 after the ReLU.
        assert 0.35 < firing < 0.65
        assert 0.35 < float(tf.reduce_mean(tf.square(found[layer]))) < 0.75


def test_random_filters_are_orthogonal():
    kernel = maker._orthogonal(np.random.default_rng(0), 3, 8).reshape(27, 8)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(8), atol=1e-6)
    wide = maker._orthogonal(np.random.default_rng(0), 1, 32).reshape(9, 32)
    np.testing.assert_allclose(wide @ wide.T, np.eye(9), atol=1e-6)


def test_vgg_computes_what_keras_computes(vgg_file):
    path, net = vgg_file
    layers = {"conv1_2": "block1_conv2", "conv3_3": "block3_conv3", "conv4_1": "block4_conv1"}
    reference = keras.Model(net.input, [net.get_layer(name).output for name in layers.values()])
    images = pictures()
    prepared = keras.applications.vgg16.preprocess_input(255.0 * images.numpy())
    expected = reference(prepared)
    found = perceptual.load("vgg16", str(path), pooling="max")(images, *layers)
    assert list(found) == list(layers)
    for ours, theirs in zip(found.values(), expected, strict=True):
        scale = float(np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * scale)


def test_average_pooling_is_the_mean_of_four():
    images = pictures(1, 8)
    net = perceptual.load("random")
    first = net(images, "conv1_1")["conv1_1"].numpy()
    mean = first.reshape(1, 4, 2, 4, 2, 32).mean((2, 4))
    kernel, bias = perceptual.load_weights("random").arrays["conv2_1"]
    expected = tf.nn.relu(tf.nn.conv2d(mean, kernel.astype("f4"), 1, "SAME") + bias.astype("f4"))
    np.testing.assert_allclose(net(images, "conv2_1")["conv2_1"], expected, atol=1e-5)


def test_the_hash_follows_the_weights(vgg_file, tmp_path):
    path, net = vgg_file
    first = perceptual.load_weights("vgg16", str(path)).hash
    kernel, bias = net.get_layer("block2_conv1").get_weights()
    net.get_layer("block2_conv1").set_weights([kernel, bias + 1e-3])
    net.save_weights(tmp_path / "other.weights.h5")
    net.get_layer("block2_conv1").set_weights([kernel, bias])
    assert perceptual.load_weights("vgg16", str(path)).hash == first
    assert perceptual.load_weights("vgg16", str(tmp_path / "other.weights.h5")).hash != first


def test_the_encoder_is_the_net_up_to_its_layer(vgg_file):
    weights = perceptual.load_weights("random")
    encoder = perceptual.Encoder("random")
    assert encoder.channels == [[32], [64], [128]]
    assert not encoder.trainable_variables
    encoder.load(weights)
    expected = perceptual.Perceptual("random", weights, "max")(pictures(), "conv3_1")["conv3_1"]
    np.testing.assert_allclose(encoder(pictures()), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vgg16", b"", "not the weights of vgg16"),
        ("vgg16", b"no weights at all", "not the weights of vgg16"),
        ("vgg16", None, "no such file; expected vgg16's weights"),
        ("random", b"", "the random net has its own; add --perceptual=vgg16"),
    ],
)
def test_wrong_weights_are_refused_in_one_line(name, content, message, tmp_path):
    path = tmp_path / "file.weights.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        perceptual.load(name, str(path))
    assert "\n" not in str(caught.value)


def test_weights_of_another_net_are_refused(vgg_file):
    path, _ = vgg_file
    with pytest.raises(UsageError, match=r"not the weights of vgg19 \(.*VGG19"):
        perceptual.load("vgg19", str(path))


def test_unknown_nets_are_refused():
    with pytest.raises(UsageError, match="unknown perceptual net 'vgg18': did you mean vgg1"):
        perceptual.load("vgg18")
