"""Conditional GAN: draws the class that it is asked for; three ways of conditioning.

The nets are DCGAN's (Radford et al. 2016; see `zoo/models/dcgan.py` for recipe and deviations):
`--conditioning=projection`, the default: BatchNorm of the class in the generator, and a
discriminator that adds the inner product of its features with the class's embedding (Miyato &
Koyama 2018, 1802.05637, section 3); ours has BatchNorm instead of spectral normalisation, and an
embedding of the class beside the latents too (Brock et al. 2019), without which it learns slowly.
`concat`: the label beside the latents, and as channels of the picture (Mirza & Osindero 2014,
1411.1784, section 3, for convolutions; their nets are dense).
`auxiliary`: the discriminator also classifies (Odena et al. 2017, 1610.09585, section 3): real
pictures, at weight 1; the generator pays for its own at `class_weight` (Gulrajani et al. 2017's
code), with BatchNorm of the class in the generator.

Generated pictures of a step have the labels of its real ones.
"""

import dataclasses
from typing import Literal

import tensorflow as tf

from zoo import errors
from zoo.adversarial import AdversarialConfig, AdversarialModel, Verdict, optimizers
from zoo.nets import ConvolutionalDiscriminator, ConvolutionalGenerator

DEFAULTS = {"dataset": "glyphs", "batch_size": 64, "total_steps": 2000}


@dataclasses.dataclass(frozen=True)
class Config(AdversarialConfig):
    """What can be chosen about a conditional GAN; every field is a flag of `zoo.train`."""

    label_smoothing: float = 0.1
    learning_rate: float = 2e-3
    discriminator_learning_rate: float = 1e-3
    final_learning_rate: float = 0.1
    conditioning: Literal["projection", "concat", "auxiliary"] = "projection"
    """How both nets know the class; see the model's file."""
    class_weight: float = 0.1
    """Of the class in what the generator pays, with --conditioning=auxiliary."""
    width: int = 64
    """Channels at half the picture's size; twice as many at each halving."""
    upsampling: Literal["transposed", "nearest", "bilinear"] = "transposed"
    """How the generator doubles: by transposed convolutions, or enlarging before one."""
    discriminator_norm: Literal["batch", "layer", "none"] = "batch"
    """After the discriminator's convolutions, but the first."""

    def __post_init__(self):
        super().__post_init__()
        errors.check_positive(width=self.width)
        self.refuse_penalties(self.discriminator_norm)
        if self.class_weight < 0:
            raise errors.UsageError(f"--class_weight={self.class_weight}: expected 0 or more")


TINY = Config(latent_dim=4, width=4)


class ConditionalGAN(AdversarialModel):
    """See the module docstring."""

    conditional = True
    config: Config

    def real_objective(self, verdict: Verdict, labels: tf.Tensor | None) -> tf.Tensor:
        paid = super().real_objective(verdict, labels)
        if verdict.class_logits is None:
            return paid
        return paid + _cross_entropy(labels, verdict.class_logits)

    def generator_objective(self, verdict: Verdict, labels: tf.Tensor | None) -> tf.Tensor:
        paid = super().generator_objective(verdict, labels)
        if verdict.class_logits is None:
            return paid
        return paid + self.config.class_weight * _cross_entropy(labels, verdict.class_logits)


def _cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def build(
    config: Config,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    total_steps: int,
    seed: int = 0,
) -> ConditionalGAN:
    """A compiled conditional GAN, every variable made; UsageError for data without classes."""
    if not num_classes:
        raise errors.UsageError(
            "a conditional GAN learns from labels, and this data set has none: choose a --dataset "
            "with classes, or --model=dcgan"
        )
    concatenate = config.conditioning == "concat"
    model = ConditionalGAN(
        config,
        lambda: ConvolutionalGenerator(
            image_shape,
            width=config.width,
            upsampling=config.upsampling,
            num_classes=num_classes,
            concatenate=concatenate,
        ),
        ConvolutionalDiscriminator(
            image_shape,
            width=config.width,
            norm=config.discriminator_norm,
            spectral_norm=config.spectral_norm,
            num_classes=num_classes,
            conditioning="concatenation" if concatenate else config.conditioning,
        ),
        image_shape=image_shape,
        num_classes=num_classes,
        seed=seed,
        name="cgan",
    )
    model.compile(optimizers(config, total_steps))
    return model
