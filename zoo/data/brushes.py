"""Brushes: random numbers, fields, colours and motifs that `paintings` and `scenes` share.

All are functions of the place from 0 to 1 (x to the right, y down) and of numbers drawn before the
size matters. To give the same bytes on every machine, sine and its kin are computed in float64 and
rounded to float32 (`rounded`): NumPy's float32 versions of them differ from CPU to CPU.

Shapes: pictures are planar, float32 [3, S, S] in [0, 1]; fields are [S, S]; colours [3]; palettes
[n, 3].
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# ---- random numbers


class Random:
    """The stream of one picture; only `Generator.random`, whose numbers NumPy keeps for good."""

    def __init__(self, *key: int):
        self._random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key))).random

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * self._random()

    def uniforms(self, low: float, high: float, *shape: int) -> np.ndarray:
        return np.float32(low) + np.float32(high - low) * self._random(shape).astype(np.float32)

    def normal(self) -> float:
        """About N(0, 1): the sum of four uniforms, never further out than 3.5."""
        return (float(self._random(4).sum()) - 2) * math.sqrt(3)

    def normals(self, *shape: int) -> np.ndarray:
        return ((self._random((4, *shape)).sum(0) - 2) * math.sqrt(3)).astype(np.float32)

    def integer(self, low: int, high: int) -> int:
        """One of low, ..., high - 1."""
        return int(low + self._random() * (high - low))

    def choice(self, options: Sequence[Any] | np.ndarray) -> Any:
        return options[self.integer(0, len(options))]

    def permutation(self, count: int) -> np.ndarray:
        return np.argsort(self._random(count))

    def chance(self, probability: float) -> bool:
        return self._random() < probability


# ---- fields: functions of the place, [S, S] or broadcast to it


def rounded(function: np.ufunc, *arguments: np.ndarray | float) -> np.ndarray:
    return function(*(np.asarray(a, np.float64) for a in arguments)).astype(np.float32)


def coordinates(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: x [1, S] and y [S, 1] in (0, 1)."""
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    return centres[None, :], centres[:, None]


def length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y)


def smooth_step(low: float, high: float, x: np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: np.ndarray) -> np.ndarray:
    return rounded(np.exp, -x * x)


def noise(random: Random, size: int, frequency: int, octaves: int = 3) -> np.ndarray:
    """Smooth noise [S, S], about -1 to 1: lattices of random heights, `frequency` cells across.

    Octaves finer than a pixel are drawn from the stream, to leave it the same at every size, but
    not added.
    """
    total = np.zeros((size, size), np.float32)
    amplitudes = 0.5 ** np.arange(octaves, dtype=np.float32)
    for octave, amplitude in enumerate(amplitudes):
        cells = frequency * 2**octave
        lattice = random.uniforms(-1, 1, cells + 3, cells + 3)
        if cells <= size:
            total += enlarged(amplitude * lattice, size)
    return total * np.float32(1.6 / amplitudes.sum())


def enlarged(lattice: np.ndarray, size: int) -> np.ndarray:
    """[n + 3, n + 3] -> [S, S]: Catmull-Rom splines through the lattice, n cells of it.

    By hand: the last bits of a matrix product and of Pillow's resize depend on the CPU.
    """
    cells = len(lattice) - 3
    place = coordinates(size)[0][0] * cells
    first = place.astype(int)
    u = place - first.astype(np.float32)
    taps = (
        ((-0.5 * u + 1) * u - 0.5) * u,
        (1.5 * u - 2.5) * u * u + 1,
        ((-1.5 * u + 2) * u + 0.5) * u,
        (0.5 * u - 0.5) * u * u,
    )
    wide = sum(tap * lattice.take(first + k, axis=1) for k, tap in enumerate(taps))
    return sum(tap[:, None] * wide.take(first + k, axis=0) for k, tap in enumerate(taps))


def ridge(random: Random, size: int, frequency: int, octaves: int, gain: float = 0.5) -> np.ndarray:
    """A skyline [S]: one-dimensional noise of several octaves."""
    x = coordinates(size)[0][0]
    heights = np.zeros(size, np.float32)
    for octave in range(octaves):
        cells = frequency * 2**octave
        lattice = random.uniforms(-1, 1, cells + 3)
        place = x * cells
        cell = place.astype(int)
        t = smooth_step(0, 1, place - cell)
        heights += np.float32(gain**octave) * (lattice[cell] * (1 - t) + lattice[cell + 1] * t)
    return heights


# ---- colour


def colours(text: str) -> np.ndarray:
    """ "264653 e9c46a" -> float32 [2, 3]."""
    return np.array([list(bytes.fromhex(code)) for code in text.split()], np.float32) / 255


PALETTES = tuple(
    colours(text)
    for text in (
        "264653 2a9d8f e9c46a f4a261 e76f51",
        "003049 d62828 f77f00 fcbf49 eae2b7",
        "0d3b66 faf0ca f4d35e ee964b f95738",
        "1d3557 457b9d a8dadc f1faee e63946",
        "5f0f40 9a031e fb8b24 e36414 0f4c5c",
        "335c67 fff3b0 e09f3e 9e2a2b 540b0e",
        "006d77 83c5be edf6f9 ffddd2 e29578",
        "22223b 4a4e69 9a8c98 c9ada7 f2e9e4",
        "10002b 5a189a 9d4edd e0aaff ffc8dd",
        "132a13 31572c 4f772d 90a955 ecf39e",
        "03045e 0077b6 00b4d8 90e0ef fdf0d5",
        "2d00f7 8900f2 e500a4 f20089 ffd60a",
        "001219 0a9396 e9d8a6 ee9b00 ae2012",
        "250902 640d14 ad2831 f3d5b5 f5efe6",
        "0b132b 1c2541 3a506b 5bc0be f7f7ff",
        "463f3a 8a817c bcb8b1 f4f3ee e0afa0",
        "390099 9e0059 ff0054 ff5400 ffbd00",
        "386641 6a994e a7c957 f2e8cf bc4749",
    )
)


def planar(colour: np.ndarray) -> np.ndarray:
    """A colour [3] as [3, 1, 1], which broadcasts over a picture; pictures stay as they are."""
    return colour[:, None, None] if colour.ndim == 1 else colour


def mix(under: np.ndarray, over: np.ndarray, amount: np.ndarray | float) -> np.ndarray:
    """Lays `over` on `under` where amount is 1; each is a picture or a colour."""
    under, over = planar(under), planar(over)
    return under + (over - under) * amount


def ramp(colours: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Colours along a piecewise linear scale: t [S, S] in [0, 1] -> [3, S, S]."""
    t = np.clip(t, 0, 1) * (len(colours) - 1)
    step = np.minimum(t.astype(int), len(colours) - 2)
    steps = np.diff(colours, axis=0)
    return colours.T.take(step, axis=1) + steps.T.take(step, axis=1) * (t - step)


def luminance(colours: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(colours, -1, 0)
    return np.float32(0.3) * red + np.float32(0.59) * green + np.float32(0.11) * blue


def vary(
    colours: np.ndarray, random: Random, hue: float, saturation: float, value: float
) -> np.ndarray:
    """Varies each row of colours [n, 3]: turns its hue, and scales its saturation and lightness."""
    count = len(colours)
    turn = hue * random.normals(count)[:, None]
    grey = luminance(colours)[:, None]
    chroma = colours - grey
    across = (chroma[:, [2, 0, 1]] - chroma[:, [1, 2, 0]]) * np.float32(1 / math.sqrt(3))
    chroma = chroma * rounded(np.cos, turn) + across * rounded(np.sin, turn)
    grey = grey + value * random.normals(count)[:, None]
    return np.clip(
        grey + chroma * (1 + saturation * random.uniforms(-0.3, 1, count))[:, None], 0, 1
    )


def average(picture: np.ndarray, factor: int) -> np.ndarray:
    """[..., S * factor, S * factor] -> [..., S, S]."""
    corners = [
        picture[..., row::factor, column::factor]
        for row in range(factor)
        for column in range(factor)
    ]
    return np.asarray(sum(corners)) / np.float32(factor * factor)


# ---- motifs of landscapes

GROUNDS = (
    colours("283618 606c38 dda15e"),
    colours("1b4332 40916c b7e4c7"),
    colours("7f5539 e6b800 ffe66d"),
    colours("03045e 0077b6 90e0ef"),
    colours("582f0e a68a64 c2c5aa"),
)


def plant_trees(picture: np.ndarray, random: Random, horizon: float) -> np.ndarray:
    """One to four cypresses, their feet below the horizon."""
    size = picture.shape[-1]
    x, y = coordinates(size)
    greens = colours("081c15 1b4332 588157")
    for _ in range(random.integer(1, 5)):
        trunk, foot = random.uniform(0.05, 0.95), random.uniform(horizon, 0.95)
        width, height = random.uniform(0.04, 0.12), random.uniform(0.25, 0.55)
        down = np.clip((y - foot + height) / height, 0, 1)  # 0 at the top, 1 at the foot
        half = width * rounded(np.power, down, 0.7) * (1 - 0.25 * down**2 * down**2 * down**2)
        tree = 1 - smooth_step(0.8, 1.1, np.abs(x - trunk) / np.maximum(half, 1e-3))
        tree = tree * (y < foot) * (y > foot - height)
        leaves = ramp(greens, 0.5 + 0.5 * noise(random, size, 12, 1))
        picture = mix(picture, leaves, tree)
    return picture


def plant_flowers(picture: np.ndarray, random: Random, horizon: float) -> np.ndarray:
    """A meadow of blobs, larger near the eye."""
    size = picture.shape[-1]
    x, y = coordinates(size)
    petals = colours("e63946 ffd166 ffffff c77dff ff70a6")
    for _ in range(random.integer(20, 40)):
        nearness = random.uniform() ** 0.7
        centre_x, centre_y = random.uniform(), horizon + 0.05 + nearness * (0.95 - horizon)
        distance = length(x - centre_x, y - centre_y) / (0.012 + 0.035 * nearness)
        picture = mix(picture, random.choice(petals), 1 - smooth_step(0.7, 1.2, distance))
    return picture


def build_house(picture: np.ndarray, random: Random, horizon: float) -> np.ndarray:
    """A front and a roof, their edges hard."""
    size = picture.shape[-1]
    x, y = coordinates(size)
    left, width = random.uniform(0.15, 0.65), random.uniform(0.16, 0.28)
    height = random.uniform(0.14, 0.24)
    foot = horizon + random.uniform(0.1, 0.2)
    wall = random.choice(colours("fefae0 f2cc8f e9edc9"))
    roof = random.choice(colours("9a031e bc4749 3d405b"))
    front = (x > left) & (x < left + width) & (y > foot - height) & (y < foot)
    picture = mix(picture, wall, front * np.float32(0.95))
    down = (y - (foot - height * 1.7)) / (height * 0.7)  # 0 at the ridge, 1 at the eaves
    gable = (down > 0) & (down < 1) & (np.abs(x - left - width / 2) < down * width * 0.62)
    return mix(picture, roof, gable.astype(np.float32))
