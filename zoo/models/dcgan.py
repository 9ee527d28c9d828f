"""DCGAN: deep convolutional generative adversarial network; learns to draw from noise.

Radford, Metz & Chintala 2016 (1511.06434), sections 3 and 4, and their code: the nets are
`zoo.nets.ConvolutionalGenerator` and `ConvolutionalDiscriminator`; at 64x64x3, width 64 and 100
latents they have 3,576,704 and 2,765,568 trainable parameters. N(0, 0.02) weights, BatchNorm with
momentum .9 and epsilon 1e-5, LeakyReLU .2, real and generated batches apart.

Deviations, for good pictures in two minutes on two cores: 16 normal latents (100 uniform ones in
the paper), a learning rate of 2e-3 that falls evenly to a tenth (2e-4) with beta_2 .99 (.999),
one-sided label smoothing of 0.1, samples from an averaged generator, both players moved from the
same pass. `experiments/dcgan_paper.flags` is the paper's recipe. Pictures below 64 pixels have a
net of their own, as the paper has none for them.
"""

import dataclasses
from typing import Literal

from zoo import errors
from zoo.adversarial import AdversarialConfig, AdversarialModel, optimizers
from zoo.nets import ConvolutionalDiscriminator, ConvolutionalGenerator

DEFAULTS = {"dataset": "glyphs", "batch_size": 64, "total_steps": 4000}


@dataclasses.dataclass(frozen=True)
class Config(AdversarialConfig):
    """What can be chosen about a DCGAN; every field is a flag of `python -m zoo.train`."""

    latent_dim: int = 16
    label_smoothing: float = 0.1
    learning_rate: float = 2e-3
    discriminator_learning_rate: float = 2e-3
    final_learning_rate: float = 0.1
    beta_2: float = 0.99
    width: int = 64
    """Channels at half the picture's size; twice as many at each halving."""
    upsampling: Literal["transposed", "nearest", "bilinear"] = "transposed"
    """How the generator doubles: the paper's transposed convolutions, or enlarging before one."""
    discriminator_norm: Literal["batch", "layer", "none"] = "batch"
    """After the discriminator's convolutions, but the first."""

    def __post_init__(self):
        super().__post_init__()
        errors.check_positive(width=self.width)
        self.refuse_penalties(self.discriminator_norm)


TINY = Config(latent_dim=4, width=4)


def build(
    config: Config,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    total_steps: int,
    seed: int = 0,
) -> AdversarialModel:
    """A compiled DCGAN, every variable made."""
    model = AdversarialModel(
        config,
        lambda: ConvolutionalGenerator(
            image_shape, width=config.width, upsampling=config.upsampling
        ),
        ConvolutionalDiscriminator(
            image_shape,
            width=config.width,
            norm=config.discriminator_norm,
            spectral_norm=config.spectral_norm,
        ),
        image_shape=image_shape,
        num_classes=num_classes,
        seed=seed,
        name="dcgan",
    )
    model.compile(optimizers(config, total_steps))
    return model
