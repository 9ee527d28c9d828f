"""Novelty: copies are found, whatever was done to them; new pictures are no copies."""

import numpy as np
import pytest

from zoo import runtime

runtime.import_tensorflow()

from zoo.data import glyphs  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.metrics.extractors import Extractor  # noqa: E402
from zoo.metrics.novelty import Novelty  # noqa: E402


@pytest.fixture(scope="module")
def train():
    return glyphs.draw(range(1500))[0]


@pytest.fixture(scope="module")
def novelty(train):
    return Novelty(train, glyphs.draw(range(400), split="test")[0])


def real(count):
    return glyphs.draw(range(400, 400 + count), split="test")[0]


def test_new_pictures_are_as_far_as_held_out_ones(novelty):
    measures = novelty.measure(real(400)).measures
    for name in ("pixels", "features"):
        assert measures[f"novelty_{name}"] == pytest.approx(1, abs=0.1)
        assert measures[f"near_copies_{name}"] < 0.04


def test_copies_are_found_with_what_they_are_copies_of(novelty, train):
    chosen = np.arange(5, 1500, 50)
    found = novelty.measure(train[chosen])
    for name in ("pixels", "features"):
        assert found.measures[f"novelty_{name}"] == 0
        assert found.measures[f"near_copies_{name}"] == 1
    assert (found.suspicion == 0).all()
    np.testing.assert_array_equal(found.nearest, chosen)


def test_a_few_copies_with_some_noise_are_the_most_suspicious(novelty, train):
    random = np.random.Generator(np.random.PCG64(0))
    chosen = np.array([3, 700, 1499])
    noise = 8 * random.standard_normal([3, *train.shape[1:]])
    copies = np.clip(train[chosen] + noise, 0, 255).astype(np.uint8)
    found = novelty.measure(np.concatenate([real(97), copies]))
    worst = np.argsort(found.suspicion)[:3]
    assert set(worst) == {97, 98, 99}
    np.testing.assert_array_equal(found.nearest[-3:], chosen)
    assert 0.9 < found.measures["novelty_pixels"] < 1.1
    assert found.measures["near_copies_pixels"] >= 0.03


def test_distances_are_those_to_the_nearest_picture(novelty, train):
    samples = real(20)
    found = novelty.measure(samples)
    held_out = glyphs.draw(range(400), split="test")[0]

    def nearest(images, view):
        rows = view(train)
        return [min(np.linalg.norm(rows - row, axis=1)) for row in view(images)]

    for name, view in (
        ("pixels", lambda images: images.reshape(len(images), -1).astype(float)),
        ("features", Extractor.load("glyphs").features),
    ):
        theirs, ours = nearest(held_out, view), nearest(samples, view)
        ratio = np.median(ours) / np.median(theirs)
        assert found.measures[f"novelty_{name}"] == pytest.approx(ratio)
        near = np.mean(np.array(ours) < np.quantile(theirs, 0.01))
        assert found.measures[f"near_copies_{name}"] == near


def test_noise_is_far_and_not_suspicious(novelty):
    random = np.random.Generator(np.random.PCG64(0))
    found = novelty.measure(random.integers(0, 256, [50, 28, 28, 1]).astype(np.uint8))
    assert found.measures["novelty_pixels"] > 1.5
    assert found.suspicion.min() > 0.5


def test_splits_that_share_their_pictures_are_refused(train):
    with pytest.raises(UsageError, match="half of the held-out pictures are training pictures"):
        Novelty(train, train[:100])
