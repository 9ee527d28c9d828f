"""Generative adversarial networks: what they share, from the losses to the averaged generator.

Goodfellow et al. 2014 (1406.2661). A step makes one pass of the generator and one each of the
discriminator over real and over generated pictures, apart, for their own batch statistics; both
players' gradients come from it (Goodfellow's algorithm 1 draws anew for the generator). With
`discriminator_steps` above 1, as Wasserstein critics need, the step is algorithm 1: so many
updates of the discriminator, each on a batch of its own, then one of the generator.

Samples, evaluation and export use a moving average of the generator (Yazıcı et al. 2019), its
BatchNorm statistics included. Pictures are in [-1, 1] between the nets, in [0, 1] outside.

Shape letters: B examples, H W C image, Z latent_dim, K classes, N samples.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo import endpoints, errors, losses
from zoo.augment import augment, parse
from zoo.generative import (
    GenerativeModel,
    Losses,
    Noise,
    Sheet,
    batch_size,
    interpolate,
    normal_per_seed,
    row_seeds,
    to_float,
    uniform_per_seed,
)
from zoo.layers import power_iterations
from zoo.optimizers import Adam

JUDGED_AFTER = 1000
LEAST_DIVERSITY = 0.2
MOST_TIMES_BEST = 5.0


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """What can be chosen about every adversarial model; a model has its own defaults."""

    latent_dim: int = 100
    """Dimensions of the latent space."""
    latents: Literal["normal", "uniform"] = "normal"
    """Distribution of the latents: N(0, 1), or U[-1, 1] as in the first papers."""
    loss: Literal["non_saturating", "least_squares", "hinge", "wasserstein"] = "non_saturating"
    """What the two players minimise."""
    label_smoothing: float = 0.0
    """One-sided: the target of real pictures is 1 minus this (hinge and wasserstein have none)."""
    r1: float = 0.0
    """Weight of the squared gradient at real pictures (R1's gamma); 0 is without."""
    gradient_penalty: float = 0.0
    """Weight of WGAN-GP's penalty (lambda); 0 is without."""
    spectral_norm: bool = False
    """Divide the discriminator's weights by their largest singular value."""
    augment: str = ""
    """DiffAugment for few pictures, any of flip, translation, cutout, color, between commas."""
    discriminator_steps: int = 1
    """Updates of the discriminator in one step, each with a batch of its own."""
    learning_rate: float = 2e-4
    """The generator's Adam."""
    discriminator_learning_rate: float = 2e-4
    """The discriminator's Adam."""
    final_learning_rate: float = 1.0
    """Share of both learning rates that is left at the last step; they fall evenly."""
    beta_1: float = 0.5
    """Adam's decay of the mean gradient, both players."""
    beta_2: float = 0.999
    """Adam's decay of the squared gradient, both players."""
    ema_decay: float = 0.995
    """Of the averaged generator, which samples come from; 0 is without averaging."""

    def __post_init__(self):
        names = ["latent_dim", "learning_rate", "discriminator_learning_rate"]
        names += ["discriminator_steps"]
        errors.check_positive(**{name: getattr(self, name) for name in names})
        for name in ("label_smoothing", "ema_decay", "beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise errors.UsageError(f"--{name}={getattr(self, name)}: expected 0 to below 1")
        for name in ("r1", "gradient_penalty", "final_learning_rate"):
            if not getattr(self, name) >= 0:
                raise errors.UsageError(f"--{name}={getattr(self, name)}: expected 0 or more")
        parse(self.augment)

    def refuse_penalties(self, norm: str) -> None:
        """UsageError where a gradient penalty is asked for beside batch normalization."""
        if norm == "batch" and (self.r1 or self.gradient_penalty):
            raise errors.UsageError(
                "--r1 and --gradient_penalty look at each picture alone, but the discriminator's "
                "batch normalization ties a batch together: add --discriminator_norm=layer or none"
            )


class Verdict(NamedTuple):
    """What a discriminator says: logits [B] of being real, and of each class [B, K] or None."""

    logits: tf.Tensor
    class_logits: tf.Tensor | None = None


class AdversarialModel(GenerativeModel):
    """Two objectives, `discriminator` and `generator`; see the module docstring.

    A generator net is called with (latents [B, Z], labels [B] or None, training), and gives
    [B, H, W, C] in [-1, 1]; a discriminator net with (images in [-1, 1], labels or None, training)
    and gives a Verdict.
    """

    evaluation_names: tuple[str, ...] = (
        "discriminator", "generator", "real_score", "fake_score", "real_accuracy", "fake_accuracy",
    )  # fmt: skip
    reading = """
| discriminator, generator | no need to fall: two players; steady is well, one at 0 is not |
| real_accuracy, fake_accuracy | 0.5 to 0.95; both at 1: the generator learns nothing more; both at 0.5: the discriminator cannot tell, where an even game ends. Eval below train: it knows the training pictures by heart. (Critics of --loss=wasserstein have no zero: look at real_score - fake_score) |
| *_gradient_norm | steady; growing without end comes before divergence |
| samples/fd_* | Fréchet distance of samples to held-out pictures: falls; the best checkpoint has its lowest |
| samples/diversity | distance between samples over that between real pictures: near 1; below 0.2 is called a collapse |
| samples/recall, coverage | share of real pictures that samples come near to: rise; 0 is copies of a few |
| scores/* (histograms) | real and fake overlap; two separate hills: the discriminator has won |
"""  # noqa: E501

    def __init__(
        self,
        config: AdversarialConfig,
        make_generator: Callable[[], keras.layers.Layer],
        discriminator: keras.layers.Layer,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(image_shape=image_shape, num_classes=num_classes, seed=seed, **kwargs)
        self.config = config
        self.batches_per_step = config.discriminator_steps
        self.scalar_names = (
            *self.evaluation_names,
            *(("gradient_penalty",) if config.gradient_penalty else ()),
            *(("r1_penalty",) if config.r1 else ()),
            "discriminator_gradient_norm",
            "generator_gradient_norm",
        )
        self.generator, self.average_generator = make_generator(), make_generator()
        self.discriminator = discriminator
        labels = tf.zeros([1], tf.int32) if self.conditional else None
        for net in (self.generator, self.average_generator):
            images = net(tf.zeros([1, config.latent_dim]), labels)
        self.discriminator(images, labels)
        for average, value in zip(
            self.average_generator.variables, self.generator.variables, strict=True
        ):
            average.assign(value)
        self.average_generator.trainable = False
        self.built = True

    def objective_variables(self) -> dict[str, list[keras.Variable]]:
        return {
            "discriminator": self.discriminator.trainable_variables,
            "generator": self.generator.trainable_variables,
        }

    def judge(
        self,
        images: tf.Tensor,
        labels: tf.Tensor | None,
        noise: Noise,
        purpose: str,
        training: bool,
    ) -> Verdict:
        """The discriminator on images [B, H, W, C] in [-1, 1]; noise: for nets with dropout."""
        return self.discriminator(images, labels, training=training)

    def real_objective(self, verdict: Verdict, labels: tf.Tensor | None) -> tf.Tensor:
        """[B]: what the discriminator pays for its verdict on real pictures."""
        return losses.real_loss(self.config.loss, verdict.logits, self.config.label_smoothing)

    def generator_objective(self, verdict: Verdict, labels: tf.Tensor | None) -> tf.Tensor:
        """[B]: what the generator pays for the verdict on its pictures."""
        return losses.generator_loss(self.config.loss, verdict.logits)

    def compute_losses(self, batch: dict[str, tf.Tensor], noise: Noise, training: bool) -> Losses:
        labels = batch["label"] if self.conditional else None
        real = 2.0 * to_float(batch["image"]) - 1.0
        fake = self.generator(self._draw(noise), labels, training=training)
        if training:
            real = augment(real, self.config.augment, noise, "augment_real")
            fake = augment(fake, self.config.augment, noise, "augment_fake")
        of_real = self.judge(real, labels, noise, "real", training)
        of_fake = self.judge(fake, labels, noise, "fake", training)
        paid = self.real_objective(of_real, labels)
        paid += losses.fake_loss(self.config.loss, of_fake.logits)
        reports = {
            "real_score": of_real.logits,
            "fake_score": of_fake.logits,
            "real_accuracy": tf.cast(of_real.logits > 0.0, tf.float32),
            "fake_accuracy": tf.cast(of_fake.logits < 0.0, tf.float32),
        }
        if training:
            weights = {
                "gradient_penalty": self.config.gradient_penalty,
                "r1_penalty": self.config.r1,
            }
            penalties = self._penalties(real, fake, labels, noise)
            for name, penalty in penalties.items():
                paid += weights[name] * penalty
            reports |= penalties
        return Losses(
            objectives={
                "discriminator": paid,
                "generator": self.generator_objective(of_fake, labels),
            },
            reports=reports,
        )

    def _penalties(self, real, fake, labels, noise: Noise) -> dict[str, tf.Tensor]:
        def critic(images: tf.Tensor) -> tf.Tensor:
            return self.judge(images, labels, noise, "penalty", training=True).logits

        penalties = {}
        if self.config.gradient_penalty:
            # The discriminator pays it alone: the generator does not move for it.
            fake = tf.stop_gradient(fake)
            penalty = losses.gradient_penalty(critic, real, fake, noise.uniform("mixing"))
            penalties["gradient_penalty"] = penalty
        if self.config.r1:
            penalties["r1_penalty"] = losses.r1_penalty(critic, real)
        return penalties

    def _draw(self, noise: Noise) -> tf.Tensor:
        """Latents [B, Z] of this step."""
        if self.config.latents == "uniform":
            return 2.0 * noise.uniform("latents", self.config.latent_dim) - 1.0
        return noise.normal("latents", self.config.latent_dim)

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        count, noise = self.config.discriminator_steps, self._noise(batch)
        if count == 1:
            scalars = self._update(batch, noise, ("discriminator", "generator"))
        else:
            scalars = {}
            for number in range(count):
                # Every count-th row, so that replicas together take what one would have taken.
                part = {name: values[number::count] for name, values in batch.items()}
                own = noise.part(f"discriminator_{number}", batch_size(part))
                scalars |= self._update(part, own, ("discriminator",))
            own = noise.part("generator", batch_size(part))
            scalars |= self._update(part, own, ("generator",))
        self._follow_generator()
        self.step.assign_add(1)
        return scalars

    def _update(
        self, batch: dict[str, tf.Tensor], noise: Noise, objectives: Sequence[str]
    ) -> dict[str, tf.Tensor]:
        """Moves the variables of these objectives; returns their scalars, as means."""
        if "discriminator" in objectives:
            power_iterations(self.discriminator)
        gradients, scalars = self._gradients(batch, noise, objectives)
        if "discriminator" not in objectives:
            scalars = {name: scalars[name] for name in objectives}
        elif "generator" not in objectives:
            del scalars["generator"]
        for name in objectives:
            norm = tf.linalg.global_norm(gradients[name])
            if self.loss_scales:  # an update that is skipped has none
                norm = tf.where(tf.math.is_finite(norm), norm, 0.0)
            scalars[f"{name}_gradient_norm"] = norm
            scalars |= self._apply(name, gradients[name])
        return scalars

    def _follow_generator(self) -> None:
        # Near the start the average is short, as the generator still moves far.
        step = tf.cast(self.step.read_value(), tf.float32)
        left = tf.maximum(1.0 - self.config.ema_decay, 9.0 / (step + 10.0))
        pairs = zip(self.average_generator.variables, self.generator.variables, strict=True)
        for average, value in pairs:
            average.assign(average + left * (value - average))

    def sample_latents(
        self, seeds: tf.Tensor, labels: tf.Tensor | None = None, sampler: str = ""
    ) -> tf.Tensor:
        if self.config.latents == "uniform":
            draws = uniform_per_seed(seeds, "latents", self.config.latent_dim)
            return 2.0 * draws - 1.0
        return normal_per_seed(seeds, self.config.latent_dim)

    def decode(self, latents: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        if labels is None and self.conditional:
            raise ValueError(f"{type(self).__name__}.decode got no labels, expected [N] int32")
        images = self.average_generator(latents, labels if self.conditional else None)
        return tf.clip_by_value(0.5 * (images + 1.0), 0.0, 1.0)

    def sheets(self, batch: dict[str, tf.Tensor]) -> dict[str, Sheet]:
        """Samples, a class a row where there are classes to ask for; walks between two latents."""
        return {"samples": self._samples_sheet(), "interpolation": self._interpolation_sheet()}

    def _samples_sheet(self) -> Sheet:
        if not self.conditional:
            return super().sheets({})["samples"]
        columns = 8
        seeds = tf.tile(row_seeds(self.seed, columns), [self.num_classes, 1])
        labels = tf.repeat(tf.range(self.num_classes), columns)
        return Sheet(self.sample_function(seeds, labels), columns)

    def _interpolation_sheet(self) -> Sheet:
        rows, columns = (min(self.num_classes, 16) if self.conditional else 8), 8
        anchors = np.asarray(self.sample_latents(row_seeds(self.seed, 2 * rows)))
        paths = [interpolate(anchors[2 * row : 2 * row + 2], columns - 1) for row in range(rows)]
        latents = np.concatenate([path[:columns] for path in paths])
        labels = None
        if self.conditional:
            labels = tf.constant(np.repeat(np.arange(rows), columns), tf.int32)
        return Sheet(self.decode(tf.constant(latents), labels), columns)

    def histograms(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        size = batch_size(batch)
        reports = self.compute_losses(batch, Noise(self.seed, 0, size), training=False).reports
        return {"scores/real": reports["real_score"], "scores/fake": reports["fake_score"]}

    def collapse(self, measures: Mapping[str, float], best: float | None) -> str:
        """Samples nearly all alike, or far worse than the best, JUDGED_AFTER steps or later.

        A young generator draws much the same whatever its latents are.
        """
        if int(self.step.numpy()) < JUDGED_AFTER:
            return ""
        if measures["diversity"] < LEAST_DIVERSITY:
            return (
                f"its samples are nearly all alike: their diversity is {measures['diversity']:.2f} "
                f"of the real pictures', less than {LEAST_DIVERSITY}"
            )
        distance = measures[self.selection_measure]
        if best is not None and distance > MOST_TIMES_BEST * best:
            return (
                f"its samples got worse: their Fréchet distance is {distance:.1f}, more than "
                f"{MOST_TIMES_BEST:.0f} times the best, {best:.2f}"
            )
        return ""

    def summary_line(self) -> str:
        counts = (self.generator.count_params(), self.discriminator.count_params())
        return "{:,} parameters of the generator, {:,} of the discriminator".format(*counts)

    def endpoints(self) -> dict[str, Any]:
        return endpoints.drawing(
            self,
            self.config.latent_dim,
            labelled=self.conditional,
            truncation=_TRUNCATIONS[self.config.latents],
        )


def truncate_normal(latents: tf.Tensor, truncation: tf.Tensor) -> tf.Tensor:
    """latents [N, Z] of N(0, 1), truncation [N] above 0 -> [N, Z], none farther from 0 than that.

    Brock, Donahue & Simonyan 2019 (1809.11096, section 3.1) draw anew what is farther; this is the
    same distribution by its inverse, so that a picture moves with truncation.
    """
    # The tail beyond -|latents|, squeezed into what truncation leaves of it, keeps its digits.
    bound = _normal_cdf(-truncation)[:, None]
    tail = bound + (1.0 - 2.0 * bound) * _normal_cdf(-tf.abs(latents))
    return -tf.sign(latents) * tf.math.ndtri(tail)


def truncate_uniform(latents: tf.Tensor, truncation: tf.Tensor) -> tf.Tensor:
    """The same for latents of U[-1, 1], truncation from 0 to 1: scaled is as good as drawn anew."""
    return truncation[:, None] * latents


_TRUNCATIONS = {
    "normal": (
        truncate_normal,
        "the farthest that a latent may be from 0, in standard deviations,\nabove 0: at 6 all are "
        "as drawn, 2 is mild, near 0 every picture is the middle one\n"
        "(Brock et al. 2019, 1809.11096, section 3.1).",
    ),
    "uniform": (
        truncate_uniform,
        "the farthest that a latent may be from 0, from 0 to 1:\nat 1 all are as drawn, at 0 every "
        "picture is the middle one\n(Brock et al. 2019, 1809.11096, section 3.1).",
    ),
}


def _normal_cdf(values: tf.Tensor) -> tf.Tensor:
    return 0.5 * tf.math.erfc(-values * math.sqrt(0.5))


def optimizers(
    config: AdversarialConfig, total_steps: int
) -> dict[str, keras.optimizers.Optimizer]:
    """Adam for each player, its learning rate falling evenly to final_learning_rate of itself."""

    def adam(rate: float, updates: int) -> Adam:
        schedule = keras.optimizers.schedules.PolynomialDecay(
            rate, updates, rate * config.final_learning_rate
        )
        return Adam(schedule, beta_1=config.beta_1, beta_2=config.beta_2, epsilon=1e-8)

    return {
        "discriminator": adam(
            config.discriminator_learning_rate, total_steps * config.discriminator_steps
        ),
        "generator": adam(config.learning_rate, total_steps),
    }
