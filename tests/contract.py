"""What every model must pass, at its TINY config; a new model needs nothing here."""

import dataclasses
import functools
import itertools
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import keras
import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

import zoo.models  # noqa: E402
from export import savedmodel  # noqa: E402
from zoo.checkpoints import Checkpoints  # noqa: E402
from zoo.data import glyphs, pipeline  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import GenerativeModel, Noise, row_seeds, sample_images  # noqa: E402
from zoo.layers import BatchNormalization  # noqa: E402
from zoo.loop import Loop  # noqa: E402

SIZE = 8
BATCH = 6
BLOCKS = (1, 1, 4)
TOTAL = sum(BLOCKS)

pytestmark = pytest.mark.parametrize("name", zoo.models.names())


def examples(channels: int = 1, count: int = 40) -> dict[str, np.ndarray]:
    """Every key that any model reads; the style pictures are as many as the others, or fewer."""
    images, labels = glyphs.draw(range(count), image_size=SIZE)
    images = images.repeat(channels, axis=-1)
    styles = images[::-1].transpose(0, 2, 1, 3)
    return {"image": images, "label": labels, "style": styles, "style_label": labels[::-1]}


def build(
    name: str, *, num_classes: int = 10, total_steps: int = TOTAL, channels: int | None = None
):
    module = zoo.models.load(name)
    channels = channels or channels_of(name)  # may build one itself: before the seed is set
    keras.utils.set_random_seed(7)
    model = module.build(
        module.TINY,
        image_shape=(SIZE, SIZE, channels),
        num_classes=num_classes,
        total_steps=total_steps,
        seed=7,
    )
    model.prepare()
    return model


@functools.cache
def channels_of(name: str) -> int:
    """1, or 3 for a model that refuses grey pictures in one clear line."""
    try:
        build(name, channels=1)
    except UsageError as error:
        assert re.search(r"colour pictures, these have 1 channel: .*--", str(error))
        return 3
    return 1


def make_loop(model, *, batch_size: int = BATCH, total_steps: int = TOTAL, **options) -> Loop:
    data = examples(model.image_shape[-1])
    data["label"] %= max(model.num_classes, 1)
    data["style_label"] %= max(model.num_classes, 1)
    return Loop(
        model,
        lambda step, context: pipeline.batches(
            data, batch_size * model.batches_per_step, seed=7, start_step=step, context=context
        ),
        total_steps=total_steps,
        **options,
    )


def state(model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.state()]


class Trained(NamedTuple):
    model: GenerativeModel
    scalars: list[dict[str, float]]
    """Of each block."""
    state: list[np.ndarray]


@functools.cache
def trained(name: str) -> Trained:
    """A model after its first TOTAL steps, done in BLOCKS; to be read only."""
    model = build(name)
    loop = make_loop(model)
    scalars = [loop.run_block(steps).scalars for steps in BLOCKS]
    return Trained(model, scalars, state(model))


def assert_equal_states(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def let_rest(model, objective: str) -> None:
    """No objective but this one moves its variables."""
    for other, variables in model.objective_variables().items():
        if other != objective:
            model.optimizers[other] = keras.optimizers.SGD(0.0)
            model.optimizers[other].build(variables)


def batch_of(model, count: int) -> dict[str, tf.Tensor]:
    data = examples(model.image_shape[-1], count)
    return {name: tf.constant(values) for name, values in data.items()}


def has_batch_statistics(model) -> bool:
    return any(isinstance(layer, BatchNormalization) for layer in model._flatten_layers())


REPLICAS = """
import pathlib, sys, traceback, numpy as np, tensorflow as tf
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, sys.argv[1])
from zoo import runtime
runtime.import_tensorflow()
import contract
from zoo.devices import Devices
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
out = pathlib.Path(sys.argv[2])
for name in sys.argv[3:]:
    try:
        with strategy.scope():
            model = contract.build(name)
        loop = contract.make_loop(model, devices=Devices(strategy))
        blocks = [loop.run_block(steps).scalars for steps in contract.BLOCKS]
        scalars = [list(block.values()) for block in blocks]
        np.savez(out / f"{name}.npz", *contract.state(model), scalars=scalars)
    except Exception:
        (out / f"{name}.txt").write_text(traceback.format_exc())
"""


@pytest.fixture(scope="module")
def on_two_replicas(tmp_path_factory):
    """A directory: for each model what two replicas computed, or the error that they met.

    Its test is the file's first: the last ones may be shared out among pytest's processes.
    """
    out = tmp_path_factory.mktemp("replicas")
    here = str(pathlib.Path(__file__).parent)
    command = [sys.executable, "-c", REPLICAS, here, str(out), *zoo.models.names()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.mark.slow
def test_two_replicas_equal_one(name, on_two_replicas):
    """Models with batch statistics are in step when those are synchronised."""
    error = on_two_replicas / f"{name}.txt"
    assert not error.exists(), error.read_text()
    one_replica = trained(name)
    with np.load(on_two_replicas / f"{name}.npz") as arrays:
        assert len(arrays) == len(one_replica.state) + 1
        scalars = [list(block.values()) for block in one_replica.scalars]
        np.testing.assert_allclose(scalars, arrays["scalars"], rtol=1e-5)
        # Instance normalisation of 2x2 places, and losses with a kink, make much of rounding
        # errors: the scalars above agree, the weights by half a step.
        tolerance = 1e-6 if one_replica.model.draws else 1e-3
        for index, one in enumerate(one_replica.state):
            np.testing.assert_allclose(one, arrays[f"arr_{index}"], rtol=1e-4, atol=tolerance)


def test_config_is_a_dataclass_whose_fields_all_have_help(name):
    module = zoo.models.load(name)
    fields = zoo.models.config_fields(name)
    assert [field.name for field in fields] == [f.name for f in dataclasses.fields(module.Config)]
    assert all(field.help for field in fields)
    assert module.Config() == module.Config(**{field.name: field.default for field in fields})
    assert set(module.DEFAULTS) - {"image_size"} == {"dataset", "batch_size", "total_steps"}
    assert zoo.models.names()[name]


def test_state_holds_every_variable_once(name):
    model = build(name)
    variables = [v for optimizer in model.optimizers.values() for v in optimizer.variables]
    variables += model.variables
    assert len(model.state()) == len({id(v) for v in variables}) + 2
    assert model.count_params() == sum(v.numpy().size for v in model.weights)


def test_samples_are_images_and_follow_their_seed_alone(name):
    model = trained(name).model
    if not model.draws:
        pytest.skip("it draws nothing from seeds")
    seeds = row_seeds(3, 5)
    images = model.sample(tf.constant(seeds)).numpy()
    assert images.shape == (5, SIZE, SIZE, 1)
    assert images.dtype == np.float32
    assert np.isfinite(images).all()
    assert images.min() >= 0
    assert images.max() <= 1
    for row in range(5):
        alone = model.sample(tf.constant(seeds[row : row + 1])).numpy()
        np.testing.assert_allclose(alone[0], images[row], atol=1e-5)
    assert np.abs(images[0] - images[1]).max() > 1e-5
    many, few = sample_images(model, row_seeds(3, 70)), sample_images(model, row_seeds(3, 2))
    np.testing.assert_array_equal(many[:2], few)
    np.testing.assert_allclose(many[:5] / 255, images, atol=0.5 / 255 + 1e-5)
    assert_equal_states(trained(name).state, state(model))


def test_scalars_are_the_declared_ones(name):
    model = build(name)
    scalars = model.train_step(batch_of(model, BATCH * model.batches_per_step))
    assert set(scalars) == set(model.scalar_names)
    assert all(np.isfinite(value.numpy()) and value.shape == () for value in scalars.values())
    assert int(model.step.numpy()) == 1


def test_losses_are_per_example_or_scalar(name):
    model = build(name)
    losses = model.compute_losses(batch_of(model, 5), Noise(0, tf.constant(0), 5), training=True)
    assert set(losses.objectives) == set(model.objective_variables())
    for value in itertools.chain(losses.objectives.values(), losses.reports.values()):
        assert value.dtype == tf.float32
        assert tuple(value.shape) in ((5,), ())


def test_each_objective_alone_falls_on_one_repeated_batch_and_moves_its_own_variables(name):
    data = examples(channels_of(name), BATCH)
    variables = build(name).objective_variables()
    owned = [id(v) for group in variables.values() for v in group]
    assert len(owned) == len(set(owned))
    for objective in variables:
        model = build(name, total_steps=150)
        before = {id(v): v.numpy() for v in model.trainable_variables}
        let_rest(model, objective)
        loop = Loop(
            model,
            lambda step, context, size=BATCH * model.batches_per_step: pipeline.batches(data, size),
            total_steps=150,
        )
        first = loop.run_block(5).scalars
        own = {id(v) for v in model.objective_variables()[objective]}
        moved = {id(v) for v in model.trainable_variables if (v.numpy() != before[id(v)]).any()}
        # A bias behind a batch normalisation has no gradient: own variables may rest.
        assert moved
        assert moved <= own
        loop.run_block(140)
        last = loop.run_block(5).scalars
        assert last[objective] < first[objective]


def test_blocks_do_not_change_the_weights_and_share_one_trace(name):
    model = build(name)
    loop = make_loop(model)
    for steps in (3, 1, 2):
        loop.run_block(steps)
    assert_equal_states(trained(name).state, state(model))
    assert loop._block.experimental_get_tracing_count() == 1


def test_resumed_equals_uninterrupted_bit_for_bit(name, tmp_path):
    model = build(name)
    make_loop(model).run_block(3)
    Checkpoints(model.checkpoint(), tmp_path).save(3)
    resumed = build(name)
    for variable in resumed.state():
        variable.assign(tf.ones_like(variable))
    assert Checkpoints(resumed.checkpoint(), tmp_path).restore()
    assert_equal_states(state(model), state(resumed))
    make_loop(resumed).train()
    assert_equal_states(trained(name).state, state(resumed))


def test_fit_equals_the_loop_bit_for_bit(name):
    looped, fitted = trained(name).state, build(name)
    history = fitted.fit(
        pipeline.batches(examples(channels_of(name)), BATCH * fitted.batches_per_step, seed=7),
        steps_per_epoch=3,
        epochs=2,
        verbose=0,
        shuffle=False,
    )
    assert set(history.history) == set(fitted.scalar_names)
    if getattr(fitted.config, "gradient_penalty", 0):
        # fit() now and then gives other last bits of a second derivative (experiments/LOG.md),
        # which Adam may turn into whole steps.
        for one, other in zip(looped, state(fitted), strict=True):
            np.testing.assert_allclose(one, other, atol=2 * TOTAL * fitted.config.learning_rate)
        return
    assert_equal_states(looped, state(fitted))


def test_keras_evaluate_reports_the_evaluation_measures(name):
    model = trained(name).model
    data = pipeline.batches(examples(channels_of(name)), BATCH, seed=7).take(3)
    report = model.evaluate(data, verbose=0, return_dict=True)
    assert set(report) == set(model.evaluation_names)
    measures = [
        model.evaluate_batch(batch, Noise(model.seed, tf.constant(number * BATCH), BATCH))
        for number, batch in enumerate(data)
    ]
    for measure, value in report.items():
        assert value == pytest.approx(np.mean([batch[measure] for batch in measures]), rel=1e-5)
    assert_equal_states(trained(name).state, state(model))


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_of_one_and_odd_ones_train(name, batch_size):
    model = build(name)
    scalars = model.train_step(batch_of(model, batch_size * model.batches_per_step))
    assert np.isfinite([value.numpy() for value in scalars.values()]).all()
    assert all(np.isfinite(variable.numpy()).all() for variable in model.variables)


def build_or_refuse(name: str, **options):
    """The model; None if it needs what these data lack, and refuses them in one clear line."""
    usual = build(name)
    if not usual.draws and not options["num_classes"]:
        refusal = r"no style to learn: .*--"
    elif usual.image_shape[-1] > options.get("channels", 3):
        refusal = r"colour pictures, these have 1 channel: .*--"
    elif usual.conditional and not options["num_classes"]:
        refusal = r"learns from labels, and this data set has none: .*--"
    else:
        return build(name, **options)
    with pytest.raises(UsageError, match=refusal):
        build(name, **options)
    return None


@pytest.mark.parametrize(("channels", "num_classes"), [(3, 1), (1, 0)])
def test_colour_one_class_and_unlabelled_data_train(name, channels, num_classes):
    model = build_or_refuse(name, channels=channels, num_classes=num_classes)
    if model is None:
        return
    data = examples(channels)
    if num_classes:
        data["label"] %= num_classes
    else:
        del data["label"]
    batch = next(iter(pipeline.batches(data, BATCH * model.batches_per_step)))
    scalars = model.train_step(batch)
    assert np.isfinite([value.numpy() for value in scalars.values()]).all()
    if model.draws:
        assert model.sample(tf.constant(row_seeds(0, 2))).shape == (2, SIZE, SIZE, channels)


@pytest.mark.slow
def test_xla_computes_the_same(name):
    loop = make_loop(build(name), jit_compile=True)
    # Adam divides by the gradient's size: rounding of a gradient near 0 moves its weight at once.
    for plain, tolerance in zip(trained(name).scalars[:2], (1e-5, 1e-2), strict=True):
        compiled = loop.run_block(1).scalars
        for scalar, value in plain.items():
            assert compiled[scalar] == pytest.approx(value, rel=tolerance), scalar


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_and_keeps_float32_weights(name, precision):
    keras.config.set_dtype_policy(f"mixed_{precision}")
    try:
        model = build(name)
        first = model.train_step(batch_of(model, BATCH * model.batches_per_step))
        sheets = model.sheets(batch_of(model, 40))
    finally:
        keras.config.set_dtype_policy("float32")
    assert set(first) == set(model.scalar_names)
    assert np.isfinite([value.numpy() for value in first.values()]).all()
    assert all(np.asarray(sheet.images).dtype == np.float32 for sheet in sheets.values())
    assert all(v.dtype == "float32" for v in model.trainable_variables)
    plain = trained(name).scalars[0]
    for objective in model.objective_variables():
        assert float(first[objective]) == pytest.approx(plain[objective], rel=0.05, abs=0.05)


def test_parts_of_a_batch_have_the_gradients_of_the_whole(name):
    model = build(name)
    batch, noise = batch_of(model, BATCH), Noise(7, tf.constant(0), BATCH)
    names = tuple(model.objective_variables())
    whole, scalars = model._gradients(batch, noise, names)
    model = build(name)  # batch normalization has moved its averages
    model.accumulate_steps = 3
    parts, same = model._gradients(batch, noise, names)
    assert same.keys() == scalars.keys()
    if has_batch_statistics(model):
        assert np.isfinite([value.numpy() for value in same.values()]).all()
        return
    for scalar, value in scalars.items():
        assert float(same[scalar]) == pytest.approx(float(value), rel=1e-5), scalar
    for objective in names:
        one, other = tf.linalg.global_norm(whole[objective]), 0.0
        for first, second in zip(whole[objective], parts[objective], strict=True):
            assert (first is None) == (second is None)
            other += 0.0 if first is None else float(tf.reduce_sum((first - second) ** 2))
        assert other**0.5 <= 1e-4 * float(one)


def test_sheets_are_images(name):
    model = build(name)
    for sheet in model.sheets(batch_of(model, 40)).values():
        images = np.asarray(sheet.images)
        assert images.shape[1:] == model.image_shape
        assert images.min() >= 0
        assert images.max() <= 1
        assert sheet.columns > 0


def test_endpoints_without_classes_reload_without_zoo_and_agree(name, tmp_path):
    """Those with classes: tests/test_serving.py."""
    model = build_or_refuse(name, num_classes=0)
    if model is None:
        return
    make_loop(model).run_block(2)
    path = savedmodel.write(model, tmp_path)  # RuntimeError if they do not agree
    assert path == tmp_path / "1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]
