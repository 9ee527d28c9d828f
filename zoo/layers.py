"""Layers that several models share and that Keras lacks or gets wrong.

Shape letters: B examples, H W C height, width, channels, K classes.
"""

import keras
import tensorflow as tf


class BatchNormalization(keras.layers.Layer):
    """Batch normalization (Ioffe & Szegedy 2015, algorithm 1) of the last axis, [B, C] or [B, H, W, C].

    With the constants of the papers (momentum .9, epsilon 1e-5; Keras has .99 and 1e-3), in one
    fused kernel, and in float32 whatever the inputs are. In training the statistics are those of
    the global batch: replicas share theirs, so that N replicas equal one, unless `synchronized` is
    set to False.

    moving=False keeps no moving averages: the statistics are always the batch's, as for a
    discriminator, which nobody asks about one picture alone.
    """  # noqa: E501

    momentum = 0.9
    epsilon = 1e-5
    synchronized = True

    def __init__(self, *, moving: bool = True, affine: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.moving, self.affine = moving, affine

    def build(self, input_shape):
        channels = (input_shape[-1],)
        if self.affine:
            # DCGAN's: gains around 1 (Radford et al. 2016, their code).
            gain = keras.initializers.RandomNormal(1.0, 0.02)
            self.gamma = self.add_weight(
                shape=channels, initializer=gain, dtype="float32", autocast=False, name="gamma"
            )
            self.beta = self.add_weight(
                shape=channels, initializer="zeros", dtype="float32", autocast=False, name="beta"
            )
        if self.moving:
            options = {"trainable": False, "dtype": "float32", "autocast": False}
            first = "only_first_replica"  # all have the same
            self.moving_mean = self.add_weight(
                shape=channels, initializer="zeros", aggregation=first, name="mean", **options
            )
            self.moving_variance = self.add_weight(
                shape=channels, initializer="ones", aggregation=first, name="variance", **options
            )

    def call(self, values: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.normalize(values, training)

    def normalize(self, values: tf.Tensor, training: bool) -> tf.Tensor:
        """What `call` does, for layers that go on from there."""
        channels = values.shape[-1]
        gain = tf.convert_to_tensor(self.gamma) if self.affine else tf.ones([channels])
        offset = tf.convert_to_tensor(self.beta) if self.affine else tf.zeros([channels])
        if self.moving and not training:
            mean = tf.convert_to_tensor(self.moving_mean)
            variance = tf.convert_to_tensor(self.moving_variance)
            scale = gain * tf.math.rsqrt(variance + self.epsilon)
            shift = offset - mean * scale
            return values * tf.cast(scale, values.dtype) + tf.cast(shift, values.dtype)
        # A batch normalised in evaluation must not need all replicas to take part.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if training and self.synchronized and replicas > 1:
            outputs, mean, variance = self._across_replicas(values, gain, offset)
        else:
            outputs, mean, variance = self._fused(values, gain, offset)
            if self.moving and training and replicas > 1:
                context = tf.distribute.get_replica_context()
                own = tf.stop_gradient(tf.stack([mean, variance]))
                mean, variance = tf.unstack(context.all_reduce(tf.distribute.ReduceOp.MEAN, own))
        if self.moving and training:
            self._follow(self.moving_mean, mean)
            self._follow(self.moving_variance, variance)
        return outputs

    def _fused(self, values, gain, offset):
        shape = tf.shape(values)
        if values.shape.rank == 2:
            values = values[:, None, None, :]
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=values,
            scale=gain,
            offset=offset,
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        return tf.reshape(outputs, shape), mean, variance

    def _across_replicas(self, values, gain, offset):
        context = tf.distribute.get_replica_context()
        inputs = tf.cast(values, tf.float32)
        axes = list(range(values.shape.rank - 1))
        moments = tf.stack([tf.reduce_mean(inputs, axes), tf.reduce_mean(inputs**2, axes)])
        mean, square = tf.unstack(context.all_reduce(tf.distribute.ReduceOp.MEAN, moments))
        variance = square - mean**2
        outputs = tf.nn.batch_normalization(inputs, mean, variance, offset, gain, self.epsilon)
        count = tf.cast(tf.size(inputs) / inputs.shape[-1], tf.float32)
        count *= context.num_replicas_in_sync
        # The moving average is of the unbiased variance, as the fused kernel gives it.
        return tf.cast(outputs, values.dtype), mean, variance * count / tf.maximum(count - 1.0, 1.0)

    def _follow(self, average: keras.Variable, value: tf.Tensor) -> None:
        average.assign(average + (1.0 - self.momentum) * (tf.stop_gradient(value) - average))


class ConditionalBatchNormalization(BatchNormalization):
    """Batch normalization whose gain and offset are of the example's class.

    Dumoulin et al. 2017; in a generator: Miyato & Koyama 2018, section 4 and figure 14.
    """

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(affine=False, **kwargs)
        self.num_classes = num_classes

    def build(self, input_shape):
        super().build(input_shape)
        shape = (self.num_classes, input_shape[-1])
        self.gains = self.add_weight(shape=shape, initializer="ones", name="gains")
        self.offsets = self.add_weight(shape=shape, initializer="zeros", name="offsets")

    def call(  # type: ignore[override]
        self, values: tf.Tensor, labels: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """values [B, H, W, C], labels [B] int32 -> [B, H, W, C]."""
        normal = self.normalize(values, training)
        # A product and not a gather: the gradient is dense, and the same in every run.
        chosen = tf.one_hot(labels, self.num_classes, dtype=normal.dtype)
        gains = tf.matmul(chosen, tf.convert_to_tensor(self.gains))
        offsets = tf.matmul(chosen, tf.convert_to_tensor(self.offsets))
        return normal * gains[:, None, None, :] + offsets[:, None, None, :]


class LayerNormalization(keras.layers.Layer):
    """Normalizes each example over all its axes; gain and offset per channel.

    Ba et al. 2016; for Wasserstein critics Gulrajani et al. 2017, section 4, in place of batch
    normalization, which ties examples together. [B, ..., C] -> [B, ..., C].
    """

    epsilon = 1e-5

    def build(self, input_shape):
        options = {"shape": (input_shape[-1],), "dtype": "float32", "autocast": False}
        self.gamma = self.add_weight(initializer="ones", name="gamma", **options)
        self.beta = self.add_weight(initializer="zeros", name="beta", **options)

    def call(self, values: tf.Tensor) -> tf.Tensor:
        inputs = tf.cast(values, tf.float32)
        mean, variance = tf.nn.moments(inputs, list(range(1, inputs.shape.rank)), keepdims=True)
        gain, offset = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        outputs = tf.nn.batch_normalization(inputs, mean, variance, offset, gain, self.epsilon)
        return tf.cast(outputs, values.dtype)


class _SpectralNorm(keras.layers.Layer):
    """Divides a layer's weights by their largest singular value where spectral_norm is True.

    Miyato et al. 2018, sections 2.1 and 3, algorithm 1: the matrix is [everything else, outputs].
    The stored weights stay as they are and the gradient goes through sigma, as in the paper's
    equation 12; Keras's SpectralNormalization overwrites them, and its gradient skips sigma.
    `power_iteration` improves the stored vector once; between two calls sigma does not change, so
    that real and fake examples of one step meet the same weights.
    """

    def __init__(self, *args, spectral_norm: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.spectral_norm = spectral_norm

    def build(self, input_shape=None):
        super().build(input_shape)
        if self.spectral_norm:
            self.singular_vector = self.add_weight(
                shape=(self._kernel.shape[-1],),
                initializer=keras.initializers.RandomNormal(),
                trainable=False,
                dtype="float32",
                autocast=False,
                aggregation="only_first_replica",
                name="singular_vector",
            )

    def power_iteration(self) -> None:
        """One step of the power method, if this layer is normalised."""
        if self.spectral_norm:
            self.singular_vector.assign(self._singular_vectors()[1])

    def sigma(self) -> tf.Tensor:
        """The estimate of the largest singular value, a float32 scalar."""
        left, right = self._singular_vectors()
        return tf.tensordot(tf.linalg.matvec(self._matrix(), right), left, 1)

    def _matrix(self) -> tf.Tensor:
        weights = tf.convert_to_tensor(self._kernel.value)
        return tf.reshape(tf.cast(weights, tf.float32), [-1, weights.shape[-1]])

    def _singular_vectors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Left [rows] and right [outputs] unit vectors, one iteration on from the stored one."""
        matrix = tf.stop_gradient(self._matrix())
        vector = tf.convert_to_tensor(self.singular_vector)
        left = tf.math.l2_normalize(tf.linalg.matvec(matrix, vector))
        right = tf.math.l2_normalize(tf.linalg.matvec(matrix, left, transpose_a=True))
        return left, right

    def _normalised(self, weights: tf.Tensor) -> tf.Tensor:
        weights = tf.convert_to_tensor(weights)
        return weights / tf.cast(self.sigma(), weights.dtype) if self.spectral_norm else weights


class Conv2D(_SpectralNorm, keras.layers.Conv2D):
    """Keras's convolution, with spectral_norm=True as an option."""

    @property
    def kernel(self):
        return self._normalised(super().kernel)


class Dense(_SpectralNorm, keras.layers.Dense):
    """Keras's dense layer, with spectral_norm=True as an option.

    Without a bias, on one-hot labels, it is an embedding.
    """

    @property
    def kernel(self):
        return self._normalised(super().kernel)


def power_iterations(net: keras.layers.Layer) -> None:
    """One power iteration in every spectrally normalised layer of a net: once a training step."""
    for layer in net._flatten_layers():
        if isinstance(layer, _SpectralNorm):
            layer.power_iteration()


def double(values: tf.Tensor, how: str) -> tf.Tensor:
    """[B, H, W, C] -> [B, 2H, 2W, C], "nearest" (pixels repeated) or "bilinear"; H and W may be
    unknown."""
    if how == "nearest":
        return _repeated(values)
    # XLA's gradient of a resized half-precision map is a float32 one, which it then refuses.
    wide = tf.image.resize(tf.cast(values, tf.float32), _doubled_size(values), "bilinear")
    return tf.cast(wide, values.dtype)


def _doubled_size(values: tf.Tensor) -> list[int | tf.Tensor]:
    """2H and 2W, as numbers where they are known."""
    known, now = values.shape, tf.shape(values)
    return [2 * (now[axis] if known[axis] is None else known[axis]) for axis in (1, 2)]


@tf.custom_gradient
def _repeated(values: tf.Tensor):
    """TensorFlow's own gradient adds in no fixed order on a GPU; that of tf.tile takes 7 times as
    long as this."""

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return 4 * tf.nn.avg_pool2d(upstream, 2, 2, "VALID")

    return tf.image.resize(values, _doubled_size(values), "nearest"), gradient


def halve(values: tf.Tensor) -> tf.Tensor:
    """[B, 2H, 2W, C] -> [B, H, W, C], the mean of each 2x2."""
    return tf.nn.avg_pool2d(values, 2, 2, "VALID")
