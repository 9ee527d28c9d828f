"""GAN: the dense generative adversarial network that everyone starts with.

Goodfellow et al. 2014 (1406.2661), section 5, with the sizes of their MNIST code: a generator of
100 uniform latents, two layers of 1200 ReLU units and a sigmoid; a discriminator of two maxout
layers of 240 units with 5 pieces each (Goodfellow et al. 2013), dropout of .2 at its input and .5
at its layers, each kept value divided by its chance. Loss: the non-saturating one of section 3.

Deviations: Adam instead of SGD with a rising momentum, Glorot's initial weights instead of small
uniform ones, samples from an averaged generator, both players moved from the same pass.
"""

import dataclasses
import math
from typing import Literal

import tensorflow as tf
from keras import layers

from zoo import errors
from zoo.adversarial import AdversarialConfig, AdversarialModel, Verdict, optimizers
from zoo.generative import Noise
from zoo.layers import Dense

DEFAULTS = {"dataset": "glyphs", "batch_size": 64, "total_steps": 6000}

PIECES = 5
INPUT_DROPOUT, DROPOUT = 0.2, 0.5


@dataclasses.dataclass(frozen=True)
class Config(AdversarialConfig):
    """What can be chosen about a dense GAN; every field is a flag of `python -m zoo.train`."""

    latents: Literal["normal", "uniform"] = "uniform"
    learning_rate: float = 1e-3
    discriminator_learning_rate: float = 5e-4
    final_learning_rate: float = 0.1
    hidden: int = 1200
    """Units of each of the generator's two hidden layers."""
    maxout_units: int = 240
    """Units of each of the discriminator's two maxout layers."""

    def __post_init__(self):
        super().__post_init__()
        errors.check_positive(hidden=self.hidden, maxout_units=self.maxout_units)


TINY = Config(latent_dim=4, hidden=8, maxout_units=4)


class DenseGenerator(layers.Layer):
    """Two ReLU layers and a sigmoid, shaped as pictures."""

    def __init__(self, image_shape: tuple[int, int, int], hidden: int, **kwargs):
        super().__init__(**kwargs)
        self.image_shape = image_shape
        self.hidden = [Dense(hidden, activation="relu") for _ in range(2)]
        self.last = Dense(math.prod(image_shape), dtype="float32")

    def call(
        self, latents: tf.Tensor, labels: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """latents [B, Z] -> [B, H, W, C] float32 in [-1, 1]."""
        values = latents
        for layer in self.hidden:
            values = layer(values)
        pixels = tf.sigmoid(self.last(values))
        return tf.reshape(2.0 * pixels - 1.0, [-1, *self.image_shape])


class MaxoutDiscriminator(layers.Layer):
    """Two maxout layers and a logit; dropout masks are made of the step's noise."""

    def __init__(self, units: int, spectral_norm: bool, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = [Dense(units * PIECES, spectral_norm=spectral_norm) for _ in range(2)]
        self.last = Dense(1, spectral_norm=spectral_norm, dtype="float32")

    def call(
        self,
        images: tf.Tensor,
        labels: tf.Tensor | None = None,
        training: bool = False,
        noise: Noise | None = None,
        purpose: str = "",
    ) -> Verdict:
        """images [B, H, W, C] in [-1, 1] -> Verdict; no dropout without noise or training."""
        values = tf.reshape(images, [-1, math.prod(images.shape[1:])])
        for number, layer in enumerate((*self.hidden, self.last)):
            if training and noise is not None:
                rate = DROPOUT if number else INPUT_DROPOUT
                values = dropout(values, rate, noise, f"{purpose}/dropout_{number}")
            values = layer(values)
            if layer is not self.last:
                values = tf.reduce_max(tf.reshape(values, [-1, self.units, PIECES]), axis=2)
        return Verdict(values[:, 0])


def dropout(values: tf.Tensor, rate: float, noise: Noise, purpose: str) -> tf.Tensor:
    """values [B, F] with this share of them 0 and the others divided by the share that is left."""
    kept = noise.uniform(purpose, values.shape[1]) >= rate
    return tf.where(kept, values / (1.0 - rate), tf.zeros([], values.dtype))


class GAN(AdversarialModel):
    """See the module docstring."""

    def judge(
        self,
        images: tf.Tensor,
        labels: tf.Tensor | None,
        noise: Noise,
        purpose: str,
        training: bool,
    ) -> Verdict:
        return self.discriminator(images, training=training, noise=noise, purpose=purpose)


def build(
    config: Config,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    total_steps: int,
    seed: int = 0,
) -> GAN:
    """A compiled dense GAN, every variable made."""
    model = GAN(
        config,
        lambda: DenseGenerator(image_shape, config.hidden),
        MaxoutDiscriminator(config.maxout_units, config.spectral_norm),
        image_shape=image_shape,
        num_classes=num_classes,
        seed=seed,
        name="gan",
    )
    model.compile(optimizers(config, total_steps))
    return model
