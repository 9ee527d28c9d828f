"""Hostile files: what a folder of pictures from the wild may hold, and what is to be made of each.

`CASES` is the table: a path, how to make it, the findings expected of the doctor, and where there
is a picture, colours that training must see. Each has a pattern of its own, so that none resembles
another, around a middle of the given colour.
"""

import io
import os
import pathlib
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms
from test_photos import linear_profile, png, png_chunk

SIZE = 48
MIDDLE = (0.5, 0.5)
LEFT_OUT = {"unreadable", "empty", "no_picture", "truncated", "damaged", "too_large"}
IGNORED = {
    "dangling_link", "looping_link", "no_file", "hidden", "other_file", "picture_by_other_name",
    "deeper_folder", "folder_named_as_picture",
}  # fmt: skip
CORNERS = {
    "top left": (0.08, 0.08),
    "top right": (0.08, 0.92),
    "bottom left": (0.92, 0.08),
    "bottom right": (0.92, 0.92),
}
# EXIF 2.3, 4.6.4: where the first stored pixel is to be shown.
SHOWN = {
    1: "top left",
    2: "top right",
    3: "bottom right",
    4: "bottom left",
    5: "top left",
    6: "top right",
    7: "bottom right",
    8: "bottom left",
}


class Case(NamedTuple):
    """A file or the like at `path`, of which `make(path)` makes the content.

    colors: (y, x) from 0 to 1 -> RGB there, to within `tolerance` levels; none for no picture.
    """

    path: str
    make: Callable[[pathlib.Path], object]
    findings: frozenset[str]
    colors: dict[tuple[float, float], tuple[int, int, int]]
    tolerance: int

    @property
    def is_readable(self) -> bool:
        return not self.findings & (LEFT_OUT | IGNORED)


def pattern(seed, color=(200, 60, 120), corner=None, height=SIZE, width=SIZE):
    """uint8 [H, W, 3]: 6 x 6 blocks of random colours, those in the middle of the given one."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    blocks[2:4, 2:4] = color
    if corner:
        blocks[0, 0] = corner
    rows, columns = (np.arange(length) * 6 // length for length in (height, width))
    return blocks[rows][:, columns]


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


CASES: list[Case] = []
PINK = (200, 60, 120)


def add(path, content, *findings, colors=None, tolerance=2):
    """content: bytes, or a function of the path."""
    make = content if callable(content) else lambda place: place.write_bytes(content)
    CASES.append(Case(path, make, frozenset(findings), colors or {}, tolerance))


def add_picture(path, content, *findings, color=PINK, tolerance=2, **more):
    add(path, content, *findings, colors={MIDDLE: color, **more}, tolerance=tolerance)


def seeds():
    number = 1000
    while True:
        number += 1
        yield number


_seed = seeds()


def new(**options):
    return pattern(next(_seed), **options)


# Enough that is right, of three classes.
for class_name, count in (("a", 50), ("b", 30), ("c", 20)):
    for index in range(count):
        add_picture(f"{class_name}/good{index:02}.png", encoded(new(), "PNG"))

# Formats and modes that can be read.
LOSSY = {"tolerance": 12}
add_picture("a/plain.jpg", encoded(new(), "JPEG", quality=95, subsampling=0), **LOSSY)
add_picture("a/PLAIN.JPEG", encoded(new(), "JPEG", quality=95, subsampling=0), **LOSSY)
add_picture(
    "a/progressive.jpg",
    encoded(new(), "JPEG", quality=95, subsampling=0, progressive=True),
    **LOSSY,
)
add_picture("a/plain.webp", encoded(new(), "WEBP", lossless=True))
add_picture("a/plain.bmp", encoded(new(), "BMP"))
add_picture("a/plain.tif", encoded(new(), "TIFF"))
add_picture("a/lzw.tiff", encoded(new(), "TIFF", compression="tiff_lzw"))
add_picture("a/plain.avif", encoded(new(), "AVIF", quality=95), **LOSSY)
grey_of_pink = (109, 109, 109)  # .299 R + .587 G + .114 B
add_picture(
    "a/grey.png", encoded(Image.fromarray(new()).convert("L"), "PNG"), "grey", color=grey_of_pink
)
add_picture(
    "a/grey.jpg",
    encoded(Image.fromarray(new()).convert("L"), "JPEG", quality=95),
    "grey",
    color=grey_of_pink,
    tolerance=4,
)
bits = (
    Image.fromarray(new(color=(255, 255, 255))).convert("L").point(lambda v: 255 * (v > 127), "1")
)
add_picture("a/one-bit.png", encoded(bits, "PNG"), "grey", color=(255, 255, 255))
add_picture(
    "a/one-bit.tif",
    encoded(
        Image.fromarray(new(color=(0, 0, 0))).convert("L").point(lambda v: 255 * (v > 127), "1"),
        "TIFF",
        compression="group4",
    ),
    "grey",
    color=(0, 0, 0),
)


def with_alpha(alpha, mode="RGBA"):
    image = Image.fromarray(new()).convert(mode)
    image.putalpha(alpha)
    return image


on_white = tuple(round((value * 128 + 255 * 127) / 255) for value in PINK)
add_picture("a/rgba.png", encoded(with_alpha(128), "PNG"), "transparent", color=on_white)
add_picture("a/opaque.png", encoded(with_alpha(255), "PNG"), "transparent")
add_picture(
    "a/rgba.webp",
    encoded(with_alpha(128), "WEBP", lossless=True, exact=True),
    "transparent",
    color=on_white,
)
add_picture(
    "a/la.png",
    encoded(with_alpha(128, "L").convert("LA"), "PNG"),
    "grey",
    "transparent",
    color=(182, 182, 182),  # (109 * 128 + 255 * 127) / 255
)
palette = Image.fromarray(new()).quantize(36, method=Image.Quantize.MAXCOVERAGE)
add_picture("a/palette.png", encoded(palette, "PNG"), "palette", tolerance=12)
palette = Image.fromarray(new()).quantize(36, method=Image.Quantize.MAXCOVERAGE)
at = palette.getpixel((24, 24))
add_picture(
    "a/hole.png",
    encoded(palette, "PNG", transparency=at),
    "palette",
    "transparent",
    color=(255, 255, 255),
)
palette = Image.fromarray(new()).quantize(36, method=Image.Quantize.MAXCOVERAGE)
add_picture(
    "a/pa.tif", encoded(palette.convert("PA"), "TIFF"), "palette", "transparent", tolerance=12
)
add_picture("a/palette.gif", encoded(Image.fromarray(new()), "GIF"), "palette", tolerance=24)
deep = Image.fromarray(np.asarray(Image.fromarray(new()).convert("L")).astype(np.uint16) * 257)
add_picture("a/sixteen.png", encoded(deep, "PNG"), "grey", "sixteen_bits", color=grey_of_pink)
deep = Image.fromarray(np.asarray(Image.fromarray(new()).convert("L")).astype(np.uint16) * 257)
add_picture("a/sixteen.tif", encoded(deep, "TIFF"), "grey", "sixteen_bits", color=grey_of_pink)
wide_rows = new().astype(">u2") * np.array(257, ">u2")
add_picture(
    "a/sixteen-rgb.png",
    png(SIZE, SIZE, 16, 2, [row.astype(">u2").tobytes() for row in wide_rows]),
    "sixteen_bits",
)
luma = np.asarray(Image.fromarray(new()).convert("L"))
add_picture(
    "a/floats.tif",
    encoded(Image.fromarray(luma.astype(np.float32) / 255), "TIFF"),
    "floats",
    color=grey_of_pink,
)
luma = np.asarray(Image.fromarray(new()).convert("L")).copy()
luma[0, :2] = 0, 255  # Stretched from its least to its greatest value, it stays what it is.
add_picture(
    "a/integers.tif",
    encoded(Image.fromarray(luma.astype(np.int32) * 100_000), "TIFF"),
    "floats",
    color=grey_of_pink,
)
# Inks without black: R = 255 - C, and so on.
inks = np.concatenate([255 - new(), np.zeros((SIZE, SIZE, 1), np.uint8)], -1)
ink = Image.frombytes("CMYK", (SIZE, SIZE), inks.tobytes())
add_picture("a/cmyk.tif", encoded(ink, "TIFF"), "cmyk")
inks = np.concatenate([255 - new(), np.zeros((SIZE, SIZE, 1), np.uint8)], -1)
ink = Image.frombytes("CMYK", (SIZE, SIZE), inks.tobytes())
add_picture("a/cmyk.jpg", encoded(ink, "JPEG", quality=95, subsampling=0), "cmyk", tolerance=12)
add_picture(
    "a/ycc.tif",
    encoded(Image.fromarray(new()).convert("YCbCr"), "TIFF", compression="tiff_lzw"),
    tolerance=4,
)
lab = Image.frombytes("LAB", (SIZE, SIZE), bytes(
    np.concatenate([new()[..., :1], np.zeros((SIZE, SIZE, 2), np.uint8)], -1)
), "raw", "LAB")  # fmt: skip
add_picture("a/lab.tif", encoded(lab, "TIFF"), "other_mode", color=(190, 190, 190), tolerance=8)

# Animations and pages: the first is taken.
frames = [Image.fromarray(new()) for _ in range(3)]
several = {"save_all": True, "append_images": frames[1:]}
add_picture(
    "a/moving.webp",
    encoded(frames[0], "WEBP", lossless=True, **several),
    "several_frames",
    "transparent",
)
frames = [Image.fromarray(new()) for _ in range(3)]
several = {"save_all": True, "append_images": frames[1:]}
add_picture("a/moving.png", encoded(frames[0], "PNG", **several), "several_frames")
frames = [Image.fromarray(new()).quantize(36) for _ in range(3)]
several = {"save_all": True, "append_images": frames[1:]}
moving_gif = encoded(frames[0], "GIF", **several)
add_picture("a/moving.gif", moving_gif, "several_frames", "palette", tolerance=24)
frames = [Image.fromarray(new()).quantize(36) for _ in range(3)]
several = {"save_all": True, "append_images": frames[1:]}
whole = encoded(frames[0], "GIF", **several)
# The first frame is whole: the damage lies in what is not looked at.
add_picture("a/cut-later.gif", whole[:-300], "several_frames", "palette", tolerance=24)
frames = [Image.fromarray(new()) for _ in range(3)]
several = {"save_all": True, "append_images": frames[1:]}
add_picture("a/pages.tif", encoded(frames[0], "TIFF", **several), "several_frames")
frames = [Image.fromarray(new()) for _ in range(2)]
several = {"save_all": True, "append_images": frames[1:]}
add_picture(
    "a/stereo.jpg",
    encoded(frames[0], "MPO", quality=95, subsampling=0, **several),
    "several_frames",
    tolerance=12,
)
endless = bytearray(encoded(Image.fromarray(new()), "TIFF"))
directory = struct.unpack_from("<I", endless, 4)[0]
entries = struct.unpack_from("<H", endless, directory)[0]
struct.pack_into("<I", endless, directory + 2 + 12 * entries, directory)  # Next: itself.
add_picture("a/endless.tif", bytes(endless))

# Endings.
add_picture(
    "a/jpeg.png", encoded(new(), "JPEG", quality=95, subsampling=0), "wrong_ending", **LOSSY
)
add_picture("a/png.jpg", encoded(new(), "PNG"), "wrong_ending")
add_picture("a/webp.jpeg", encoded(new(), "WEBP", lossless=True), "wrong_ending")
add_picture("a/ppm.bmp", encoded(new(), "PPM"), "wrong_ending")
add("a/picture.dat", encoded(new(), "PNG"), "picture_by_other_name")
add("a/picture", encoded(new(), "PNG"), "picture_by_other_name")
add("a/picture.jp2", encoded(new(), "JPEG2000"), "picture_by_other_name")

# Turned.
for orientation, corner in SHOWN.items():
    picture = new(corner=(255, 0, 0))
    kind = ("JPEG", "PNG", "TIFF", "WEBP")[orientation % 4]
    ending = {"JPEG": "jpg", "PNG": "png", "TIFF": "tif", "WEBP": "webp"}[kind]
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    add(
        f"a/turned{orientation}.{ending}",
        encoded(picture, kind, exif=exif(orientation), **options),
        *(["turned"] if orientation > 1 else []),
        colors={MIDDLE: PINK, CORNERS[corner]: (255, 0, 0)},
        tolerance=12,
    )
add_picture("a/nonsense.png", encoded(new(), "PNG", exif=exif(77)), "broken_exif")
add_picture(
    "a/cut-exif.jpg",
    encoded(new(), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    "broken_exif",
    **LOSSY,
)
add_picture(
    "a/rubbish-exif.webp", encoded(new(), "WEBP", lossless=True, exif=b"rubbish"), "broken_exif"
)

# Colour profiles. Light of 100, 150 and 200 of 255 is 168.2, 201.0 and 228.8 in sRGB.
light = {"color": (100, 150, 200)}
seen = {"color": (168, 201, 229)}
add_picture(
    "a/linear.png",
    encoded(new(**light), "PNG", icc_profile=linear_profile(b"RGB ")),
    "profile",
    **seen,
)
add_picture(
    "a/linear.jpg",
    encoded(new(**light), "JPEG", quality=95, subsampling=0, icc_profile=linear_profile(b"RGB ")),
    "profile",
    **seen,
    **LOSSY,
)
srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
add_picture("a/srgb.png", encoded(new(), "PNG", icc_profile=srgb))
add_picture("a/rubbish.png", encoded(new(), "PNG", icc_profile=b"rubbish"), "broken_profile")
add_picture(
    "a/for-grey.png", encoded(new(), "PNG", icc_profile=linear_profile(b"GRAY")), "broken_profile"
)

# Shapes.
add("a/row.png", encoded(new(height=1, width=100_000), "PNG"), "small", "long")
add("a/column.png", encoded(new(height=100_000, width=1), "PNG"), "small", "long")
add("a/pixel.png", encoded(np.full((1, 1, 3), PINK, np.uint8), "PNG"), "small", "one_color",
    colors={MIDDLE: PINK})  # fmt: skip
add_picture("a/small.png", encoded(new(height=30, width=30), "PNG"), "small")
add_picture("a/wide.png", encoded(new(height=48, width=480), "PNG"), "long")
add_picture("a/blank.png", encoded(np.full((SIZE, SIZE, 3), PINK, np.uint8), "PNG"), "one_color")

# Not whole.
add("b/zero.jpg", b"", "empty")
jpeg = encoded(new(), "JPEG", quality=95)
for part in (0.01, 0.2, 0.5, 0.9):
    add(f"b/cut{part}.jpg", jpeg[: int(part * len(jpeg))], "truncated")
add("b/no-end.jpg", jpeg[:-2], "truncated")
progressive = encoded(new(), "JPEG", quality=95, progressive=True)
add("b/cut-progressive.jpg", progressive[: len(progressive) // 2], "truncated")
noisy = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
image = encoded(noisy, "PNG")
for part in (0.002, 0.3, 0.9):
    add(f"b/cut{part}.png", image[: max(12, int(part * len(image)))], "truncated")
image = encoded(noisy, "GIF")
add("b/cut.gif", image[: len(image) // 2], "truncated")
image = encoded(noisy, "WEBP")
for part in (0.1, 0.9):
    add(f"b/cut{part}.webp", image[: int(part * len(image))], "truncated")
image = encoded(noisy, "TIFF", compression="tiff_lzw")
add("b/cut.tif", image[: len(image) // 2], "truncated")
image = encoded(noisy, "BMP")
add("b/cut.bmp", image[: len(image) // 2], "truncated")
image = encoded(noisy, "AVIF")
add("b/cut.avif", image[: int(0.9 * len(image))], "truncated")
image = bytearray(encoded(noisy, "PNG"))
image[29] ^= 255
add("b/header-sum.png", bytes(image), "damaged")
image = bytearray(encoded(noisy, "PNG"))
image[200] ^= 255
add("b/data.png", bytes(image), "damaged")
lies = encoded(noisy, "JPEG")
add("b/rubbish-inside.jpg", lies[:200] + bytes(300) + b"\xff\xd9", "damaged")
add("b/signature.png", b"\x89PNG\r\n\x1a\n" + b"rubbish" * 9 + b"IEND", "damaged")
add("b/no-pixels.png", png(0, 5, 8, 2, [b""]), "damaged")
text_bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26)))
image = encoded(noisy, "PNG")
add("b/text-bomb.png", image[:33] + text_bomb + image[33:], "damaged")

# No picture at all.
add("b/text.jpg", b"This is no picture.\n" * 50, "no_picture")
add("b/page.png", b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", "no_picture")
add(
    "b/drawing.png", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "no_picture"
)
add("b/document.jpg", b"%PDF-1.7\n" + bytes(200), "no_picture")
add("b/script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no_picture")
add("b/phone.jpg", b"\0\0\0\x18ftypheic" + bytes(100), "no_picture")
add("b/zeros.gif", bytes(1000), "no_picture")
add("b/archive.webp", b"PK\x03\x04" + bytes(100), "no_picture")

# Bombs: a few bytes that say they are thousands of millions of pixels.
add("b/bomb.png", png(60_000, 60_000, 8, 2, [b""]), "too_large")
add("b/bomb.bmp", b"BM" + struct.pack("<3I3I2H6I", 154, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6),
    "too_large")  # fmt: skip
add("b/bomb.gif", moving_gif[:6] + struct.pack("<HH", 65_535, 65_535) + moving_gif[10:],
    "too_large")  # fmt: skip

# Names.
add_picture("a/a name with spaces.png", encoded(new(), "PNG"), "name_space")
add_picture("a/Bäume 木.png", encoded(new(), "PNG"), "name_not_ascii", "name_space")
add_picture("a/two\nlines.png", encoded(new(), "PNG"), "name_control")
add_picture("a/\x1b[31mred.png", encoded(new(), "PNG"), "name_control")
add_picture(os.fsdecode(b"a/latin-\xe9.png"), encoded(new(), "PNG"), "name_not_utf8")
add_picture(f"a/{'x' * 251}.png", encoded(new(), "PNG"))
add_picture(f"a/{'y' * 251}.gif", encoded(new(), "PNG"), "wrong_ending")

# What is no file of its own, or is not looked at.
add("a/gone.png", lambda path: path.symlink_to("nowhere.png"), "dangling_link")
add("a/too-far.png", lambda path: path.symlink_to("z" * 300), "dangling_link")
add("a/loop.png", lambda path: path.symlink_to("loop.png"), "looping_link")
add("a/pipe.jpg", lambda path: os.mkfifo(path), "no_file")
add("a/folder.png", lambda path: path.mkdir(), "deeper_folder")
add("a/round", lambda path: path.symlink_to(".."), "deeper_folder")
add("folder.jpg", lambda path: path.mkdir(), "folder_named_as_picture")
add("a/.hidden.png", encoded(new(), "PNG"), "hidden")
add("a/._good00.png", b"\0\5\x16\7", "hidden")
add("a/notes.txt", b"notes", "other_file")
add("Thumbs.db", bytes(100), "other_file")
add("a/film.mp4", b"\0\0\0\x18ftypmp42" + bytes(100), "other_file")

# A good one whose mode forbids reading it: only for those who are not root.
FORBIDDEN = "b/forbidden.png"


def make(root: pathlib.Path) -> dict[str, Case]:
    """Makes every case in a folder; returns them by path."""
    for case in CASES:
        place = root / case.path
        place.parent.mkdir(parents=True, exist_ok=True)
        case.make(place)
    return {case.path: case for case in CASES}
