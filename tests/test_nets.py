"""Layer tables and parameter counts of the papers, and what the nets compute, against NumPy."""

import math

import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo import nets  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.layers import BatchNormalization  # noqa: E402

RANDOM = np.random.Generator(np.random.PCG64(0))


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def count(net) -> int:
    return sum(math.prod(variable.shape) for variable in net.trainable_variables)


def outputs_of(parts, run) -> list[tuple[int, ...]]:
    """The shapes, without the batch, that these layers of a net give while it runs."""
    shapes = []

    def recorded(call):
        def record(*args, **kwargs):
            values = call(*args, **kwargs)
            shapes.append(tuple(values.shape[1:]))
            return values

        return record

    with pytest.MonkeyPatch.context() as patch:
        for part in parts:
            patch.setattr(part, "call", recorded(part.call))
        run()
    return shapes


def kernels(net) -> list[tuple[int, ...]]:
    """The shapes of all convolutions' kernels."""
    return [tuple(v.shape) for v in net.trainable_variables if len(v.shape) == 4]


def generator(size: int, channels: int, **options):
    """A built generator of 100 latents, and its input."""
    net = nets.ConvolutionalGenerator((size, size, channels), **options)
    latents = tf.constant(normal(2, 100))
    net(latents)
    return net, latents


def discriminator(size: int, channels: int, **options):
    net = nets.ConvolutionalDiscriminator((size, size, channels), **options)
    images = tf.constant(normal(2, size, size, channels))
    net(images)
    return net, images


def test_dcgan_generator_is_the_papers_at_64_pixels():
    """Radford et al. 2016, figure 1, at half its width, as in their code."""
    net, latents = generator(64, 3, width=64)
    shapes = outputs_of([*net.doublings, net.last], lambda: net(latents))
    assert net.base == (4, 4, 512)
    assert shapes == [(8, 8, 256), (16, 16, 128), (32, 32, 64), (64, 64, 3)]
    # Transposed kernels are [4, 4, outputs, inputs].
    assert kernels(net) == [(4, 4, 256, 512), (4, 4, 128, 256), (4, 4, 64, 128), (4, 4, 3, 64)]
    norms = 2 * (512 + 256 + 128 + 64)
    table = 100 * 8192 + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + norms
    assert count(net) == table == 3_576_704
    assert [norm.moving for norm in net.norms] == [True] * 4


def test_dcgan_discriminator_is_the_papers_at_64_pixels():
    net, images = discriminator(64, 3, width=64)
    shapes = outputs_of(net.convolutions, lambda: net(images))
    assert shapes == [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)]
    assert kernels(net) == [(4, 4, 3, 64), (4, 4, 64, 128), (4, 4, 128, 256), (4, 4, 256, 512)]
    norms = 2 * (128 + 256 + 512)  # none after the first convolution
    table = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + norms + 4 * 4 * 512
    assert count(net) == table == 2_765_568
    assert net(images).logits.shape == (2,)


def test_dcgan_weights_start_as_the_papers():
    """Section 4: N(0, 0.02); BatchNorm's gains N(1, 0.02) and offsets 0, as in their code."""
    for net in (generator(64, 3, width=64)[0], discriminator(64, 3, width=64)[0]):
        for variable in net.trainable_variables:
            values = variable.numpy()
            if len(values.shape) > 1:
                room = 5 / math.sqrt(2 * values.size)
                assert values.std() == pytest.approx(0.02, rel=room)
                assert values.mean() == pytest.approx(0, abs=5 * 0.02 / math.sqrt(values.size))
        norms = [norm for norm in net.norms if norm is not None]
        assert all(isinstance(norm, BatchNormalization) for norm in norms)
        gains = np.concatenate([norm.gamma.numpy() for norm in norms])
        assert gains.std() == pytest.approx(0.02, rel=5 / math.sqrt(2 * gains.size))
        assert gains.mean() == pytest.approx(1, abs=5 * 0.02 / math.sqrt(gains.size))
        assert all((norm.beta.numpy() == 0).all() for norm in norms)


def test_28_pixels_have_two_doublings_and_a_last_convolution():
    net, latents = generator(28, 1, width=64)
    shapes = outputs_of([*net.doublings, net.last], lambda: net(latents))
    assert net.base == (7, 7, 128)
    assert shapes == [(14, 14, 64), (28, 28, 16), (28, 28, 1)]
    assert kernels(net) == [(4, 4, 64, 128), (4, 4, 16, 64), (3, 3, 16, 1)]
    table = 100 * 49 * 128 + 16 * (128 * 64 + 64 * 16) + (9 * 16 + 1) + 2 * (128 + 64 + 16)
    assert count(net) == table
    other, images = discriminator(28, 1, width=64)
    shapes = outputs_of(other.convolutions, lambda: other(images))
    assert shapes == [(14, 14, 32), (7, 7, 64), (4, 4, 128)]
    assert count(other) == 16 * (32 + 32 * 64 + 64 * 128) + 2 * (64 + 128) + 16 * 128
    for kernel in (convolution.kernel for convolution in other.convolutions[1:]):
        deviation = math.sqrt(2 / (16 * kernel.shape[2]))  # He et al. 2015
        assert np.std(kernel) == pytest.approx(deviation, rel=0.05)


def test_32_pixels_have_three_doublings():
    net, latents = generator(32, 3, width=64)
    shapes = outputs_of([*net.doublings, net.last], lambda: net(latents))
    assert net.base == (4, 4, 256)
    assert shapes == [(8, 8, 128), (16, 16, 64), (32, 32, 16), (32, 32, 3)]
    other, images = discriminator(32, 3, width=64)
    shapes = outputs_of(other.convolutions, lambda: other(images))
    assert shapes == [(16, 16, 32), (8, 8, 64), (4, 4, 128)]


@pytest.mark.parametrize("size", [8, 28, 48, 64, 96, 128])
def test_nets_of_every_size_fit_its_pictures(size):
    net, latents = generator(size, 3, width=4)
    images = net(latents)
    assert images.shape == (2, size, size, 3)
    assert images.dtype == tf.float32
    assert 0 < np.abs(images).max() <= 1
    assert discriminator(size, 3, width=4)[0](images).logits.shape == (2,)
    residual = nets.ResidualGenerator((size, size, 3), width=4)(latents)
    assert residual.shape == (2, size, size, 3)
    critic = nets.ResidualDiscriminator((size, size, 3), width=4)
    assert critic(residual).logits.shape == (2,)


@pytest.mark.parametrize(
    ("shape", "grids"),
    [
        ((8, 8), [8, 4]),
        ((28, 28), [28, 14, 7]),
        ((32, 32), [32, 16, 8, 4]),
        ((48, 48), [48, 24, 12, 6]),
        ((56, 56), [56, 28, 14, 7]),
        ((64, 64), [64, 32, 16, 8, 4]),
        ((96, 96), [96, 48, 24, 12, 6]),
        ((128, 128), [128, 64, 32, 16, 8, 4]),
        ((256, 256), [256, 128, 64, 32, 16, 8, 4]),
        ((64, 96), [(64, 96), (32, 48), (16, 24), (8, 12), (4, 6)]),
        ((40, 32), [(40, 32), (20, 16), (10, 8), (5, 4)]),
    ],
)
def test_sizes_halve_down_to_a_side_of_4_to_7(shape, grids):
    expected = [grid if isinstance(grid, tuple) else (grid, grid) for grid in grids]
    assert nets.sizes((*shape, 3)) == expected


@pytest.mark.parametrize(
    "shape", [(30, 30), (36, 36), (44, 44), (100, 100), (4, 4), (7, 7), (2, 64), (28, 30)]
)
def test_sizes_that_do_not_halve_are_refused(shape):
    message = f"{shape[0]}x{shape[1]} pictures do not halve down .*: choose an --image_size such"
    with pytest.raises(UsageError, match=message):
        nets.sizes((*shape, 3))


def test_pictures_that_are_not_square_have_nets():
    images = nets.ConvolutionalGenerator((16, 24, 1), width=4)(tf.constant(normal(2, 5)))
    assert images.shape == (2, 16, 24, 1)
    critic = nets.ConvolutionalDiscriminator((16, 24, 1), width=4)
    assert critic(images).logits.shape == (2,)


@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_enlarging_before_a_convolution_leaves_no_checkerboard(how):
    """Odena et al. 2016: a transposed convolution makes a flat input uneven, this does not."""

    def of_flat(how: str) -> np.ndarray:
        layer = nets.Doubling(5, how)
        outputs = layer(tf.ones([1, 6, 6, 3])).numpy()
        assert outputs.shape == (1, 12, 12, 5)
        kernel = layer.convolution.kernel
        assert tuple(kernel.shape) == ((4, 4, 5, 3) if how == "transposed" else (3, 3, 3, 5))
        assert not layer.convolution.use_bias
        return outputs[0, 3:-3, 3:-3]

    assert np.ptp(of_flat(how), axis=(0, 1)).max() < 1e-6
    assert np.ptp(of_flat("transposed"), axis=(0, 1)).max() > 1e-3


@pytest.mark.parametrize("how", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [28, 64])
def test_every_way_of_upsampling_gives_the_same_grids(size, how):
    plain, latents = generator(size, 1, width=4)
    net = nets.ConvolutionalGenerator((size, size, 1), width=4, upsampling=how)
    net(latents)
    shapes = [
        outputs_of([*one.doublings, one.last], lambda one=one: one(latents)) for one in (plain, net)
    ]
    assert shapes[0] == shapes[1]
    assert {shape[:2] for shape in kernels(net)} == {(3, 3)}
    assert count(net) < count(plain)


def test_generator_pictures_are_of_tanh_and_follow_training_statistics():
    net, latents = generator(8, 1, width=4)
    net.last.trainable_variables[0].assign(1e3 * net.last.kernel.numpy())
    images = net(latents, training=True).numpy()
    assert np.abs(images).max() == pytest.approx(1.0, abs=1e-3)
    assert images.min() < -0.5
    assert images.max() > 0.5
    assert any((norm.moving_mean.numpy() != 0).any() for norm in net.norms)


LABELS = np.array([0, 2, 1, 2], np.int32)


def leaky(values):
    return np.where(values > 0, values, 0.2 * values)


@pytest.mark.parametrize("hidden", [0, 6])
def test_projection_adds_the_inner_product_with_the_class(hidden):
    """Miyato & Koyama 2018, equation 4: w · h + b + <e_y, h>."""
    head, features = (
        nets.Head(num_classes=3, conditioning="projection", hidden=hidden),
        normal(4, 5),
    )
    head(features, LABELS)
    for variable in head.trainable_variables:
        variable.assign(normal(*variable.shape))
    reached = features
    if hidden:
        kernel, bias = (variable.numpy() for variable in head.hidden.trainable_variables)
        reached = leaky(features @ kernel + bias)
    weights, bias = (variable.numpy() for variable in head.logit.trainable_variables)
    (embedding,) = (variable.numpy() for variable in head.embedding.trainable_variables)
    assert embedding.shape == (3, hidden or 5)
    expected = (reached @ weights)[:, 0] + bias + (embedding[LABELS] * reached).sum(1)
    verdict = head(features, LABELS)
    np.testing.assert_allclose(verdict.logits, expected, rtol=1e-4, atol=1e-5)
    assert verdict.class_logits is None


def test_auxiliary_heads_classify_without_being_told():
    head, features = nets.Head(num_classes=3, conditioning="auxiliary", hidden=6), normal(4, 5)
    head(features, LABELS)
    for variable in head.trainable_variables:
        variable.assign(normal(*variable.shape))
    verdict, other = head(features, LABELS), head(features, LABELS[::-1])
    kernel, bias = (variable.numpy() for variable in head.hidden.trainable_variables)
    reached = leaky(features @ kernel + bias)
    weights, offsets = (variable.numpy() for variable in head.classes.trainable_variables)
    assert verdict.class_logits.shape == (4, 3)
    np.testing.assert_allclose(verdict.class_logits, reached @ weights + offsets, rtol=1e-4)
    np.testing.assert_array_equal(verdict.class_logits, other.class_logits)
    np.testing.assert_array_equal(verdict.logits, other.logits)


def test_concatenation_gives_the_label_at_every_pixel():
    images = normal(4, 8, 8, 2)
    maps = nets.with_label_maps(tf.constant(images), tf.constant(LABELS), 3).numpy()
    expected = np.zeros((4, 8, 8, 5), np.float32)
    expected[..., :2] = images
    for row, label in enumerate(LABELS):
        expected[row, :, :, 2 + label] = 1
    np.testing.assert_array_equal(maps, expected)
    net = nets.ConvolutionalDiscriminator(
        (8, 8, 2), width=4, norm="none", num_classes=3, conditioning="concatenation"
    )
    logits = net(images, LABELS).logits.numpy()
    assert tuple(net.convolutions[0].kernel.shape) == (4, 4, 5, 4)
    others = net(images, (LABELS + 1) % 3).logits.numpy()
    assert (logits != others).all()


@pytest.mark.parametrize(("concatenate", "beside"), [(True, 3), (False, 32)])
def test_conditional_generators_have_the_class_beside_the_latents(concatenate, beside):
    net = nets.ConvolutionalGenerator((8, 8, 1), width=4, num_classes=3, concatenate=concatenate)
    latents = np.repeat(normal(1, 5), 4, axis=0)
    images = net(latents, LABELS).numpy()
    assert net.project.kernel.shape[0] == 5 + beside
    np.testing.assert_allclose(images[1], images[3], atol=1e-6)
    assert np.abs(images[0] - images[1]).max() > 1e-6
    per_class = [v for v in net.trainable_variables if v.name in ("gains", "offsets")]
    assert len(per_class) == (0 if concatenate else 2 * len(net.norms))


def convolve(values, convolution):
    outputs = tf.nn.conv2d(values, convolution._kernel.numpy(), 1, "SAME")
    return outputs + (convolution.bias.numpy() if convolution.use_bias else 0.0)


def pooled(values):
    return tf.nn.avg_pool2d(values, 2, 2, "VALID")


def enlarged(values):
    return tf.constant(np.asarray(values).repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize("kind", ["up", "down", "first", "plain", "wider"])
def test_residual_blocks_are_the_papers(kind):
    """Miyato et al. 2018, figure 8: the shortcut enlarges, then convolves; convolves, then pools.

    A discriminator's first block pools, then convolves (their code).
    """
    channels = {"first": 3, "plain": 6}.get(kind, 4)
    resample = {"first": "down", "up": "up", "down": "down"}.get(kind, "")
    block = nets.ResidualBlock(6, resample=resample, first=kind == "first")
    values = tf.constant(normal(2, 4, 6, channels))
    block(values)
    for variable in block.trainable_variables:
        variable.assign(normal(*variable.shape))
    one, two = block.convolutions
    assert tuple(one.kernel.shape[2:]) == (channels, 6 if kind in ("up", "first") else channels)
    enter = {
        "up": lambda: enlarged(tf.nn.relu(values)),
        "first": lambda: values,
    }.get(kind, lambda: tf.nn.relu(values))()
    residual = convolve(tf.nn.relu(convolve(enter, one)), two)
    if resample == "down":
        residual = pooled(residual)
    shortcut = {
        "up": lambda: convolve(enlarged(values), block.shortcut),
        "down": lambda: pooled(convolve(values, block.shortcut)),
        "first": lambda: convolve(pooled(values), block.shortcut),
        "plain": lambda: values,
        "wider": lambda: convolve(values, block.shortcut),
    }[kind]()
    np.testing.assert_allclose(block(values), residual + shortcut, rtol=1e-3, atol=1e-3)
    if kind == "plain":
        assert block.shortcut is None


CONVOLUTION = 9 * 128 * 128 + 128
CRITIC = (
    (9 * 3 * 128 + 128) + CONVOLUTION + (3 * 128 + 128)  # the picture's block
    + 2 * CONVOLUTION + (128 * 128 + 128)  # the one that halves again
    + 4 * CONVOLUTION  # two more
    + 128 + 1
)  # fmt: skip


def test_sngan_discriminator_is_the_papers():
    """Miyato et al. 2018, table 4 (b)."""
    net = nets.ResidualDiscriminator((32, 32, 3), width=128, pooling="sum", spectral_norm=True)
    images = tf.constant(normal(2, 32, 32, 3))
    net(images)
    assert count(net) == CRITIC == 1_053_825
    shapes = outputs_of(net.blocks, lambda: net(images))
    assert shapes == [(16, 16, 128), (8, 8, 128), (8, 8, 128), (8, 8, 128)]
    # Every convolution and the logit, shortcuts too.
    assert len(net.non_trainable_variables) == 3 + 3 + 2 + 2 + 1
    assert {variable.name for variable in net.non_trainable_variables} == {"singular_vector"}


def test_sngan_generator_is_the_papers_without_the_biases_before_batch_norm():
    """Table 4 (a)."""
    net = nets.ResidualGenerator((32, 32, 3), width=256)
    latents = tf.constant(normal(1, 128))
    net(latents)
    block = 2 * 9 * 256 * 256 + 256 * 256 + 2 * 2 * 256
    table = (128 * 4096 + 4096) + 3 * block + 2 * 256 + (9 * 256 * 3 + 3)
    assert count(net) == table == 4_274_435
    assert table + 3 * 3 * 256 == 4_276_739  # with the authors' biases
    shapes = outputs_of(net.blocks, lambda: net(latents))
    assert shapes == [(8, 8, 256), (16, 16, 256), (32, 32, 256)]


def test_wgan_gp_critic_is_the_papers_with_pooling_by_the_mean():
    """Gulrajani et al. 2017, appendix F: the same table; sum and mean differ by the 64 pixels."""
    net = nets.ResidualDiscriminator((32, 32, 3), width=128)
    summed = nets.ResidualDiscriminator((32, 32, 3), width=128, pooling="sum")
    images = tf.constant(normal(2, 32, 32, 3))
    net(images), summed(images)
    assert count(net) == CRITIC
    for mine, other in zip(net.trainable_variables, summed.trainable_variables, strict=True):
        other.assign(mine)
    by_mean, by_sum = net(images).logits, summed(images).logits
    np.testing.assert_allclose(by_sum, 64 * by_mean.numpy(), rtol=1e-4)  # biases start at 0


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_a_discriminator_without_batch_norm_takes_each_picture_alone(norm):
    net, images = discriminator(16, 1, width=4, norm=norm)
    together = net(images, training=True).logits.numpy()
    alone = np.concatenate([net(images[i : i + 1], training=True).logits for i in range(2)])
    assert np.allclose(together, alone, rtol=1e-3, atol=1e-7) == (norm != "batch")
    biases = [convolution.use_bias for convolution in net.convolutions]
    assert biases == [False, norm == "none"]
