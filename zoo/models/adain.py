"""AdaIN: arbitrary style transfer; repaints in the style of a picture given at run time.

Huang & Belongie 2017 (1703.06868): a fixed encoder, whose channels are given the mean and deviation
of the style's, and a mirrored decoder without normalisation, `zoo.style_nets.Decoder`, trained on
many content and style pictures to bring the result back to a picture.

Deviations, to learn in minutes without ImageNet: the encoder is by default our random net up to
conv3_1 instead of VGG-19 up to conv4_1, and patches and edges are compared beside the moments and
the content (`zoo/style_transfer.py`). `experiments/adain_paper.flags` is the paper's.
"""

import dataclasses
from typing import Any, Literal

import tensorflow as tf

from zoo import endpoints, errors, losses, perceptual
from zoo.generative import Losses, Noise, to_float
from zoo.style_nets import Decoder, cut, normalise, pad_to_multiple
from zoo.style_transfer import StyleConfig, StyleModel, optimizers

DEFAULTS = {"dataset": "scenes", "image_size": 96, "batch_size": 4, "total_steps": 1300}


@dataclasses.dataclass(frozen=True)
class Config(StyleConfig):
    """What can be chosen about AdaIN; every field is a flag of `python -m zoo.train`."""

    styles: str = "paintings"
    asked_weight: float = 0.3
    """Of the distance to the features that were asked of the decoder (the paper's content loss)."""
    upsampling: Literal["nearest", "bilinear"] = "bilinear"
    """How the decoder enlarges."""

    def __post_init__(self):
        super().__post_init__()
        if not self.asked_weight >= 0:
            raise errors.UsageError(f"--asked_weight={self.asked_weight}: expected 0 or more")


TINY = Config(styles="strokes,glass,marble")


class AdaIN(StyleModel):
    """See the module docstring."""

    config: Config

    def __init__(self, config: Config, **kwargs):
        super().__init__(config, **kwargs)
        self.evaluation_names = self.scalar_names = (*self.scalar_names, "asked")
        self.encoder = perceptual.Encoder(config.perceptual)
        # The random net has one convolution a block: too few to come back from.
        repeats = 2 if config.perceptual == "random" else 1
        self.decoder = Decoder(
            [repeats * block for block in self.encoder.channels], config.upsampling
        )
        self.decoder(self.encoder(tf.zeros([1, 16, 16, 3])))
        self.built = True

    def prepare(self) -> None:
        self.encoder.load(self.load_perceptual().weights)

    def objective_variables(self):
        return {"stylization": self.decoder.trainable_variables}

    def compute_losses(self, batch: dict[str, tf.Tensor], noise: Noise, training: bool) -> Losses:
        content, style = to_float(batch["image"]), to_float(batch["style"])
        wanted = self.exchange(self._encode(content), self._encode(style))
        painted = self._decode(wanted, content)
        parts = self.compare(painted, content, style, noise)
        # As in the paper, not from the content's own features, but from what was asked for.
        parts["asked"] = losses.content_loss(self._encode(painted), wanted)
        total = parts.pop("stylization") + self.config.asked_weight * parts["asked"]
        return Losses(objectives={"stylization": total}, reports=parts)

    def style_distance(self, features: tf.Tensor, style_features: tf.Tensor) -> tf.Tensor:
        """Means and deviations, as the paper has it, in place of Gram matrices."""
        return losses.moments_loss(features, style_features)

    def exchange(self, features: tf.Tensor, style_features: tf.Tensor) -> tf.Tensor:
        """features [B, h, w, C] with mean and deviation of the style's (equation 8)."""
        mean, deviation = losses.channel_moments(style_features)
        own = tf.cast(features, tf.float32)
        own_mean, own_variance = tf.nn.moments(own, axes=[1, 2], keepdims=True)
        return normalise(features, own_mean, own_variance, deviation[:, 0, 0], mean[:, 0, 0])

    def stylize(self, images: tf.Tensor, styles: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
        """images [B, H, W, 3], styles [B, h, w, 3] in [0, 1], strength [B] -> [B, H, W, 3].

        strength 1 is the style, 0 the very picture: the features are mixed (equation 14), and what
        the decoder loses of the picture is given back as far as the strength is below 1.
        """
        features = self._encode(images)
        share = strength[:, None, None, None]
        change = self.exchange(features, self._encode(styles)) - features
        mixed = features + tf.cast(share, features.dtype) * change
        lost = images - self._decode(features, images)
        return tf.clip_by_value(self._decode(mixed, images) + (1.0 - share) * lost, 0.0, 1.0)

    def stylize_batch(
        self, images: tf.Tensor, styles: tf.Tensor, style_labels: tf.Tensor
    ) -> tf.Tensor:
        return self.stylize(images, styles, tf.ones([tf.shape(images)[0]]))

    def _encode(self, images: tf.Tensor) -> tf.Tensor:
        return self.encoder(pad_to_multiple(images, 2 ** (len(self.encoder.channels) - 1)))

    def _decode(self, features: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """A picture of the size of images."""
        return cut(self.decoder(features), images)

    def endpoints(self) -> dict[str, Any]:
        def stylize(images, style_images, strength):
            """Pictures of one size, repainted in the style of others of one size.

            images, style_images: in [0, 1], any height and width from 8. strength: 1 is all the
            style, 0 the picture as it is.
            """
            return {"images": self.stylize(images, style_images, strength)}

        def stylize_bytes(image_bytes, style_image_bytes, strength):
            """JPEG or PNG files of any sizes, repainted at their own size, as PNG files.

            image_bytes, style_image_bytes: up to 4,194,304 pixels, sides from 8; what is larger is
            refused by its header. EXIF orientation is not looked at. strength: as in `stylize`.
            """
            rows = (image_bytes, style_image_bytes, strength)
            return {"png_bytes": endpoints.each_file(self._stylize_file, rows)}

        images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
        styles = tf.TensorSpec(images.shape, images.dtype, name="style_images")
        files = endpoints.IMAGE_BYTES
        style_files = tf.TensorSpec(files.shape, files.dtype, name="style_image_bytes")
        return {
            "stylize": endpoints.endpoint(stylize, images, styles, endpoints.STRENGTH),
            "stylize_bytes": endpoints.endpoint(
                stylize_bytes, files, style_files, endpoints.STRENGTH
            ),
        }

    def _stylize_file(self, data, style_data, strength) -> tf.Tensor:
        image, style = (endpoints.from_bytes(file)[None] for file in (data, style_data))
        return self.stylize(image, style, strength[None])


def build(
    config: Config,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    total_steps: int,
    seed: int = 0,
) -> AdaIN:
    """A compiled AdaIN, every variable made."""
    model = AdaIN(config, image_shape=image_shape, num_classes=num_classes, seed=seed, name="adain")
    model.compile(optimizers(config, total_steps))
    return model
