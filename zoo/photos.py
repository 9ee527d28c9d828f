"""Reads and writes a user's own pictures and animations, as a photo tool does.

Whatever a file holds, it comes in as uint8 [H, W, 3] in sRGB: upright, its colour profile applied,
transparency on white. Animations come and go one frame at a time. NumPy and Pillow only; videos
need the extra "video". Everything that is wrong with a file is a UsageError.

Pillow's own writers of animations hold every frame until the end, so each frame is encoded here as
a still picture and its data are put into the animation's container: GIF89a, the WebP container
specification, and the animation chunks of PNG (third edition).
"""

import contextlib
import dataclasses
import fractions
import io
import itertools
import math
import os
import pathlib
import re
import stat
import struct
import subprocess
import tempfile
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import IO, Literal

import numpy as np
from PIL import Image, ImageCms

from zoo import files
from zoo.errors import UsageError, reason

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi")
# What `write` and `write_frames` can make, with the longest side that the format allows.
WRITABLE = {".png": 2**31 - 1, ".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
WRITABLE_ANIMATIONS = {".gif": 65535, ".webp": 16383, ".png": 2**31 - 1, ".mp4": 16384}

# Nothing that starts another program (EPS), has many layers or takes any text for a picture.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
_MAX_PIXELS = 100_000_000
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# How a file of a format begins; one that goes on otherwise is a damaged file of that format.
_BEGINNINGS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "GIF": rb"GIF8",
    "WebP": rb"RIFF....WEBP",
    "TIFF": rb"II\*\0|MM\0\*",
    "AVIF": rb"....ftypavi[fs]",
}
_ORDER: dict[bytes, Literal["little", "big"]] = {b"I": "little", b"M": "big"}
_NO_PICTURES = {b"%pdf": "a PDF document", b"<html": "a web page", b"%!ps": "PostScript"}
# The endings that fit a format, by Pillow's name.
ENDINGS = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
}
# Levels that a colour profile may change and still be sRGB, as its makers round it.
_SAME_COLOR = 2
# Browsers show a frame of 10 ms or less for 100 ms: what old GIFs mean by no duration at all.
_SHORTEST, _UNSET = 10, 100.0


class PictureError(UsageError):
    """A file that cannot be read.

    Attributes:
      kind: "no_file" (none, a folder, a pipe, a link to nowhere), "unreadable" (no permission, a
        failing disk), "empty", "no_picture", "truncated", "damaged" or "too_large".
    """

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Nature:
    """What a picture file holds, before `read` makes it uint8 RGB.

    Attributes:
      format: Pillow's name: "JPEG", "PNG", ...
      mode: Pillow's too: "RGB", "P", "I;16", ...
      height, width: upright, H and W.
      traits: what `read` mends or leaves out, of: "wrong_ending", "several_frames", "grey",
        "palette", "transparent", "cmyk", "sixteen_bits", "floats" (integers of 32 bits too),
        "other_mode", "profile" (of colours other than sRGB's), "broken_profile" (one that is
        ignored), "turned", "broken_exif".
    """

    format: str
    mode: str
    height: int
    width: int
    traits: tuple[str, ...]


def read(path: str | os.PathLike, *, max_pixels: int = _MAX_PIXELS) -> np.ndarray:
    """A picture file, or the first frame of an animated one -> uint8 [H, W, 3], sRGB, upright.

    16 bits are scaled, not clipped. Floats from 0 to 1 are taken as they are; others, and integers
    beyond 16 bits, are stretched from their least to their greatest value. A broken or unfitting
    colour profile is ignored, an impossible orientation too.

    Not for several threads at once: Python's warning filters, changed here, are shared by all.

    Raises:
      PictureError: no such file, no picture, a damaged one, or one of more than `max_pixels` (seen
        before it is decoded; Pillow's own limit, 179 million unless it is changed, stays).
    """
    path = pathlib.Path(path)
    with _open(path, max_pixels) as image, _reading(path, max_pixels):
        return np.array(_rgb(image))


def read_square(file: str | os.PathLike | bytes, size: int, name: str = "") -> np.ndarray:
    """The middle square of a picture, to train on: uint8 [size, size, 3], antialiased.

    Else as `read`. Pillow's bicubic filter, for it is the one whose data sets are compared (Parmar
    et al. 2022, 2104.11222). Of a JPEG half, a quarter or an
    eighth as many pixels each way are decoded where those are still `size` or more: the format has
    them for nothing. Against all of them, on `scenes` and photographs of 500 x 375: 47 dB at 64 and
    44 dB at 32 pixels, less than what such a JPEG itself loses.

    file: its path, or its content under a name for messages.
    """
    path = pathlib.Path(name if isinstance(file, bytes) else file)
    content = file if isinstance(file, bytes) else None
    with _open(path, _MAX_PIXELS, content) as image, _reading(path, _MAX_PIXELS):
        width, height = image.size
        image.draft(None, (size, size))
        picture, orientation = _upright_later(image)
        # The last pixels of a reduced picture may stand for some beyond its edge.
        scale = round(width / picture.width) if max(picture.size) < max(width, height) else 1
        if scale == 1:
            width, height = picture.size  # a TIFF has turned by itself
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        x, y, right, bottom = (v / scale for v in (left, top, left + side, top + side))
        # Cut first: a filter looks beyond the box that it resizes.
        cut = picture.crop((math.floor(x), math.floor(y), math.ceil(right), math.ceil(bottom)))
        box = (x % 1, y % 1, right - math.floor(x), bottom - math.floor(y))
        square = cut.resize((size, size), Image.Resampling.BICUBIC, box)
        return np.array(square.transpose(_TURNS[orientation]) if orientation else square)


def examine(path: str | os.PathLike, *, max_pixels: int = _MAX_PIXELS) -> tuple[np.ndarray, Nature]:
    """What `read` gives, and what the file holds. Raises as `read` does."""
    path = pathlib.Path(path)
    with _open(path, max_pixels) as image, _reading(path, max_pixels):
        mode = image.mode
        traits = _header_traits(image)
        if image.format == "TIFF":  # It is turned while it is decoded, and that forgotten.
            traits |= _exif_traits(image)
        pixels = np.array(_rgb(image))
        traits |= _exif_traits(image)  # A PNG may tell it at its end.
        with contextlib.suppress(Exception):  # Later frames may be damaged: they are not read.
            if getattr(image, "is_animated", False):
                traits.add("several_frames")
        if path.suffix.lower() not in ENDINGS.get(str(image.format), ()):
            traits.add("wrong_ending")
        height, width = pixels.shape[:2]
        return pixels, Nature(str(image.format), mode, height, width, tuple(sorted(traits)))


def paths(path: str | os.PathLike, endings: Sequence[str] = PICTURES) -> list[pathlib.Path]:
    """[path] of a file; of a folder the files directly in it with such endings, sorted by name.

    Hidden files and links to nowhere are left out. UsageError where nothing is left.
    """
    path = pathlib.Path(path)
    if not os.path.isdir(path):
        _check_file(path)
        return [path]
    try:
        found = sorted(
            entry
            for entry in path.iterdir()
            if entry.suffix.lower() in endings and not entry.name.startswith(".")
            if os.path.isfile(entry)  # Path.is_file raises for some links to nowhere.
        )
    except OSError as error:
        raise UsageError(f"cannot read the folder {path}: {reason(error)}") from error
    if not found:
        raise UsageError(f"{path}: expected files ending in {' '.join(endings)} in this folder")
    return found


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [height, width, 3], antialiased (Lanczos)."""
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def crop_square(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> its middle square, uint8 [size, size, 3]; small ones are enlarged."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[top : top + side, left : left + side], size, size)


def write(path: str | os.PathLike, image: np.ndarray) -> None:
    """uint8 [H, W, 3] -> a PNG, JPEG (quality 95, full colour resolution) or WebP, by ending.

    The file is written whole or not at all. UsageError for another ending, a picture too large for
    the format or a place that cannot be written to.
    """
    path = pathlib.Path(path)
    data = encode(path, image)
    try:
        files.write(path, data)
    except OSError as error:
        raise _unwritable(path, error) from error


def encode(path: pathlib.Path, image: np.ndarray) -> bytes:
    """What `write` writes to such a path."""
    ending = _ending(path, WRITABLE, image.shape)
    options: dict = {"subsampling": 0} if ending in (".jpg", ".jpeg") else {}
    return _encode(Image.fromarray(image), _KINDS[ending], quality=95, **options)


def is_animation(path: str | os.PathLike) -> bool:
    """Whether a file is a video, by its ending, or a GIF, WebP, PNG or AVIF of several frames."""
    path = pathlib.Path(path)
    if path.suffix.lower() in VIDEOS:
        _check_file(path)
        return True
    with _open(path, None) as image, _reading(path, None):
        return image.format in _ANIMATED and getattr(image, "is_animated", False)


class Frames:
    """An animation or video to read: iterating gives uint8 [H, W, 3] in sRGB, frame by frame.

    It can be iterated again, and holds one frame at a time. Opening an animation decodes it once,
    for its durations; that finds a damaged one before any work on it. A still picture is one frame.

    Attributes:
      height, width: pixels, H and W.
      durations: milliseconds, a list with one for each frame, or a number that holds for all: a
        video is read at a constant rate.
      count: number of frames; for a video an estimate, or None if it does not tell.

    Raises:
      UsageError: as `read` does; for a video also where the extra "video" is not installed.
    """

    height: int
    width: int
    count: int | None
    durations: list[float] | float

    def __init__(self, path: str | os.PathLike, *, max_pixels: int = _MAX_PIXELS):
        self._path, self._max_pixels = pathlib.Path(path), max_pixels
        self._is_video = self._path.suffix.lower() in VIDEOS
        if self._is_video:
            with tempfile.TemporaryFile() as words:
                with contextlib.closing(_decode(self._path, self._max_pixels, words)) as video:
                    self.height, self.width = next(video).shape[:2]
                    text = os.pread(words.fileno(), 2**20, 0).decode(errors="replace")
            # The last is the rate of what comes out here, rounded to two digits by ffmpeg.
            rate = float((re.findall(r" ([\d.]+) fps", text) or ["25"])[-1]) or 25.0
            length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", text)
            hours, minutes, seconds = map(float, length.groups()) if length else (0, 0, 0)
            self.count = round((hours * 3600 + minutes * 60 + seconds) * rate) or None
            self.durations = 1000 / rate
        else:
            self.durations = []
            for image, duration in self._pictures():
                self.width, self.height = image.size
                self.durations.append(duration)
            self.count = len(self.durations)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._is_video:
            with tempfile.TemporaryFile() as words:
                yield from _decode(self._path, self._max_pixels, words)
        else:
            for image, _ in self._pictures():
                yield np.array(image)

    def _pictures(self) -> Iterator[tuple[Image.Image, float]]:
        with _open(self._path, self._max_pixels) as image:
            several = image.format in _ANIMATED and getattr(image, "is_animated", False)
            # The still picture of an animated PNG need not be part of the animation.
            index = 1 if several and getattr(image, "default_image", False) else 0
            while True:
                with _reading(self._path, self._max_pixels):
                    try:
                        image.seek(index)
                    except EOFError:
                        return
                    frame = _rgb(image)
                    duration = float(image.info.get("duration", 0))
                yield frame, duration if duration > _SHORTEST else _UNSET
                if not several:
                    return
                index += 1


def write_frames(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    durations: Sequence[float] | float,
) -> None:
    """Frames uint8 [H, W, 3], one after the other -> an endless GIF, WebP or PNG, or an MP4 video.

    One frame is held at a time; the file is there whole or not at all. GIF: 256 colours a frame.
    MP4: H.264 at the constant rate of the mean duration; an odd height or width grows by one pixel,
    the last row or column repeated, for the format knows only even ones.

    Args:
      path: its ending names the format.
      frames: any iterable; it is first asked for a frame when the place is known to be writable.
      durations: milliseconds of every frame, or one for each. A GIF counts in hundredths of a
        second, no fewer than two; what is rounded off one frame is added to the next.

    Raises:
      UsageError: as `write` does; no frames; or the extra "video" is needed.
      ValueError: frames of different sizes, or not as many as durations.
    """
    path = pathlib.Path(path)
    ending = _ending(path, WRITABLE_ANIMATIONS, ())
    if ending == ".mp4":
        _ffmpeg()
    if os.path.isdir(path):
        raise _unwritable(path, IsADirectoryError("it is a folder"))
    with _whole(path) as temporary:
        iterator = iter(frames)
        first = next(iterator, None)
        if first is None:
            raise UsageError(f"no frames to write to {path}")
        _ending(path, WRITABLE_ANIMATIONS, first.shape)
        images = _alike(itertools.chain([first], iterator), first.shape)
        if ending == ".mp4":
            mean = durations if isinstance(durations, float | int) else float(np.mean(durations))
            _write_mp4(path, temporary, (image for image, _ in _timed(images, durations)), mean)
        else:
            with open(temporary, "wb") as file:
                _WRITERS[ending](file, _timed(images, durations), *first.shape[:2])


# Reading.


def _check_file(path: pathlib.Path) -> None:
    """PictureError unless the path is a file that is not empty."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name.
        what = "a link to nowhere" if os.path.islink(path) else reason(error)
        kind = "unreadable" if isinstance(error, PermissionError) else "no_file"
        raise PictureError(f"{path}: expected a picture or video, but: {what}", kind) from error
    if stat.S_ISDIR(status.st_mode):
        raise PictureError(f"{path} is a folder: expected a picture or video", "no_file")
    if not stat.S_ISREG(status.st_mode):
        raise PictureError(f"{path} is a pipe or device: expected a picture or video", "no_file")
    if not status.st_size:
        raise PictureError(f"{path} is empty: expected a picture or video", "empty")


def _check_size(path: pathlib.Path, width: int, height: int, max_pixels: int | None) -> None:
    if not width * height:
        raise PictureError(f"{path}: a picture of {width} x {height} pixels", "damaged")
    if max_pixels is not None and width * height > max_pixels:
        raise PictureError(
            f"{path}: {width} x {height} pixels, at most {max_pixels:,} in all: make it smaller",
            "too_large",
        )


@contextlib.contextmanager
def _reading(path: pathlib.Path, max_pixels: int | None) -> Iterator[None]:
    """Pillow at work on a file: no warnings, and PictureError for whatever it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UsageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        limit = min(max_pixels or 2**63, 2 * (Image.MAX_IMAGE_PIXELS or 2**62))
        raise PictureError(
            f"{path}: more than {limit:,} pixels: make it smaller", "too_large"
        ) from error
    except Exception as error:  # A damaged file leads Pillow's readers to nearly every exception.
        if isinstance(error, OSError) and error.errno:
            raise PictureError(f"cannot read {path}: {reason(error)}", "unreadable") from error
        head, tail, size = _both_ends(path)
        format = next((name for name, by in _BEGINNINGS.items() if re.match(by, head, re.S)), None)
        what = reason(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            if not format:
                text = f"{path}: {_guess(head)}; expected {' '.join(PICTURES)}"
                raise PictureError(text, "no_picture") from error
            what = f"it begins as {format}, but does not go on as one"
        kind = "truncated" if _ends_early(format, what, head, tail, size) else "damaged"
        raise PictureError(f"{path}: a damaged picture: {what}", kind) from error


def _both_ends(path: pathlib.Path) -> tuple[bytes, bytes, int]:
    """The first 1024 bytes of a file, its last 4096 and its size; nothing if it is gone."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(1024)
            file.seek(max(0, size - 4096))
            return head, file.read(4096), size
    except OSError:
        return b"", b"", 0


def _ends_early(format: str | None, what: str, head: bytes, tail: bytes, size: int) -> bool:
    """Whether a damaged file lacks its end; `what` is Pillow's word for it."""
    match format:
        case "JPEG":
            return b"\xff\xd9" not in tail
        case "PNG":
            return b"IEND" not in tail
        case "GIF":
            return not tail.rstrip(b"\0").endswith(b";")
        case "WebP":
            return int.from_bytes(head[4:8], "little") + 8 > size
        case "TIFF" if int.from_bytes(head[4:8], _ORDER[head[:1]]) >= size:  # Of its directory.
            return True
    return "truncated" in what.lower()


def _guess(head: bytes) -> str:
    """What a file is that Pillow does not know, by how it begins."""
    if b"<svg" in head.lower():
        return "an SVG drawing, not pixels: save it as PNG first"
    if head[4:8] == b"ftyp" and head[8:11] != b"avi":
        return "a HEIC picture or a video under another name: save it as JPEG or .mp4"
    for mark, name in _NO_PICTURES.items():
        if mark in head[:256].lower():
            return f"{name}, no picture"
    return "no picture that can be read"


def _open(path: pathlib.Path, max_pixels: int | None, content: bytes | None = None) -> Image.Image:
    """A picture, the file's or this content, of which only the header is read."""
    if content is None:
        _check_file(path)
    with _reading(path, max_pixels):
        image = Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS)
        try:
            _check_size(path, *image.size, max_pixels)
        except UsageError:
            image.close()
            raise
        return image


def _header_traits(image: Image.Image) -> set[str]:
    """The traits that a picture shows before it is decoded, but for those of its EXIF."""
    mode, traits = image.mode, set()
    raw_modes = [str(tile.args) for tile in getattr(image, "tile", ())]
    if mode in ("1", "L", "LA") or mode.startswith("I;16"):
        traits.add("grey")
    if mode.startswith("I;16") or any(re.search(r";16|;12", raw) for raw in raw_modes):
        traits.add("sixteen_bits")
    elif mode in ("I", "F"):
        traits.add("floats")
    elif mode in ("P", "PA"):
        traits.add("palette")
    elif mode == "CMYK":
        traits.add("cmyk")
    elif mode not in ("1", "L", "LA", "RGB", "RGBA"):
        traits.add("other_mode")
    if image.has_transparency_data:
        traits.add("transparent")
    if (profile := image.info.get("icc_profile")) and mode != "LAB":
        is_grey = "grey" in traits or mode in ("I", "F")
        probe = _probe("L" if is_grey else mode if mode == "CMYK" else "RGB")
        converted = _by_profile(probe, profile)
        if converted is None:
            traits.add("broken_profile")
        elif _difference(converted, probe.convert("RGB")) > _SAME_COLOR:
            traits.add("profile")
    return traits


def _probe(mode: str) -> Image.Image:
    """A picture of colours from everywhere in L, RGB or CMYK."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    shades = np.stack(np.meshgrid(*[np.linspace(0, 255, 5)] * channels), -1).astype(np.uint8)
    return Image.frombytes(mode, (shades[..., 0].size, 1), shades.tobytes())


def _difference(left: Image.Image, right: Image.Image) -> int:
    return int(np.abs(np.asarray(left, int) - np.asarray(right, int)).max())


def _exif_traits(image: Image.Image) -> set[str]:
    """ "turned", "broken_exif" or neither."""
    try:
        exif = dict(image.getexif())
    except Exception:
        return {"broken_exif"}
    orientation = exif.get(_ORIENTATION, 1)
    nothing_in_it = not exif and len(image.info.get("exif") or b"") > len(b"Exif\0\0")
    if nothing_in_it or orientation not in (1, *_TURNS):
        return {"broken_exif"}
    return {"turned"} if orientation in _TURNS else set()


def _rgb(image: Image.Image) -> Image.Image:
    """Any picture of Pillow's -> RGB, as `read` describes."""
    image, orientation = _upright_later(image)
    return image.transpose(_TURNS[orientation]) if orientation else image


def _upright_later(image: Image.Image) -> tuple[Image.Image, int | None]:
    """The same before it is turned, and the key of `_TURNS` that is left to do."""
    profile = image.info.get("icc_profile")
    image.load()  # It raises here if the file is damaged, and turns a TIFF by itself.
    orientation = _orientation(image)
    alpha = None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image, alpha = _eight_bits(image)
    elif image.has_transparency_data:
        is_grey = image.mode in ("1", "L", "LA")
        with_alpha = image.convert("RGBA")
        alpha = with_alpha.getchannel("A")
        image = with_alpha.convert("RGB").convert("L" if is_grey else "RGB")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    image = _to_srgb(image, profile)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image, orientation if orientation in _TURNS else None


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # Cameras write any nonsense here; the picture is no worse for it.
        return None


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """One channel of 16 or 32 bits or of floats -> L, and its mask where a shade is transparent."""
    values = np.asarray(image)
    transparent = image.info.get("transparency")
    alpha = None
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 1)
    if image.mode != "F" and low >= 0 and high <= 65535:
        grey = (values.astype(np.uint32) + 128) // 257
    else:
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (float(low), float(high))
        scale = 255 / (high - low) if high > low else 0.0
        inside = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
        grey = np.rint((inside - low) * scale)
    return Image.fromarray(grey.astype(np.uint8)), alpha


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB, CMYK or LAB, with the colour profile found in the file -> RGB."""
    if image.mode == "LAB":
        return _transformed(image, ImageCms.createProfile("LAB"))
    if profile and (converted := _by_profile(image, profile)):
        return converted
    return image if image.mode == "RGB" else image.convert("RGB")  # it would copy


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """L, RGB or CMYK -> RGB in sRGB; None if the profile is broken or does not fit."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}[source.profile.xcolor_space]
        # A grey picture may carry a profile for colours, but no other pair fits.
        fitting = image.convert(mode) if (image.mode, mode) == ("L", "RGB") else image
        return _transformed(fitting, source) if fitting.mode == mode else None
    except (ImageCms.PyCMSError, OSError, LookupError, ValueError, TypeError):
        return None


def _transformed(image: Image.Image, source) -> Image.Image:
    target = ImageCms.createProfile("sRGB")
    # Little CMS abridges the curve of a grey profile, up to 10 levels off in the shadows, and takes
    # eight times as long when it does not: so only the 256 shades go through it.
    is_grey = image.mode == "L"
    made = ImageCms.profileToProfile(
        Image.frombytes("L", (256, 1), bytes(range(256))) if is_grey else image,
        source,
        target,
        outputMode="RGB",
        flags=ImageCms.Flags.NOOPTIMIZE if is_grey else ImageCms.Flags.NONE,
    )
    assert made is not None  # Only with inPlace is there none.
    return Image.fromarray(np.asarray(made)[0][np.asarray(image)]) if is_grey else made


def _decode(
    path: pathlib.Path, max_pixels: int, words: IO[bytes]
) -> Generator[np.ndarray, None, None]:
    """Frames of a video, turned as it says and at a constant rate; ffmpeg talks into `words`.

    imageio_ffmpeg.read_frames would leave pipes open and hide a failure.
    """
    _check_file(path)
    # An absolute path is neither an option nor an address; a playlist may not lead to one.
    # PPM: each frame comes with its size.
    # fmt: off
    command = [
        _ffmpeg(), "-hide_banner", "-nostats", "-nostdin",
        "-protocol_whitelist", "file", "-i", str(path.absolute()), "-map", "0:v:0",
        "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-",
    ]
    # fmt: on
    count = 0
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words
    ) as process:
        pipe = process.stdout
        assert pipe is not None
        try:
            while pipe.readline():
                width, height = map(int, pipe.readline().split())
                _check_size(path, width, height, max_pixels)
                pipe.readline()
                data = pipe.read(3 * width * height)
                if len(data) == 3 * width * height:
                    count += 1
                    yield np.frombuffer(data, np.uint8).reshape(height, width, 3).copy()
        finally:
            process.kill()
    if not count:
        raise UsageError(f"{path}: not a video that ffmpeg can read")


# Writing.

_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def _ending(path: pathlib.Path, known: dict[str, int], shape: tuple[int, ...]) -> str:
    """The path's ending; UsageError if it is not known, or too small for the picture's shape."""
    ending = path.suffix.lower()
    if ending not in known:
        raise UsageError(f"{path}: expected a name ending in {' '.join(known)}")
    if max(shape, default=0) > known[ending]:
        raise UsageError(
            f"{path}: {shape[1]} x {shape[0]} pixels, but {ending} takes at most {known[ending]} "
            "a side: make it smaller or take .png"
        )
    return ending


def _unwritable(path: pathlib.Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write to {path}: {reason(error)}")


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """`files.whole` of an empty file; UsageError where it cannot be written."""
    try:
        with files.whole(path) as temporary:
            temporary.touch()
            yield temporary
    except OSError as error:
        raise _unwritable(path, error) from error


def _alike(frames: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for index, frame in enumerate(frames):
        if frame.shape != shape or frame.dtype != np.uint8:
            raise ValueError(
                f"frame {index} is {frame.dtype} {list(frame.shape)}: expected uint8 {list(shape)}"
            )
        yield frame


def _timed(
    frames: Iterable[np.ndarray], durations: Sequence[float] | float
) -> Iterator[tuple[np.ndarray, float]]:
    """Each frame with its milliseconds; ValueError if there are more of the one or the other."""
    if isinstance(durations, float | int):
        return zip(frames, itertools.repeat(durations), strict=False)
    return zip(frames, durations, strict=True)


def _ticks(
    frames: Iterable[tuple[np.ndarray, float]], tick: int, least: int
) -> Iterator[tuple[Image.Image, int]]:
    """Frames with milliseconds -> pictures with ticks, their rounding errors not summing up."""
    due, told = 0.0, 0
    for frame, duration in frames:
        due += duration / tick
        ticks = max(least, round(due) - told)
        told += ticks
        yield Image.fromarray(frame), ticks


def _encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


_BAYER = (
    np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float32) - 7.5
)[..., None]  # Sixteen offsets, -7.5 to 7.5.


def _to_palette(image: Image.Image) -> Image.Image:
    """RGB -> P: exact up to 256 colours, else an octree's palette and ordered dither.

    On a half-still, half-moving test, median cut (Pillow's default) let the still half flicker by
    5.1 levels and left an error of 11.7; this 0.8 and 9.3. Diffused dither flickered by 4.2.
    """
    pixels = np.asarray(image)
    if image.getcolors(256):
        packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        colors, indices = np.unique(packed, return_inverse=True)
        exact = Image.fromarray(indices.reshape(packed.shape).astype(np.uint8))
        exact.putpalette(
            np.stack([colors >> 16, colors >> 8, colors], -1).astype(np.uint8).tobytes()
        )
        return exact
    palette = image.quantize(256, method=Image.Quantize.FASTOCTREE)
    height, width = pixels.shape[:2]
    offsets = np.tile(_BAYER, (-(-height // 4), -(-width // 4), 1))[:height, :width]
    dithered = np.clip(pixels + offsets, 0, 255).round().astype(np.uint8)
    return Image.fromarray(dithered).quantize(palette=palette, dither=Image.Dither.NONE)


def _write_gif(
    file: IO[bytes], frames: Iterable[tuple[np.ndarray, float]], height: int, width: int
) -> None:
    size = struct.pack("<HH", width, height)
    file.write(b"GIF89a" + size + b"\x70\0\0" + b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")
    for image, ticks in _ticks(frames, tick=10, least=2):  # Below 2, browsers take 10.
        still = _encode(_to_palette(image), "GIF", interlace=False)
        # Header 13, global palette, place of the picture 10, its data; 1 for the end of the file.
        bits = still[10] & 7
        begin = 13 + 3 * (2 << bits)
        file.write(struct.pack("<4sHBB", b"\x21\xf9\x04\x04", min(ticks, 65535), 0, 0))
        file.write(b"\x2c\0\0\0\0" + size + bytes([0x80 | bits]))
        file.write(still[13:begin] + still[begin + 10 : -1])
    file.write(b"\x3b")


def _write_webp(
    file: IO[bytes], frames: Iterable[tuple[np.ndarray, float]], height: int, width: int
) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def three(number: int) -> bytes:
        return number.to_bytes(3, "little")

    size = three(width - 1) + three(height - 1)
    file.write(b"RIFF\0\0\0\0WEBP" + chunk(b"VP8X", b"\x02\0\0\0" + size))
    file.write(chunk(b"ANIM", b"\xff\xff\xff\xff\0\0"))
    for image, ticks in _ticks(frames, tick=1, least=1):
        still = _encode(image, "WEBP", quality=90)
        place = three(0) + three(0) + size + three(min(ticks, 2**24 - 1)) + b"\x02"
        file.write(chunk(b"ANMF", place + still[12:]))
    length = file.tell() - 8
    file.seek(4)
    file.write(struct.pack("<I", length))


def _write_png(
    file: IO[bytes], frames: Iterable[tuple[np.ndarray, float]], height: int, width: int
) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    numbers = itertools.count()
    count = where = 0
    for image, ticks in _ticks(frames, tick=1, least=1):
        still = _encode(image, "PNG")
        if not count:
            file.write(still[:33])  # The signature and the header.
            where = file.tell()
            file.write(chunk(b"acTL", struct.pack(">II", 0, 0)))
        time = (ticks, 1000) if ticks < 65536 else (min(round(ticks / 1000), 65535), 1)
        place = (next(numbers), width, height, 0, 0, *time, 0, 0)
        file.write(chunk(b"fcTL", struct.pack(">5I2H2B", *place)))
        at = 33
        while at < len(still):
            length, name = struct.unpack_from(">I4s", still, at)
            data = still[at + 8 : at + 8 + length]
            if name == b"IDAT" and not count:
                file.write(chunk(name, data))
            elif name == b"IDAT":
                file.write(chunk(b"fdAT", struct.pack(">I", next(numbers)) + data))
            at += 12 + length
        count += 1
    file.write(chunk(b"IEND", b""))
    file.seek(where)
    file.write(chunk(b"acTL", struct.pack(">II", count, 0)))


_WRITERS: dict[str, Callable] = {".gif": _write_gif, ".webp": _write_webp, ".png": _write_png}


def _ffmpeg() -> str:
    """Where the program is."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UsageError("videos need another package: pip install 'zoo-art[video]'") from error
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UsageError(f"videos need ffmpeg: {reason(error)}") from error


def _write_mp4(
    path: pathlib.Path, temporary: pathlib.Path, frames: Iterable[np.ndarray], mean: float
) -> None:
    """H.264 as every player takes it: 4:2:0, BT.709 and said so, near lossless to the eye.

    imageio_ffmpeg.write_frames would not tell whether ffmpeg succeeded.
    """
    frames = iter(frames)
    first = next(frames)
    height, width = (side + side % 2 for side in first.shape[:2])
    rate = fractions.Fraction(1000 / mean).limit_denominator(1001)
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    # fmt: off
    command = [
        _ffmpeg(), "-y", "-v", "error", "-nostdin",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate),
        "-i", "-",
        "-vf", "scale=out_color_matrix=bt709:out_range=tv", "-pix_fmt", "yuv420p", *tags,
        "-c:v", "libx264", "-crf", "18", "-movflags", "+faststart",
        "-f", "mp4", str(temporary.absolute()),
    ]
    # fmt: on
    with tempfile.TemporaryFile() as errors:
        # A pipe that breaks is a failure, told below in ffmpeg's own words.
        with (
            contextlib.suppress(BrokenPipeError),
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
            ) as process,
        ):
            pipe = process.stdin
            assert pipe is not None
            try:
                for frame in itertools.chain([first], frames):
                    odd = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
                    pipe.write(np.pad(frame, odd, mode="edge").tobytes())
            except BaseException:
                process.kill()
                with contextlib.suppress(OSError):
                    pipe.close()
                raise
        if process.returncode:
            errors.seek(0)
            words = errors.read().decode(errors="replace").strip() or "ffmpeg failed"
            first_line = re.sub(r"^\[.*?\] ", "", words.partition("\n")[0])
            raise UsageError(f"cannot write to {path}: {first_line}")
