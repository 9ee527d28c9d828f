"""DiffAugment's changes, each against NumPy, with the noise that training uses."""

import itertools

import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo.augment import augment, parse  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import Noise  # noqa: E402

RANDOM = np.random.Generator(np.random.PCG64(0))
MANY = 400
POLICIES = ("flip", "translation", "cutout", "color")


def pictures(count: int = MANY, height: int = 16, width: int = 16, channels: int = 3):
    """Never 0, so that what fills a gap can be told from a pixel."""
    sizes = RANDOM.uniform(0.1, 0.9, (count, height, width, channels))
    return (sizes * RANDOM.choice([-1, 1], sizes.shape)).astype(np.float32)


def changed(images: np.ndarray, policy: str, *, seed=0, step=0, purpose="real") -> np.ndarray:
    noise = Noise(seed, tf.constant(step), len(images))
    return augment(tf.constant(images), policy, noise, purpose).numpy()


@pytest.mark.parametrize("policy", ["", *POLICIES, "color,translation,cutout,flip"])
@pytest.mark.parametrize("shape", [(5, 8, 8, 1), (1, 14, 10, 3)])
def test_shapes_stay_and_so_do_types(policy, shape):
    images = pictures(*shape)
    assert changed(images, policy).shape == shape
    assert np.isfinite(changed(images, policy)).all()
    noise = Noise(0, tf.constant(0), len(images))
    assert augment(tf.cast(images, tf.bfloat16), policy, noise, "a").dtype == tf.bfloat16


def test_no_policy_changes_nothing():
    images = pictures(3)
    np.testing.assert_array_equal(changed(images, ""), images)
    np.testing.assert_array_equal(changed(images, " , "), images)


def test_changes_come_in_the_order_named():
    images = pictures(40)
    one_by_one = changed(changed(images, "color"), "cutout")
    np.testing.assert_array_equal(changed(images, "color, cutout"), one_by_one)
    other = changed(images, "cutout,color")
    np.testing.assert_array_equal(other, changed(changed(images, "cutout"), "color"))
    assert np.abs(other - one_by_one).max() > 0.1


@pytest.mark.parametrize("policy", POLICIES)
def test_changes_follow_seed_step_and_purpose(policy):
    images = pictures(40)
    first = changed(images, policy, seed=1, step=2, purpose="real")
    again = changed(images, policy, seed=1, step=2, purpose="real")
    np.testing.assert_array_equal(first, again)
    for other in (
        changed(images, policy, seed=2, step=2, purpose="real"),
        changed(images, policy, seed=1, step=3, purpose="real"),
        changed(images, policy, seed=1, step=2, purpose="fake"),
    ):
        assert np.abs(first - other).max() > 0.01
    # Examples of a batch are changed each in its own way.
    same = changed(np.repeat(images[:1], 40, axis=0), policy)
    assert np.abs(same - same[0]).max() > 0.01


def test_flip_mirrors_left_and_right_one_time_in_two():
    images = pictures()
    flipped = changed(images, "flip")
    kept = (flipped == images).all((1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=0.1)


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """np.roll, but what comes in over the edge is 0."""
    height, width, _ = image.shape
    padded = np.pad(image, [(2 * height, 2 * height), (2 * width, 2 * width), (0, 0)])
    top, left = 2 * height - down, 2 * width - right
    return padded[top : top + height, left : left + width]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 24)])
def test_translation_moves_by_whole_pixels_up_to_an_eighth(height, width):
    images = pictures(MANY, height, width)
    offsets = list(itertools.product(range(-4, 5), range(-5, 6)))
    seen = []
    for image, one in zip(images, changed(images, "translation"), strict=True):
        fitting = [offset for offset in offsets if (moved(image, *offset) == one).all()]
        assert len(fitting) == 1
        seen += fitting
    downs, rights = (range(-side // 8, side // 8 + 1) for side in (height, width))
    allowed = list(itertools.product(downs, rights))
    assert set(seen) == set(allowed)
    counts = [seen.count(offset) for offset in allowed]
    # Each alike: within five standard deviations of a binomial.
    expected = MANY / len(allowed)
    assert np.abs(np.array(counts) - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize("side", [16, 14])
def test_cutout_zeros_a_square_of_half_the_size_cut_at_the_edges(side):
    images, length = pictures(MANY, side, side), side // 2
    outputs = changed(images, "cutout")
    cut = (outputs == 0).all(axis=3)
    np.testing.assert_array_equal(outputs[~cut], images[~cut])
    starts = []
    for mask in cut:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        np.testing.assert_array_equal(mask, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            places = np.flatnonzero(line)
            first, last = places[0], places[-1]
            assert last - first + 1 == len(places)  # no holes
            if first > 0 and last < side - 1:
                assert len(places) == length
            assert len(places) >= length // 2
            starts.append(last + 1 - length if first == 0 else first)
    # The square's place is uniform: from half of it over one edge to half over the other.
    low, high = -(length // 2), side - length // 2 - length % 2
    assert set(starts) == set(range(low, high + 1))
    spread = (high - low + 1) / np.sqrt(12)
    assert np.mean(starts) == pytest.approx((low + high) / 2, abs=4 * spread / np.sqrt(2 * MANY))
    assert np.std(starts) == pytest.approx(spread, rel=0.1)


def test_color_is_brightness_then_saturation_then_contrast():
    images = pictures(channels=3).astype("f8")
    outputs = changed(images.astype("f4"), "color").astype("f8")
    grey, grey_out = images.mean(3, keepdims=True), outputs.mean(3, keepdims=True)
    over = (1, 2, 3)
    # Contrast and saturation keep the mean; saturation keeps the grey.
    brightness = outputs.mean(over) - images.mean(over)
    contrast = grey_out.std(over) / grey.std(over)
    saturation = (outputs - grey_out).std(over) / (images - grey).std(over) / contrast
    for values, low, high in (
        (brightness, -0.5, 0.5),
        (contrast, 0.5, 1.5),
        (saturation, 0.0, 2.0),
    ):
        room = 0.05 * (high - low)
        assert low - 1e-4 <= values.min() < low + room
        assert high - room < values.max() <= high + 1e-4
        assert values.mean() == pytest.approx((low + high) / 2, abs=room)
        assert values.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.1)
    draws = np.corrcoef([brightness, contrast, saturation])
    assert np.abs(draws - np.eye(3)).max() < 0.25  # drawn apart
    wide = [values[:, None, None, None] for values in (brightness, contrast, saturation)]
    bright = images + wide[0]
    saturated = bright.mean(3, keepdims=True) + wide[2] * (images - grey)
    mean = saturated.mean(over, keepdims=True)
    np.testing.assert_allclose(outputs, mean + wide[1] * (saturated - mean), atol=1e-4)


@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_go_through_the_changes(policy):
    images, upstream = tf.constant(pictures(40)), pictures(40)
    noise = Noise(0, tf.constant(0), 40)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = augment(images, policy, noise, "real")
        paid = tf.reduce_sum(outputs * upstream)
    gradient = tape.gradient(paid, images).numpy().astype("f8")
    # Each example's change is affine: the gradient is its transpose, so that
    # <gradient, images> = <upstream, change(images) - change(0)>.
    offset = augment(tf.zeros_like(images), policy, noise, "real")
    expected = (upstream * (outputs - offset).numpy().astype("f8")).sum((1, 2, 3))
    np.testing.assert_allclose(
        (gradient * images.numpy()).sum((1, 2, 3)), expected, rtol=1e-3, atol=1e-3
    )
    assert (np.abs(gradient).sum((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("policy", ["translaton", "color,translaton", "translaton,cutout"])
def test_unknown_changes_are_refused_with_the_nearest(policy):
    with pytest.raises(UsageError, match="unknown augmentation 'translaton': did you mean tr"):
        parse(policy)
    with pytest.raises(UsageError, match="known: color, cutout, flip, translation"):
        changed(pictures(1), "rotate")
