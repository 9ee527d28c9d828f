"""WGAN-GP: Wasserstein GAN whose critic is kept smooth by a gradient penalty.

Gulrajani et al. 2017 (1704.00028), algorithm 1 and their code: five updates of the critic for one
of the generator, penalty of weight 10 on lines between real and generated pictures, no BatchNorm
in the critic. `--architecture=residual` is appendix F's net for 32x32 pictures (widths 128,
Adam 2e-4 (0, .9), rates that fall to 0: `experiments/wgan_gp_cifar.flags`); `convolutional`, the
default, has the critic and the layers of their MNIST code on DCGAN's nets: Adam 1e-4 (.5, .9).

Deviations: 4x4 convolutions (5x5 there), BatchNorm in the convolutional generator (none there),
learning rates for a short training (experiments/LOG.md), label-free, samples from an averaged
generator. A step is one update of the generator, hence five batches.
"""

import dataclasses
from typing import Literal

from zoo import errors
from zoo.adversarial import AdversarialConfig, AdversarialModel, optimizers
from zoo.nets import (
    ConvolutionalDiscriminator,
    ConvolutionalGenerator,
    ResidualDiscriminator,
    ResidualGenerator,
)

DEFAULTS = {"dataset": "glyphs", "batch_size": 64, "total_steps": 2000}


@dataclasses.dataclass(frozen=True)
class Config(AdversarialConfig):
    """What can be chosen about a WGAN-GP; every field is a flag of `python -m zoo.train`."""

    latent_dim: int = 128
    loss: Literal["non_saturating", "least_squares", "hinge", "wasserstein"] = "wasserstein"
    gradient_penalty: float = 10.0
    discriminator_steps: int = 5
    learning_rate: float = 3e-3
    discriminator_learning_rate: float = 3e-3
    final_learning_rate: float = 0.0
    beta_2: float = 0.9
    architecture: Literal["convolutional", "residual"] = "convolutional"
    """DCGAN's nets, or the residual ones of the paper's appendix F."""
    width: int = 32
    """Channels: of the convolutional nets at half the picture's size, of every residual block."""
    discriminator_norm: Literal["layer", "none"] = "none"
    """In the critic: the paper's code has none, its section 4 recommends layer normalization."""

    def __post_init__(self):
        super().__post_init__()
        errors.check_positive(width=self.width)


# So small a critic, at the default rates, is led apart by the rounding of half precision.
TINY = Config(
    latent_dim=4,
    width=4,
    discriminator_steps=2,
    learning_rate=1e-3,
    discriminator_learning_rate=1e-3,
)


def build(
    config: Config,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    total_steps: int,
    seed: int = 0,
) -> AdversarialModel:
    """A compiled WGAN-GP, every variable made."""
    residual = config.architecture == "residual"
    generator = ResidualGenerator if residual else ConvolutionalGenerator
    critic = ResidualDiscriminator if residual else ConvolutionalDiscriminator
    model = AdversarialModel(
        config,
        lambda: generator(image_shape, width=config.width),
        critic(
            image_shape,
            width=config.width,
            norm=config.discriminator_norm,
            spectral_norm=config.spectral_norm,
        ),
        image_shape=image_shape,
        num_classes=num_classes,
        seed=seed,
        name="wgan_gp",
    )
    model.compile(optimizers(config, total_steps))
    return model
