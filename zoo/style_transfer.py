"""What models that repaint pictures share: how content and style are weighed, sheets, endpoints.

A batch has a content picture and a style picture for every example. The one objective,
`stylization`, is a weighted sum of how far the repainted picture is from the content's features
and edges, and from the style's features and patches; all are relative, so that weights mean the
same for any net of features (`zoo.perceptual`).

Shape letters: B examples, H W picture, h w style picture, S styles.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from zoo import errors, losses, perceptual
from zoo.generative import (
    GenerativeModel,
    Noise,
    Sheet,
    stateless_normal,
    stateless_uniform,
    to_float,
)
from zoo.optimizers import Adam

PATCH_SIZE, PATCH_DIRECTIONS, PATCH_PLACES = 7, 32, 1024
WEIGHTS = {
    "content": "content_weight",
    "style": "style_weight",
    "patches": "patch_weight",
    "edges": "edge_weight",
    "total_variation": "total_variation_weight",
}
"""Part of the objective -> the setting that weighs it."""
_SHOWN_CONTENTS, _MOST_COLUMNS = 5, 8


@dataclasses.dataclass(frozen=True)
class StyleConfig:
    """What can be chosen about every model that repaints; a model has its own defaults."""

    styles: str = ""
    """Style pictures, between commas: files, folders, styles of `paintings`; `paintings`: many."""
    style_size: int = 128
    """Height and width that style pictures are brought to; larger ones have larger strokes."""
    perceptual: Literal["random", "vgg16", "vgg19"] = "random"
    """Net in whose features pictures are compared; VGG needs ImageNet weights."""
    perceptual_weights: str = ""
    """File with the weights of VGG, instead of a download."""
    content_weight: float = 0.0
    """Of the distance to the content's features."""
    style_weight: float = 1.0
    """Of the distance to the style's features, mean over layers."""
    patch_weight: float = 0.5
    """Of the distance between the patches of picture and style."""
    edge_weight: float = 1.0
    """Of the content's edges that got lost."""
    total_variation_weight: float = 0.1
    """Of the differences between neighbouring pixels."""
    learning_rate: float = 2e-3
    """Adam's."""
    final_learning_rate: float = 0.1
    """Share of the learning rate that is left at the last step; it falls along a cosine."""

    def __post_init__(self):
        errors.check_positive(learning_rate=self.learning_rate, style_size=self.style_size)
        for name in (*WEIGHTS.values(), "final_learning_rate"):
            if not getattr(self, name) >= 0:
                raise errors.UsageError(f"--{name}={getattr(self, name)}: expected 0 or more")


class StyleModel(GenerativeModel):
    """A model that repaints pictures; `prepare` it before it is trained or evaluated.

    A subclass gives `compute_losses`, `stylize_batch` and `endpoints`.
    """

    draws = False
    selection_measure = "stylization"
    reading = """
| stylization | the weighted sum that is minimised: falls; eval above train and rising: it knows its content pictures by heart |
| content, asked, edges | fall at first, rise a little while the style is learned |
| style, style/* | falls by ten and more; a layer that stays high is a size of stroke that the net misses |
| patches | falls slowly: colours first, then the look of a stroke |
| total_variation | steady; rising without end is noise |
| sheets | first row the styles, first column photographs that it has not seen |
"""  # noqa: E501

    def __init__(
        self,
        config: StyleConfig,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        **kwargs,
    ):
        """num_classes: number of style pictures."""
        if not num_classes:
            raise errors.UsageError("no style to learn: name at least one with --styles")
        if image_shape[-1] != 3:
            raise errors.UsageError(
                f"style transfer works on colour pictures, these have {image_shape[-1]} channel: "
                "choose another --dataset"
            )
        super().__init__(image_shape=image_shape, num_classes=num_classes, **kwargs)
        self.config = config
        self.perceptual: perceptual.Perceptual | None = None
        layers = perceptual.NETS[config.perceptual].style_layers
        names = [
            "stylization",
            *(name for name, field in WEIGHTS.items() if getattr(config, field)),
        ]
        names += [f"style/{layer}" for layer in layers if "style" in names]
        self.evaluation_names = tuple(names)
        self.scalar_names = self.evaluation_names

    def prepare(self) -> None:
        self.load_perceptual()

    def load_perceptual(self) -> perceptual.Perceptual:
        """Loads the net that compares pictures; UsageError if its weights cannot be had."""
        self.perceptual = perceptual.load(self.config.perceptual, self.config.perceptual_weights)
        return self.perceptual

    def protocol(self) -> dict[str, Any]:
        net = self.config.perceptual
        return {
            "perceptual": net,
            "perceptual_hash": self.perceptual and self.perceptual.weights.hash,
        }

    def style_distance(self, features: tf.Tensor, style_features: tf.Tensor) -> tf.Tensor:
        """[B]: of the features of one layer."""
        return losses.gram_loss(features, style_features)

    def compare(
        self, images: tf.Tensor, content: tf.Tensor, style: tf.Tensor, noise: Noise
    ) -> dict[str, tf.Tensor]:
        """`Objective` of repainted pictures, each with its content and style: [B] by name."""
        if self.perceptual is None:
            raise RuntimeError("this model compares nothing before prepare()")
        objective = Objective(self.config, self.perceptual, content, style, self.style_distance)
        return objective(images, *patch_directions(noise))

    def sheets(self, batch: dict[str, tf.Tensor]) -> dict[str, Sheet]:
        """The styles in the first row, contents in the first column, and each in each."""
        height, width = self.image_shape[:2]
        contents = to_float(batch["image"][:_SHOWN_CONTENTS])
        labels = np.asarray(batch["style_label"])
        shown = [int(np.flatnonzero(labels == number)[0]) for number in np.unique(labels)]
        shown = shown[: _MOST_COLUMNS - 1]
        styles = to_float(tf.gather(batch["style"], shown))
        thumbnails = tf.clip_by_value(
            tf.image.resize(styles, [height, width], antialias=True), 0, 1
        )
        rows = [tf.concat([tf.ones([1, height, width, 3]), thumbnails], axis=0)]
        for content in contents:
            repeated = tf.repeat(content[None], len(shown), axis=0)
            painted = self.stylize_batch(repeated, styles, tf.gather(batch["style_label"], shown))
            rows.append(tf.concat([content[None], painted], axis=0))
        return {"stylized": Sheet(tf.concat(rows, axis=0), columns=1 + len(shown))}

    def stylize_batch(
        self, images: tf.Tensor, styles: tf.Tensor, style_labels: tf.Tensor
    ) -> tf.Tensor:
        """images [B, H, W, 3], each in the style of its row: [B, H, W, 3] in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} repaints nothing")


class Objective:
    """How far pictures are from content and style: a weighted sum, and its parts.

    What has no weight is not computed.
    """

    def __init__(
        self,
        weights: Any,
        net: perceptual.Perceptual,
        content: tf.Tensor,
        style: tf.Tensor,
        style_distance: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = losses.gram_loss,
    ):
        """weights: has the fields that `WEIGHTS` names; content: [B or 1, H, W, 3], style:
        [B or 1, h, w, 3], float32 in [0, 1]; style_distance: of the features of one layer.
        """
        self._weights = {name: getattr(weights, field) for name, field in WEIGHTS.items()}
        self._net, self._content, self._style = net, content, style
        self._style_distance = style_distance
        self._style_layers = net.style_layers if self._weights["style"] else ()
        self._content_layers = (net.content_layer,) if self._weights["content"] else ()
        self._content_features = self._features(content, *self._content_layers)
        self._style_features = self._features(style, *self._style_layers)

    def _features(self, images: tf.Tensor, *layers: str) -> dict[str, tf.Tensor]:
        return self._net(images, *layers) if layers else {}

    def __call__(
        self, images: tf.Tensor, filters: tf.Tensor, places: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """images [B, H, W, 3] -> `stylization`, then its parts, [B]; see `patch_directions`."""
        parts: dict[str, tf.Tensor] = {}
        ours = self._features(images, *self._content_layers, *self._style_layers)
        for layer in self._content_layers:
            parts["content"] = losses.content_loss(ours[layer], self._content_features[layer])
        if self._style_layers:
            layers = {
                f"style/{layer}": self._style_distance(ours[layer], self._style_features[layer])
                for layer in self._style_layers
            }
            parts |= {"style": tf.add_n(list(layers.values())) / len(layers), **layers}
        if self._weights["patches"]:
            parts["patches"] = losses.patch_distance(images, self._style, filters, places)
        if self._weights["edges"]:
            parts["edges"] = losses.edge_loss(images, self._content)
        if self._weights["total_variation"]:
            parts["total_variation"] = losses.total_variation(images)
        total = tf.zeros(tf.shape(images)[:1])
        for name, weight in self._weights.items():
            if weight:
                total += weight * parts[name]
        return {"stylization": total, **parts}


def patch_directions(noise: Noise) -> tuple[tf.Tensor, tf.Tensor]:
    """Filters [P, P, 3, K] of norm 1 and places [M]: the same for all examples of a step."""
    filters = stateless_normal([PATCH_SIZE, PATCH_SIZE, 3, PATCH_DIRECTIONS], noise.seed("filters"))
    filters *= tf.math.rsqrt(tf.reduce_sum(tf.square(filters), axis=[0, 1, 2], keepdims=True))
    return filters, stateless_uniform([PATCH_PLACES], noise.seed("places"))


def optimizers(config: StyleConfig, total_steps: int) -> dict[str, keras.optimizers.Optimizer]:
    """Adam whose learning rate falls along a cosine."""
    schedule = keras.optimizers.schedules.CosineDecay(
        config.learning_rate, total_steps, alpha=config.final_learning_rate
    )
    # Instance normalisation takes away what some shifts add: their gradients are rounding errors,
    # which Adam would turn into steps of the usual length with an epsilon as small as usual.
    return {"stylization": Adam(schedule, epsilon=1e-6)}
