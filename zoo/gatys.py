"""Style transfer by optimisation: the picture itself is what is learned, for one photo and style.

Gatys, Ecker & Bethge 2016 (CVPR): with --perceptual=vgg19 content is compared at conv4_2, style at
conv1_1 to conv5_1 by Gram matrices, pooling is average, and L-BFGS minimises. Deviations: distances
are relative (`zoo.losses`), so that weights mean what they mean for the trained networks
(`zoo.style_transfer`) and the two can be compared; style may also be compared by patches (Elnekave
& Weiss 2022, GPDM) and content by edges, which is what convinces where there are no weights of VGG;
pictures are painted from coarse to fine, as in GPDM and in Gatys et al. 2017 (section 6).

Shape letters: H W content, h w picture of one level, h' w' style there, P patch, K directions,
M places.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo import errors, lbfgs, perceptual
from zoo.generative import Noise
from zoo.optimizers import Adam
from zoo.style_transfer import WEIGHTS, Objective, patch_directions

SMALLEST = 8
"""Pixels that a content or a style must have each way."""
_SMALLEST_LEVEL = 32
_GAIN_WINDOW, _GAIN_PRIOR = 9, 1e-3


@dataclasses.dataclass(frozen=True)
class Settings:
    """What can be chosen about one picture."""

    perceptual: Literal["random", "vgg16", "vgg19"] = "random"
    """Net in whose features pictures are compared; VGG needs ImageNet weights."""
    perceptual_weights: str = ""
    """File with the weights of VGG, instead of a download."""
    content_weight: float = 0.0
    """Of the distance to the content's features."""
    style_weight: float = 1.0
    """Of the distance to the style's features, mean over layers."""
    edge_weight: float = 0.3
    """Of the content's edges that got lost."""
    patch_weight: float = 0.2
    """Of the distance between the patches of picture and style."""
    total_variation_weight: float = 0.15
    """Of the differences between neighbouring pixels."""
    optimizer: Literal["adam", "lbfgs"] = "adam"
    """Adam looks at other patches in each step, L-BFGS at the same in all steps of a level."""
    iterations: int = 60
    """Steps on each level."""
    learning_rate: float = 0.05
    """Adam's at first; it falls along a cosine on each level."""
    scales: int = 3
    """Levels, each twice as large as the one before; those below 32 pixels are left out."""
    init: Literal["content", "noise"] = "content"
    """What the coarsest level starts from."""
    seed: int = 0
    """Names the noise and the patches that are looked at."""
    max_size: int = 512
    """Longer side of the finest level; beyond it, the photo's own detail is put on top."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, known = getattr(self, field.name), getattr(field.type, "__args__", None)
            if known and value not in known:
                raise errors.unknown(f"--{field.name}", value, known)
            if field.name.endswith("_weight") and not 0 <= value < float("inf"):
                raise errors.UsageError(f"--{field.name}={value}: expected 0 or more")
        errors.check_positive(
            iterations=self.iterations, learning_rate=self.learning_rate, scales=self.scales
        )
        if not any(getattr(self, field) for field in WEIGHTS.values()):
            raise errors.UsageError(
                "all weights are 0: expected at least one above, as --style_weight=1"
            )
        if not self.max_size >= SMALLEST:
            raise errors.UsageError(f"--max_size={self.max_size}: expected {SMALLEST} or more")
        if not 0 <= self.seed < 2**31:
            raise errors.UsageError(f"--seed={self.seed}: expected from 0 to 2147483647")


class Progress(NamedTuple):
    """How far a picture is."""

    level: int
    """From 0, the coarsest, to `levels` - 1."""
    levels: int
    step: int
    """Taken so far, of `total_steps` on all levels; L-BFGS may end a level early."""
    total_steps: int
    share: float
    """Of all work that is done, from 0 to 1: a step on a finer level is more of it."""
    losses: dict[str, float]
    """`stylization`, which is minimised, then its parts, before they are weighed."""
    image: Callable[[], np.ndarray]
    """Gives the picture as it is: uint8 [h, w, 3]."""


def directions(seed: int, step: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Filters [P, P, 3, K] and places [M] for the patches of a step."""
    return patch_directions(Noise(seed, tf.convert_to_tensor(step), tf.constant(1)))


def stylize(
    content: np.ndarray,
    style: np.ndarray,
    settings: Settings,
    on_progress: Callable[[Progress], None] | None = None,
) -> np.ndarray:
    """content uint8 [H, W, 3] in the style of a picture uint8 [h', w', 3]: uint8 [H, W, 3].

    The style is shrunk with the content until its longer side is the content's; it is never
    enlarged. on_progress is called after each step. UsageError if a picture has less than 8 pixels
    either way, or the weights of VGG cannot be had.
    """
    for name, image in (("content", content), ("style", style)):
        if min(image.shape[:2]) < SMALLEST:
            raise errors.UsageError(
                f"the {name} has {image.shape[1]}x{image.shape[0]} pixels: "
                f"expected at least {SMALLEST}x{SMALLEST}"
            )
    net = perceptual.load(settings.perceptual, settings.perceptual_weights)
    whole, whole_style = to_tensor(content), to_tensor(style)
    sizes = _sizes(content.shape[:2], settings)
    work = sum(height * width for height, width in sizes) * settings.iterations
    done = 0
    image = small = resize(whole, sizes[0])
    if settings.init == "noise":
        image = Noise(settings.seed, tf.constant(0), 1).uniform("start", *sizes[0], 3)
    for level, (height, width) in enumerate(sizes):
        before, small = small, resize(whole, (height, width))
        image = with_detail(image, before, small, settings)
        shrunk = resize(whole_style, _fitted(style.shape[:2], max(height, width)))
        first = level * settings.iterations

        def report(step: int, parts: dict, now, level=level, first=first, done=done) -> None:
            if on_progress:
                height, width = sizes[level]
                on_progress(
                    Progress(
                        level,
                        len(sizes),
                        step,
                        len(sizes) * settings.iterations,
                        (done + (step - first) * height * width) / work,
                        {name: float(value[0]) for name, value in parts.items()},
                        lambda: to_array(now()),
                    )
                )

        minimise = {"adam": _adam, "lbfgs": _lbfgs}[settings.optimizer]
        image = minimise(Objective(settings, net, small, shrunk), image, settings, first, report)
        done += settings.iterations * height * width
    return to_array(with_detail(image, small, whole, settings))


def _adam(
    objective: Objective, start: tf.Tensor, settings: Settings, first: int, report: Callable
) -> tf.Tensor:
    """start [1, h, w, 3] after a level's steps, the first of which has the number `first`."""
    image = keras.Variable(start, dtype="float32")
    schedule = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, settings.iterations, alpha=0.1
    )
    # Squared gradients averaged over some hundred steps, not a thousand: fewer are taken.
    optimizer = Adam(schedule, beta_2=0.99, epsilon=1e-12)
    optimizer.build([image])

    @tf.function(autograph=False)
    def update(step: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            parts = objective(image.value, *directions(settings.seed, step))
        optimizer.apply([tape.gradient(parts["stylization"], image.value)], [image])
        image.assign(tf.clip_by_value(image.value, 0.0, 1.0))
        return parts

    for step in range(first, first + settings.iterations):
        report(step + 1, update(tf.constant(step)), lambda: image.value)
    return tf.convert_to_tensor(image.value)


def _lbfgs(
    objective: Objective, start: tf.Tensor, settings: Settings, first: int, report: Callable
) -> tf.Tensor:
    """See `_adam`; the patches that are looked at stay the same, as the loss has to."""
    fixed = directions(settings.seed, first)
    seen: dict[float, dict[str, tf.Tensor]] = {}

    @tf.function(autograph=False)
    def slope(image: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(image)
            parts = objective(image, *fixed)
        return parts, tape.gradient(parts["stylization"], image)

    def function(point: np.ndarray) -> tuple[float, tf.Tensor]:
        parts, gradient = slope(tf.constant(point))
        loss = float(parts["stylization"][0])
        seen[loss] = parts
        return loss, gradient

    def on_step(step: int, point: np.ndarray, loss: float) -> None:
        report(first + step, seen[loss], lambda: point)
        seen.clear()

    found = lbfgs.minimise(
        function, start.numpy(), iterations=settings.iterations, bounds=(0.0, 1.0), on_step=on_step
    )
    return tf.constant(found.point)


def _sizes(shape: tuple[int, ...], settings: Settings) -> list[tuple[int, int]]:
    """Height and width of each level for a content of that shape, the coarsest first."""
    finest = _fitted(shape, settings.max_size)
    sizes = [finest]
    for level in range(1, settings.scales):
        height, width = (round(side / 2**level) for side in finest)
        if min(height, width) < _SMALLEST_LEVEL:
            break
        sizes.insert(0, (height, width))
    return sizes


def _fitted(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Shrunk to a longer side, but no side below SMALLEST; never enlarged."""
    factor = min(1.0, max(longest / max(shape), SMALLEST / min(shape)))
    height, width = (max(SMALLEST, round(side * factor)) for side in shape)
    return height, width


def resize(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """[B, H, W, 3] -> [B, *size, 3] in [0, 1], bicubic, antialiased."""
    if tuple(images.shape[1:3]) == tuple(size):
        return images
    return tf.clip_by_value(tf.image.resize(images, size, "bicubic", antialias=True), 0.0, 1.0)


def with_detail(
    painted: tf.Tensor, small: tf.Tensor, large: tf.Tensor, settings: Settings
) -> tf.Tensor:
    """painted [1, h, w, 3] at the size of large, with the detail that large has beyond small.

    small, large: the content at both sizes. As a guided filter does (He, Sun & Tang 2013), detail
    is as strong as brightness of the painted picture follows the content's around it: where the
    paint is flat it stays flat, where it turned dark to light so does the detail. A picture that
    began as noise is only enlarged.
    """
    size = tuple(large.shape[1:3])
    enlarged = resize(painted, size)
    if settings.init == "noise" or tuple(painted.shape[1:3]) == size:
        return enlarged
    ours, theirs = (tf.reduce_mean(x, axis=-1, keepdims=True) for x in (painted, small))
    mean, mean_theirs = _local_mean(ours), _local_mean(theirs)
    covariance = _local_mean(ours * theirs) - mean * mean_theirs
    variance = _local_mean(theirs * theirs) - mean_theirs * mean_theirs
    gain = tf.clip_by_value((covariance + _GAIN_PRIOR) / (variance + _GAIN_PRIOR), -1.0, 1.0)
    blurred = resize(small, size)
    lost = (1.0 - tf.image.resize(gain, size)) * (large - blurred)
    # In this order, so that what was not painted over comes back to the last bit.
    return tf.clip_by_value(large + (enlarged - blurred) - lost, 0.0, 1.0)


def _local_mean(images: tf.Tensor) -> tf.Tensor:
    return tf.nn.avg_pool2d(images, _GAIN_WINDOW, 1, "SAME")


def to_tensor(image: np.ndarray) -> tf.Tensor:
    """uint8 [H, W, 3] -> [1, H, W, 3] float32 in [0, 1]."""
    return tf.constant(image[None], tf.float32) / 255.0


def to_array(images: tf.Tensor | np.ndarray) -> np.ndarray:
    """[1, H, W, 3] in [0, 1] -> uint8 [H, W, 3]."""
    return np.rint(np.asarray(images)[0] * 255.0).astype(np.uint8)
