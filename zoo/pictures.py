"""Sheets of pictures and animated walks, written whole or not at all. NumPy and Pillow only."""

import io
import pathlib

import numpy as np
from PIL import Image

from zoo.errors import UsageError

_BACKGROUND = 40
_FORMATS = {".png": "PNG", ".webp": "WEBP", ".gif": "GIF"}


def grid(images: np.ndarray, columns: int, *, gap: int = 1, scale: int | None = None) -> np.ndarray:
    """images uint8 [N, H, W, C] -> one sheet uint8 [H', W', C], row by row, `columns` a row.

    scale repeats pixels; by default small images are enlarged to about 56 pixels.
    """
    count, height, width, channels = images.shape
    scale = scale or max(1, 72 // max(height, width))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale, width * scale
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels),
        _BACKGROUND,
        np.uint8,
    )
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def to_pil(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, 1 or 3] -> a Pillow image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def encode(image: np.ndarray) -> bytes:
    """uint8 [H, W, C] -> PNG bytes."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def animate(frames: np.ndarray, kind: str, *, size: int = 224, milliseconds: int = 50) -> bytes:
    """frames uint8 [N, H, W, C] -> an endless animation, kind "GIF" or "WEBP".

    Frames smaller than `size` pixels are enlarged smoothly.
    """
    height, width = frames.shape[1:3]
    factor = max(1, round(size / max(height, width)))
    pictures = [
        to_pil(frame).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
        for frame in frames
    ]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        kind,
        save_all=True,
        append_images=pictures[1:],
        duration=milliseconds,
        loop=0,
        **({"quality": 80, "method": 4} if kind == "WEBP" else {}),
    )
    return buffer.getvalue()


def format_of(path: pathlib.Path, *endings: str) -> str:
    """The picture format that the path's ending names; UsageError if it is none of `endings`."""
    ending = path.suffix.lower()
    if ending not in endings:
        raise UsageError(f"--out={path}: expected a name ending in {' or '.join(endings)}")
    return _FORMATS[ending]
