"""Fast style transfer: one network that repaints any picture in many styles, and in their mixtures.

Johnson, Alahi & Fei-Fei 2016 (1603.08155) with instance normalisation (Ulyanov et al. 2016,
1607.08022), conditional on the style (Dumoulin, Shlens & Kudlur 2017, 1610.07629): the net is
`zoo.style_nets.TransformerNet`.

Deviations, to learn five styles in four minutes on two cores without ImageNet: half the width,
four residual blocks, bilinear enlarging, 7x7 at both ends; features of a random net, patches and
edges in place of VGG's features and content (`zoo/style_transfer.py`).
`experiments/style_johnson.flags` has the paper's net and losses.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from zoo import endpoints, errors
from zoo.generative import Losses, Noise, to_float
from zoo.style_nets import TransformerNet
from zoo.style_transfer import StyleConfig, StyleModel, optimizers

DEFAULTS = {"dataset": "scenes", "image_size": 96, "batch_size": 4, "total_steps": 1200}


@dataclasses.dataclass(frozen=True)
class Config(StyleConfig):
    """What can be chosen about the network; every field is a flag of `python -m zoo.train`."""

    styles: str = "strokes,glass,marble,circles,dots"
    width: int = 16
    """Channels of the first convolution; four times as many in the residual blocks."""
    residual_blocks: int = 4
    """Residual blocks at a quarter of the picture's size."""
    kernel_size: Literal["7", "9"] = "7"
    """Of the first and the last convolution."""
    upsampling: Literal["nearest", "bilinear"] = "bilinear"
    """How the net enlarges."""
    add_style: str = ""
    """One more style picture for the network of --base_run: its scales and shifts alone are
    learned, the net and its other styles stay as they are."""
    base_run: str = ""
    """Run directory of the network that --add_style is added to."""

    def __post_init__(self):
        super().__post_init__()
        errors.check_positive(width=self.width, residual_blocks=self.residual_blocks)
        if bool(self.add_style) != bool(self.base_run):
            raise errors.UsageError(
                "--add_style=PICTURE and --base_run=RUN belong together: the style, and the "
                "network that it is added to"
            )


TINY = Config(styles="strokes,glass,marble", width=4, residual_blocks=1)


class StyleTransfer(StyleModel):
    """See the module docstring."""

    config: Config

    def __init__(self, config: Config, *, num_classes: int, **kwargs):
        super().__init__(config, num_classes=num_classes, **kwargs)
        self.net = TransformerNet(
            num_classes,
            width=config.width,
            residual_blocks=config.residual_blocks,
            kernel_size=int(config.kernel_size),
            upsampling=config.upsampling,
        )
        self.net(tf.zeros([1, 16, 16, 3]), tf.zeros([1, num_classes]))
        self.built = True

    def objective_variables(self):
        if self.config.add_style:
            return {"stylization": [self.net.styles[-1]]}
        return {"stylization": self.net.trainable_variables}

    def adopt(self, other: "StyleTransfer") -> None:
        """Takes over net and styles of a network that lacks the last style only.

        The new one starts from the mean of the others.
        """
        ours, theirs = self.net.styles, other.net.styles
        for mine, value in (
            *zip(self._net_variables(), other._net_variables(), strict=True),
            *zip(ours[:-1], theirs, strict=True),
        ):
            mine.assign(value)
        ours[-1].assign(tf.reduce_mean([tf.convert_to_tensor(style) for style in theirs], axis=0))

    def _net_variables(self) -> list[keras.Variable]:
        styles = {id(style) for style in self.net.styles}
        return [variable for variable in self.net.variables if id(variable) not in styles]

    def compute_losses(self, batch: dict[str, tf.Tensor], noise: Noise, training: bool) -> Losses:
        content, style = to_float(batch["image"]), to_float(batch["style"])
        height, width = content.shape[1:3]
        grain = [
            noise.normal(
                f"grain_{times}", -(-height // 4) * 4 // times, -(-width // 4) * 4 // times, 1
            )
            for times in (4, 2)
        ]
        weights = tf.one_hot(batch["style_label"], self.num_classes)
        parts = self.compare(self.net(content, weights, grain), content, style, noise)
        return Losses(objectives={"stylization": parts.pop("stylization")}, reports=parts)

    def stylize_batch(
        self, images: tf.Tensor, styles: tf.Tensor, style_labels: tf.Tensor
    ) -> tf.Tensor:
        return self.net(images, tf.one_hot(style_labels, self.num_classes))

    def stylize(
        self,
        images: tf.Tensor,
        style_weights: tf.Tensor,
        strength: tf.Tensor,
        grain: Sequence[tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """images [B, H, W, 3] in [0, 1], style_weights [B, S], strength [B] -> [B, H, W, 3].

        strength 1 is the styles' mixture, 0 the picture, between them both are cross-faded; grain:
        see `TransformerNet.call`.
        """
        painted = self.net(images, style_weights, grain)
        return images + strength[:, None, None, None] * (painted - images)

    def endpoints(self) -> dict[str, Any]:
        def stylize(images, style_weights, strength):
            """Pictures of one size, repainted.

            images: in [0, 1], any height and width from 8. style_weights: a weight for each style,
            in sum 1. strength: 1 is all the style, 0 the picture as it is.
            """
            return {"images": self.stylize(images, style_weights, strength)}

        def stylize_bytes(image_bytes, style_weights, strength):
            """JPEG or PNG files of any sizes, repainted at their own size, as PNG files.

            image_bytes: up to 4,194,304 pixels, sides from 8; what is larger is refused by its
            header. EXIF orientation is not looked at. style_weights, strength: as in `stylize`.
            """
            rows = (image_bytes, style_weights, strength)
            return {"png_bytes": endpoints.each_file(self._stylize_file, rows)}

        images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
        weights = tf.TensorSpec([None, self.num_classes], tf.float32, name="style_weights")
        rest = (weights, endpoints.STRENGTH)
        return {
            "stylize": endpoints.endpoint(stylize, images, *rest),
            "stylize_bytes": endpoints.endpoint(stylize_bytes, endpoints.IMAGE_BYTES, *rest),
        }

    def _stylize_file(self, data, weights, strength) -> tf.Tensor:
        return self.stylize(endpoints.from_bytes(data)[None], weights[None], strength[None])


def build(
    config: Config,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    total_steps: int,
    seed: int = 0,
) -> StyleTransfer:
    """A compiled network for num_classes styles, every variable made."""
    model = StyleTransfer(
        config, image_shape=image_shape, num_classes=num_classes, seed=seed, name="style"
    )
    model.compile(optimizers(config, total_steps))
    return model
