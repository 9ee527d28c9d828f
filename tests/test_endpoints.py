"""Truncation by its closed form; picture files in the graph, and what is refused by its header."""

import io
import math
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from zoo import runtime

tf = runtime.import_tensorflow()

import contract  # noqa: E402

from zoo import endpoints  # noqa: E402
from zoo.adversarial import truncate_normal, truncate_uniform  # noqa: E402
from zoo.generative import normal_per_seed, row_seeds  # noqa: E402
from zoo.models import adain, style  # noqa: E402


def cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def normals(count: int) -> tf.Tensor:
    return normal_per_seed(tf.constant(row_seeds(1, count // 100)), 100)


@pytest.mark.parametrize("bound", [0.3, 1.0, 2.0])
def test_truncated_latents_are_distributed_as_those_drawn_anew(bound):
    """A normal distribution without its tails: its variance, and a few of its quantiles."""
    latents = normals(40_000)
    values = truncate_normal(latents, tf.fill([len(latents)], bound)).numpy().ravel()
    assert np.abs(values).max() <= bound + 1e-6
    density = math.exp(-0.5 * bound**2) / math.sqrt(2 * math.pi)
    inside = 2 * cdf(bound) - 1
    assert values.var() == pytest.approx(1 - 2 * bound * density / inside, rel=0.03)
    for point in (-0.7 * bound, 0.1 * bound, 0.5 * bound):
        share = (cdf(point) - cdf(-bound)) / inside
        assert (values < point).mean() == pytest.approx(share, abs=0.01)
    order = np.argsort(latents.numpy().ravel(), kind="stable")
    assert (np.diff(values[order]) >= 0).all()


def test_at_its_ends_truncation_leaves_all_or_nothing():
    latents = normals(10_000)
    rows = len(latents)
    np.testing.assert_allclose(truncate_normal(latents, tf.fill([rows], 6.0)), latents, atol=1e-4)
    np.testing.assert_allclose(truncate_normal(latents, tf.fill([rows], 50.0)), latents, atol=1e-4)
    assert np.abs(truncate_normal(latents, tf.fill([rows], 1e-4))).max() <= 1.01e-4
    rare = tf.constant([[-5.3, 5.3, 0.0]])
    np.testing.assert_allclose(truncate_normal(rare, tf.constant([7.0])), rare, rtol=1e-5)
    np.testing.assert_array_equal(truncate_normal(rare, tf.constant([0.0])), [[0.0, 0.0, 0.0]])


def test_each_row_has_its_own_truncation():
    latents = tf.constant([[0.5, -1.0], [0.5, -1.0]])
    np.testing.assert_allclose(
        truncate_uniform(latents, tf.constant([1.0, 0.5])), [[0.5, -1.0], [0.25, -0.5]]
    )
    both = truncate_normal(latents, tf.constant([9.0, 0.5])).numpy()
    np.testing.assert_allclose(both[0], latents[0], atol=1e-6)
    assert (np.abs(both[1]) < 0.5).all()


def test_levels_are_rounded_to_nearest():
    images = tf.constant([0.0, 1.0, 0.499 / 255, 0.501 / 255, 254.4 / 255, 1.7, -1.0, 0.5])
    (file,) = endpoints.to_png(tf.reshape(images, [1, 2, 4, 1])).numpy()
    pixels = np.asarray(Image.open(io.BytesIO(file)))
    np.testing.assert_array_equal(pixels.ravel(), [0, 255, 0, 1, 254, 255, 0, 128])


def as_file(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int) -> Image.Image:
    generator = np.random.Generator(np.random.PCG64(height))
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


read = tf.function(endpoints.from_bytes, input_signature=[tf.TensorSpec([], tf.string)])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_png_files_of_every_mode(mode):
    picture = noise(11, 17).convert(mode)
    if mode == "RGBA":
        picture.putalpha(100)
    image = read(as_file(picture, "PNG")).numpy()
    assert (image.shape, image.dtype) == ((11, 17, 3), np.float32)
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_allclose(image, expected / 255, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg_files(mode, options):
    picture = noise(3, 3).resize((50, 33), Image.Resampling.BICUBIC).convert(mode)
    file = as_file(picture, "JPEG", **options)
    image = read(file).numpy()
    assert image.shape == (33, 50, 3)
    decoded = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    # Two decoders enlarge the chroma differently.
    assert np.abs(image * 255 - decoded).mean() < 2


def png_of(width: int, height: int) -> bytes:
    """A PNG file that says that it is so large, and holds nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG file whose frame header is overwritten to say so."""
    file = as_file(noise(16, 16), "JPEG")
    at = file.index(b"\xff\xc0") + 5
    return file[:at] + struct.pack(">HH", height, width) + file[at + 4 :]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (png_of(10_000, 10_000), "expected up to 4194304 pixels"),
        (png_of(2**31 - 1, 2**31 - 1), "expected up to 4194304 pixels"),
        (png_of(2**31 + 9, 100), "expected sides from 8"),
        (png_of(2049, 2048), "expected up to 4194304 pixels"),
        (jpeg_of(10_000, 10_000), "expected up to 4194304 pixels"),
        (jpeg_of(65_500, 65), "expected up to 4194304 pixels"),
        (as_file(noise(7, 90), "PNG"), "expected sides from 8 pixels"),
        (as_file(noise(90, 7), "JPEG"), "expected sides from 8 pixels"),
        (as_file(noise(9, 9), "GIF"), "expected a JPEG or PNG file"),
        (as_file(noise(9, 9), "BMP"), "expected a JPEG or PNG file"),
        (b"", "expected a JPEG or PNG file"),
        (b"<svg/>", "expected a JPEG or PNG file"),
        (as_file(noise(9, 9), "PNG")[:20], None),
        (as_file(noise(99, 99), "PNG")[:200], None),
        (as_file(noise(99, 99), "JPEG")[:9], None),
    ],
)
def test_other_files_are_refused(file, words):
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        read(file)


def test_the_largest_picture_is_read():
    assert read(as_file(Image.new("RGB", (2048, 2048)), "PNG")).shape == (2048, 2048, 3)


@pytest.mark.parametrize("module", [style, adain])
def test_the_limits_are_told_as_they_are(module):
    model = module.build(module.TINY, image_shape=(8, 8, 3), num_classes=3, total_steps=1)
    told = model.endpoints()["stylize_bytes"].python_function.__doc__
    assert f"up to {endpoints.MOST_PIXELS:,} pixels, sides from {endpoints.LEAST_SIDE};" in told


@pytest.mark.parametrize("labels", ([0, 10], [-1, 3]))
@pytest.mark.parametrize("name", ("sample_label", "sample_label_png", "decode", "interpolate"))
def test_a_label_that_is_no_class_is_refused(name, labels):
    served = contract.build("cgan").endpoints()[name]
    feeds = {
        spec.name: tf.zeros([2, *spec.shape[1:]], spec.dtype) for spec in served.input_signature
    }
    served(*{**feeds, "label": tf.constant([0, 9])}.values())
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected labels from 0 to 9"):
        served(*{**feeds, "label": tf.constant(labels)}.values())
