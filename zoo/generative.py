"""What a zoo model is: named objectives, one forward pass a step, and the only `train_step`.

A model declares, by name, the variables that each of its objectives may move, and computes all
of its losses in one forward pass. The base class takes each objective's gradient for its own
variables only. A VAE has one objective, a GAN two. `zoo.loop.Loop` and `keras.Model.fit` drive
the same `train_step`, and end in the same weights.

Shape letters: B examples on this replica, H W C image height, width, channels, N samples.
"""

import contextlib
import copy
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo.optimizers import LossScale, over_replicas, take_sums

SAMPLE_CHUNK = 64


class Losses(NamedTuple):
    """What one forward pass gives: what is minimised apart from what is only reported.

    Every tensor is per example, [B] float32, or a scalar that is the same on every replica.
    """

    objectives: dict[str, tf.Tensor]
    reports: dict[str, tf.Tensor]


class Sheet(NamedTuple):
    """Pictures to be shown as a grid: images [N, H, W, C] float32 in [0, 1]."""

    images: tf.Tensor
    columns: int


class Noise:
    """The random numbers of one step, each a pure function of (seed, step, purpose).

    They are drawn for the global batch and sliced by replica, so that N replicas see what one
    replica with the same global batch would have seen; so do parts that follow each other.
    """

    def __init__(
        self, seed: int, step: tf.Tensor, batch_size: tf.Tensor, stream: tf.Tensor | int = 0
    ):
        """batch_size: examples on this replica; seed: 0 ≤ seed < 2**31; stream: a number below
        2**15 that tells apart the noise of runs of the same seed, 0 ≤ step < 2**48.
        """
        context = tf.distribute.get_replica_context()
        self._seed = seed
        self._step = tf.cast(step, tf.int64) + tf.cast(stream, tf.int64) * 2**48
        self._num_replicas = context.num_replicas_in_sync if context else 1
        self._replica = context.replica_id_in_sync_group if context else 0
        self._prefix = ""
        self._set_rows(batch_size)

    def part(self, name: str, batch_size: tf.Tensor) -> "Noise":
        """The noise of a part of this step, which has other examples and its own purposes."""
        part = copy.copy(self)
        part._prefix = f"{self._prefix}{name}/"
        part._set_rows(batch_size)
        return part

    def rows(self, start: int | tf.Tensor, count: int | tf.Tensor) -> "Noise":
        """The noise of these of this replica's examples."""
        rows = copy.copy(self)
        rows._start, rows._count, rows._all = self._start + start, count, False
        return rows

    def _set_rows(self, batch_size: int | tf.Tensor) -> None:
        self._total = batch_size * self._num_replicas
        self._start, self._count = self._replica * batch_size, batch_size
        self._all = self._num_replicas == 1

    def seed(self, purpose: str) -> tf.Tensor:
        """[2] int64: the stateless seed of this purpose in this step."""
        key = fold_seed(self._seed, self._prefix + purpose)
        return tf.stack([tf.constant(key, tf.int64), self._step])

    def normal(self, purpose: str, *shape: int) -> tf.Tensor:
        """[B, *shape] float32 from N(0, 1)."""
        return self._draw(stateless_normal, purpose, shape)

    def uniform(self, purpose: str, *shape: int) -> tf.Tensor:
        """[B, *shape] float32 from U[0, 1)."""
        return self._draw(stateless_uniform, purpose, shape)

    def _draw(self, distribution, purpose: str, shape: tuple[int, ...]) -> tf.Tensor:
        values = distribution([self._total, *shape], self.seed(purpose))
        return values if self._all else values[self._start : self._start + self._count]


def stateless_uniform(shape: Sequence[int | tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
    """float32 from U[0, 1) in steps of 2**-24; seed [2] int64.

    From random bits, as those are the same under XLA; what tf.random makes of them is not.
    """
    return tf.cast(tf.bitwise.right_shift(_bits(shape, seed), 8), tf.float32) * 2.0**-24


def stateless_normal(shape: Sequence[int | tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
    """float32 from N(0, 1), by the inverse of its distribution function; seed [2] int64."""
    # 23 bits and a half are exact in float32 and reach neither 0 nor 1: |value| < 5.42.
    bits = tf.cast(tf.bitwise.right_shift(_bits(shape, seed), 9), tf.float32)
    return tf.math.ndtri((bits + 0.5) * 2.0**-23)


def _bits(shape: Sequence[int | tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )


def fold_seed(seed: int, purpose: str) -> int:
    """One int64 for (seed, purpose); distinct for all seeds in [0, 2**31)."""
    return (int(seed) << 32) | zlib.crc32(purpose.encode())


def row_seeds(seed: int, count: int, start: int = 0) -> np.ndarray:
    """[count, 2] int64: the seeds of pictures start, start + 1, … of the sheet named by seed."""
    index = np.arange(start, start + count, dtype=np.int64)
    return np.stack([np.full_like(index, seed), index], axis=1)


def normal_per_seed(seeds: tf.Tensor, size: int, purpose: str = "latents") -> tf.Tensor:
    """seeds [N, 2] int64 -> [N, size] float32 from N(0, 1), row by row from its own seed."""
    return _per_seed(stateless_normal, seeds, (size,), purpose)


def uniform_per_seed(seeds: tf.Tensor, purpose: str, *shape: int) -> tf.Tensor:
    """seeds [N, 2] int64 -> [N, *shape] float32 from U[0, 1), row by row from its own seed."""
    return _per_seed(stateless_uniform, seeds, shape, purpose)


def _per_seed(distribution, seeds: tf.Tensor, shape: tuple[int, ...], purpose: str) -> tf.Tensor:
    seeds = tf.bitwise.bitwise_xor(
        tf.cast(seeds, tf.int64), tf.constant([fold_seed(0, purpose) << 31, 0], tf.int64)
    )
    return tf.map_fn(
        lambda seed: distribution(shape, seed),
        seeds,
        fn_output_signature=tf.TensorSpec(shape, tf.float32),
    )


def labels_in_turn(seeds: np.ndarray, num_classes: int) -> np.ndarray:
    """seeds [N, 2] int64 -> labels [N] int32: of `row_seeds` each class in turn."""
    return (np.asarray(seeds).sum(axis=1) % num_classes).astype(np.int32)


def to_float(images: tf.Tensor) -> tf.Tensor:
    """uint8 images in 0…255 -> float32 in [0, 1], on the device that trains; float32 unchanged."""
    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32) / 255.0
    return tf.cast(images, tf.float32)


def _counter(name: str) -> tf.Variable:
    return tf.Variable(
        0,
        dtype=tf.int64,
        trainable=False,
        name=name,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


class GenerativeModel(keras.Model):
    """Base class of all zoo models.

    A subclass gives `objective_variables`, `compute_losses`, `scalar_names`, `endpoints` and, if it
    `draws`, `sample_latents` and `decode`; it makes every variable in `__init__`, so that a
    checkpoint restores all. `step`, an int64 variable, is the only clock: noise, data order and
    schedules follow it. `rollbacks` counts how often training went back after a failure; each has
    noise of its own.
    """

    scalar_names: tuple[str, ...] = ()
    """What `train_step` returns: the objectives, then the reports."""
    evaluation_names: tuple[str, ...] = ()
    """What `evaluate_batch` returns."""
    samplers: tuple[str, ...] = ()
    """The ways to draw latents, the default first; none if there is only one."""
    selection_measure = "frechet_distance"
    """The best checkpoint has the lowest of this: of `evaluation_names`, or of the samples."""
    batches_per_step = 1
    """Batches that one step takes: `train_step` is handed them as one, that many times as long."""
    accumulate_steps = 1
    """Parts that a batch is computed in, one after the other, to take less memory. They equal the
    whole up to rounding, but that batch normalization knows only its part."""
    draws = True
    """Whether it draws pictures from seeds; one that only changes given pictures does not."""
    conditional = False
    """Whether samples are of a class that can be asked for, and `decode` needs to know it."""

    reading = ""
    """Rows of a Markdown table for TensorBoard: | what is shown | how it looks in good health |"""

    def __init__(
        self, *, image_shape: tuple[int, int, int], num_classes: int = 0, seed: int = 0, **kwargs
    ):
        super().__init__(**kwargs)
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.seed = seed
        self.optimizers: Mapping[str, keras.optimizers.Optimizer] = {}
        self.loss_scales: Mapping[str, LossScale] = {}
        self.sample_function = tf.function(self.sample, autograph=False)
        self.step = _counter("step")
        self.rollbacks = _counter("rollbacks")

    def prepare(self) -> None:
        """Loads what only training and evaluation need beside the batches; UsageError if it fails.

        Called before training begins or goes on, and not for a model that is only used.
        """

    def objective_variables(self) -> dict[str, list[keras.Variable]]:
        """Objective name -> the trainable variables that its gradient may move."""
        raise NotImplementedError(f"{type(self).__name__} declares no objectives")

    def compute_losses(self, batch: dict[str, tf.Tensor], noise: Noise, training: bool) -> Losses:
        """One forward pass: batch {"image": [B, H, W, C] uint8, "label": [B] int32} -> Losses."""
        raise NotImplementedError(f"{type(self).__name__} computes no losses")

    def sample_latents(
        self, seeds: tf.Tensor, labels: tf.Tensor | None = None, sampler: str = ""
    ) -> tf.Tensor:
        """seeds [N, 2] int64, labels [N] int32 or None -> latents [N, Z].

        sampler: one of `samplers`, the first by default.
        """
        raise NotImplementedError(f"{type(self).__name__} has no latents")

    def decode(self, latents: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """latents [N, Z], labels [N] int32 or None -> images [N, H, W, C] float32 in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} does not decode")

    def sample(self, seeds: tf.Tensor, labels: tf.Tensor | None = None, **sampler) -> tf.Tensor:
        """seeds [N, 2] int64, labels [N] int32 or None -> images [N, H, W, C] float32 in [0, 1].

        Pure: row i depends on seeds[i] and labels[i] alone. None is for any class: that of
        `default_labels` where the model is conditional.
        """
        if labels is None and self.conditional:
            labels = tf.cast(tf.math.floormod(tf.reduce_sum(seeds, 1), self.num_classes), tf.int32)
        return self.decode(self.sample_latents(seeds, labels, **sampler), labels)

    def default_labels(self, seeds: np.ndarray) -> np.ndarray | None:
        """seeds [N, 2] int64 -> labels [N] int32: the classes in turn; None if not conditional."""
        return labels_in_turn(seeds, self.num_classes) if self.conditional else None

    def protocol(self) -> dict[str, Any]:
        """What the model's own measures depend on beside its weights."""
        return {"sampler": self.samplers[0]} if self.samplers else {}

    def summary_line(self) -> str:
        """What the model is made of, for a person."""
        return f"{self.count_params():,} parameters"

    def sheets(self, batch: dict[str, tf.Tensor]) -> dict[str, "Sheet"]:
        """Pictures worth seeing while it trains, by name: samples of the same seeds each time.

        batch: held-out examples, for models that show what they make of a picture.
        """
        seeds = row_seeds(self.seed, SAMPLE_CHUNK)
        if not self.samplers:
            return {"samples": Sheet(self.sample_function(seeds), columns=8)}
        return {
            f"samples_{name}": Sheet(self.sample_function(seeds, sampler=name), columns=8)
            for name in self.samplers
        }

    def endpoints(self) -> dict[str, Any]:
        """Endpoint name -> tf.function with an input signature, batch dimension first.

        The first is what a newcomer would call: `serving_default`. Their docstrings name every
        input with its range (`zoo.endpoints`).
        """
        raise NotImplementedError(f"{type(self).__name__} exports no endpoints")

    def evaluate_batch(self, batch: dict[str, tf.Tensor], noise: Noise) -> dict[str, tf.Tensor]:
        """Held-out measures per example, [B] each; by default the losses without training."""
        losses = self.compute_losses(batch, noise, training=False)
        return {**losses.objectives, **losses.reports}

    def histograms(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Values on held-out examples whose spread is worth seeing, by name."""
        return {}

    def collapse(self, measures: Mapping[str, float], best: float | None) -> str:
        """Why these measures of one evaluation mean that training has failed; "" if they do not.

        measures: means of `evaluate_batch`, and those of the samples if `selection_measure` is
        their Fréchet distance, which is then there under that name; best: the lowest value of
        the selection measure before, None at first.
        """
        return ""

    def embed(self, images: np.ndarray) -> np.ndarray | None:
        """images uint8 [N, H, W, C] -> [N, Z] for the projector; None: this model cannot."""
        return None

    def thorough_measures(self, batch: dict[str, tf.Tensor], noise: Noise) -> dict[str, tf.Tensor]:
        """Measures too slow for every evaluation, [B] each; taken once, at the end."""
        return {}

    def compile(self, optimizers: Mapping[str, keras.optimizers.Optimizer], **kwargs) -> None:
        """optimizers: one for each objective, by name; they are built here, in this scope."""
        variables = self.objective_variables()
        if set(optimizers) != set(variables):
            raise ValueError(
                f"{type(self).__name__}.compile got optimizers for {sorted(optimizers)}, "
                f"expected one for each of the objectives {sorted(variables)}"
            )
        for name, optimizer in optimizers.items():
            optimizer.build(variables[name])
            take_sums(optimizer)
        self._evaluation_means = [keras.metrics.Mean(name) for name in self.evaluation_names]
        kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=next(iter(optimizers.values())), **kwargs)
        self.optimizers = dict(optimizers)
        if keras.config.dtype_policy().compute_dtype == "float16":
            self.loss_scales = {name: LossScale(name) for name in optimizers}
            self.scalar_names += tuple(f"loss_scale/{name}" for name in optimizers)

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Moves every objective's variables once; returns this replica's means, `scalar_names`.

        They are this step's: what `fit()` shows after an epoch is its last step.
        """
        names = tuple(self.objective_variables())
        gradients, scalars = self._gradients(batch, self._noise(batch), names)
        for name in names:
            scalars |= self._apply(name, gradients[name])
        self.step.assign_add(1)
        return scalars

    def _gradients(
        self, batch: dict[str, tf.Tensor], noise: Noise, names: Sequence[str]
    ) -> tuple[dict[str, list[tf.Tensor]], dict[str, tf.Tensor]]:
        """These objectives' gradients, of all replicas, and this one's means of all scalars."""
        gradients, scalars = self._passes(batch, noise, names)
        return over_replicas(gradients), scalars

    def _passes(
        self, batch: dict[str, tf.Tensor], noise: Noise, names: Sequence[str]
    ) -> tuple[dict[str, list[tf.Tensor]], dict[str, tf.Tensor]]:
        """The same, but this replica's share of the gradients."""
        count = self.accumulate_steps
        if count == 1:
            return self._pass(batch, noise, names)
        whole = batch_size(batch)
        if isinstance(whole, int) and whole % count:
            raise ValueError(f"a batch of {whole} does not divide into {count} parts")
        size = whole // count
        sums: Any = None
        for number in range(count):
            part = {name: values[number * size :][:size] for name, values in batch.items()}
            # One after the other: side by side they would take as much memory as the whole. Not in
            # a tf.while_loop, in which replicas cannot share their statistics.
            with tf.control_dependencies([] if sums is None else _tensors(sums)):
                results = self._pass(part, noise.rows(number * size, size), names)
                results = tf.nest.map_structure(
                    lambda value: None if value is None else value / count, results
                )
                sums = results if sums is None else tf.nest.map_structure(_sum, sums, results)
        return sums

    def _pass(
        self, batch: dict[str, tf.Tensor], noise: Noise, names: Sequence[str]
    ) -> tuple[dict[str, list[tf.Tensor]], dict[str, tf.Tensor]]:
        variables = self.objective_variables()
        # Each sees its own variables alone. One for all would go back through what others move,
        # which TensorFlow cannot leave out where replicas share statistics.
        tapes = {name: tf.GradientTape(watch_accessed_variables=False) for name in names}
        with contextlib.ExitStack() as stack:
            for name, tape in tapes.items():
                stack.enter_context(tape)
                for variable in variables[name]:
                    tape.watch(variable.value)
            losses = self.compute_losses(batch, noise, training=True)
            # Summed over replicas: each contributes its share of the global mean.
            shares = {name: self._share(name, losses.objectives[name]) for name in names}
        gradients = {name: tapes[name].gradient(shares[name], variables[name]) for name in names}
        for name, scale in self.loss_scales.items():
            if name in names:
                gradients[name] = scale.unscale(gradients[name])
        scalars = {**losses.objectives, **losses.reports}
        return gradients, {name: tf.reduce_mean(value) for name, value in scalars.items()}

    def _apply(self, name: str, gradients: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Moves an objective's variables; returns what there is to tell of it."""
        variables = self.objective_variables()[name]
        if name not in self.loss_scales:
            self.optimizers[name].apply(gradients, variables)
            return {}
        scale = self.loss_scales[name].apply(self.optimizers[name], gradients, variables)
        return {f"loss_scale/{name}": scale}

    def test_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What `keras.Model.evaluate` reports: means of `evaluate_batch` over all batches."""
        seen = self._evaluation_means[0].count
        measures = self.evaluate_batch(batch, Noise(self.seed, seen, batch_size(batch)))
        for mean in self._evaluation_means:
            mean.update_state(measures[mean.name])
        return {mean.name: mean.result() for mean in self._evaluation_means}

    def _noise(self, batch: dict[str, tf.Tensor]) -> Noise:
        return Noise(
            self.seed, self.step.read_value(), batch_size(batch), self.rollbacks.read_value()
        )

    def _share(self, name: str, loss: tf.Tensor) -> tf.Tensor:
        num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        share = tf.reduce_mean(loss) / num_replicas
        return self.loss_scales[name].scale(share) if name in self.loss_scales else share

    def checkpoint(self) -> tf.train.Checkpoint:
        """All that training needs to go on: weights, every optimizer, the counters.

        As a plain list: TensorFlow's own search misses layers that a Keras layer keeps in a list,
        without an error at saving or restoring.
        """
        return tf.train.Checkpoint(state=self.state())

    def state(self) -> list[tf.Variable]:
        """Every variable that a checkpoint holds, in a fixed order, each once."""
        keras_variables = list(self.variables)
        for optimizer in self.optimizers.values():
            keras_variables += optimizer.variables
        unique = {id(v): v.value for v in keras_variables}
        scales = [v for scale in self.loss_scales.values() for v in scale.variables]
        return [*unique.values(), *scales, self.step, self.rollbacks]


def _tensors(results) -> list[tf.Tensor]:
    return [value for value in tf.nest.flatten(results) if value is not None]


def _sum(first: tf.Tensor | None, second: tf.Tensor | None) -> tf.Tensor | None:
    return None if first is None or second is None else first + second


def between(first: tf.Tensor, second: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """first, second [N, Z], share [N] from 0 to 1 -> [N, Z] on the arc from one to the other.

    Its length grows evenly too.
    """
    share = share[:, None]
    lengths = [tf.norm(points, axis=1, keepdims=True) for points in (first, second)]
    product = lengths[0] * lengths[1]
    cosine = tf.reduce_sum(first * second, axis=1, keepdims=True)
    cosine = tf.where(product > 0, tf.math.divide_no_nan(cosine, product), 1)
    angle = tf.acos(tf.clip_by_value(cosine, -1, 1))
    # Along a straight line, or to the opposite side, there is no turn to take: go straight.
    turns = tf.sin(angle) > 1e-4
    scale = tf.where(turns, tf.sin(angle) * product, 1)
    direction = tf.sin((1 - share) * angle) * first * lengths[1]
    direction += tf.sin(share * angle) * second * lengths[0]
    length = (1 - share) * lengths[0] + share * lengths[1]
    return tf.where(turns, length * direction / scale, (1 - share) * first + share * second)


def interpolate(anchors: np.ndarray, frames: int) -> np.ndarray:
    """anchors [N, Z] -> a closed path [N · frames, Z] that meets anchor i at i · frames."""
    ends = np.roll(anchors, -1, axis=0)
    first, second = (points.astype(np.float64).repeat(frames, axis=0) for points in (anchors, ends))
    share = np.tile(np.arange(frames) / frames, len(anchors))
    path = between(tf.constant(first), tf.constant(second), tf.constant(share))
    return path.numpy().astype(np.float32)


def batch_size(batch: dict[str, tf.Tensor]) -> int | tf.Tensor:
    """Examples in a batch: an int where the shape is static, else a tensor."""
    images = batch["image"]
    return images.shape[0] if images.shape[0] is not None else tf.shape(images)[0]


def sample_images(
    model: GenerativeModel, seeds: np.ndarray, labels: np.ndarray | None = None, **kwargs
) -> np.ndarray:
    """seeds [N, 2] int64 -> images uint8 [N, H, W, C].

    A picture has the same bytes whatever N is.
    """
    return np.concatenate(list(sample_batches(model.sample_function, seeds, labels, **kwargs)))


def sample_batches(
    sample: Callable[..., tf.Tensor], seeds: np.ndarray, labels: np.ndarray | None = None, **kwargs
) -> Iterator[np.ndarray]:
    """What sample(seeds, labels=…) draws for seeds [N, 2] int64: uint8 [B, H, W, C] by and by.

    Always computed in chunks of SAMPLE_CHUNK rows, so that matrix products see the same shapes.
    """
    for start in range(0, len(seeds), SAMPLE_CHUNK):
        rows = seeds[start : start + SAMPLE_CHUNK]
        padding = SAMPLE_CHUNK - len(rows)
        rows = np.pad(rows, [(0, padding), (0, 0)], mode="edge")
        if labels is not None:
            chunk = np.pad(labels[start : start + SAMPLE_CHUNK], (0, padding), mode="edge")
            kwargs["labels"] = tf.constant(chunk, tf.int32)
        images = sample(tf.constant(rows, tf.int64), **kwargs).numpy()
        yield to_uint8(images[: SAMPLE_CHUNK - padding])


def to_uint8(images: np.ndarray) -> np.ndarray:
    """float images in [0, 1] -> uint8, rounded to nearest."""
    return np.round(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)
