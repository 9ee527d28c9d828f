"""Batches: an order that is a permutation an epoch, and a function of (seed, step) alone."""

import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

from zoo.data import pipeline  # noqa: E402


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
