"""Paintings: ten named styles drawn at any size, 64x64 colour by default, by our own code.

A picture is a function of (style, index, split, seed) alone. Everything random about it is drawn
before its size matters, in coordinates from 0 to 1 (x to the right, y down), so the same numbers
give the same composition at 64 and at 1,024 pixels, and no picture depends on another.

The same bytes on every machine: see `brushes`; the outlines of `grid`, `strokes` and `planes` are
Pillow's.

Shapes: inside this module pictures are planar, float32 [3, S, S] in [0, 1] with S = image_size or a
multiple of it that is averaged down; fields are [S, S]; colours [3]; palettes [n, 3].
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from zoo.data import brushes
from zoo.errors import UsageError

DEFAULT_SIZE = 64
MIN_SIZE, MAX_SIZE = 8, 2048
CHANNELS = 3
NUM_EXAMPLES = {"train": 8_000, "test": 2_000}

_SPLIT_IDS = {"train": 1, "test": 2}
_UINT64 = (1 << 64) - 1


def paint(
    style: str, index: int, *, split: str = "train", seed: int = 0, image_size: int = DEFAULT_SIZE
) -> np.ndarray:
    """Paints picture number `index` of a style.

    Args:
      style: one of `CLASS_NAMES`.
      index: any number >= 0.
      split: "train" or "test"; the two share no picture.
      seed: any integer; another seed gives other pictures.
      image_size: height and width, `MIN_SIZE` to `MAX_SIZE`; it changes the detail, not the
        composition.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UsageError: an unknown style or split, a size out of range, or a negative index.
    """
    if style not in CLASS_NAMES:
        raise UsageError(f"style is {style!r}; expected one of {', '.join(CLASS_NAMES)}")
    _check(index, split, image_size)
    random = brushes.Random(seed & _UINT64, _SPLIT_IDS[split], CLASS_NAMES.index(style), int(index))
    picture = _STYLES[style](random, image_size)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def class_names(variant: str = "") -> tuple[str, ...]:
    """What the labels stand for: the ten styles, or the one that a variant names."""
    return (variant,) if variant else CLASS_NAMES


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
      split, seed, image_size: as for `paint`.
      variant: "" for all ten styles in turn (example i is picture i // 10 of style i % 10), or the
        name of one style (example i is picture i of it).

    Returns:
      images uint8 [N, H, W, 3]; labels int32 [N], positions in `class_names(variant)`.

    Raises:
      UsageError: as `paint`, or an unknown variant.
    """
    if variant not in VARIANTS:
        raise UsageError(f"paintings has no variant {variant!r}; expected one of {list(VARIANTS)}")
    indices = np.asarray(indices, np.int64).reshape(-1)
    _check(indices.min(initial=0), split, image_size)
    images = np.empty((len(indices), image_size, image_size, CHANNELS), np.uint8)
    if variant:
        labels, numbers = np.zeros(len(indices), np.int64), indices
    else:
        labels, numbers = indices % len(CLASS_NAMES), indices // len(CLASS_NAMES)
    styles = class_names(variant)
    for row, (label, number) in enumerate(zip(labels, numbers, strict=True)):
        images[row] = paint(
            styles[label], int(number), split=split, seed=seed, image_size=image_size
        )
    return images, labels.astype(np.int32)


def _check(index: int, split: str, image_size: int) -> None:
    if split not in _SPLIT_IDS:
        raise UsageError(f"split is {split!r}; expected one of {', '.join(_SPLIT_IDS)}")
    if not MIN_SIZE <= image_size <= MAX_SIZE:
        raise UsageError(
            f"image_size is {image_size}; paintings can be drawn at {MIN_SIZE} to {MAX_SIZE} pixels"
        )
    if index < 0:
        raise UsageError(f"picture {index} does not exist; indices start at 0")


# ---- Pillow


def _pixel_colour(colour: np.ndarray) -> tuple[int, ...]:
    return tuple(int(v) for v in np.rint(np.clip(colour, 0, 1) * 255))


def _canvas(size: int, colour: np.ndarray) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (size, size), _pixel_colour(colour))
    return image, ImageDraw.Draw(image)


def _from_pillow(image: Image.Image, factor: int = 1) -> np.ndarray:
    pixels = np.asarray(image.reduce(factor) if factor > 1 else image, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) / 255


def _to_pillow(picture: np.ndarray, size: int) -> Image.Image:
    pixels = (picture * 255).astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return image.resize((size, size), Image.Resampling.BICUBIC)


# ---- what `dots` and `strokes` paint: a landscape, always 64 pixels wide

_SCENE_SIZE = 64
_SKIES = (
    brushes.colours("1d3461 1f7a8c bfdbf7"),
    brushes.colours("3d348b f18701 f7b801"),
    brushes.colours("0b132b 3a506b 5bc0be"),
    brushes.colours("6d597a e56b6f eaac8b"),
    brushes.colours("4ea8de 90e0ef fefae0"),
    brushes.colours("240046 9d4edd ff9e00"),
)


def _scene(random: brushes.Random) -> np.ndarray:
    """Sky, sun and ground with one motif: trees, the sun's path on water, flowers or a house."""
    size = _SCENE_SIZE
    x, y = brushes.coordinates(size)
    motif = random.integer(0, 4)
    horizon = random.uniform(0.35, 0.65)
    sky, ground = random.choice(_SKIES), random.choice(brushes.GROUNDS)
    skyline = horizon + 0.08 * brushes.ridge(random, size, 3, 3)[None, :]
    sky = brushes.ramp(sky, y / np.maximum(skyline, 0.1) + 0.08 * brushes.noise(random, size, 4, 2))
    depth = np.clip((y - skyline) / (1 - skyline), 0, 1)
    ground = brushes.ramp(ground, depth + 0.25 * brushes.noise(random, size, 6, 2))
    below = brushes.smooth_step(-0.01, 0.01, y - skyline)
    picture = brushes.mix(sky, ground, below)

    sun_x, sun_y = random.uniform(0.15, 0.85), random.uniform(0.1, horizon - 0.05)
    radius = random.uniform(0.06, 0.13)
    from_sun = brushes.length(x - sun_x, y - sun_y)
    sun = random.choice(brushes.colours("fff3b0 ffd166 fefae0 ff7b00"))
    picture = brushes.mix(
        picture, sun, 0.55 * brushes.bump(from_sun / (2.2 * radius)) * (1 - below)
    )
    disc = 1 - brushes.smooth_step(radius * 0.9, radius * 1.1, from_sun)
    picture = brushes.mix(picture, sun, disc * (1 - below))

    if motif == 0:
        picture = brushes.plant_trees(picture, random, horizon)
    elif motif == 1:
        path = brushes.bump((x - sun_x) / (0.03 + 0.25 * np.clip(y - skyline, 0, 1)))
        glitter = np.float32(0.35) + np.float32(0.5) * (brushes.noise(random, size, 16, 1) > 0)
        picture = brushes.mix(picture, sun, path * (y > skyline) * glitter)
    elif motif == 2:
        picture = brushes.plant_flowers(picture, random, horizon)
    else:
        picture = brushes.build_house(picture, random, horizon)
    return np.clip(picture, 0, 1)


# ---- the ten styles: (random, size) -> float32 [3, S, S]


def _grid(random: brushes.Random, size: int) -> np.ndarray:
    """De Stijl, after Mondrian: a sheet split again and again, black bars, few primary colours."""
    factor = 4 if size <= 64 else 2
    side = size * factor
    image, pen = _canvas(side, random.choice(brushes.colours("f4f1e8 f7f5ee efe9d9")))
    primaries = brushes.colours("d7261e 1f4fa3 f6c915 d7261e 1f4fa3 f6c915 161616 c9c5ba")
    bar = random.uniform(0.018, 0.038)
    boxes = _split_sheet(random)
    share = random.uniform(0.3, 0.5)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in boxes]
    largest, certain = areas.index(max(areas)), random.integer(0, len(boxes))
    for number, box in enumerate(boxes):
        coloured = random.chance(share)
        colour = random.choice(primaries)
        if (coloured or number == certain) and (number != largest or random.chance(0.5)):
            pen.rectangle([v * side for v in box], fill=_pixel_colour(colour))
    half = bar * side / 2
    for box in boxes:
        left, top, right, bottom = (v * side for v in box)
        if left > 0:
            pen.rectangle([left - half, top - half, left + half, bottom + half], fill=(18, 18, 20))
        if top > 0:
            pen.rectangle([left - half, top - half, right + half, top + half], fill=(18, 18, 20))
    return _from_pillow(image, factor)


def _split_sheet(random: brushes.Random) -> list[tuple[float, float, float, float]]:
    """Boxes (left, top, right, bottom) that tile the unit square, split along the longer side."""
    depth = random.integer(3, 5)
    pending, done = [(0.0, 0.0, 1.0, 1.0, 0)], []
    while pending:
        left, top, right, bottom, level = pending.pop()
        width, height = right - left, bottom - top
        deep_enough = level >= depth + random.chance(0.3)
        if deep_enough or max(width, height) < 0.22 or (level > 1 and random.chance(0.18)):
            done.append((left, top, right, bottom))
            continue
        cut = random.uniform(0.28, 0.72)
        if width > height * 1.15 or (width > height * 0.87 and random.chance(0.5)):
            middle = left + width * cut
            pending.append((left, top, middle, bottom, level + 1))
            pending.append((middle, top, right, bottom, level + 1))
        else:
            middle = top + height * cut
            pending.append((left, top, right, middle, level + 1))
            pending.append((left, middle, right, bottom, level + 1))
    return done


def _circles(random: brushes.Random, size: int) -> np.ndarray:
    """After Kandinsky's colour study: squares with concentric circles, drawn by a loose hand."""
    factor = 2
    side = size * factor
    columns = random.choice((2, 3, 3, 4))
    rows = columns if random.chance(0.6) else max(2, columns - 1)
    cells, rings = rows * columns, 5
    palette = np.concatenate([random.choice(brushes.PALETTES), random.choice(brushes.PALETTES)])
    colours = np.stack(
        [palette[random.permutation(len(palette))[: rings + 1]] for _ in range(cells)]
    )
    colours = np.clip(colours + 0.05 * random.normals(*colours.shape), 0, 1)

    wobble = random.uniform(0.02, 0.09)
    x, y = brushes.coordinates(side)
    x = (x + wobble / columns * brushes.noise(random, side, 4 * columns, 2)) * columns
    y = (y + wobble / columns * brushes.noise(random, side, 4 * columns, 2)) * rows
    column = np.clip(x.astype(int), 0, columns - 1)
    row = np.clip(y.astype(int), 0, rows - 1)
    cell = row * columns + column
    centre_x = np.float32(0.5) + random.uniforms(-0.05, 0.05, cells)
    centre_y = np.float32(0.5) + random.uniforms(-0.05, 0.05, cells)
    radius = random.uniforms(0.40, 0.5, cells)
    off_x = x - column.astype(np.float32) - centre_x[cell]
    off_y = y - row.astype(np.float32) - centre_y[cell]
    distance = brushes.length(off_x, off_y) / radius[cell]

    edges = np.sort(random.uniforms(0.08, 1, cells, rings), axis=1)
    even = (np.arange(rings, dtype=np.float32) + 1) / np.float32(rings)
    edges = np.float32(0.5) * (edges + even)
    ring = sum((distance > edges[:, number][cell]).astype(int) for number in range(rings))
    picture = colours.reshape(-1, 3).T.take(cell * (rings + 1) + ring, axis=1)
    return brushes.average(picture * (1 + 0.06 * brushes.noise(random, side, 20, 1)), factor)


def _colorfield(random: brushes.Random, size: int) -> np.ndarray:
    """Colour field, after Rothko: two to four soft-edged bands that float on a ground."""
    x, y = brushes.coordinates(size)
    palette = random.choice(brushes.PALETTES)[random.permutation(5)]
    count = random.choice((2, 2, 3, 3, 4))
    picture = (
        brushes.planar(palette[0])
        * np.float32(0.85)
        * (1 + 0.06 * brushes.noise(random, size, 3, 3))
    )
    cuts = np.cumsum([0.0, *random.uniforms(0.6, 1.6, count).tolist()])
    cuts /= cuts[-1]
    margin, gap = random.uniform(0.05, 0.1), random.uniform(0.02, 0.05)
    soft = random.uniform(0.012, 0.03)
    for band in range(count):
        top = float(margin + cuts[band] * (1 - 2 * margin) + gap / 2)
        bottom = float(margin + cuts[band + 1] * (1 - 2 * margin) - gap / 2)
        left = margin + random.uniform(-0.02, 0.03)
        right = 1 - margin + random.uniform(-0.03, 0.02)
        fray = 0.02 * brushes.noise(random, size, 8, 3)
        inside = brushes.smooth_step(-soft, soft, x - left + fray)
        inside = inside * brushes.smooth_step(-soft, soft, right - x + fray)
        inside = inside * brushes.smooth_step(-soft, soft, y - top + fray)
        inside = inside * brushes.smooth_step(-soft, soft, bottom - y + fray)
        texture = 0.10 * brushes.noise(random, size, 3, 4) + 0.05 * brushes.noise(
            random, size, 24, 1
        )
        paint_layer = brushes.planar(palette[1 + band]) * (1 + texture) + 0.06 * (y - 0.5)
        cover = inside * np.clip(0.86 + 0.1 * brushes.noise(random, size, 5, 2), 0, 1)
        picture = brushes.mix(picture, np.clip(paint_layer, 0, 1), cover)
    return picture


def _dots(random: brushes.Random, size: int) -> np.ndarray:
    """Pointillism, after Seurat: a landscape in dots whose colours vary around what is there."""
    factor = 2
    side = size * factor
    cells = random.integer(18, 25)
    scene = _scene(random)
    across = cells + 4  # two more cells of dots beyond each edge
    place_x = random.uniforms(0.15, 0.85, across, across)
    place_y = random.uniforms(0.15, 0.85, across, across)
    radius = random.uniforms(0.5, 0.85, across, across)
    order = random.uniforms(0, 1, across, across)  # the dot of higher order lies on top
    lattice = np.arange(across, dtype=np.float32) - 2
    place_x, place_y = lattice[None, :] + place_x, lattice[:, None] + place_y  # in cells
    seen = _SCENE_SIZE / cells
    at_x = np.clip((place_x * seen).astype(int), 0, _SCENE_SIZE - 1)
    at_y = np.clip((place_y * seen).astype(int), 0, _SCENE_SIZE - 1)
    colours = brushes.vary(scene[:, at_y, at_x].reshape(3, -1).T, random, 0.45, 0.9, 0.07)

    x, y = (v * np.float32(cells) for v in brushes.coordinates(side))
    column, row = x[0].astype(int) + 2, y[:, 0].astype(int) + 2
    numbers = np.arange(across * across).reshape(across, across)
    topmost = np.full((side, side), -1, np.float32)
    dot = np.full((side, side), -1)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            rows, columns = row + down, column + right
            off_x, off_y = x - _spread(place_x, rows, columns), y - _spread(place_y, rows, columns)
            rank = _spread(order, rows, columns)
            inside = off_x * off_x + off_y * off_y < _spread(radius * radius, rows, columns)
            covers = inside & (rank > topmost)
            np.copyto(topmost, rank, where=covers)
            np.copyto(dot, _spread(numbers, rows, columns), where=covers)
    ground = np.clip(_from_pillow(_to_pillow(scene, side)) * 0.75 + 0.2, 0, 1)
    picture = np.where(dot >= 0, colours.T.take(np.maximum(dot, 0), axis=1), ground)
    return brushes.average(picture, factor)


def _spread(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values of a lattice [n, m] at the rows [S] and columns [S] of the pixels: [S, S]."""
    return values.take(rows, axis=0).take(columns, axis=1)


def _strokes(random: brushes.Random, size: int) -> np.ndarray:
    """Post-impressionism, after Van Gogh: a landscape in short strokes along a swirling flow."""
    factor, count = 2, 520
    side = size * factor
    scene = _scene(random)
    swirls = random.chance(0.6)
    angle = brushes.noise(random, _SCENE_SIZE, 2, 2)
    angle = angle * random.uniform(1.0, 3.0)
    x, y = brushes.coordinates(_SCENE_SIZE)
    if swirls:
        for _ in range(random.integer(1, 4)):
            off_x, off_y = x - random.uniform(), y - random.uniform(0, 0.7)
            around = brushes.rounded(np.arctan2, off_y, off_x) + np.float32(math.pi / 2)
            reach = math.sqrt(random.uniform(0.03, 0.12))
            angle = angle + around * brushes.bump(brushes.length(off_x, off_y) / reach)

    centre_x, centre_y = random.uniforms(-0.03, 1.03, count), random.uniforms(-0.03, 1.03, count)
    late = np.arange(count, dtype=np.float32) / count  # strokes grow finer as the picture grows
    length = (0.11 - 0.05 * late) * random.uniforms(0.7, 1.3, count)
    width = (0.040 - 0.018 * late) * random.uniforms(0.7, 1.3, count)
    width = np.maximum(1, width * side).astype(int)
    at_x = np.clip((centre_x * _SCENE_SIZE).astype(int), 0, _SCENE_SIZE - 1)
    at_y = np.clip((centre_y * _SCENE_SIZE).astype(int), 0, _SCENE_SIZE - 1)
    direction = angle[at_y, at_x] + 0.2 * random.normals(count)
    colours = brushes.vary(scene[:, at_y, at_x].T, random, 0.3, 0.6, 0.09)
    along_x = brushes.rounded(np.cos, direction) * length / 2
    along_y = brushes.rounded(np.sin, direction) * length / 2
    bend = random.uniforms(-0.3, 0.3, count)
    corners = [
        (centre_x - along_x, centre_y - along_y),
        (centre_x - along_y * bend, centre_y + along_x * bend),
        (centre_x + along_x, centre_y + along_y),
    ]
    paths = (np.stack([v for corner in corners for v in corner], axis=1) * side).tolist()

    image = _to_pillow(scene * np.float32(0.8), side)
    pen = ImageDraw.Draw(image)
    fills = map(tuple, (colours * 255).astype(int).tolist())
    for path, fill, stroke_width in zip(paths, fills, width.tolist(), strict=True):
        pen.line(path, fill=fill, width=stroke_width)
    return _from_pillow(image, factor)


def _waves(random: brushes.Random, size: int) -> np.ndarray:
    """Op art, after Riley and Vasarely: two colours in waves, stripes, petals or chequers."""
    factor = 3 if size <= 64 else 2
    kind = random.integer(0, 4)
    frequency = random.uniform(7, 12)
    if random.chance(0.4):
        angle = random.uniform(0, math.pi)
    else:
        angle = random.choice((0.0, math.pi / 2))
    u, v = _turned(size * factor, angle)
    if kind == 3:
        on = _bulging_chequers(random, u, v, frequency * 0.55)
    else:
        phase = (_wavy_stripes, _bulging_stripes, _petals)[kind](random, u, v, frequency)
        on = brushes.rounded(np.sin, 2 * math.pi * phase) > random.uniform(-0.25, 0.25)
    on = brushes.average(on.astype(np.float32), factor)

    if random.chance(0.45):
        back, front = brushes.colours("111114 f5f3ec")
    else:
        palette = random.choice(brushes.PALETTES)
        by_light = palette[np.argsort(brushes.luminance(palette))]
        back, front = by_light[random.integer(0, 2)], by_light[random.integer(3, 5)]
    if random.chance(0.35):
        u, v = _turned(size, angle)
        back = brushes.ramp(random.choice(brushes.PALETTES)[:3] * np.float32(0.75), (u + 0.7) / 1.4)
    return brushes.mix(back, front, on)


def _turned(side: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [S, S] about the middle of the picture, turned by an angle."""
    x, y = (v - np.float32(0.5) for v in brushes.coordinates(side))
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _wavy_stripes(
    random: brushes.Random, u: np.ndarray, v: np.ndarray, frequency: float
) -> np.ndarray:
    height = random.uniform(0.03, 0.08)
    slow = v * random.uniform(1.0, 2.2) + random.uniform()
    ripple = random.uniform(0.01, 0.03)
    fast = v * 3 + random.uniform()
    wave = height * brushes.rounded(np.sin, 2 * math.pi * slow) + ripple * brushes.rounded(
        np.sin, 2 * math.pi * fast
    )
    return frequency * (u + wave)


def _bulging_stripes(
    random: brushes.Random, u: np.ndarray, v: np.ndarray, frequency: float
) -> np.ndarray:
    phase = frequency * u
    for _ in range(random.integer(1, 3)):
        off_u, off_v = u - random.uniform(-0.3, 0.3), v - random.uniform(-0.3, 0.3)
        width = random.uniform(0.12, 0.3)
        push = random.choice((-1, 1)) * random.uniform(1.5, 3.2) * 0.45
        phase = phase + push * off_u / width * brushes.bump(brushes.length(off_u, off_v) / width)
    return phase


def _petals(random: brushes.Random, u: np.ndarray, v: np.ndarray, frequency: float) -> np.ndarray:
    off_u, off_v = u - random.uniform(-0.2, 0.2), v - random.uniform(-0.2, 0.2)
    distance = brushes.length(off_u, off_v)
    depth, count = random.uniform(0.1, 0.5), random.integer(2, 7)
    around = brushes.rounded(np.arctan2, off_v, off_u) * count + distance * random.uniform(0, 8)
    return distance * (frequency * 1.1) + depth * brushes.rounded(np.sin, around)


def _bulging_chequers(
    random: brushes.Random, u: np.ndarray, v: np.ndarray, frequency: float
) -> np.ndarray:
    centre_u, centre_v = random.uniform(-0.15, 0.15), random.uniform(-0.15, 0.15)
    off_u, off_v = u - centre_u, v - centre_v
    width = random.uniform(0.2, 0.4)
    shrink = 1 - random.uniform(0.3, 0.55) * brushes.bump(brushes.length(off_u, off_v) / width)
    squares = frequency * 1.6
    column = np.floor((centre_u + off_u * shrink) * squares)
    row = np.floor((centre_v + off_v * shrink) * squares)
    return (column + row) % 2 > 0


def _marble(random: brushes.Random, size: int) -> np.ndarray:
    """Paper marbling, by its mathematics (Lu, Jaffer and others): ink drops, tines, a wave.

    A drop of radius r pushes what lies at distance d from its centre out to sqrt(d^2 + r^2); a tine
    drags the ink along its line, less with distance. Each pixel is followed back through them all,
    last first, to the drop it was in when that drop fell.
    """
    factor = 2
    side = size * factor
    palette = random.choice(brushes.PALETTES)
    num_drops = random.integer(14, 26)
    inks = palette[random.permutation(5)]  # the first is the bath
    drops: list[tuple[float, float, float, int]] = []  # x, y, radius, ink
    for number in range(num_drops):
        if number and random.chance(0.6):  # into the drop before it
            left, top, _, _ = drops[-1]
            left, top = left + 0.01 * random.normal(), top + 0.01 * random.normal()
        else:
            left, top = random.uniform(0.1, 0.9), random.uniform(0.1, 0.9)
        drops.append((left, top, random.uniform(0.07, 0.2), 1 + random.integer(0, 4)))
    tines = []  # x, y, angle, amount, sharpness
    for _ in range(random.integer(2, 6)):
        place = random.uniform(), random.uniform(), random.uniform(0, 2 * math.pi)
        tines.append((*place, random.uniform(0.08, 0.3), random.uniform(0.03, 0.1)))

    x, y = (np.broadcast_to(v, (side, side)) for v in brushes.coordinates(side))
    if random.chance(0.5):
        angle, height = random.uniform(0, math.pi), random.uniform(0.02, 0.06)
        frequency, phase = random.uniform(1.5, 4.0), random.uniform()
        cos, sin = math.cos(angle), math.sin(angle)
        turns = (cos * y - sin * x) * frequency + phase
        pull = height * brushes.rounded(np.sin, 2 * math.pi * turns)
        x, y = x - cos * pull, y - sin * pull
    for centre_x, centre_y, angle, amount, sharpness in reversed(tines):
        cos, sin = math.cos(angle), math.sin(angle)
        distance = np.abs(cos * (y - centre_y) - sin * (x - centre_x))
        pull = amount * sharpness / (distance + sharpness)
        x, y = x - cos * pull, y - sin * pull

    ink = np.zeros((side, side), np.uint8)
    for centre_x, centre_y, radius, number in reversed(drops):
        off_x, off_y = x - centre_x, y - centre_y
        squared = np.maximum(off_x * off_x + off_y * off_y, np.float32(1e-9))
        inside = squared < radius * radius
        ink[inside & (ink == 0)] = number
        back = np.sqrt(np.maximum(1 - (radius * radius) / squared, 0))
        x, y = centre_x + off_x * back, centre_y + off_y * back
    return brushes.average(inks.T.take(ink, axis=1), factor)


def _hills(random: brushes.Random, size: int) -> np.ndarray:
    """Layered ridges that fade into the distance, after ink landscapes and screen prints."""
    factor = 2 if size <= 128 else 1
    side = size * factor
    x, y = brushes.coordinates(side)
    count = random.integer(3, 7)
    sky = random.choice(
        (
            brushes.colours("355c7d 6c5b7b f67280 f8b195"),
            brushes.colours("0b1d3a 274c77 6096ba e7ecef"),
            brushes.colours("48cae4 90e0ef caf0f8 fefae0"),
            brushes.colours("8338ec ff006e fb5607 ffbe0b"),
            brushes.colours("2b2d42 8d99ae edf2f4 ffe5d9"),
            brushes.colours("f4a261 e9c46a f1faee fefae0"),
        )
    )
    haze = sky[-1]
    horizon = random.uniform(0.3, 0.5)
    picture = brushes.ramp(sky, y / (horizon + 0.25) + 0.02 * brushes.noise(random, side, 3, 2))

    sun_x, sun_y = random.uniform(0.15, 0.85), random.uniform(0.1, horizon)
    radius = random.uniform(0.05, 0.12)
    from_sun = brushes.length(x - sun_x, y - sun_y)
    sun = random.choice(brushes.colours("fff8e7 ffe066 ff9f1c ffffff"))
    picture = brushes.mix(picture, sun, 0.45 * brushes.bump(from_sun / (2.5 * radius)))
    edge = 1.5 / side
    picture = brushes.mix(
        picture, sun, 1 - brushes.smooth_step(radius - edge, radius + edge, from_sun)
    )

    near = random.choice(brushes.colours("0b132b 132a13 240046 2b2d42 10002b 3d0c11 04151f"))
    far = haze * np.float32(0.72) + near * np.float32(0.12)
    rough = 0.35 + 0.25 * random.uniform(0.2, 0.75)
    for layer in range(count):
        nearness = (layer + 1) / count
        level = horizon + (1.02 - horizon) * (layer + 0.1) / count
        relief = 0.12 - 0.05 * nearness
        top = level + relief * brushes.ridge(random, side, random.integer(2, 5), 6, rough)[None, :]
        below = y - top
        mist = 0.10 * (1 - nearness) * np.clip(below / 0.25, 0, 1)
        colour = brushes.mix(far, near, nearness**1.1) + brushes.planar(haze) * mist
        picture = brushes.mix(
            picture, np.clip(colour, 0, 1), brushes.smooth_step(-1 / side, 1 / side, below)
        )

    if random.chance(0.35):
        shore = int(random.uniform(0.72, 0.85) * side)
        rows = np.arange(shore, side)
        ripple = 0.006 * side * np.sin(218 * rows / side)
        mirrored = np.clip(2 * shore - rows - ripple.astype(int), 0, side - 1)
        reflection = picture[:, mirrored] * np.float32(0.72) + brushes.planar(sky[1]) * np.float32(
            0.1
        )
        picture = np.concatenate([picture[:, :shore], reflection], axis=1)
    return brushes.average(picture, factor)


def _glass(random: brushes.Random, size: int) -> np.ndarray:
    """Stained glass: panes (cells of a Voronoi diagram) in lead, lit from one side."""
    factor = 2
    side = size * factor
    cells = random.integer(4, 8)
    across = cells + 4  # two more panes beyond each edge
    x, y = brushes.coordinates(side)
    warp = random.uniform(0.0, 0.05)
    x = (x + warp * brushes.noise(random, side, 4, 1)) * np.float32(cells)
    y = (y + warp * brushes.noise(random, side, 4, 1)) * np.float32(cells)
    lattice = np.arange(across, dtype=np.float32) - 2
    seed_x = (lattice[None, :] + random.uniforms(0.08, 0.92, across, across)).ravel()
    seed_y = (lattice[:, None] + random.uniforms(0.08, 0.92, across, across)).ravel()
    column = np.clip(np.floor(x).astype(int) + 2, 1, across - 2)
    row = np.clip(np.floor(y).astype(int) + 2, 1, across - 2)

    middle = row * across + column
    nearest = middle.copy()
    first = np.full((side, side), np.inf, np.float32)  # squared distances to the nearest seed
    second = first.copy()  # and to the one after it
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            pane = middle + (down * across + right)
            off_x, off_y = x - seed_x.take(pane), y - seed_y.take(pane)
            squared = off_x * off_x + off_y * off_y
            np.copyto(nearest, pane, where=squared < first)
            second = np.minimum(second, np.maximum(first, squared))
            first = np.minimum(first, squared)

    palette = random.choice(brushes.PALETTES)
    jewels = brushes.colours("c1121f 003f88 ffb703 2a9d8f 7b2cbf f77f00 a7c957 0096c7")
    if random.chance(0.5):
        palette = jewels
    else:
        palette = np.concatenate([palette, jewels[random.permutation(8)[:2]]])
    light_x, light_y = random.uniform(0.2, 0.8) * cells, random.uniform(0.1, 0.6) * cells
    light = 1.25 - 0.8 / cells * brushes.length(x - light_x, y - light_y)
    choice = (random.uniforms(0, 1, across * across) * len(palette)).astype(int)
    colours = palette[np.minimum(choice, len(palette) - 1)]
    colours = np.clip(colours + 0.07 * random.normals(across * across, 3), 0, 1)
    if random.chance(0.3):  # a rose in the middle of the light
        rose = brushes.length(seed_x - light_x, seed_y - light_y) < 0.3 * cells
        colours[rose] = palette[0] * np.float32(0.5) + brushes.colours("ffd166")[0] * np.float32(
            0.5
        )
    grain = 1 + 0.08 * brushes.noise(random, side, 16, 1)
    picture = colours.T.take(nearest, axis=1) * (light * grain)
    pane_edge = brushes.smooth_step(0.05, 0.08, np.sqrt(second) - np.sqrt(first))
    return brushes.average(brushes.mix(brushes.colours("0c0c10")[0], picture, pane_edge), factor)


def _planes(random: brushes.Random, size: int) -> np.ndarray:
    """Suprematism, after Malevich: flat quads, lines, discs and triangles along two axes."""
    factor = 4 if size <= 64 else 2
    side = size * factor
    image, pen = _canvas(side, random.choice(brushes.colours("f2ead8 ece4d3 f5f0e6 e8dcc4")))
    colours = random.choice(
        (
            brushes.colours("111111 c1121f 1d3557 e9b44c c1121f"),
            brushes.colours("111111 e63946 2a9d8f f4a261 264653"),
            brushes.colours("1b1b1e 373f51 d8973c a4243b 0f5257"),
            brushes.colours("0d0d0d d00000 ffba08 3f88c5 136f63"),
        )
    )
    axis = random.uniform(-0.7, 0.7)
    count = random.integer(5, 12)

    def disc(x: float, y: float, radius: float, fill: np.ndarray) -> None:
        box = [(x - radius) * side, (y - radius) * side, (x + radius) * side, (y + radius) * side]
        pen.ellipse(box, fill=_pixel_colour(fill))

    if random.chance(0.55):
        x, y = random.uniform(0.25, 0.75), random.uniform(0.25, 0.75)
        radius = random.uniform(0.12, 0.26)
        disc(x, y, radius, random.choice(colours))
    for number in range(count):
        angle = axis + (math.pi / 2 if random.chance(0.4) else 0) + 0.06 * random.normal()
        scale = 0.5 + (1 - number / count) * 0.6  # later shapes are smaller
        colour = random.choice(colours)
        kind = random.uniform()
        x, y = 0.5 + 0.2 * random.normal(), 0.5 + 0.2 * random.normal()
        cos, sin = math.cos(angle), math.sin(angle)
        if kind < 0.8:
            if kind < 0.55:
                along = random.uniform(0.15, 0.55) * scale / 2
                across = random.uniform(0.05, 0.22) * scale / 2
            else:
                along, across = random.uniform(0.3, 0.9) / 2, random.uniform(0.008, 0.02) / 2
            corners = ((-along, -across), (along, -across), (along, across), (-along, across))
            outline = [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners]
        elif kind < 0.92:
            disc(x, y, random.uniform(0.03, 0.08), colour)
            continue
        else:
            radius = random.uniform(0.08, 0.18)
            turns = (angle, angle + 2.1, angle + 4.2)
            outline = [(x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns]
        pen.polygon([(a * side, b * side) for a, b in outline], fill=_pixel_colour(colour))
    return _from_pillow(image, factor)


_STYLES: dict[str, Callable[[brushes.Random, int], np.ndarray]] = {
    "grid": _grid,
    "circles": _circles,
    "colorfield": _colorfield,
    "dots": _dots,
    "strokes": _strokes,
    "waves": _waves,
    "marble": _marble,
    "hills": _hills,
    "glass": _glass,
    "planes": _planes,
}
CLASS_NAMES: tuple[str, ...] = tuple(_STYLES)
VARIANTS = ("", *CLASS_NAMES)
