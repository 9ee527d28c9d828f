"""Pictures and animations as users have them, most of them built here byte by byte."""

import itertools
import os
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from zoo import photos
from zoo.errors import UsageError


def noise(height, width, seed=0):
    random = np.random.Generator(np.random.PCG64(seed))
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width, shift=0.0):
    """A picture without sharp edges, which lossy formats keep well."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    channels = [
        np.sin(3 * x + 2 * y + shift),
        np.cos(4 * y - 2 * x + shift),
        np.sin(5 * x * y + 1 - shift),
    ]
    return (127.5 + 110 * np.stack(channels, -1)).astype(np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def difference(left, right):
    assert left.shape == right.shape
    return np.abs(left.astype(int) - right.astype(int))


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, color, rows, *more):
    """A PNG file from the bytes of its rows."""
    return b"".join([
        b"\x89PNG\r\n\x1a\n",
        png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)),
        *itertools.starmap(png_chunk, more),
        png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        png_chunk(b"IEND", b""),
    ])  # fmt: skip


def on_white(color, alpha):
    return np.rint((np.asarray(color) * alpha + 255.0 * (255 - alpha)) / 255)


# What modes and depths hold.


def test_one_bit_grey_and_palette(tmp_path):
    bits = Image.fromarray(np.array([[False, True, True]]))
    assert bits.mode == "1"
    got = photos.read(saved(tmp_path / "a.png", bits))
    np.testing.assert_array_equal(got[0, :, 0], [0, 255, 255])

    grey = noise(5, 7)[..., 0]
    got = photos.read(saved(tmp_path / "b.png", Image.fromarray(grey)))
    np.testing.assert_array_equal(got, np.stack([grey] * 3, -1))

    indexed = Image.frombytes("P", (3, 1), b"\0\1\2")
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    got = photos.read(saved(tmp_path / "c.png", indexed))
    np.testing.assert_array_equal(got[0], [[10, 20, 30], [40, 50, 60], [70, 80, 90]])


def test_transparency_lies_on_white(tmp_path):
    rgba = Image.frombytes("RGBA", (3, 1), bytes([0, 99, 200, 0, 0, 99, 200, 100, 0, 99, 200, 255]))
    expected = [on_white([0, 99, 200], alpha) for alpha in (0, 100, 255)]
    for name in ("a.png", "a.tif"):
        got = photos.read(saved(tmp_path / name, rgba))
        assert difference(got[0], np.array(expected)).max() <= 1
    got = photos.read(saved(tmp_path / "a.webp", rgba, lossless=True, exact=True))
    assert difference(got[0], np.array(expected)).max() <= 1

    grey = Image.frombytes("LA", (2, 1), bytes([50, 0, 50, 128]))
    got = photos.read(saved(tmp_path / "b.png", grey))
    assert difference(got[0, :, 2], on_white([50, 50], np.array([0, 128]))).max() <= 1

    indexed = Image.frombytes("P", (3, 1), b"\0\1\2")
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    one = photos.read(saved(tmp_path / "c.png", indexed, transparency=1))
    np.testing.assert_array_equal(one[0], [[10, 20, 30], [255] * 3, [70, 80, 90]])
    gif = photos.read(saved(tmp_path / "c.gif", indexed, transparency=1))
    np.testing.assert_array_equal(gif, one)
    many = photos.read(saved(tmp_path / "d.png", indexed, transparency=bytes([255, 0, 51])))
    assert difference(many[0, 2], on_white([70, 80, 90], 51)).max() <= 1
    np.testing.assert_array_equal(many[0, :2], one[0, :2])
    with_alpha = photos.read(saved(tmp_path / "e.tif", indexed.convert("PA")))
    np.testing.assert_array_equal(with_alpha[0], [[10, 20, 30], [40, 50, 60], [70, 80, 90]])


def test_one_transparent_color_of_a_png(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, 8, 2, [bytes([1, 2, 3, 4, 5, 6])], (b"tRNS", b"\0\1\0\2\0\3")))
    np.testing.assert_array_equal(photos.read(path)[0], [[255] * 3, [4, 5, 6]])
    path.write_bytes(png(2, 1, 16, 0, [struct.pack(">2H", 1000, 1001)], (b"tRNS", b"\x03\xe8")))
    np.testing.assert_array_equal(photos.read(path)[0, :, 0], [255, 4])


def test_sixteen_bits_are_scaled(tmp_path):
    values = [0, 1, 128, 129, 255, 256, 257, 32768, 65406, 65407, 65535]
    expected = [round(value / 257) for value in values]
    path = tmp_path / "a.png"
    path.write_bytes(png(len(values), 1, 16, 0, [struct.pack(f">{len(values)}H", *values)]))
    np.testing.assert_array_equal(photos.read(path)[0, :, 1], expected)
    pgm = tmp_path / "a.pgm"
    pgm.write_bytes(b"P5 11 1 65535\n" + struct.pack(f">{len(values)}H", *values))
    np.testing.assert_array_equal(photos.read(pgm)[0, :, 1], expected)
    for order, name in (("<", "a.tif"), (">", "b.tif")):
        mode = "I;16" if order == "<" else "I;16B"
        data = struct.pack(f"{order}{len(values)}H", *values)
        image = Image.frombytes(mode, (len(values), 1), data)
        np.testing.assert_array_equal(photos.read(saved(tmp_path / name, image))[0, :, 1], expected)
    colors = png(1, 1, 16, 2, [struct.pack(">3H", 0, 32768, 65535)])
    path.write_bytes(colors)
    assert difference(photos.read(path)[0, 0], np.array([0, 128, 255])).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 0.5, 1.0], [0, 64, 128, 255]),
        ([0.0, 0.0, 0.2, 0.4], [0, 0, 51, 102]),  # Within 0 to 1, nothing is stretched.
        ([-1.0, 0.0, 1.0, 3.0], [0, 64, 128, 255]),
        ([5.0, np.nan, np.inf, 10.0], [0, 0, 255, 255]),
        ([np.nan] * 4, [0] * 4),
    ],
)
def test_floats(tmp_path, values, expected):
    image = Image.fromarray(np.array([values], np.float32))
    assert image.mode == "F"
    np.testing.assert_array_equal(photos.read(saved(tmp_path / "a.tif", image))[0, :, 0], expected)


def test_integers_beyond_sixteen_bits_are_stretched(tmp_path):
    image = Image.fromarray(np.array([[-100_000, 0, 100_000]], np.int32))
    got = photos.read(saved(tmp_path / "a.tif", image))
    np.testing.assert_array_equal(got[0, :, 0], [0, 128, 255])


def test_inks(tmp_path):
    random = np.random.Generator(np.random.PCG64(1))
    inks = random.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    inks[0, 0] = 0
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    image = Image.frombytes("CMYK", (9, 6), inks.tobytes())
    got = photos.read(saved(tmp_path / "a.tif", image))
    assert np.abs(got - expected).max() <= 1.5
    np.testing.assert_array_equal(got[0, 0], [255] * 3)
    flat = Image.new("CMYK", (16, 16), (0, 200, 100, 20))
    got = photos.read(saved(tmp_path / "a.jpg", flat, quality=100))
    assert difference(got[8, 8], np.array([235, 51, 143])).max() <= 3


def test_other_color_spaces(tmp_path):
    image = Image.frombytes("YCbCr", (2, 1), bytes([76, 85, 255, 100, 128, 128]))
    got = photos.read(saved(tmp_path / "a.tif", image, compression="tiff_lzw"))
    assert difference(got[0], np.array([[254, 0, 0], [100, 100, 100]])).max() <= 1
    # CIE L* 0 to 255, a* and b* signed; L* = 53.6 is sRGB's 128 (IEC 61966-2-1), and its red
    # is (54.3, 80.8, 69.9) under D50.
    data = bytes([255, 0, 0, 137, 0, 0, 138, 81, 70, 0, 0, 0])
    lab = Image.frombytes("LAB", (4, 1), data, "raw", "LAB")
    got = photos.read(saved(tmp_path / "b.tif", lab))
    expected = np.array([[255] * 3, [128] * 3, [255, 0, 0], [0] * 3])
    assert difference(got[0], expected).max() <= 6  # What 8 bits of CIE L*a*b* leave.


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.webp", "a.avif", "a.jp2", "a.ppm", "a.jpg"])
def test_formats(tmp_path, name):
    image = smooth(40, 60)
    options = {"lossless": True} if name == "a.webp" else {}
    got = photos.read(saved(tmp_path / name, Image.fromarray(image), **options))
    assert got.dtype == np.uint8
    assert got.flags.writeable
    assert difference(got, image).max() <= {"a.jpg": 12, "a.avif": 12}.get(name, 0)


# Upright and in the right colours.

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
def test_orientation(tmp_path, orientation, name):
    stored = smooth(24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"a.webp": {"lossless": True}, "a.jpg": {"quality": 100, "subsampling": 0}}
    image = Image.fromarray(stored)
    path = saved(tmp_path / name, image, exif=exif, **options.get(name, {}))
    got = photos.read(path)
    assert difference(got, UPRIGHT[orientation](stored)).max() <= (5 if name == "a.jpg" else 0)


def test_nonsense_in_the_camera_data_is_ignored(tmp_path):
    image = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 77
    path = saved(tmp_path / "a.png", Image.fromarray(image), exif=exif)
    np.testing.assert_array_equal(photos.read(path), image)
    path = saved(tmp_path / "b.png", Image.fromarray(image), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(photos.read(path), image)


def linear_profile(space):
    """An ICC profile, version 2, of light itself: sRGB's primaries (or grey) at gamma 1."""

    def xyz(*numbers):
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in numbers))

    straight = b"curv" + bytes(8)
    white = (0.9642, 1.0, 0.8249)
    tags = {
        b"desc": b"desc" + struct.pack(">3I", 0, 2, 0) + bytes(79),
        b"wtpt": xyz(*white),
        b"cprt": b"text\0\0\0\0-\0\0\0",
    }
    if space == b"GRAY":
        tags[b"kTRC"] = straight
    else:
        tags |= {
            b"rXYZ": xyz(0.4361, 0.2225, 0.0139),
            b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
            b"bXYZ": xyz(0.1431, 0.0606, 0.7139),
            b"rTRC": straight,
            b"gTRC": straight,
            b"bTRC": straight,
        }
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">2I", 128 + 4 + 12 * len(tags) + len(data), len(content))
        data += content
    header = struct.pack(">I4sI4s4s4s", 0, bytes(4), 0x02100000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", *(round(65536 * value) for value in white)) + bytes(48)
    whole = header + table + data
    return struct.pack(">I", len(whole)) + whole[4:]


def encoded(linear):
    """IEC 61966-2-1: light 0 to 255 -> sRGB 0 to 255."""
    light = np.asarray(linear) / 255
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def test_the_color_profile_is_applied(tmp_path):
    light = noise(9, 9, seed=3)
    profile = linear_profile(b"RGB ")
    for name, options in (("a.png", {}), ("a.tif", {}), ("a.webp", {"lossless": True})):
        path = saved(tmp_path / name, Image.fromarray(light), icc_profile=profile, **options)
        assert np.abs(photos.read(path) - encoded(light)).max() <= 1.5
    # Transparency is mixed after, in sRGB, as browsers do.
    faint = np.concatenate([light, np.full((9, 9, 1), 100, np.uint8)], -1)
    path = saved(tmp_path / "b.png", Image.fromarray(faint), icc_profile=profile)
    assert np.abs(photos.read(path) - on_white(encoded(light), 100)).max() <= 1.5


def test_the_profile_of_a_grey_picture(tmp_path):
    light = noise(9, 9, seed=4)[..., 0]
    expected = np.stack([encoded(light)] * 3, -1)
    for space in (b"GRAY", b"RGB "):  # Cameras write the latter for grey pictures too.
        path = tmp_path / "a.png"
        Image.fromarray(light).save(path, icc_profile=linear_profile(space))
        assert np.abs(photos.read(path) - expected).max() <= 1.5
    faint = Image.merge("LA", [Image.fromarray(light), Image.new("L", (9, 9), 200)])
    path = saved(tmp_path / "b.png", faint, icc_profile=linear_profile(b"GRAY"))
    assert np.abs(photos.read(path) - on_white(expected, 200)).max() <= 1.5
    deep = Image.fromarray(light.astype(np.uint16) * 257)
    path = saved(tmp_path / "c.png", deep, icc_profile=linear_profile(b"GRAY"))
    assert np.abs(photos.read(path) - expected).max() <= 1.5


@pytest.mark.parametrize(
    "profile",
    [b"rubbish", linear_profile(b"RGB ")[:200], linear_profile(b"GRAY"), bytes(500)],
    ids=["rubbish", "cut", "for grey", "zeros"],
)
def test_a_broken_or_unfitting_profile_is_ignored(tmp_path, profile):
    image = noise(4, 5)
    path = saved(tmp_path / "a.png", Image.fromarray(image), icc_profile=profile)
    np.testing.assert_array_equal(photos.read(path), image)


# What is no picture.


def refusal(path, **options):
    with pytest.raises(UsageError) as caught:
        photos.read(path, **options)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_no_such_file(tmp_path):
    assert "No such file" in refusal(tmp_path / "a.png")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    assert "link to nowhere" in refusal(tmp_path / "link.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert "pipe or device" in refusal(tmp_path / "pipe.png")
    refusal(tmp_path / ("a" * 300 + ".png"))
    refusal(pathlib.Path("zero\0byte.png"))


def test_no_picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    assert "is empty" in refusal(path)
    path.write_text("Not at all a picture.\n" * 100)
    assert "no picture that can be read" in refusal(path)
    path.write_text('<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>')
    assert "an SVG drawing" in refusal(path)
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert "HEIC" in refusal(path)
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert "no picture" in refusal(path)  # Pillow would start Ghostscript.


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tif", "a.bmp", "a.avif"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_file(tmp_path, name, part):
    path = saved(tmp_path / name, Image.fromarray(noise(64, 64)))
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    assert "damaged" in (text := refusal(path)) or "no picture" in text


def test_damaged_anywhere_is_a_picture_or_a_refusal(tmp_path):
    random = np.random.Generator(np.random.PCG64(5))
    for name in ("a.png", "a.jpg", "a.webp", "a.gif", "a.tif"):
        path = saved(tmp_path / name, Image.fromarray(noise(16, 16)))
        data = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(data)
            for position in random.integers(0, min(len(data), 400), 4):
                damaged[position] = random.integers(256)
            path.write_bytes(damaged)
            try:
                assert photos.read(path, max_pixels=10**6).shape[2] == 3
            except UsageError as error:
                assert "\n" not in str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("RGB", (2, 2)))
    path.chmod(0)
    assert "Permission denied" in refusal(path)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "a.png"
    for side in (11_000, 60_000):  # Pillow would warn of the first and raise for the second.
        path.write_bytes(png(side, side, 8, 2, [b""]))
        assert "100,000,000" in refusal(path)
    path.write_bytes(png(10_000, 9_900, 8, 2, [b""]))  # Pillow would warn; it is damaged besides.
    assert "damaged" in refusal(path)
    saved(path, Image.new("L", (11, 10)))
    assert "11 x 10 pixels" in refusal(path, max_pixels=109)
    assert photos.read(path, max_pixels=110).shape == (10, 11, 3)
    path.write_bytes(png(0, 5, 8, 2, [b""]))
    refusal(path)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20_000), (20_000, 1)])
def test_odd_shapes_and_names(tmp_path, height, width):
    image = noise(height, width)
    path = tmp_path / "Bäume im März 🌳.png"
    photos.write(path, image)
    np.testing.assert_array_equal(photos.read(path), image)
    assert photos.crop_square(image, 8).shape == (8, 8, 3)
    np.testing.assert_array_equal(
        photos.crop_square(image, 1)[0, 0], image[(height - 1) // 2, (width - 1) // 2]
    )


def test_the_name_need_not_tell_the_format(tmp_path):
    image = noise(3, 3)
    path = saved(tmp_path / "a.jpg", Image.fromarray(image), format="PNG")
    np.testing.assert_array_equal(photos.read(str(path)), image)


# Folders, sizes, writing.


def test_paths_of_a_folder(tmp_path):
    for name in ("b.JPG", "a.png", "c.tiff", "notes.txt", ".hidden.png", "ä.webp", "v.mp4"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "link.png").symlink_to("a.png")
    names = [path.name for path in photos.paths(tmp_path)]
    assert names == ["a.png", "b.JPG", "c.tiff", "link.png", "ä.webp"]
    assert photos.paths(tmp_path, photos.VIDEOS) == [tmp_path / "v.mp4"]
    assert photos.paths(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(UsageError, match=r"folder.png: expected files ending in .jpg"):
        photos.paths(tmp_path / "folder.png")
    with pytest.raises(UsageError, match="No such file"):
        photos.paths(tmp_path / "none")


def test_resizing_averages_what_it_leaves_out():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    image = np.stack([checks] * 3, -1).astype(np.uint8)
    assert difference(photos.resize(image, 8, 8), np.full((8, 8, 3), 127)).max() <= 10
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (30, 1, 3))
    small = photos.resize(ramp, 10, 40)
    assert small.shape == (10, 40, 3)
    expected = ramp.reshape(10, 3, 40, 3, 3).mean((1, 3))
    assert np.abs(small - expected)[:, 2:-2].max() <= 1
    np.testing.assert_array_equal(photos.resize(ramp, 30, 120), ramp)


def test_the_middle_square():
    image = noise(9, 14)
    np.testing.assert_array_equal(photos.crop_square(image, 9), image[:, 2:11])
    image = noise(14, 9)
    np.testing.assert_array_equal(photos.crop_square(image, 9), image[2:11])
    assert photos.crop_square(image, 32).shape == (32, 32, 3)


def test_written_pictures(tmp_path):
    image = noise(12, 13)
    for name in ("a.png", "a.PNG"):
        photos.write(tmp_path / name, image)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), image)
    for name, kind in (("a.jpg", "JPEG"), ("new/a.jpeg", "JPEG"), ("a.webp", "WEBP")):
        photos.write(tmp_path / name, smooth(40, 50))
        with Image.open(tmp_path / name) as opened:
            assert opened.format == kind
            assert difference(np.asarray(opened), smooth(40, 50)).mean() < 3
            if kind == "JPEG":  # Quality 95, and each channel at full resolution.
                assert opened.quantization[0][0] == 2
                assert {layer[1:3] for layer in opened.layer} == {(1, 1)}


@pytest.mark.parametrize(
    "write",
    [photos.write, lambda path, image: photos.write_frames(path, [image] * 2, 50)],
    ids=["picture", "animation"],
)
def test_what_cannot_be_written(tmp_path, write):
    image = noise(4, 4)
    with pytest.raises(UsageError, match=r"a\.txt: expected a name ending in"):
        write(tmp_path / "a.txt", image)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to .*(Not a directory|File exists)"):
        write(tmp_path / "file" / "a.png", image)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match="cannot write to"):
        write(tmp_path / "folder.png", image)
    with pytest.raises(UsageError, match="cannot write to .*No such file|Permission|Read-only"):
        write("/proc/a.png", image)
    with pytest.raises(UsageError, match=r"\.webp takes at most 16383"):
        write(tmp_path / "a.webp", np.zeros((1, 16384, 3), np.uint8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


# Animations.


def gif(width, height, frames):
    """A GIF, its pictures not compressed: frames are (place, indices, disposal, delay)."""
    palette = bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255]) + bytes(3 * 124)
    out = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF6, 0, 0) + palette
    for (left, top), indices, disposal, delay in frames:
        indices = np.asarray(indices)
        # Index 0 is transparent. LZW of 7 bits, reset before its codes grow to 9 bits.
        out += b"\x21\xf9\x04" + struct.pack("<BHBB", disposal << 2 | 1, delay, 0, 0)
        out += b"\x2c" + struct.pack("<HHHHB", left, top, *indices.shape[::-1], 0) + b"\x07"
        codes = [128]
        for number, index in enumerate(indices.ravel()):
            codes += [int(index)] + [128] * (number % 100 == 99)
        bits = sum(code << 8 * place for place, code in enumerate([*codes, 129]))
        data = bits.to_bytes(len(codes) + 1, "little")
        assert len(data) < 256
        out += bytes([len(data)]) + data + b"\0"
    return out + b";"


def test_disposal_and_transparency(tmp_path):
    path = tmp_path / "a.gif"
    whole = [[1, 1, 1], [1, 1, 1]]
    path.write_bytes(
        gif(3, 2, [
            ((0, 0), whole, 1, 5),  # Left in place.
            ((1, 0), [[2, 0]], 1, 0),  # Green, and one pixel transparent: red shows.
            ((0, 1), [[3, 3]], 3, 1),  # Blue, then taken back.
            ((2, 1), [[3]], 2, 200),  # Blue, then cleared to transparent, that is white.
            ((0, 0), [[0]], 1, 7),
        ])
    )  # fmt: skip
    red, green, blue, white = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3
    expected = [
        [[red, red, red], [red, red, red]],
        [[red, green, red], [red, red, red]],
        [[red, green, red], [blue, blue, red]],
        [[red, green, red], [red, red, blue]],
        [[red, green, red], [red, red, white]],
    ]
    assert photos.is_animation(path)
    frames = photos.Frames(path)
    assert (frames.height, frames.width, frames.count) == (2, 3, 5)
    assert frames.durations == [50, 100, 100, 2000, 70]  # 0 and 10 as browsers take them.
    for _ in range(2):
        np.testing.assert_array_equal(list(frames), expected)
    np.testing.assert_array_equal(photos.read(path), expected[0])


def test_what_is_an_animation(tmp_path):
    images = [Image.fromarray(noise(4, 4, seed)) for seed in range(3)]
    for name in ("a.gif", "a.webp", "a.png", "a.avif"):
        path = saved(tmp_path / name, images[0])
        assert not photos.is_animation(path)
        assert len(list(photos.Frames(path))) == 1
        path = saved(tmp_path / name, images[0], save_all=True, append_images=images[1:])
        assert photos.is_animation(path)
        assert photos.Frames(path).count == 3
    pages = saved(tmp_path / "a.tif", images[0], save_all=True, append_images=images[1:])
    assert not photos.is_animation(pages)
    assert photos.Frames(pages).count == 1
    with pytest.raises(UsageError, match="No such file"):
        photos.is_animation(tmp_path / "none.mp4")
    with pytest.raises(UsageError, match="No such file"):
        photos.Frames(tmp_path / "none.gif")


def test_the_still_picture_of_an_animated_png_is_not_in_it(tmp_path):
    images = [Image.fromarray(noise(4, 4, seed)) for seed in range(3)]
    path = saved(
        tmp_path / "a.png", images[0], save_all=True, append_images=images[1:], default_image=True,
        duration=[70, 90],
    )  # fmt: skip
    frames = photos.Frames(path)
    assert frames.durations == [70, 90]
    np.testing.assert_array_equal(list(frames), [np.asarray(image) for image in images[1:]])


def test_transparent_frames_of_a_webp(tmp_path):
    images = [Image.new("RGBA", (4, 4), (0, 99, 200, alpha)) for alpha in (0, 100, 255)]
    path = saved(
        tmp_path / "a.webp", images[0], save_all=True, append_images=images[1:], lossless=True,
        duration=[30, 40, 50],
    )  # fmt: skip
    frames = photos.Frames(path)
    assert frames.durations == [30, 40, 50]
    for frame, alpha in zip(frames, (0, 100, 255), strict=True):
        assert difference(frame[0, 0], on_white([0, 99, 200], alpha)).max() <= 1


def test_a_truncated_animation_is_found_when_it_is_opened(tmp_path):
    for name in ("a.gif", "a.png"):
        path = tmp_path / name
        photos.write_frames(path, [noise(32, 32, seed) for seed in range(3)], 50)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UsageError, match="damaged"):
            photos.Frames(path)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_a_written_animation(tmp_path, name):
    # The third equals the second: it stays a frame of its own.
    images = [smooth(31, 45, shift) for shift in (0, 1, 1, 2, 3)]
    durations = [40, 100, 30, 2000, 70_000]
    photos.write_frames(tmp_path / name, iter(images), durations)
    with Image.open(tmp_path / name) as opened:
        assert opened.n_frames == 5
        assert opened.size == (45, 31)
        assert opened.info["loop"] == 0
        for number, image in enumerate(images):
            opened.seek(number)
            opened.load()
            assert opened.info["duration"] == durations[number]
            error = difference(np.asarray(opened.convert("RGB")), image)
            assert error.mean() <= {"a.gif": 6, "a.webp": 2, "a.png": 0}[name]
    frames = photos.Frames(tmp_path / name)
    assert frames.durations == durations
    assert len(list(frames)) == frames.count == 5


def test_few_colors_of_a_gif_are_exact(tmp_path):
    colors = noise(16, 16)  # 256 of them, now close together.
    colors = np.stack([128 + colors[..., 0] % 8, colors[..., 1] % 8, colors[..., 2] % 4], -1)
    image = colors.astype(np.uint8)
    grey = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 256, 1), (2, 1, 3))
    photos.write_frames(tmp_path / "a.gif", [image, image[::-1]], 50)
    np.testing.assert_array_equal(list(photos.Frames(tmp_path / "a.gif")), [image, image[::-1]])
    photos.write_frames(tmp_path / "b.gif", [grey], 50)
    np.testing.assert_array_equal(photos.read(tmp_path / "b.gif"), grey)
    photos.write_frames(tmp_path / "c.gif", [grey[:, :1]], 50)
    np.testing.assert_array_equal(photos.read(tmp_path / "c.gif"), grey[:, :1])


def test_what_stands_still_in_a_gif_does_not_flicker(tmp_path):
    still = smooth(96, 48)
    images = [np.concatenate([still, smooth(96, 48, 0.3 * number)], 1) for number in range(8)]
    photos.write_frames(tmp_path / "a.gif", images, 50)
    read = np.stack(list(photos.Frames(tmp_path / "a.gif"))).astype(float)
    assert np.abs(read - np.stack(images)).mean() < 8
    assert read[:, :, :48].std(0).mean() < 2


def test_rounded_durations_do_not_add_up(tmp_path):
    images = [noise(2, 2, seed) for seed in range(30)]
    photos.write_frames(tmp_path / "a.gif", images, 1000 / 30)
    durations = photos.Frames(tmp_path / "a.gif").durations
    assert sum(durations) == 1000
    assert set(durations) == {30, 40}
    photos.write_frames(tmp_path / "a.webp", images, 1000 / 60)
    assert sum(photos.Frames(tmp_path / "a.webp").durations) == 500
    photos.write_frames(tmp_path / "b.gif", images, 5)
    assert set(photos.Frames(tmp_path / "b.gif").durations) == {20}


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.mp4"])
def test_a_failure_leaves_everything_as_it_was(tmp_path, name):
    if name == "a.mp4":
        pytest.importorskip("imageio_ffmpeg")
    (tmp_path / name).write_bytes(b"before")

    def breaking():
        yield noise(32, 32)
        yield noise(32, 32)
        raise KeyError("the model failed")

    with pytest.raises(KeyError, match="the model failed"):
        photos.write_frames(tmp_path / name, breaking(), 50)
    with pytest.raises(ValueError, match="frame 1 is uint8"):
        photos.write_frames(tmp_path / name, [noise(4, 4), noise(4, 6)], 50)
    for count in (1, 3):
        with pytest.raises(ValueError, match=r"zip\(\)"):
            photos.write_frames(tmp_path / name, [noise(4, 4)] * 2, [50] * count)
    with pytest.raises(UsageError, match="no frames"):
        photos.write_frames(tmp_path / name, [], 50)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"before"


def test_frames_are_not_gathered(tmp_path):
    """The most memory that writing and reading 150 frames takes, beside that for 10."""
    code = """
import pathlib, re, sys
import numpy as np
from zoo import photos
y, x = np.mgrid[0:400, 0:400]
image = np.stack([x // 2, y // 2, (x + y) // 4], -1).astype(np.uint8)
def peak(count):
    for name in sys.argv[1:]:
        photos.write_frames(name, (np.roll(image, k, 0) for k in range(count)), 50)
        frames = photos.Frames(name)
        assert sum(1 for _ in frames) == count, name
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024
few = peak(10)
print(peak(150) - few)
"""
    names = [str(tmp_path / name) for name in ("a.gif", "a.webp", "a.png")]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True
    )
    # The frames are 0.48 MB each, 67 MB more of them, and 22 MB even as a GIF's indices.
    assert float(done.stdout) < 12


# Videos.


def test_a_video_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    (tmp_path / "a.mp4").write_bytes(b"?")

    def untouched():
        raise AssertionError("asked for a frame before all was known to be well")
        yield

    with pytest.raises(UsageError, match=r"pip install 'zoo-art\[video\]'"):
        photos.Frames(tmp_path / "a.mp4")
    with pytest.raises(UsageError, match=r"pip install 'zoo-art\[video\]'"):
        photos.write_frames(tmp_path / "b.mp4", untouched(), 50)


@pytest.fixture
def ffmpeg():
    return pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()


def test_a_video_and_back(tmp_path, ffmpeg):
    images = [smooth(48, 64, shift) for shift in np.arange(12) / 4]
    path = tmp_path / "-ein Video, ü.mp4"
    photos.write_frames(path, iter(images), [30, 50] * 6)
    assert photos.is_animation(path)
    frames = photos.Frames(path)
    assert (frames.height, frames.width, frames.count) == (48, 64, 12)
    assert frames.durations == pytest.approx(40)
    for _ in range(2):
        read = list(frames)
        assert len(read) == 12
        for frame, image in zip(read, images, strict=True):
            assert frame.flags.writeable
            assert difference(frame, image).mean() < 3
    for frame in frames:
        assert difference(frame, images[0]).mean() < 3
        break  # Leaving early stops ffmpeg.


def test_odd_sides_of_a_video_grow_by_one(tmp_path, ffmpeg):
    image = smooth(33, 47)
    photos.write_frames(tmp_path / "a.mp4", [image] * 3, 100)
    (frame, *_) = photos.Frames(tmp_path / "a.mp4")
    assert frame.shape == (34, 48, 3)
    assert difference(frame[:33, :47], image).mean() < 3
    assert difference(frame[33, :47], image[32]).mean() < 6
    assert difference(frame[:33, 47], image[:, 46]).mean() < 6


def test_colors_of_a_video_are_bt709(tmp_path, ffmpeg):
    colors = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]]
    images = [np.full((32, 32, 3), color, np.uint8) for color in colors]
    photos.write_frames(tmp_path / "a.mp4", images, 100)
    command = [ffmpeg, "-i", str(tmp_path / "a.mp4"), "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"]
    done = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    assert b"bt709" in done.stderr.partition(b"Output")[0]
    luma = np.frombuffer(done.stdout, np.uint8).reshape(4, 32 * 48)[:, : 32 * 32].mean(1)
    expected = 16 + 219 * (np.array(colors) / 255 @ [0.2126, 0.7152, 0.0722])
    assert luma == pytest.approx(expected, abs=1.5)
    for frame, image in zip(photos.Frames(tmp_path / "a.mp4"), images, strict=True):
        assert difference(frame, image).max() <= 4


def test_a_video_taken_upright(tmp_path, ffmpeg):
    image = smooth(32, 64)
    photos.write_frames(tmp_path / "a.mp4", [image] * 3, 100)
    command = [ffmpeg, "-v", "error", "-display_rotation", "90", "-i", str(tmp_path / "a.mp4")]
    command += ["-c", "copy", str(tmp_path / "b.mp4")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    frames = photos.Frames(tmp_path / "b.mp4")
    assert (frames.height, frames.width) == (64, 32)
    for frame in frames:
        assert difference(frame, np.rot90(image)).mean() < 3


def test_what_is_no_video(tmp_path, ffmpeg):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="is empty"):
        photos.Frames(path)
    path.write_bytes(b"no video" * 1000)
    with pytest.raises(UsageError, match="not a video that ffmpeg can read"):
        photos.Frames(path)
    photos.write_frames(path, [noise(32, 32)] * 2, 100)
    with pytest.raises(UsageError, match="32 x 32 pixels, at most 1,000"):
        photos.Frames(path, max_pixels=1000)


def test_when_ffmpeg_fails(tmp_path, monkeypatch, ffmpeg):
    photos.write_frames(tmp_path / "a.mp4", [noise(32, 32)], 100)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    with pytest.raises(UsageError, match=r"cannot write to .*b\.mp4: ffmpeg failed"):
        photos.write_frames(tmp_path / "b.mp4", [noise(400, 400)] * 9, 50)
    with pytest.raises(UsageError, match="not a video that ffmpeg can read"):
        photos.Frames(tmp_path / "a.mp4")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(UsageError, match="cannot write to"):
        photos.write_frames(tmp_path / "b.mp4", [noise(4, 4)], 50)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
