"""The graph of FID, as a small one of the same tensor names and of the same age."""

import hashlib
import math

import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo.data import paintings  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.metrics import distances, inception, quality  # noqa: E402

CHUNK = inception.CHUNK
NUM_FEATURES, CLASSES, VERSION = 16, 6, 8


class Inception(inception.Inception):
    """As it is but for its width: the square root of 2048x2048 covariances takes too long."""

    num_features = NUM_FEATURES


def weights():
    random = np.random.Generator(np.random.PCG64(0))
    kernel = random.standard_normal([1, 1, 3, NUM_FEATURES]).astype(np.float32)
    logits = 0.05 * random.standard_normal([NUM_FEATURES, CLASSES]).astype(np.float32)
    return kernel, logits


def graph(feature_name="pool_3"):
    """One picture [H, W, 3] -> ExpandDims -> 299x299 -> (x - 128) / 128 -> a layer -> pool_3."""
    kernel, logits = weights()
    with tf.Graph().as_default() as made:
        image = tf.compat.v1.placeholder(tf.float32, [None, None, 3], name="Cast")
        x = tf.expand_dims(image, 0, name="ExpandDims")
        x = tf.compat.v1.image.resize_bilinear(x, [299, 299], name="ResizeBilinear")
        x = tf.multiply(tf.subtract(x, 128.0, name="Sub"), 1 / 128, name="Mul")
        x = tf.reduce_mean(x, [1, 2], keepdims=True)
        x = tf.identity(tf.nn.conv2d(x, kernel, 1, "VALID", name="conv"), "norm")
        x = tf.nn.relu(x, name=feature_name)
        x = tf.reshape(x, [1, NUM_FEATURES], name="pool_3/_reshape")
        tf.add(tf.matmul(x, logits, name="softmax/logits/MatMul"), 100.0, name="softmax/logits")
        definition = made.as_graph_def()
    # The 2015 graph normalises by an operation that newer graphs may not have.
    definition.versions.producer = VERSION
    for node in definition.node:
        for name in set(node.attr) & {"half_pixel_centers", "explicit_paddings"}:
            del node.attr[name]
        if node.name == "norm":
            node.op = "BatchNormWithGlobalNormalization"
            node.attr["variance_epsilon"].f = 0.001
            node.attr["scale_after_normalization"].b = False
            for part, value in (("m", 0.5), ("v", 3.999), ("beta", 1.0), ("gamma", 1.0)):
                constant = definition.node.add(name=part, op="Const")
                array = np.full(NUM_FEATURES, value, np.float32)
                constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
                constant.attr["dtype"].type = tf.float32.as_datatype_enum
                node.input.append(part)
    return definition


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("inception") / "classify_image_graph_def.pb"
    file.write_bytes(graph().SerializeToString())
    return file


def enlarged(image, size=299):
    """Bilinear as TensorFlow 1 did it: place i of the result is place i · H / 299 of the image."""

    def axis(values):
        places = np.arange(size) * len(values) / size
        low = np.floor(places).astype(int)
        share = (places - low).reshape(-1, *[1] * (values.ndim - 1))
        high = np.minimum(low + 1, len(values) - 1)
        return (1 - share) * values[low] + share * values[high]

    return axis(axis(image.astype(float)).swapaxes(0, 1)).swapaxes(0, 1)


def test_features_and_classes_are_those_of_the_graph(path):
    images, _ = paintings.draw(range(3), image_size=20)
    kernel, logits = weights()
    means = np.stack([(enlarged(image).mean((0, 1)) - 128) / 128 for image in images])
    expected = np.maximum((means @ kernel[0, 0] - 0.5) / 2 + 1, 0)
    outputs = Inception(path).outputs(images)
    np.testing.assert_allclose(outputs.features, expected, atol=1e-4)
    scores = np.exp(expected @ logits)  # without the bias
    np.testing.assert_allclose(
        outputs.probabilities, scores / scores.sum(1, keepdims=True), atol=1e-4
    )


def test_features_do_not_depend_on_the_batch(path):
    net = Inception(path)
    images, _ = paintings.draw(range(5), image_size=16)
    many = net.outputs(np.concatenate([images] * (CHUNK // 5 + 1))).features
    np.testing.assert_array_equal(net.outputs(images[2:3]).features[0], many[-3])
    grey = images[..., :1]
    same = net.outputs(np.repeat(grey, 3, axis=-1)).features
    np.testing.assert_array_equal(net.outputs(grey).features, same)


def test_its_distances_alone_are_called_fid_and_kid(path):
    images, _ = paintings.draw(range(24), image_size=16)
    net = Inception(path)
    judge = quality.SampleQuality(images[:12], paintings.CLASS_NAMES, net)
    measures = judge.measure(images[12:], np.zeros(12, np.int32))
    assert {"fid", "kid", "inception_score", "relative_fid"} <= set(measures)
    assert not any("glyphs" in name or "paintings" in name for name in measures)
    assert "class_accuracy" not in measures
    features, probabilities = net.outputs(images[12:])
    real = net.outputs(images[:12]).features
    assert measures["fid"] == pytest.approx(distances.frechet_distance(real, features), rel=1e-6)
    kernel, _ = distances.kernel_distance(real, features, scale=1.0)
    assert measures["kid"] == pytest.approx(1000 * kernel)
    whole = probabilities.mean(0)
    divergence = np.mean(np.sum(probabilities * np.log(probabilities / whole), axis=1))
    assert measures["inception_score"] == pytest.approx(math.exp(divergence))
    protocol = judge.protocol(12)
    assert protocol["extractor_hash"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "without antialiasing" in protocol["resize"]
    assert "root mean square" not in protocol["kernel"]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match="missing.pb: No such file"):
        Inception(tmp_path / "missing.pb")
    (tmp_path / "text.pb").write_bytes(b"no graph at all")
    with pytest.raises(UsageError, match="expected classify_image_graph_def.pb"):
        Inception(tmp_path / "text.pb")
    (tmp_path / "other.pb").write_bytes(graph("pool_4").SerializeToString())
    with pytest.raises(UsageError, match="expected classify_image_graph_def.pb"):
        Inception(tmp_path / "other.pb")


def test_the_graph_of_fid_has_2048_features(path):
    with pytest.raises(UsageError, match="logits of 16 features; .*, which has 2048"):
        inception.Inception(path)


def test_other_images_are_refused(path):
    with pytest.raises(UsageError, match="Inception expects uint8"):
        Inception(path).outputs(np.zeros([2, 8, 8, 3], np.float32))
