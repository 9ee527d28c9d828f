"""Glyphs: hand-drawn digits, ten classes, 28x28 grey, drawn by our own code.

A digit is a skeleton of strokes (22 of them, two or three to a digit) in the unit box. A stroke is
a Catmull-Rom spline through control points, cut into straight segments. Each example moves the
control points, bends the page by a slow sine, stretches, slants, turns and shifts it, and draws the
segments with a pen whose pressure changes along the way. No font, no download.

An example is a function of (split, index, seed, image_size, variant) and of nothing else, so any
one can be drawn alone, in any order, in any process. To get the same bytes on every machine, random
numbers are integer hashes, geometry is float64 rounded to a grid far coarser than the last-bit
differences between CPUs, and the raster uses only operations that IEEE 754 makes exact.

Shapes: N examples, H = W = image_size, P points and S segments of a skeleton.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from zoo.errors import UsageError

CLASS_NAMES: tuple[str, ...] = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
DEFAULT_SIZE = 28
MIN_SIZE, MAX_SIZE = 8, 2048
CHANNELS = 1
NUM_EXAMPLES = {"train": 60_000, "test": 10_000}
VARIANTS = {"": 1.0, "hard": 1.5}
"""Variant -> how strong all jitter is."""

# Per digit its skeletons, per skeleton its strokes, per stroke its points; x to the right, y down.
SKELETONS = (
    (  # 0: one closed loop; one that overlaps itself at the top
        [[(.50, .04), (.25, .16), (.15, .50), (.25, .84), (.50, .96), (.75, .84), (.85, .50),
          (.75, .16), (.50, .04)]],
        [[(.62, .05), (.30, .10), (.17, .45), (.25, .85), (.50, .96), (.78, .80), (.84, .45),
          (.70, .12), (.42, .06)]],
    ),
    (  # 1: a bare stem; with a flag; with a flag and a base
        [[(.52, .03), (.50, .35), (.49, .65), (.48, .97)]],
        [[(.30, .24), (.42, .14), (.54, .03)], [(.54, .03), (.53, .50), (.52, .97)]],
        [[(.32, .22), (.44, .13), (.54, .03)], [(.54, .03), (.53, .50), (.52, .95)],
         [(.28, .95), (.52, .95), (.76, .94)]],
    ),
    (  # 2: a sharp lower corner; a loop in its place
        [[(.18, .26), (.32, .08), (.58, .05), (.77, .22), (.68, .50), (.42, .74), (.16, .94)],
         [(.16, .94), (.50, .93), (.86, .92)]],
        [[(.20, .24), (.36, .07), (.62, .06), (.76, .25), (.64, .52), (.38, .82), (.20, .90),
          (.20, .76), (.40, .78), (.62, .92), (.88, .86)]],
    ),
    (  # 3: round on top; flat on top
        [[(.18, .16), (.42, .04), (.70, .13), (.70, .34), (.40, .47)],
         [(.40, .47), (.74, .56), (.80, .77), (.52, .96), (.16, .85)]],
        [[(.20, .06), (.50, .06), (.78, .06)], [(.78, .06), (.60, .22), (.42, .40)],
         [(.42, .40), (.74, .50), (.80, .74), (.54, .95), (.16, .86)]],
    ),
    (  # 4: open; closed
        [[(.26, .04), (.22, .30), (.18, .56)], [(.18, .56), (.50, .56), (.86, .53)],
         [(.68, .05), (.67, .50), (.64, .97)]],
        [[(.64, .03), (.40, .34), (.12, .66)], [(.12, .66), (.50, .66), (.90, .65)],
         [(.64, .03), (.64, .50), (.63, .97)]],
    ),
    (  # 5: a sharp corner at the belly; a soft one
        [[(.80, .06), (.52, .06), (.28, .07)], [(.28, .07), (.26, .25), (.23, .44)],
         [(.23, .44), (.50, .36), (.77, .50), (.79, .75), (.54, .95), (.17, .87)]],
        [[(.82, .05), (.55, .05), (.30, .08)],
         [(.30, .08), (.25, .26), (.28, .42), (.56, .42), (.77, .60), (.68, .86), (.42, .96),
          (.16, .90)]],
    ),
    (  # 6: a curved back; a straight one
        [[(.70, .05), (.42, .20), (.22, .50), (.20, .78), (.45, .96), (.74, .86), (.76, .63),
          (.52, .50), (.23, .68)]],
        [[(.52, .03), (.30, .32), (.20, .66), (.30, .92), (.58, .95), (.76, .76), (.64, .56),
          (.40, .58), (.22, .76)]],
    ),
    (  # 7: plain; with a bar; with a serif
        [[(.14, .08), (.50, .08), (.84, .07)], [(.84, .07), (.60, .45), (.42, .97)]],
        [[(.14, .09), (.50, .08), (.82, .07)], [(.82, .07), (.60, .48), (.46, .97)],
         [(.32, .50), (.54, .49), (.76, .48)]],
        [[(.18, .22), (.17, .14), (.18, .07)], [(.18, .07), (.50, .09), (.84, .06)],
         [(.84, .06), (.58, .50), (.50, .97)]],
    ),
    (  # 8: one stroke; two loops
        [[(.72, .16), (.50, .04), (.27, .16), (.32, .36), (.52, .48), (.74, .66), (.72, .87),
          (.50, .96), (.27, .86), (.27, .66), (.48, .49), (.68, .35), (.72, .16)]],
        [[(.50, .46), (.27, .34), (.29, .13), (.50, .04), (.71, .13), (.73, .34), (.50, .46)],
         [(.50, .46), (.22, .60), (.24, .86), (.50, .96), (.77, .86), (.78, .60), (.50, .46)]],
    ),
    (  # 9: a straight tail; a curled one
        [[(.76, .24), (.56, .05), (.28, .12), (.22, .36), (.44, .50), (.68, .42), (.77, .22)],
         [(.77, .22), (.75, .60), (.68, .97)]],
        [[(.74, .20), (.52, .05), (.27, .16), (.24, .38), (.46, .49), (.70, .38), (.76, .18)],
         [(.76, .18), (.80, .55), (.66, .88), (.40, .96), (.24, .88)]],
    ),
)  # fmt: skip
NUM_SEGMENTS = 36
MAX_CONTROLS = 13
MARGIN = 0.15
EDGE_WIDTH = 1.3  # pixels over which a stroke fades out
BATCH = 4096  # examples whose geometry is computed together
TILE_PIXELS = 256 * 28 * 28  # pixels that are rastered together: few enough to stay in the L2 cache

_SPLIT_IDS = {"train": 1, "test": 2}
_UINT64 = (1 << 64) - 1


def class_names(variant: str = "") -> tuple[str, ...]:
    """What the labels stand for: the digits, in every variant."""
    return CLASS_NAMES


def draw(
    indices: Sequence[int] | np.ndarray,
    *,
    split: str = "train",
    seed: int = 0,
    image_size: int = DEFAULT_SIZE,
    variant: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the examples `indices`, each independently of the others.

    Args:
      indices: N example numbers, each >= 0; those beyond `NUM_EXAMPLES` are further fresh examples.
      split: "train" or "test"; the two share no example.
      seed: any integer; another seed is another data set.
      image_size: height and width, `MIN_SIZE` to `MAX_SIZE`. Strokes grow with it.
      variant: a key of `VARIANTS`.

    Returns:
      images uint8 [N, H, W, 1], ink is 255 on 0; labels int32 [N], which are index % 10.

    Raises:
      UsageError: an unknown split or variant, a size out of range, or a negative index.
    """
    if split not in _SPLIT_IDS:
        raise UsageError(f"split is {split!r}; expected one of {', '.join(_SPLIT_IDS)}")
    if variant not in VARIANTS:
        raise UsageError(f"glyphs has no variant {variant!r}; expected one of {list(VARIANTS)}")
    if not MIN_SIZE <= image_size <= MAX_SIZE:
        raise UsageError(
            f"image_size is {image_size}; glyphs can be drawn at {MIN_SIZE} to {MAX_SIZE} pixels"
        )
    indices = np.asarray(indices, np.int64).reshape(-1)
    if len(indices) and indices.min() < 0:
        raise UsageError(f"example {indices.min()} does not exist; indices start at 0")

    images = np.empty((len(indices), image_size, image_size, 1), np.uint8)
    labels = (indices % len(CLASS_NAMES)).astype(np.int32)
    for start in range(0, len(indices), BATCH):
        batch = slice(start, start + BATCH)
        numbers = _random_numbers(indices[batch], _SPLIT_IDS[split], seed)
        segments = _segments(labels[batch], numbers, image_size, VARIANTS[variant])
        images[batch, :, :, 0] = _raster(*segments, image_size)
    return images, labels


# ---- random numbers

_NUM_UNIFORMS = 24
_NUM_NUMBERS = _NUM_UNIFORMS + MAX_CONTROLS * 2 * 3


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: a bijection of uint64 that scatters every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _random_numbers(indices: np.ndarray, split_id: int, seed: int) -> np.ndarray:
    """All random numbers of the examples: float64 [N, _NUM_NUMBERS] in [0, 1).

    A counter-based generator (SplitMix64 keyed by seed, split and index) serves all examples at
    once; a NumPy generator apiece would cost nearly as much as the drawing.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    key = _mix(np.array([seed & _UINT64], np.uint64) + golden)
    key = _mix(key + np.array([split_id], np.uint64) * golden)
    key = _mix(key + (indices.astype(np.uint64) + np.uint64(1)) * golden)
    counter = np.arange(1, _NUM_NUMBERS + 1, dtype=np.uint64) * golden
    return (_mix(key[:, None] + counter) >> np.uint64(11)) * 2.0**-53


# ---- skeletons


class _Skeleton:
    """One way to write a digit: control points, and the weights that turn them into spline points.

    Attributes:
      controls: float64 [C, 2], each distinct control point once, so that corners move together.
      weights: float64 [P, C]; points = weights @ controls.
      starts: int [S], the point at which each segment starts; it ends at the next point.
    """

    def __init__(self, strokes: Sequence[Sequence[tuple[float, float]]]):
        lengths = [
            sum(np.hypot(*np.subtract(a, b)) for a, b in itertools.pairwise(stroke))
            for stroke in strokes
        ]
        segments = [max(2, int(length / sum(lengths) * NUM_SEGMENTS)) for length in lengths]
        segments[int(np.argmax(lengths))] += NUM_SEGMENTS - sum(segments)
        distinct = list(dict.fromkeys(point for stroke in strokes for point in stroke))
        self.controls = np.array(distinct)
        self.weights = np.zeros((NUM_SEGMENTS + len(strokes), len(distinct)))
        self.starts = np.empty(NUM_SEGMENTS, int)
        row = segment = 0
        for stroke, count in zip(strokes, segments, strict=True):
            columns = [distinct.index(point) for point in stroke]
            spline = _catmull_rom(len(stroke), count + 1)
            for weight, column in zip(spline.T, columns, strict=True):
                self.weights[row : row + count + 1, column] += weight
            self.starts[segment : segment + count] = np.arange(row, row + count)
            row += count + 1
            segment += count


def _catmull_rom(num_controls: int, num_points: int) -> np.ndarray:
    """Weights [num_points, num_controls] of evenly spaced points of a Catmull-Rom spline."""
    weights = np.zeros((num_points, num_controls))
    for row, t in enumerate(np.linspace(0, num_controls - 1, num_points)):
        first = min(int(t), num_controls - 2)
        u = t - first
        u2, u3 = u * u, u * u * u
        taps = (
            -0.5 * u + u2 - 0.5 * u3,
            1 - 2.5 * u2 + 1.5 * u3,
            0.5 * u + 2 * u2 - 1.5 * u3,
            -0.5 * u2 + 0.5 * u3,
        )
        for control, tap in zip(range(first - 1, first + 3), taps, strict=True):
            if control < 0:  # beyond either end the spline goes straight on
                weights[row, 0] += 2 * tap
                weights[row, 1] -= tap
            elif control >= num_controls:
                weights[row, -1] += 2 * tap
                weights[row, -2] -= tap
            else:
                weights[row, control] += tap
    return weights


_COMPILED = tuple(tuple(_Skeleton(strokes) for strokes in digit) for digit in SKELETONS)


# ---- geometry: labels and random numbers -> segments


def _grid(x: np.ndarray) -> np.ndarray:
    """Rounds pixels to float32 multiples of 2**-12: sin, cos and pow differ in the last bit."""
    return (np.rint(x * 4096) / 4096).astype(np.float32)


def _triangular(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a + b - 1


def _segments(
    labels: np.ndarray, numbers: np.ndarray, image_size: int, jitter: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pen's path: starts and ends float32 [S, 2, N] and radii float32 [S, N], all in pixels."""
    uniforms = numbers[:, :_NUM_UNIFORMS].T  # [24, N]
    gaussians = numbers[:, _NUM_UNIFORMS:].reshape(-1, MAX_CONTROLS, 2, 3)
    gaussians = (gaussians[..., 0] + gaussians[..., 1] + gaussians[..., 2] - 1.5) / 0.5

    starts = np.empty((NUM_SEGMENTS, 2, len(labels)), np.float32)
    ends = np.empty_like(starts)
    for digit, skeletons in enumerate(_COMPILED):
        choice = (uniforms[0] * len(skeletons)).astype(int)
        for number, skeleton in enumerate(skeletons):
            which = np.flatnonzero((labels == digit) & (choice == number))
            moves = gaussians[which, : len(skeleton.controls)].transpose(1, 2, 0)  # [C, 2, N]
            points = _points(skeleton, moves, uniforms[:, which], image_size, jitter)
            starts[:, :, which] = points[skeleton.starts]
            ends[:, :, which] = points[skeleton.starts + 1]

    base = (0.75 + 0.95 * uniforms[19] ** 1.2) * image_size / 28
    pressure = 0.30 * jitter * _triangular(uniforms[20], uniforms[21])
    along = (np.arange(NUM_SEGMENTS)[:, None] + 0.5) / NUM_SEGMENTS
    waves = np.cos(2 * np.pi * (along * (0.5 + uniforms[22]) + uniforms[23]))
    return starts, ends, _grid(base * (1 + pressure * waves))


def _points(
    skeleton: _Skeleton,
    moves: np.ndarray,
    uniforms: np.ndarray,
    image_size: int,
    jitter: float,
) -> np.ndarray:
    """Points float32 [P, 2, N] in pixels of N examples that share a skeleton."""
    controls = skeleton.controls[:, :, None] + 0.022 * jitter * moves
    # A loop, not a matrix product: BLAS may round an example differently in another batch.
    points = np.zeros((len(skeleton.weights), *controls.shape[1:]))
    for column, control in zip(skeleton.weights.T, controls, strict=True):
        rows = np.flatnonzero(column)
        points[rows] += column[rows, None, None] * control
    x, y = points[:, 0] - 0.5, points[:, 1] - 0.5  # [P, N]

    # Bend: a slow sine moves x along y, and y along x.
    phase_x, phase_y = 2 * np.pi * uniforms[1:3]
    bend_x, bend_y = jitter * (0.02 + 0.05 * uniforms[5:7])
    x, y = (
        x + bend_x * (np.sin(2 * np.pi * y + phase_x) - np.sin(phase_x)),
        y + bend_y * (np.sin(2 * np.pi * x + phase_y) - np.sin(phase_y)),
    )

    # Stretch and slant, turn, shift.
    turn = 0.30 * jitter * _triangular(uniforms[7], uniforms[8])
    slant = 0.12 + 0.42 * jitter * _triangular(uniforms[9], uniforms[10])
    y = y * (0.95 + 0.10 * jitter * _triangular(uniforms[13], uniforms[14]))
    x = x * (0.80 + 0.16 * jitter * _triangular(uniforms[11], uniforms[12])) - 0.8 * slant * y
    shift_x = 0.05 * jitter * _triangular(uniforms[15], uniforms[16])
    shift_y = 0.04 * jitter * _triangular(uniforms[17], uniforms[18])
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = (
        (cos * x - sin * y) * (1 - 2 * MARGIN) + 0.5 + shift_x,
        (sin * x + cos * y) * (1 - 2 * MARGIN) + 0.5 + shift_y,
    )
    return _grid(np.stack([x, y], axis=1) * image_size)


# ---- raster: segments -> pixels, float32 with + - * / sqrt min max and rounding only


def _raster(starts: np.ndarray, ends: np.ndarray, radii: np.ndarray, image_size: int) -> np.ndarray:
    """Draws segments (as `_segments` returns them) into images uint8 [N, H, W]."""
    num_images = radii.shape[1]
    images = np.empty((num_images, image_size, image_size), np.uint8)
    # Examples with pens of like width are rastered together: see the windows below.
    order = np.argsort(radii[NUM_SEGMENTS // 2], kind="stable")
    tile = max(1, TILE_PIXELS // image_size**2)
    for first in range(0, num_images, tile):
        which = order[first : first + tile]
        images[which] = _raster_tile(
            starts[:, :, which], ends[:, :, which], radii[:, which], image_size
        )
    return images


def _raster_tile(
    starts: np.ndarray, ends: np.ndarray, radii: np.ndarray, image_size: int
) -> np.ndarray:
    """Every pixel takes the greatest (radius - distance) over the segments, through a soft edge.

    A segment can touch only the pixels near it, so it is compared with a window around it: as large
    as the largest one that this tile needs for that segment, which changes the cost but no pixel.
    """
    num_images = radii.shape[1]
    reach = radii + np.float32(EDGE_WIDTH / 2)
    low = np.floor(np.minimum(starts, ends) - reach[:, None])  # [S, 2, N]
    high = np.ceil(np.maximum(starts, ends) + reach[:, None])
    windows = (high - low).max(axis=2).astype(int)  # [S, 2]
    pad = int(windows.max())
    low = np.clip(low, -pad, image_size)

    side = image_size + 2 * pad
    canvas = np.full((num_images, side, side), -9, np.float32)
    rows = np.arange(num_images)
    for start, end, radius, corner, (width, height) in zip(
        starts, ends, radii, low, windows, strict=True
    ):
        dx, dy = end - start  # [N] each
        scale = np.float32(1) / np.maximum(dx * dx + dy * dy, np.float32(1e-6))
        offset = corner + np.float32(0.5) - start
        x = offset[0] + np.arange(width, dtype=np.float32)[:, None]  # [w, N]
        y = offset[1] + np.arange(height, dtype=np.float32)[:, None, None]  # [h, 1, N]
        # where on the segment (0 to 1) is the point nearest to the pixel
        nearest = x * (dx * scale) + y * (dy * scale)  # [h, w, N]
        np.maximum(nearest, 0, out=nearest)
        np.minimum(nearest, 1, out=nearest)
        distance = nearest * dx
        np.subtract(x, distance, out=distance)
        distance *= distance
        nearest *= dy
        np.subtract(y, nearest, out=nearest)
        nearest *= nearest
        distance += nearest
        np.sqrt(distance, out=distance)
        ink = np.subtract(radius, distance, out=distance).transpose(2, 0, 1)

        view = np.lib.stride_tricks.sliding_window_view(
            canvas, (height, width), axis=(1, 2), writeable=True
        )
        at = (rows, corner[1].astype(int) + pad, corner[0].astype(int) + pad)
        view[at] = np.maximum(view[at], ink)

    soft = canvas[:, pad : pad + image_size, pad : pad + image_size]
    soft = np.clip(soft / np.float32(EDGE_WIDTH) + np.float32(0.5), 0, 1)
    soft = soft * soft * (3 - 2 * soft)
    return np.rint(soft * 255).astype(np.uint8)
