"""VAE: variational autoencoder with convolutional or dense nets; beta-VAE with --beta.

Kingma & Welling 2014 (1312.6114): the ELBO of section 2.3, one latent draw per example, summed
over pixels and latents, averaged over the batch. Higgins et al. 2017: `beta` weighs the KL term.
Burda et al. 2016: the importance-weighted bound of the evaluation.

Deviations: the paper's nets have one hidden layer; ours are convolutional by default
(`--architecture=mlp` is the dense 784-400-40 of later literature). Pictures are drawn by
default from a mixture of Gaussians that follows the encoded training data instead of from
N(0, I), which leaves the regions that the encoder uses (Ghosh et al. 2020, section 4, who fit it
after training; ours is kept up to date by moving averages, component = class where there are
labels, soft assignment by online EM where there are none: Cappé & Moulines 2009).
`sampler="prior"` is the paper's.

Shape letters: B examples, H W C image, Z latent_dim, K mixture components, N samples.
"""

import dataclasses
import math
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from zoo import endpoints, errors, losses
from zoo.generative import (
    GenerativeModel,
    Losses,
    Noise,
    Sheet,
    normal_per_seed,
    to_float,
    uniform_per_seed,
)
from zoo.optimizers import Adam

DEFAULTS = {"dataset": "glyphs", "batch_size": 64, "total_steps": 4000}


@dataclasses.dataclass(frozen=True)
class Config:
    """What can be chosen about a VAE; every field is a flag of `python -m zoo.train`."""

    architecture: Literal["conv", "mlp"] = "conv"
    """Convolutional nets (image sides multiples of 4), or one dense hidden layer each way."""
    latent_dim: int = 16
    """Dimensions of the latent space."""
    width: int = 32
    """Channels at half the image's size; twice as many below."""
    hidden: int = 256
    """Units of the dense hidden layer; the literature's MLP has 400."""
    likelihood: Literal["auto", "bernoulli", "gaussian", "discretized_logistic"] = "auto"
    """Of pixels given latents; auto: bernoulli for grey, discretized_logistic for colour."""
    beta: float = 1.0
    """Weight of the KL term; 1 is the ELBO, more is beta-VAE."""
    learning_rate: float = 4e-3
    """Adam's peak learning rate, after warm-up, with cosine decay to a hundredth."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from a tenth."""
    mixture_components: int = 10
    """Gaussians that follow the encoded data; with several classes it is one a class instead."""
    importance_samples: int = 50
    """Latent draws per image for the importance-weighted bound at the end."""

    def __post_init__(self):
        names = ("latent_dim", "width", "hidden", "learning_rate", "mixture_components")
        errors.check_positive(**{name: getattr(self, name) for name in names})
        errors.check_positive(importance_samples=self.importance_samples)
        if self.beta < 0 or self.warmup_steps < 0:
            raise errors.UsageError(
                f"--beta={self.beta} --warmup_steps={self.warmup_steps}: expected 0 or more"
            )


TINY = Config(latent_dim=4, width=4, hidden=8, warmup_steps=2, importance_samples=4)


class VAE(GenerativeModel):
    """See the module docstring. One objective, `loss` = reconstruction + beta · kl."""

    scalar_names = ("loss", "reconstruction", "kl")
    samplers = ("mixture", "prior")
    selection_measure = "negative_elbo"

    def __init__(
        self,
        config: Config,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        seed: int = 0,
    ):
        super().__init__(image_shape=image_shape, num_classes=num_classes, seed=seed, name="vae")
        self.config = config
        self.likelihood = config.likelihood
        if self.likelihood == "auto":
            self.likelihood = "bernoulli" if image_shape[-1] == 1 else "discretized_logistic"
        nets = _conv_nets if config.architecture == "conv" else _mlp_nets
        self.encoder, self.decoder = nets(config, image_shape)
        if self.likelihood != "bernoulli":
            self.log_scale = self.add_weight(
                shape=(image_shape[-1],),
                initializer=keras.initializers.Constant(math.log(0.1)),
                dtype="float32",
                name="log_scale",
            )
        self.evaluation_names = ("negative_elbo", "reconstruction", "kl")
        if self.likelihood == "bernoulli":
            self.evaluation_names += ("entropy_floor",)
        # A single class says nothing about where its examples are.
        self.labelled = num_classes > 1
        components = num_classes if self.labelled else config.mixture_components
        self.mixture = Mixture(components, config.latent_dim)
        self.built = True

    def objective_variables(self) -> dict[str, list[keras.Variable]]:
        return {"loss": self.trainable_variables}

    def encode(self, images: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """images [B, H, W, C] float32 in [0, 1] -> mean, logvar, each [B, Z] float32."""
        outputs = tf.cast(self.encoder(images, training=training), tf.float32)  # [B, 2Z]
        mean, logvar = tf.split(outputs, 2, axis=-1)
        # exp() of an early outlier would overflow; a trained posterior is far inside.
        return mean, tf.clip_by_value(logvar, -12.0, 12.0)

    def decode(self, latents: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """latents [N, Z] -> the mean image [N, H, W, C] float32 in [0, 1]; labels do not count."""
        return tf.sigmoid(self._decode_logits(latents))

    def _decode_logits(self, latents: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.cast(self.decoder(latents, training=training), tf.float32)

    def reconstruction_nll(self, images: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """-log p(images | latents) in nats per image [B]; logits: what the decoder gave."""
        if self.likelihood == "bernoulli":
            return losses.bernoulli_nll(images, logits)
        gaussian = self.likelihood == "gaussian"
        nll = losses.gaussian_nll if gaussian else losses.discretized_logistic_nll
        return nll(images, tf.sigmoid(logits), tf.convert_to_tensor(self.log_scale))

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """images [B, H, W, C] uint8 or float32 in [0, 1] -> reconstructions from the mean."""
        mean, _ = self.encode(to_float(images), training=training)
        return self.decode(mean)

    def embed(self, images: np.ndarray) -> np.ndarray:
        return self.encode(to_float(tf.constant(images)))[0].numpy()

    def compute_losses(self, batch: dict[str, tf.Tensor], noise: Noise, training: bool) -> Losses:
        images = to_float(batch["image"])
        mean, logvar = self.encode(images, training=training)
        draw = noise.normal("latents", self.config.latent_dim)
        latents = mean + tf.exp(0.5 * logvar) * draw
        logits = self._decode_logits(latents, training=training)
        reconstruction = self.reconstruction_nll(images, logits)
        kl = losses.gaussian_kl(mean, logvar)
        if training:
            self.mixture.update(mean, logvar, batch["label"] if self.labelled else None)
        return Losses(
            objectives={"loss": reconstruction + self.config.beta * kl},
            reports={"reconstruction": reconstruction, "kl": kl},
        )

    def protocol(self) -> dict[str, Any]:
        return {
            **super().protocol(),
            "likelihood": self.likelihood,
            "importance_samples": self.config.importance_samples,
        }

    def evaluate_batch(self, batch: dict[str, tf.Tensor], noise: Noise) -> dict[str, tf.Tensor]:
        """[B] each, in nats: the negative ELBO (beta = 1), its terms, the floor of grey pixels."""
        terms = self.compute_losses(batch, noise, training=False).reports
        measures = {"negative_elbo": terms["reconstruction"] + terms["kl"], **terms}
        if self.likelihood == "bernoulli":
            measures["entropy_floor"] = losses.bernoulli_entropy(to_float(batch["image"]))
        return measures

    def thorough_measures(self, batch: dict[str, tf.Tensor], noise: Noise) -> dict[str, tf.Tensor]:
        """The bound of Burda et al. on -log p(x) with `importance_samples` draws, [B].

        In nats, and in bits a pixel and channel of 8 bits; of a Bernoulli likelihood, whose pixels
        are no 8-bit numbers, the same nats on another scale.
        """
        images = to_float(batch["image"])
        mean, logvar = self.encode(images)
        draws = noise.normal(
            "importance", self.config.importance_samples, self.config.latent_dim
        )  # [B, S, Z]

        def log_weight(draw: tf.Tensor) -> tf.Tensor:
            latents = mean + tf.exp(0.5 * logvar) * draw
            log_likelihood = -self.reconstruction_nll(images, self._decode_logits(latents))
            log_prior = losses.gaussian_log_density(latents, 0.0, 0.0)
            log_posterior = losses.gaussian_log_density(latents, mean, logvar)
            return log_likelihood + log_prior - log_posterior

        log_weights = tf.map_fn(log_weight, tf.transpose(draws, [1, 0, 2]))  # [S, B]
        nats = -losses.importance_weighted_bound(log_weights)
        bits = nats / (math.log(2.0) * math.prod(self.image_shape))
        if self.likelihood == "gaussian":  # a density over [0, 1]: 256 levels are 8 bits more
            bits += 8.0
        return {"importance_weighted_nll": nats, "importance_weighted_bits_per_dim": bits}

    def sample_latents(
        self, seeds: tf.Tensor, labels: tf.Tensor | None = None, sampler: str = "mixture"
    ) -> tf.Tensor:
        draws = normal_per_seed(seeds, self.config.latent_dim)
        if sampler == "mixture":
            labels = labels if self.labelled else None
            return self.mixture.sample(draws, uniform_per_seed(seeds, "component"), labels)
        if labels is not None:
            raise errors.UsageError("the prior of a VAE knows no labels: use the mixture sampler")
        return draws

    def sheets(self, batch: dict[str, tf.Tensor]) -> dict[str, Sheet]:
        images = batch["image"][:32]
        pairs = tf.stack([to_float(images), self(images)], axis=1)
        return {
            **super().sheets(batch),
            "reconstructions": Sheet(tf.reshape(pairs, [-1, *self.image_shape]), columns=8),
        }

    def endpoints(self) -> dict[str, Any]:
        images = tf.TensorSpec([None, *self.image_shape], tf.float32, name="images")

        def encode(images):
            """Where pictures are in the latent space: a Gaussian each.

            images: in [0, 1]. mean, logvar: its mean, and the logarithm of its variance.
            """
            mean, logvar = self.encode(images)
            return {"mean": mean, "logvar": logvar}

        def reconstruct(images):
            """Pictures, encoded and decoded.

            images: in [0, 1].
            """
            return {"images": self(images)}

        return {
            **endpoints.drawing(self, self.config.latent_dim, labelled=self.labelled),
            "encode": endpoints.endpoint(encode, images),
            "reconstruct": endpoints.endpoint(reconstruct, images),
        }


class Mixture(layers.Layer):
    """A mixture of full-covariance Gaussians that follows the encoded training data.

    Its state is, for each component, the moving average of its share of the moments of (1, z):
    from one symmetric matrix follow the component's weight, mean and covariance. With labels a
    component is a class; without, an example counts for each component by its posterior
    (online EM, Cappé & Moulines 2009).
    """

    decay = 0.99

    def __init__(self, components: int, dimensions: int):
        super().__init__(dtype="float32", name="mixture")
        self.components = components
        self.moments = self.add_weight(  # [K, 1 + Z, 1 + Z]
            shape=(components, 1 + dimensions, 1 + dimensions),
            initializer=_first_moments,
            trainable=False,
            aggregation="mean",
            name="moments",
        )
        self.built = True

    def update(self, mean: tf.Tensor, logvar: tf.Tensor, labels: tf.Tensor | None) -> None:
        """Moves the averages by one batch: mean, logvar [B, Z]; labels [B] int32 or None."""
        mean, logvar = tf.stop_gradient(mean), tf.stop_gradient(logvar)
        if labels is not None:
            weights = tf.one_hot(labels, self.components)  # [B, K]
        else:
            weights = self._responsibilities(mean)
        weights *= (1.0 - self.decay) / tf.cast(tf.shape(mean)[0], tf.float32)
        values = tf.pad(mean, [[0, 0], [1, 0]], constant_values=1.0)  # [B, 1 + Z]
        # One matrix product: the einsum of the three takes three times as long.
        weighted = weights[:, :, None] * values[:, None, :]  # [B, K, 1 + Z]
        weighted = tf.reshape(weighted, [-1, self.components * values.shape[1]])
        moments = tf.matmul(weighted, values, transpose_a=True)  # [K · (1 + Z), 1 + Z]
        moments = tf.reshape(moments, self.moments.shape)
        # Each example is a Gaussian itself: its variance adds to the diagonal.
        spread = tf.matmul(weights, tf.exp(logvar), transpose_a=True)  # [K, Z]
        diagonal = tf.linalg.diag_part(moments) + tf.pad(spread, [[0, 0], [1, 0]])
        moments = tf.linalg.set_diag(moments, diagonal)
        self.moments.assign(self.decay * self.moments + moments)

    def gaussians(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Weights [K] that sum to 1, means [K, Z], lower Cholesky factors [K, Z, Z]."""
        moments = tf.convert_to_tensor(self.moments)
        share = tf.maximum(moments[:, 0, 0], 1e-6)
        mean = moments[:, 0, 1:] / share[:, None]
        second = moments[:, 1:, 1:] / share[:, None, None]
        covariance = second - mean[:, :, None] * mean[:, None, :]
        # A component that few examples reach has a singular covariance.
        covariance += 1e-3 * tf.eye(tf.shape(mean)[-1])
        return share / tf.reduce_sum(share), mean, tf.linalg.cholesky(covariance)

    def sample(self, draws: tf.Tensor, uniforms: tf.Tensor, labels: tf.Tensor | None) -> tf.Tensor:
        """draws [N, Z] of N(0, I), uniforms [N] of U[0, 1), labels [N] or None -> [N, Z]."""
        share, mean, factor = self.gaussians()
        if labels is None:
            labels = tf.searchsorted(tf.cumsum(share)[:-1], uniforms, side="right")
        return tf.gather(mean, labels) + tf.linalg.matvec(tf.gather(factor, labels), draws)

    def _responsibilities(self, values: tf.Tensor) -> tf.Tensor:
        """values [B, Z] -> the posterior of each component [B, K]."""
        share, mean, factor = self.gaussians()
        centred = tf.transpose(values[:, None, :] - mean, [1, 2, 0])  # [K, Z, B]
        whitened = tf.linalg.triangular_solve(factor, centred)
        log_determinant = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(factor)), axis=-1)
        log_density = -0.5 * tf.reduce_sum(tf.square(whitened), axis=1) - log_determinant[:, None]
        return tf.nn.softmax(tf.transpose(log_density) + tf.math.log(share))


def _first_moments(shape: tuple[int, int, int], dtype: str) -> tf.Tensor:
    """Equal weights, unit covariances, distinct means: equal ones would stay equal under EM.

    They weigh as much as one batch, so that they are soon forgotten.
    """
    components, size, _ = shape
    mean = keras.random.normal([components, size - 1])
    values = tf.pad(mean, [[0, 0], [1, 0]], constant_values=1.0)
    moments = values[:, :, None] * values[:, None, :]
    moments += tf.linalg.diag(tf.constant([0.0] + [1.0] * (size - 1)))
    return tf.cast(moments * (1.0 - Mixture.decay) / components, dtype)


def _conv_nets(
    config: Config, image_shape: tuple[int, int, int]
) -> tuple[keras.Model, keras.Model]:
    """Both nets work at a quarter of the image and below, where two cores are fast.

    Encoder: 8x8 patches with stride 4, then halvings to 8 or less, a dense layer. Decoder: its
    mirror up to half the image, where four values a channel are laid out as 2x2 pixels (Shi et al.
    2016), which costs a third of one more transposed convolution and leaves no checkerboard.
    """
    height, width, channels = image_shape
    if height % 4 or width % 4:
        raise errors.UsageError(
            f"the convolutional VAE got {height}x{width} images, expected sides that are "
            "multiples of 4: choose another --image_size, or --architecture=mlp"
        )
    halvings = 2
    while height >> halvings > 8 and not (height >> halvings) % 2 and not (width >> halvings) % 2:
        halvings += 1
    grid = (height >> halvings, width >> halvings)
    filters = config.width
    encoder = [
        keras.Input(image_shape),
        layers.Conv2D(2 * filters, 8, strides=4, padding="same", activation="gelu"),
    ]
    encoder += [_halving(layers.Conv2D, 2 * filters) for _ in range(halvings - 2)]
    encoder += [layers.Flatten(), layers.Dense(config.hidden, activation="gelu")]
    decoder = [
        keras.Input((config.latent_dim,)),
        layers.Dense(config.hidden, activation="gelu"),
        layers.Dense(grid[0] * grid[1] * 2 * filters, activation="gelu"),
        layers.Reshape((*grid, 2 * filters)),
    ]
    decoder += [_halving(layers.Conv2DTranspose, 2 * filters) for _ in range(halvings - 2)]
    decoder += [
        _halving(layers.Conv2DTranspose, filters),
        layers.Conv2D(filters, 3, padding="same", activation="gelu"),
        layers.Conv2D(4 * channels, 3, padding="same", dtype="float32"),
        PixelShuffle(2, dtype="float32"),
    ]
    return _with_moments(encoder, config), keras.Sequential(decoder, name="decoder")


def _halving(kind: type[layers.Layer], filters: int) -> layers.Layer:
    return kind(filters, 4, strides=2, padding="same", activation="gelu")


class PixelShuffle(layers.Layer):
    """[B, H, W, C·r²] -> [B, H·r, W·r, C]: sub-pixel upsampling (Shi et al. 2016, section 3.2)."""

    def __init__(self, factor: int, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, values: tf.Tensor) -> tf.Tensor:
        return tf.nn.depth_to_space(values, self.factor)


def _mlp_nets(config: Config, image_shape: tuple[int, int, int]) -> tuple[keras.Model, keras.Model]:
    encoder = [
        keras.Input(image_shape),
        layers.Flatten(),
        layers.Dense(config.hidden, activation="relu"),
    ]
    decoder = [
        keras.Input((config.latent_dim,)),
        layers.Dense(config.hidden, activation="relu"),
        layers.Dense(math.prod(image_shape), dtype="float32"),
        layers.Reshape(image_shape, dtype="float32"),
    ]
    return _with_moments(encoder, config), keras.Sequential(decoder, name="decoder")


def _with_moments(stack: list, config: Config) -> keras.Model:
    # The last layers stay in float32 under bfloat16.
    return keras.Sequential(
        [*stack, layers.Dense(2 * config.latent_dim, dtype="float32")], name="encoder"
    )


def optimizers(config: Config, total_steps: int) -> dict[str, keras.optimizers.Optimizer]:
    """Adam with a linear warm-up and cosine decay over total_steps."""
    warmup = min(config.warmup_steps, total_steps // 2)
    schedule = keras.optimizers.schedules.CosineDecay(
        config.learning_rate * 0.1,
        decay_steps=max(total_steps - warmup, 1),
        alpha=0.01,
        warmup_target=config.learning_rate,
        warmup_steps=warmup,
    )
    return {"loss": Adam(schedule)}


def build(
    config: Config,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int = 0,
    total_steps: int,
    seed: int = 0,
) -> VAE:
    """A compiled VAE, every variable made."""
    model = VAE(config, image_shape=image_shape, num_classes=num_classes, seed=seed)
    model.compile(optimizers(config, total_steps))
    return model
