"""SNGAN: residual GAN with a spectrally normalised discriminator and the hinge loss.

Miyato et al. 2018 (1802.05957), section 4.2 and table 4 for 32x32 pictures: at 32x32x3, width 256
and 128 latents the generator has 4,274,435 trainable parameters, 2,304 fewer than with the
authors' biases, which BatchNorm takes away; the discriminator, at width 128, 1,053,825. One power
iteration a discriminator update, gradient through sigma. `experiments/sngan_cifar.flags` has the
paper's widths, Adam 2e-4 (0, .9), and five discriminator updates a step.

Deviations, for two cores: widths 32 and 32, one discriminator update a step at higher learning
rates that fall to a tenth, samples from an averaged generator.
"""

import dataclasses
from typing import Literal

from zoo import errors
from zoo.adversarial import AdversarialConfig, AdversarialModel, optimizers
from zoo.nets import ResidualDiscriminator, ResidualGenerator

DEFAULTS = {"dataset": "glyphs", "batch_size": 64, "total_steps": 2000}


@dataclasses.dataclass(frozen=True)
class Config(AdversarialConfig):
    """What can be chosen about an SNGAN; every field is a flag of `python -m zoo.train`."""

    latent_dim: int = 128
    loss: Literal["non_saturating", "least_squares", "hinge", "wasserstein"] = "hinge"
    spectral_norm: bool = True
    learning_rate: float = 1e-3
    discriminator_learning_rate: float = 1e-3
    final_learning_rate: float = 0.1
    beta_1: float = 0.0
    beta_2: float = 0.9
    width: int = 32
    """Channels of every residual block of the generator; 256 in the paper."""
    discriminator_width: int = 32
    """Channels of every residual block of the discriminator; 128 in the paper."""

    def __post_init__(self):
        super().__post_init__()
        errors.check_positive(width=self.width, discriminator_width=self.discriminator_width)


TINY = Config(latent_dim=4, width=4, discriminator_width=4)


def build(
    config: Config,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    total_steps: int,
    seed: int = 0,
) -> AdversarialModel:
    """A compiled SNGAN, every variable made."""
    model = AdversarialModel(
        config,
        lambda: ResidualGenerator(image_shape, width=config.width),
        ResidualDiscriminator(
            image_shape,
            width=config.discriminator_width,
            pooling="sum",
            spectral_norm=config.spectral_norm,
        ),
        image_shape=image_shape,
        num_classes=num_classes,
        seed=seed,
        name="sngan",
    )
    model.compile(optimizers(config, total_steps))
    return model
