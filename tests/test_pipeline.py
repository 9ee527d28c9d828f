"""Batches: an order that is a permutation an epoch, and a function of (seed, step) alone."""

import gc

import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo.data import cache, pipeline  # noqa: E402


def numbered(count):
    labels = np.arange(count, dtype=np.int32)
    return {"image": labels.astype(np.uint8).reshape(-1, 1, 1, 1), "label": labels}


def labels_of(dataset, steps):
    return [batch["label"].numpy().tolist() for batch in dataset.take(steps)]


def test_an_epoch_is_a_permutation_and_the_next_another():
    drawn = sum(labels_of(pipeline.batches(numbered(100), 10, seed=1), 20), [])
    assert sorted(drawn[:100]) == sorted(drawn[100:]) == list(range(100))
    assert drawn[:100] != drawn[100:]
    assert drawn[:100] != list(range(100))


def test_arrays_of_the_cache_are_not_copied_and_kept_alive(tmp_path):
    examples = numbered(100)
    expected = labels_of(pipeline.batches(examples, 10, seed=1), 20)
    kept = cache.cached("set", lambda: [examples], 100, tmp_path)
    dataset = pipeline.batches(kept, 10, seed=1)
    assert labels_of(dataset, 20) == expected
    kept["label"] += 1000
    del kept
    gc.collect()
    assert labels_of(dataset, 20) == [[label + 1000 for label in batch] for batch in expected]


def test_batches_cross_the_ends_of_epochs():
    drawn = sum(labels_of(pipeline.batches(numbered(7), 5, seed=1), 7), [])
    for epoch in range(5):
        assert sorted(drawn[7 * epoch : 7 * (epoch + 1)]) == list(range(7))


def test_any_step_is_reached_at_once():
    whole = labels_of(pipeline.batches(numbered(50), 8, seed=3), 30)
    assert labels_of(pipeline.batches(numbered(50), 8, seed=3, start_step=17), 13) == whole[17:]


def test_the_seed_changes_the_order():
    one = labels_of(pipeline.batches(numbered(50), 50, seed=1), 1)
    assert one != labels_of(pipeline.batches(numbered(50), 50, seed=2), 1)
    assert one == labels_of(pipeline.batches(numbered(50), 50, seed=1), 1)


def test_the_order_is_not_the_one_of_a_neighbouring_epoch_or_seed():
    """Correlation of positions between permutations is that of independent ones."""
    orders = [
        np.ravel(labels_of(pipeline.batches(numbered(1000), 1000, seed=seed), 2))
        for seed in range(4)
    ]
    orders = [order[half] for order in orders for half in (slice(1000), slice(1000, None))]
    correlations = np.corrcoef(orders)[np.triu_indices(8, 1)]
    assert np.abs(correlations).max() < 0.15


def test_images_belong_to_their_labels_and_stay_uint8():
    batch = next(iter(pipeline.batches(numbered(200), 16)))
    assert batch["image"].dtype == tf.uint8
    assert batch["image"].shape == (16, 1, 1, 1)
    np.testing.assert_array_equal(batch["image"].numpy().ravel(), batch["label"].numpy())


@pytest.mark.parametrize(("pipelines", "replicas"), [(1, 2), (2, 4), (4, 4)])
def test_the_shares_of_all_replicas_are_the_batch_of_one(pipelines, replicas):
    whole = labels_of(pipeline.batches(numbered(40), 8, seed=5, start_step=2), 3)
    per_pipeline = replicas // pipelines
    shares = {}
    for number in range(pipelines):
        context = tf.distribute.InputContext(pipelines, number, replicas)
        parts = labels_of(
            pipeline.batches(numbered(40), 8, seed=5, start_step=2, context=context),
            3 * per_pipeline,
        )
        for position, part in enumerate(parts):
            replica = number * per_pipeline + position % per_pipeline
            shares[position // per_pipeline, replica] = part
    for step in range(3):
        joined = sum((shares[step, replica] for replica in range(replicas)), [])
        assert joined == whole[step]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="9 does not divide by 2 replicas"):
        pipeline.batches(numbered(40), 9, context=tf.distribute.InputContext(1, 0, 2))


@pytest.mark.parametrize(("pipelines", "replicas"), [(1, 1), (2, 2)])
def test_hosts_read_no_example_twice_and_leave_none_out(pipelines, replicas):
    drawn = []
    for number in range(pipelines):
        context = tf.distribute.InputContext(pipelines, number, replicas)
        drawn += sum(labels_of(pipeline.batches(numbered(40), 8, seed=5, context=context), 5), [])
    assert sorted(drawn) == list(range(40))


def test_rows_of_a_file_are_those_in_memory(tmp_path):
    examples = pictures(30)
    path = tmp_path / "image.npy"
    np.save(path, examples["image"])
    mapped = {**examples, "image": np.load(path, mmap_mode="r")}
    assert isinstance(mapped["image"], np.memmap)
    for start in (0, 13):
        pairs = zip(
            pipeline.batches(examples, 7, seed=2, start_step=start).take(9),
            pipeline.batches(mapped, 7, seed=2, start_step=start).take(9),
            strict=True,
        )
        for memory, disk in pairs:
            assert disk["image"].shape == (7, 12, 12, 3) and disk["image"].dtype == tf.uint8
            for name in memory:
                np.testing.assert_array_equal(memory[name], disk[name])


# Augmentation.


def pictures(count, size=12):
    images = np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return {"image": images, "label": np.arange(count, dtype=np.int32)}


def rows(examples, batch_size, count, **options):
    """The first `count` rows of a run: every array by name."""
    batches = list(
        pipeline.batches(examples, batch_size, seed=3, **options).take(-(-count // batch_size))
    )
    return {n: np.concatenate([b[n].numpy() for b in batches])[:count] for n in batches[0]}


EVERYTHING = ("crop", "flip", "color")


def test_augmentation_depends_on_the_position_in_the_run_alone():
    examples = pictures(10)
    whole = rows(examples, 8, 48, augment=EVERYTHING)
    assert whole["image"].dtype == np.uint8
    for batch_size in (3, 16):
        other = rows(examples, batch_size, 48, augment=EVERYTHING)
        np.testing.assert_array_equal(whole["image"], other["image"])
    late = rows(examples, 8, 16, augment=EVERYTHING, start_step=4)
    np.testing.assert_array_equal(whole["image"][32:], late["image"])
    shares = [
        [
            batch["image"]
            for batch in pipeline.batches(
                examples, 8, seed=3, augment=EVERYTHING, context=tf.distribute.InputContext(2, n, 2)
            ).take(6)
        ]
        for n in range(2)
    ]
    joined = np.concatenate([image for both in zip(*shares, strict=True) for image in both])
    np.testing.assert_array_equal(whole["image"], joined)


def test_the_order_and_the_labels_are_the_same_with_and_without():
    examples = pictures(10)
    plain, changed = rows(examples, 8, 40), rows(examples, 8, 40, augment=EVERYTHING)
    np.testing.assert_array_equal(plain["label"], changed["label"])
    different = (plain["image"] != changed["image"]).any(axis=(1, 2, 3))
    assert different.all()
    # An example is changed anew each time that it comes.
    first, *_, last = np.flatnonzero(changed["label"] == 3)
    assert (changed["image"][first] != changed["image"][last]).any()


def test_flip_mirrors_one_in_two():
    examples = pictures(50)
    plain, flipped = rows(examples, 50, 2000), rows(examples, 50, 2000, augment=("flip",))
    same = (plain["image"] == flipped["image"]).all(axis=(1, 2, 3))
    mirrored = (plain["image"][:, :, ::-1] == flipped["image"]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.045  # four standard deviations


def test_crop_is_a_part_as_large_as_before():
    # Red runs down, green to the right: colours tell the place.
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(9)), axis=-1)
    examples = {"image": np.repeat(image[None], 4, axis=0), "label": np.zeros(4, np.int32)}
    cut = rows(examples, 50, 500, augment=("crop",))["image"].astype(float)
    assert cut.shape == (500, 64, 64, 3)
    tops, lefts = cut[:, 0, 0, 0] / 255, cut[:, 0, 0, 1] / 255
    heights, widths = cut[:, -1, 0, 0] / 255 - tops, cut[:, 0, -1, 1] / 255 - lefts
    np.testing.assert_allclose(heights, widths, atol=0.01)
    assert heights.min() > 0.79 and 0.8 < np.quantile(heights, 0.05) < 0.82
    assert 0.88 < heights.mean() < 0.92 and heights.max() > 0.99
    assert abs(np.corrcoef(tops / (1.0001 - heights), lefts / (1.0001 - widths))[0, 1]) < 0.2
    assert (abs(cut[..., 2] - 9) < 1).all()


def test_color_changes_all_pixels_of_a_picture_alike():
    grey = np.full((20, 6, 6, 3), 128, np.uint8)
    examples = {"image": grey, "label": np.zeros(20, np.int32)}
    changed = rows(examples, 20, 1000, augment=("color",))["image"].astype(int)
    assert (changed == changed[:, :1, :1, :1]).all()
    shift = (changed[:, 0, 0, 0] - 128) / 255
    assert -0.2 <= shift.min() < -0.19 and 0.19 < shift.max() <= 0.2
    assert abs(shift.mean()) < 4 * 0.2 / np.sqrt(3 * 1000)
    # Pure red stays redder than green and blue; its saturation goes down and up.
    red = np.zeros((20, 6, 6, 3), np.uint8) + np.array([150, 75, 75], np.uint8)
    changed = rows({"image": red, "label": np.zeros(20, np.int32)}, 20, 1000, augment=("color",))
    distance = changed["image"][:, 0, 0, 0].astype(int) - changed["image"][:, 0, 0, 1]
    # Between 75 times 0.8 twice, for contrast and saturation, and 1.2 twice.
    assert 47 <= distance.min() < 56 and 98 < distance.max() <= 109


def test_the_two_of_a_pair_move_alike_and_only_the_first_changes_colour():
    examples = pictures(20)
    pairs = {**examples, "target": examples["image"]}
    moved = rows(pairs, 10, 40, augment=("crop", "flip"))
    np.testing.assert_array_equal(moved["image"], moved["target"])
    changed = rows(pairs, 10, 40, augment=EVERYTHING)
    np.testing.assert_array_equal(changed["target"], moved["target"])
    assert (changed["image"] != changed["target"]).any(axis=(1, 2, 3)).all()


def test_styles_are_not_augmented():
    examples = pictures(20)
    styled = {**examples, "style": examples["image"][:3]}
    plain, changed = rows(styled, 10, 40), rows(styled, 10, 40, augment=EVERYTHING)
    np.testing.assert_array_equal(plain["style"], changed["style"])


def test_draws_are_uniform_and_independent():
    positions = tf.concat([tf.range(20000, dtype=tf.int64), [2**31, 2**40]], axis=0)
    draws = pipeline._uniform(positions, 7, 7).numpy()
    assert draws.shape == (20002, 7) and draws.min() >= 0 and draws.max() < 1
    for column in draws.T:
        observed = np.histogram(column, bins=50, range=(0, 1))[0]
        # Chi square with 49 degrees of freedom: 100 is beyond one in 20,000.
        assert ((observed - 400.04) ** 2 / 400.04).sum() < 100
    follows = np.concatenate([draws[:-1], draws[1:]], axis=1)
    correlations = np.corrcoef(follows.T)[np.triu_indices(14, 1)]
    assert np.abs(np.delete(correlations, np.abs(correlations) > 0.999)).max() < 0.035
    assert (draws != pipeline._uniform(positions, 8, 7).numpy()).mean() > 0.999
