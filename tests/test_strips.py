"""Pictures painted in strips: equal to what the nets make of the whole picture."""

import keras
import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo import strips  # noqa: E402
from zoo.models import adain  # noqa: E402
from zoo.style_nets import TransformerNet  # noqa: E402

WEIGHTS = np.array([0.2, 0.5, 0.3], np.float32)


def picture(height, width, seed=0):
    """Bright at the top, dark and rough at the bottom: no strip has the picture's statistics."""
    random = np.random.Generator(np.random.PCG64(seed))
    noise = random.random((height, width, 3), dtype=np.float32)
    return np.linspace(1, 0.1, height, dtype=np.float32)[:, None, None] * noise


def styled_net(**options):
    keras.utils.set_random_seed(3)
    net = TransformerNet(3, **{"width": 4, "residual_blocks": 1, "kernel_size": 7, **options})
    net(tf.zeros([1, 16, 16, 3]), WEIGHTS[None])
    for number, variable in enumerate((*net.styles, *net.grain)):
        variable.assign_add(0.4 * tf.random.stateless_normal(variable.shape, [1, number]))
    return net


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Strips of a few rows."""
    monkeypatch.setattr(strips, "_STRIP_NUMBERS", 2**11)


def joined(parts):
    parts = list(parts)
    return np.concatenate(parts), len(parts)


@pytest.mark.parametrize("height, width", [(16, 16), (61, 47), (130, 35), (18, 203)])
@pytest.mark.parametrize(
    "options",
    [
        {"upsampling": "bilinear"},
        {"upsampling": "nearest", "kernel_size": 9, "residual_blocks": 2},
    ],
    ids=["bilinear", "nearest"],
)
def test_strips_make_the_whole(height, width, options):
    net, image = styled_net(**options), picture(height, width)
    whole = net(image[None], WEIGHTS[None])[0].numpy()
    painted, count = joined(strips.paint(net, image, WEIGHTS))
    assert count > height / 20
    assert whole.std() > 0.1
    np.testing.assert_allclose(painted, whole, atol=2e-5)


@pytest.mark.parametrize("numbers, strips_there", [(1, 44), (2**12, 3), (2**22, 1)])
def test_strips_of_any_height(monkeypatch, numbers, strips_there):
    monkeypatch.setattr(strips, "_STRIP_NUMBERS", numbers)
    net, image = styled_net(upsampling="bilinear"), picture(43, 30)
    painted, count = joined(strips.paint(net, image, WEIGHTS))
    # 44 rows with what is continued; the largest map has 32 * 8 numbers a row: 16 rows a strip.
    assert count == strips_there
    np.testing.assert_allclose(painted, net(image[None], WEIGHTS[None])[0], atol=2e-5)


def test_strips_are_no_larger_than_allowed():
    net = styled_net()
    for rows in (len(strip) for strip in strips.paint(net, picture(300, 16), WEIGHTS)):
        # The largest map is the half-size one enlarged, of 8 channels.
        assert rows * 16 * 8 <= 2**11


def test_bytes_are_shares_of_255():
    net = styled_net()
    image = (255 * picture(40, 33)).astype(np.uint8)
    painted, _ = joined(strips.paint(net, image, WEIGHTS))
    whole = net((image / np.float32(255))[None], WEIGHTS[None])[0]
    np.testing.assert_allclose(painted, whole, atol=2e-5)


def test_under_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        net = styled_net()
    finally:
        keras.config.set_dtype_policy("float32")
    image = picture(50, 40)
    painted, _ = joined(strips.paint(net, image, WEIGHTS))
    whole = net(image[None], WEIGHTS[None])[0].numpy()
    assert np.abs(painted - whole).mean() < 0.01


def test_statistics_are_those_of_all_pictures():
    net, images = styled_net(), [picture(36, 24), picture(20, 44, seed=1) / 2]
    found = strips.statistics(net, images, WEIGHTS)
    assert len(found) == 7
    # The first layer has nothing normalised below it.
    kernel = net.entry[0].convolution.kernel.numpy()
    values = []
    for image in images:
        padded = np.pad(2 * image - 1, ((3, 3), (3, 3), (0, 0)), "reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(0, 1))
        values.append(np.einsum("hwcij,ijcd->hwd", windows, kernel).reshape(-1, 4))
    together = np.concatenate(values)
    np.testing.assert_allclose(found[0].mean, together.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found[0].variance, together.var(axis=0), rtol=1e-4)
    assert found[0].places == len(together)


def test_a_picture_under_its_own_statistics():
    net, image = styled_net(), picture(45, 26)
    own, _ = joined(strips.paint(net, image, WEIGHTS))
    given = strips.statistics(net, [image], WEIGHTS)
    again, _ = joined(strips.paint(net, image, WEIGHTS, given))
    np.testing.assert_allclose(again, own, atol=1e-5)


def test_shared_statistics_leave_what_does_not_move_as_it_is():
    net, first = styled_net(), picture(160, 32)
    second = first.copy()
    second[130:] = 1 - second[130:]
    shared = strips.statistics(net, [first, second], WEIGHTS)
    still = slice(0, 64)  # further from the change than a net with one block reaches
    pair = [joined(strips.paint(net, image, WEIGHTS, shared))[0] for image in (first, second)]
    np.testing.assert_array_equal(pair[0][still], pair[1][still])
    assert np.abs(pair[0][130:] - pair[1][130:]).mean() > 0.01
    alone = [joined(strips.paint(net, image, WEIGHTS))[0] for image in (first, second)]
    assert np.abs(alone[0][still] - alone[1][still]).max() > 0.01


def test_moments_are_pooled():
    random = np.random.Generator(np.random.PCG64(0))
    parts = [random.normal(3 * number, number + 1, (5 + 7 * number, 2)) for number in range(4)]
    found = strips.pooled(
        strips.Moments(part.mean(axis=0), part.var(axis=0), len(part)) for part in parts
    )
    together = np.concatenate(parts)
    np.testing.assert_allclose(found.mean, together.mean(axis=0))
    np.testing.assert_allclose(found.variance, together.var(axis=0))
    assert found.places == len(together)


def test_pictures_that_are_too_small():
    with pytest.raises(ValueError, match="15 x 40"):
        list(strips.paint(styled_net(), picture(15, 40), WEIGHTS))


@pytest.fixture(scope="module", params=["nearest", "bilinear"])
def exchanging(request):
    keras.utils.set_random_seed(0)
    model = adain.build(
        adain.Config(upsampling=request.param),
        image_shape=(32, 32, 3),
        num_classes=1,
        total_steps=1,
    )
    model.prepare()
    return model


@pytest.mark.parametrize("strength", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("height, width", [(16, 16), (61, 47), (130, 19)])
def test_strips_of_adain_make_the_whole(exchanging, height, width, strength):
    model, image, style = exchanging, picture(height, width), picture(40, 30, seed=2) ** 2
    whole = model.stylize(image[None], style[None], np.array([strength], np.float32))[0].numpy()
    moments = strips.encoded(model.encoder, [style])
    painted, count = joined(strips.exchange(model.encoder, model.decoder, image, moments, strength))
    assert count > 3
    assert whole.std() > 0.1
    np.testing.assert_allclose(painted, whole, atol=2e-5)
    if strength == 0:
        np.testing.assert_allclose(painted, image, atol=1e-6)


def test_adain_under_the_moments_of_others(exchanging):
    model, image, style = exchanging, picture(40, 24), picture(40, 30, seed=2)
    encoder, decoder = model.encoder, model.decoder
    moments, own = (strips.encoded(encoder, [each]) for each in (style, image))
    given, _ = joined(strips.exchange(encoder, decoder, image, moments, 1.0, own))
    alone, _ = joined(strips.exchange(encoder, decoder, image, moments, 1.0))
    np.testing.assert_allclose(given, alone, atol=1e-5)
    other = strips.encoded(encoder, [image, image / 2])
    features = encoder(image[None]).numpy()
    factor = np.sqrt(moments.variance + 1e-5) / np.sqrt(other.variance + 1e-5)
    wanted = (features - other.mean) * factor + moments.mean
    expected = np.clip(decoder(wanted.astype(np.float32))[0], 0, 1)
    shared, _ = joined(strips.exchange(encoder, decoder, image, moments, 1.0, other))
    np.testing.assert_allclose(shared, expected, atol=2e-5)
