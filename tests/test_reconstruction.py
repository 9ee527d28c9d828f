"""PSNR, SSIM and the perceptual distance against slow computations; units that are in use."""

import math

import numpy as np
import pytest

from zoo import runtime

runtime.import_tensorflow()

from zoo.data import glyphs, paintings  # noqa: E402
from zoo.metrics import reconstruction  # noqa: E402
from zoo.metrics.extractors import STRIDES, Extractor  # noqa: E402


def pairs(count=3, shape=(17, 14, 1)):
    random = np.random.Generator(np.random.PCG64(0))
    images = random.integers(0, 256, [count, *shape])
    noise = 40 * random.standard_normal(images.shape)
    return images.astype(np.uint8), np.clip(images + noise, 0, 255).astype(np.uint8)


def slow_ssim(a, b):
    """One channel [H, W]: Wang et al. 2004, equations 13 to 16, every window by itself."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = (image[top : top + 11, left : left + 11].astype(float) for image in (a, b))
            mx, my = np.sum(window * x), np.sum(window * y)
            vx, vy = np.sum(window * (x - mx) ** 2), np.sum(window * (y - my) ** 2)
            covariance = np.sum(window * (x - mx) * (y - my))
            top_half = (2 * mx * my + c1) * (2 * covariance + c2)
            values.append(top_half / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return np.mean(values)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_that_of_the_paper(channels):
    images, others = pairs(shape=(17, 14, channels))
    expected = [
        np.mean([slow_ssim(a[..., c], b[..., c]) for c in range(channels)])
        for a, b in zip(images, others, strict=True)
    ]
    found = reconstruction.ssim(images, others)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert 0.3 < found.mean() < 0.99
    np.testing.assert_allclose(reconstruction.ssim(images, images), 1, atol=1e-6)


def test_psnr():
    images, others = pairs()
    errors = ((images.astype(float) - others) ** 2).mean(axis=(1, 2, 3))
    expected = 10 * np.log10(255**2 / errors)
    np.testing.assert_allclose(reconstruction.psnr(images, others), expected, rtol=1e-5)
    assert (reconstruction.psnr(images, images) == reconstruction.MAX_PSNR).all()


def test_pictures_by_chunks_are_compared_as_at_once(monkeypatch):
    images, others = pairs(5)
    whole = reconstruction.psnr(images, others)
    monkeypatch.setattr(reconstruction, "_CHUNK_PIXELS", 2 * 17 * 14)
    np.testing.assert_allclose(reconstruction.psnr(images, others), whole)


def convolutions(extractor, image):
    """What each layer of the extractor's file gives for one image, by loops over the places."""
    path = reconstruction.__file__.replace("reconstruction.py", f"{extractor.name}.npz")
    with np.load(path) as weights:
        x = image / 255.0
        for number, stride in enumerate(STRIDES):
            kernel = weights[f"conv{number}_kernel"].astype(float)
            bias = weights[f"conv{number}_bias"].astype(float)
            size = -(-x.shape[0] // stride)
            total = max((size - 1) * stride + 3 - x.shape[0], 0)
            before = total // 2
            padded = np.pad(x, [(before, total - before)] * 2 + [(0, 0)])
            x = np.zeros([size, size, kernel.shape[-1]])
            for row in range(size):
                for column in range(size):
                    top, left = row * stride, column * stride
                    patch = padded[top : top + 3, left : left + 3]
                    x[row, column] = np.maximum(np.tensordot(patch, kernel, 3) + bias, 0)
            yield x


@pytest.mark.parametrize("draw", [glyphs.draw, paintings.draw])
def test_the_perceptual_distance_is_of_unit_vectors_at_every_place(draw):
    images, _ = draw(range(4), image_size=28 if draw is glyphs.draw else 32)
    extractor = Extractor.for_images(images.shape[1:])
    found = extractor.perceptual_distances(images[:2], images[2:])
    for a, b, value in zip(images[:2], images[2:], found, strict=True):
        layers = []
        for x, y in zip(convolutions(extractor, a), convolutions(extractor, b), strict=True):
            x, y = (v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-5) for v in (x, y))
            layers.append(np.mean(np.sum((x - y) ** 2, axis=-1)))
        assert value == pytest.approx(np.mean(layers), rel=1e-3)
    assert (extractor.perceptual_distances(images, images) == 0).all()


def test_measures_are_means_under_the_name_of_the_extractor():
    images, _ = glyphs.draw(range(30))
    blurred = (images // 2 + np.roll(images, 1, axis=2) // 2).astype(np.uint8)
    measures = reconstruction.measure(images, blurred)
    assert list(measures) == ["psnr", "ssim", "perceptual_glyphs"]
    assert measures["psnr"] == pytest.approx(reconstruction.psnr(images, blurred).mean())
    perfect = reconstruction.measure(images, images)
    assert (perfect["ssim"], perfect["perceptual_glyphs"]) == (pytest.approx(1), 0)
    small, _ = glyphs.draw(range(6), image_size=10)
    assert "ssim" not in reconstruction.measure(small, small)


def test_active_units():
    random = np.random.Generator(np.random.PCG64(0))
    deviations = np.array([1.0, 0.11, 0.09, 0.0])
    means = deviations * random.standard_normal([5000, 4]) + 7
    assert math.isclose(means[:, 3].std(), 0)
    assert reconstruction.active_units(means) == 2
