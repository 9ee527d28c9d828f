"""Scenes: photo-like content pictures for style transfer, four classes, 128x128 colour, our own.

Four kinds of picture with what photographs have and a net must learn to keep: strong and soft
edges, occlusion, texture at several scales, shading, shadows and empty areas. `leaves` is the dead
leaves model (Matheron 1968; Lee, Mumford & Huang 2001): shapes of all sizes that cover each other.
`still_lifes` are ray-traced balls on a table. `landscapes` and `hills` have depth and haze.

A picture is a function of (class, index, split, seed) alone. Everything random about it is drawn
before its size matters, so the same numbers give the same composition at every size; the same bytes
on every machine: see `brushes`.

Shapes: pictures are planar, float32 [3, S, S] in [0, 1] with S = image_size or a multiple of it
that is averaged down; fields are [S, S]; colours [3]; palettes [n, 3].
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from zoo.data import brushes
from zoo.errors import UsageError

DEFAULT_SIZE = 128
MIN_SIZE, MAX_SIZE = 8, 2048
CHANNELS = 3
NUM_EXAMPLES = {"train": 1_000, "test": 100}

_SPLIT_IDS = {"train": 3, "test": 4}  # paintings have 1 and 2: no stream serves two pictures
_UINT64 = (1 << 64) - 1


def class_names(variant: str = "") -> tuple[str, ...]:
    """What the labels stand for: the four classes, or the one that a variant names."""
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
      split: "train" or "test"; the two share no picture.
      seed: any integer; another seed gives other pictures.
      image_size: height and width, `MIN_SIZE` to `MAX_SIZE`; it changes the detail, not the
        composition.
      variant: "" for all four classes in turn (example i is picture i // 4 of class i % 4), or the
        name of one class (example i is picture i of it).

    Returns:
      images uint8 [N, H, W, 3]; labels int32 [N], positions in `class_names(variant)`.

    Raises:
      UsageError: an unknown split or variant, a size out of range, or a negative index.
    """
    indices = np.asarray(indices, np.int64).reshape(-1)
    if variant not in VARIANTS:
        raise UsageError(f"scenes has no variant {variant!r}; expected one of {list(VARIANTS)}")
    if split not in _SPLIT_IDS:
        raise UsageError(f"split is {split!r}; expected one of {', '.join(_SPLIT_IDS)}")
    if not MIN_SIZE <= image_size <= MAX_SIZE:
        raise UsageError(
            f"image_size is {image_size}; scenes can be drawn at {MIN_SIZE} to {MAX_SIZE} pixels"
        )
    if indices.min(initial=0) < 0:
        raise UsageError(f"picture {indices.min()} does not exist; indices start at 0")
    images = np.empty((len(indices), image_size, image_size, CHANNELS), np.uint8)
    if variant:
        kinds, numbers = np.full(len(indices), CLASS_NAMES.index(variant)), indices
    else:
        kinds, numbers = indices % len(CLASS_NAMES), indices // len(CLASS_NAMES)
    for row, (kind, number) in enumerate(zip(kinds, numbers, strict=True)):
        random = brushes.Random(seed & _UINT64, _SPLIT_IDS[split], int(kind), int(number))
        picture = _CLASSES[CLASS_NAMES[kind]](random, image_size)
        images[row] = np.rint(np.clip(picture, 0, 1) * 255).transpose(1, 2, 0)
    return images, (np.zeros_like(kinds) if variant else kinds).astype(np.int32)


# ---- leaves

_NUM_LEAVES = 110
_NUM_CHOICES = 16  # random numbers of a leaf


def _leaves(random: brushes.Random, size: int) -> np.ndarray:
    """Dead leaves, the far ones first: textured, shaded, with soft shadows, the far ones blurred.

    Radii r have density 1 / r^2, between 0.045 and 0.55 of the picture.
    """
    palette = np.concatenate([random.choice(brushes.PALETTES), random.choice(brushes.PALETTES)])
    textures = [brushes.noise(random, size, frequency, 3) for frequency in (4, 12, 28)]
    picture = brushes.ramp(random.choice(brushes.PALETTES), 0.5 + 0.4 * textures[0])
    angle, blur = random.uniform(0, 2 * math.pi), random.uniform(0, 0.03)
    light = math.cos(angle), math.sin(angle)
    choices = random.uniforms(0, 1, _NUM_LEAVES, _NUM_CHOICES)
    tints = palette[(random.uniforms(0, 1, _NUM_LEAVES) * len(palette)).astype(int)]
    tints = brushes.vary(tints, random, 0.15, 0.3, 0.08)
    radii = np.float32(0.045) / (np.float32(0.08) + choices[:, 0] * np.float32(0.92))
    # Large ones rather far away, else the last large one would hide all.
    order = np.argsort(-radii * (np.float32(0.35) + choices[:, 1]), kind="stable")
    for rank, number in enumerate(order):
        soft = blur * (1 - rank / _NUM_LEAVES) ** 2
        _lay_leaf(
            picture, choices[number].tolist(), float(radii[number]), tints[number], light, soft,
            textures,
        )  # fmt: skip
    return picture


def _lay_leaf(
    picture: np.ndarray,
    choices: Sequence[float],
    radius: float,
    tint: np.ndarray,
    light: tuple[float, float],
    soft: float,
    textures: Sequence[np.ndarray],
) -> None:
    """Lays one leaf and its shadow into the picture, in the window that they can touch."""
    size = picture.shape[-1]
    left, top = 1.2 * choices[2] - 0.1, 1.2 * choices[3] - 0.1
    shadow_length = 0.008 + 0.12 * radius
    reach = 1.5 * radius + shadow_length + soft + 2 / size
    rows, columns = (
        slice(max(0, int((middle - reach) * size)), max(0, math.ceil((middle + reach) * size)))
        for middle in (top, left)
    )
    x, y = brushes.coordinates(size)
    x, y = x[:, columns] - left, y[rows] - top
    window = picture[:, rows, columns]
    if not window.size:
        return

    shape = _SHAPES[int(choices[4] * len(_SHAPES))]
    turn, slim = math.pi * choices[5], 0.35 + 0.65 * choices[6]
    cos, sin = math.cos(turn) / radius, math.sin(turn) / radius
    u, v = cos * x + sin * y, cos * y - sin * x  # [h, w], along and across, 1 at the radius

    blurred = 0.1 + 0.01 / radius
    shift_u = shadow_length * (cos * light[0] + sin * light[1])
    shift_v = shadow_length * (cos * light[1] - sin * light[0])
    shadow = brushes.smooth_step(-blurred, blurred, shape(u - shift_u, v - shift_v, slim))
    window *= np.float32(0.45) + np.float32(0.55) * shadow

    kind, strength = int(choices[7] * 5), 0.1 + 0.35 * choices[8]
    shade = 1 - (0.1 + 0.3 * choices[9]) / radius * (light[0] * x + light[1] * y)
    if kind < 3:  # one of eight views of a texture, so that neighbours do not continue each other
        texture = textures[int(choices[10] * len(textures))]
        texture = texture.T if choices[11] < 0.5 else texture
        texture = texture[:: 1 if choices[12] < 0.5 else -1, :: 1 if choices[13] < 0.5 else -1]
        shade = shade * (1 + strength * texture[rows, columns])
    elif kind == 3 and radius > 0.07:  # stripes
        phase = v * (4 + 9 * choices[10]) + choices[11] * u * u
        shade = shade * (1 + strength * np.clip(2 * brushes.rounded(np.sin, phase), -1, 1))
    edge = (soft + 0.6 / size) / radius
    cover = 1 - brushes.smooth_step(-edge, edge, shape(u, v, slim))
    window += (np.clip(brushes.planar(tint) * shade, 0, 1) - window) * cover


def _ellipse(u: np.ndarray, v: np.ndarray, slim: float) -> np.ndarray:
    return (brushes.length(u, v / slim) - 1) * slim


def _box(u: np.ndarray, v: np.ndarray, slim: float) -> np.ndarray:
    return np.maximum(np.abs(u) - 1, np.abs(v) - slim)


def _lens(u: np.ndarray, v: np.ndarray, slim: float) -> np.ndarray:
    """Where two discs overlap, with points at u = -1 and 1."""
    slim *= 0.7
    bow = (1 + slim * slim) / (2 * slim)
    return brushes.length(u, np.abs(v) + (bow - slim)) - bow


def _diamond(u: np.ndarray, v: np.ndarray, slim: float) -> np.ndarray:
    return (np.abs(u) + np.abs(v) / slim - 1) * (slim / math.sqrt(1 + slim * slim))


# (u, v, slim) -> signed distance in units of the radius, about; the shape is 2 by 2 * slim.
_SHAPES = (_ellipse, _box, _lens, _lens, _diamond)


# ---- still lifes

_TABLE, _TABLE_END = -0.6, 2.4  # its height, y up, and where it ends, z away from the eye


@dataclasses.dataclass(frozen=True)
class _Ball:
    centre: tuple[float, float, float]
    radius: float
    colours: np.ndarray  # [2, 3]
    pattern: int  # 0 and 1 plain, 2 striped, 3 mottled
    axis: tuple[float, float, float]  # of its stripes


def _still_life(random: brushes.Random, size: int) -> np.ndarray:
    """Balls on a table before a wall, ray-traced under one lamp, with soft shadows."""
    factor = 2 if size <= 256 else 1
    side = size * factor
    palette, wall = random.choice(brushes.PALETTES), random.choice(brushes.PALETTES)[:3]
    balls = _scattered_balls(random, palette)
    towards = random.uniform(-1, 1), 1.2, random.uniform(-1.1, -0.5)
    lamp = [v / math.sqrt(sum(w * w for w in towards)) for v in towards]
    fine, coarse = brushes.noise(random, side, 24, 3), brushes.noise(random, side, 4, 3)

    x, y = brushes.coordinates(side)
    eye = 0.0, random.uniform(0.4, 1.3), -3.2
    zoom, end = random.uniform(1.5, 2.2), random.uniform(0.3, 0.6)
    # The table's end is seen at the height `end` of the picture.
    up = 2 * (end - y) + zoom * (_TABLE - eye[1]) / (_TABLE_END - eye[2])
    across = 2 * x - 1
    scale = 1 / np.sqrt(across * across + up * up + np.float32(zoom * zoom))
    ray = across * scale, up * scale, np.float32(zoom) * scale  # three [S, S], length 1

    # Wall, lit from the lamp's side; the table over it; the balls over both.
    glow = brushes.bump((x - 0.5 - 0.4 * lamp[0]) / 0.6) * brushes.bump((y - 0.2) / 0.7)
    picture = brushes.ramp(wall, y * np.float32(1.2) + 0.08 * coarse) * (0.5 + 0.5 * glow)
    picture = picture * (1 + 0.04 * fine)
    depth = (_TABLE - eye[1]) / np.minimum(ray[1], np.float32(-1e-3))
    place = tuple(e + r * depth for e, r in zip(eye, ray, strict=True))
    on_table = (ray[1] < 0) & (place[2] < _TABLE_END)
    cloth = _cloth(random, palette, place, coarse, fine)
    zero, one = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    light = _light(place, (zero, one, zero), lamp, balls)
    np.copyto(picture, cloth * light, where=on_table)

    nearest = np.full((side, side), np.inf, np.float32)
    for ball in balls:
        _add_ball(picture, nearest, ball, eye, ray, lamp, balls, coarse)
    return brushes.average(np.clip(picture, 0, 1), factor)


def _scattered_balls(random: brushes.Random, palette: np.ndarray) -> list[_Ball]:
    """One to six balls that do not touch."""
    balls: list[_Ball] = []
    for _ in range(random.integer(4, 12)):
        radius = random.uniform(0.2, 0.6)
        centre = random.uniform(-1.4, 1.4), _TABLE + radius, random.uniform(-0.6, 1.7)
        axis = random.normals(3)
        axis = axis / max(float(np.abs(axis).max()), 0.1)
        ball = _Ball(
            centre,
            radius,
            palette[random.permutation(5)[:2]],
            random.integer(0, 4),
            tuple(axis.tolist()),
        )
        if len(balls) < 6 and all(
            math.dist(centre, other.centre) > radius + other.radius for other in balls
        ):
            balls.append(ball)
    return balls


def _cloth(
    random: brushes.Random,
    palette: np.ndarray,
    place: Sequence[np.ndarray],
    coarse: np.ndarray,
    fine: np.ndarray,
) -> np.ndarray:
    """What the table is covered with, at `place` on it: plain, chequered, striped or wood."""
    x, _, z = place
    first, second = (palette[number] for number in random.permutation(5)[:2])
    kind, frequency, turn = random.integer(0, 4), random.uniform(1, 2.5), random.uniform(-0.6, 0.6)
    cos, sin = math.cos(turn) * frequency, math.sin(turn) * frequency
    u, v = cos * x + sin * z, cos * z - sin * x
    if kind == 0:
        amount = np.zeros_like(u)
    elif kind == 1:
        amount = ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)
    elif kind == 2:
        amount = (u * 2 % 1 < np.float32(0.4)).astype(np.float32)
    else:
        grain = brushes.rounded(np.sin, 9 * v + 4 * coarse)
        amount = np.float32(0.3) + np.float32(0.2) * grain + np.float32(0.15) * fine
    return brushes.mix(first, second, amount) * (1 + 0.07 * fine + 0.05 * coarse)


def _light(
    place: Sequence[np.ndarray],
    normal: Sequence[np.ndarray],
    lamp: Sequence[float],
    balls: Sequence[_Ball],
) -> np.ndarray:
    """How bright it is at `place`: the lamp, less what balls hide of it, and of the room's."""
    facing = sum(n * v for n, v in zip(normal, lamp, strict=True))
    lit = np.clip(facing, 0, 1)
    room = np.float32(0.28) + np.float32(0.1) * normal[1]
    for ball in balls:
        to = [c - p for c, p in zip(ball.centre, place, strict=True)]
        squared = np.maximum(to[0] * to[0] + to[1] * to[1] + to[2] * to[2], np.float32(1e-4))
        ahead = to[0] * lamp[0] + to[1] * lamp[1] + to[2] * lamp[2]
        miss = np.sqrt(np.maximum(squared - ahead * ahead, 0)) - ball.radius
        penumbra = 0.03 + 0.12 * np.clip(ahead, 0, 4)  # softer, the further the ball is
        seen = np.clip(miss / penumbra * np.float32(0.5) + np.float32(0.5), 0, 1)
        lit = lit * np.where(ahead > 0, seen, 1)
        towards = to[0] * normal[0] + to[1] * normal[1] + to[2] * normal[2]
        hidden = np.clip(towards, 0, None) * ball.radius**2 / (squared * np.sqrt(squared))
        room = room * (1 - np.float32(0.8) * np.clip(hidden, 0, 1))
    return room + np.float32(0.85) * lit


def _add_ball(
    picture: np.ndarray,
    nearest: np.ndarray,
    ball: _Ball,
    eye: Sequence[float],
    ray: Sequence[np.ndarray],
    lamp: Sequence[float],
    balls: Sequence[_Ball],
    texture: np.ndarray,
) -> None:
    """Draws the ball where it is nearer than what `nearest`, which it updates, tells."""
    off = [e - c for e, c in zip(eye, ball.centre, strict=True)]
    along = off[0] * ray[0] + off[1] * ray[1] + off[2] * ray[2]
    inside = along * along - np.float32(sum(v * v for v in off) - ball.radius**2)
    depth = -along - np.sqrt(np.maximum(inside, 0))
    where = np.nonzero((inside > 0) & (depth < nearest))
    depth = depth[where]  # from here on, arrays [n] of the pixels that show it
    nearest[where] = depth
    ray = [r[where] for r in ray]
    place = [e + r * depth for e, r in zip(eye, ray, strict=True)]
    normal = [(p - c) / np.float32(ball.radius) for p, c in zip(place, ball.centre, strict=True)]
    amount = np.zeros_like(depth)
    if ball.pattern == 2:
        turned = sum(n * a for n, a in zip(normal, ball.axis, strict=True))
        amount = brushes.smooth_step(-0.15, 0.15, brushes.rounded(np.sin, 7 * turned))
    elif ball.pattern == 3:
        amount = np.clip(np.float32(0.4) + texture[where] * np.float32(0.9), 0, 1)
    first, second = (colour[:, None] for colour in ball.colours)
    colour = first + (second - first) * amount

    half = [v - r for v, r in zip(lamp, ray, strict=True)]
    size = np.sqrt(half[0] * half[0] + half[1] * half[1] + half[2] * half[2])
    shine = sum(n * h for n, h in zip(normal, half, strict=True)) / size
    shine = np.clip(shine, 0, 1)
    for _ in range(5):
        shine = shine * shine
    others = [other for other in balls if other is not ball]
    light = _light(place, normal, lamp, others)
    picture[:, where[0], where[1]] = colour * light + np.float32(0.5) * shine


# ---- outdoors

_SKIES = tuple(
    brushes.colours(text)
    for text in (
        "3f7cc4 8fbce6 dcebf5",
        "5a86b0 a9c3d6 f0e4d0",
        "33507f c98a7c f7cf9a",
        "8795a3 b6c0c8 dfe3e4",
        "1f3558 6d7fa6 f0b79a",
        "2a6f97 61a5c2 fefae0",
    )
)


def _sky(random: brushes.Random, side: int, colours: np.ndarray, horizon: float) -> np.ndarray:
    """Lighter towards the horizon, with clouds that lie flatter there."""
    _, y = brushes.coordinates(side)
    picture = brushes.ramp(colours, np.broadcast_to(y / horizon, (side, side)))
    rows = np.minimum((0.8 * y + 1.2 * y * y)[:, 0] * side, side - 1).astype(int)
    density = brushes.noise(random, side, 3, 5)[rows]
    cover = random.uniform(-0.3, 0.6)
    cloud = brushes.smooth_step(cover, cover + 0.7, density)
    bright = 0.82 + 0.18 * brushes.smooth_step(cover + 0.2, cover + 0.9, density)
    white = colours[-1] * np.float32(0.5) + np.float32(0.5)
    return brushes.mix(picture, brushes.planar(white) * bright, 0.9 * cloud)


def _relief(random: brushes.Random, side: int, frequency: int) -> np.ndarray:
    """Ground lit from the side: the slope, from left to right, of noise."""
    height = brushes.noise(random, side, frequency, 4)
    before = np.maximum(np.arange(side) - max(1, round(0.008 * side)), 0)
    return height - height[:, before]


def _landscape(random: brushes.Random, size: int) -> np.ndarray:
    """A plain that is seen to its far end, furrowed or not, with flowers, a house or trees."""
    x, y = brushes.coordinates(size)
    horizon = random.uniform(0.35, 0.6)
    colours, ground = random.choice(_SKIES), random.choice(brushes.GROUNDS)
    picture = _sky(random, size, colours, horizon)
    haze = colours[1] * np.float32(0.7) + ground[0] * np.float32(0.15)
    range_top = (
        horizon
        - 0.04
        - 0.09
        * random.uniform()
        * (1 + brushes.ridge(random, size, random.integer(2, 5), 5)[None, :])
    )
    edge = 1 / size
    picture = brushes.mix(picture, haze, brushes.smooth_step(-edge, edge, y - range_top))

    skyline = horizon + 0.03 * brushes.ridge(random, size, 2, 2)[None, :]
    depth = np.clip((y - skyline) / (1 - skyline), 0, 1)  # 0 at the skyline, 1 at the eye
    distance = 1 / (depth + np.float32(0.12))
    across = (x - 0.5) * distance
    patches = brushes.noise(random, size, 5, 3)
    plain = brushes.ramp(ground, 0.85 * depth + 0.25 * patches)
    texture = _in_perspective(brushes.noise(random, size, 24, 2), across, distance)
    tufts = _in_perspective(brushes.noise(random, size, 7, 3), across, distance)
    shade = 1 + (0.2 + 0.8 * depth) * (0.3 * texture + 0.25 * tufts)
    frequency, slant = random.uniform(6, 14), random.uniform(-0.6, 0.6)
    if random.chance(0.4):
        furrows = brushes.rounded(np.sin, frequency * (across + slant * distance))
        shade = shade * (1 + 0.28 * furrows * brushes.smooth_step(0, 0.3, depth))
    plain = np.clip(plain * shade, 0, 1)
    plain = brushes.mix(plain, haze, 0.6 * (1 - depth) ** 4)
    picture = brushes.mix(picture, plain, brushes.smooth_step(-edge, edge, y - skyline))

    # What grows or stands there has hard edges: drawn larger, averaged down.
    bare = picture
    picture = np.repeat(np.repeat(picture, 2, axis=1), 2, axis=2)
    if random.chance(0.35):
        picture = brushes.plant_flowers(picture, random, horizon)
    if random.chance(0.4):
        picture = brushes.build_house(picture, random, horizon)
    smooth = brushes.average(picture, 2)
    trees = brushes.plant_trees(picture, random, horizon) if random.chance(0.6) else picture
    picture = brushes.average(trees, 2)
    built, leafy = (
        (over != under).any(axis=0) for over, under in ((smooth, bare), (picture, smooth))
    )
    relief = _relief(random, size, 16)
    return picture * (1 + 0.5 * built * relief + leafy * (2 * relief + 0.15 * texture))


def _in_perspective(field: np.ndarray, across: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """A field [S, S] laid on the ground and mirrored beyond its edges, as seen from the eye."""
    side = len(field)
    row, column = (
        (np.abs((v * np.float32(0.9)) % 2 - 1) * np.float32(side - 1)).astype(int)
        for v in (distance, across)
    )
    return field[row, column]


def _hills(random: brushes.Random, size: int) -> np.ndarray:
    """Ridges, one behind the other in the haze, the near ones rough and wooded; or a lake."""
    factor = 2 if size < 128 else 1
    side = size * factor
    _, y = brushes.coordinates(side)
    colours = random.choice(_SKIES)
    horizon = random.uniform(0.3, 0.6)
    picture = _sky(random, side, colours, horizon)
    near = random.choice(brushes.colours("2f4a1e 55702a 7a7433 8a6a3a 23422f 9a5a3a 3c3a4a"))
    far = colours[0] * np.float32(0.7) + near * np.float32(0.3)
    count = random.integer(3, 6)
    for layer in range(count):
        nearness = (layer + 1) / count
        level = horizon + (1.0 - horizon) * layer / count
        top = level + 0.1 * brushes.ridge(random, side, random.integer(2, 4), 5, 0.45)
        trees = random.uniform(0, 0.03) * nearness
        top = top - trees * np.abs(brushes.ridge(random, side, 40, 2, 0.6))
        below = y - top[None, :]
        rough = _relief(random, side, 6 + 3 * (count - layer))
        wooded = brushes.smooth_step(-0.2, 0.3, brushes.noise(random, side, 5, 4))
        shade = 1 + nearness * (1.7 * rough - 0.4 * wooded)
        colour = brushes.mix(far[:, None], near[:, None], nearness**1.2)[..., 0]
        slope = np.clip(brushes.planar(colour) * shade, 0, 1)
        mist = 0.6 * (1 - nearness) * np.clip(below / 0.25, 0, 1)
        slope = brushes.mix(slope, colours[-1], mist)
        picture = brushes.mix(picture, slope, brushes.smooth_step(-1 / side, 1 / side, below))
    if random.chance(0.35):  # a lake
        shore = int(random.uniform(0.7, 0.88) * side)
        rows = np.arange(shore, side)
        swell = 0.005 * brushes.rounded(np.sin, 200 * (rows / side) ** 2) * side
        mirrored = np.clip(2 * shore - rows - swell.astype(int), 0, side - 1)
        water = brushes.mix(picture[:, mirrored], colours[0], 0.3)
        picture = np.concatenate([picture[:, :shore], water], axis=1)
    return brushes.average(np.clip(picture, 0, 1), factor)


_CLASSES: dict[str, Callable[[brushes.Random, int], np.ndarray]] = {
    "leaves": _leaves,
    "still_lifes": _still_life,
    "landscapes": _landscape,
    "hills": _hills,
}
CLASS_NAMES: tuple[str, ...] = tuple(_CLASSES)
VARIANTS = ("", *CLASS_NAMES)
