"""Batches of a source in an order that is a function of (seed, step), endless and shuffled.

Position p of the run (step · batch size + row) is example shuffle_e(p mod n) of epoch e = p // n;
the permutation is computed per index, so any step is reached at once, with no shuffle buffer to
save. Images stay uint8: the model converts them on its device. Arrays whose names begin with
"style" are a second collection, in an order of their own.
"""

import numpy as np
import tensorflow as tf

_NEVER = 2**62


def batches(
    examples: dict[str, np.ndarray],
    batch_size: int,
    *,
    seed: int = 0,
    start_step: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Endless dataset of {"image": [B, H, W, C] uint8, "label": [B] int32} from start_step on.

    examples: by name, of one length, and of another those whose names begin with "style";
    batch_size is global; with a distribution context each element is one replica's share, and
    the shares of all replicas together are the batch that one replica would have seen.
    """
    pipelines = context.num_input_pipelines if context else 1
    replicas = context.num_replicas_in_sync if context else 1
    first_replica = context.input_pipeline_id * (replicas // pipelines) if context else 0
    if batch_size % replicas:
        raise ValueError(
            f"batch_size {batch_size} does not divide by {replicas} replicas: "
            f"use a multiple of {replicas}"
        )
    share, per_pipeline = batch_size // replicas, replicas // pipelines
    tensors = {name: tf.constant(values) for name, values in examples.items()}
    counts = {_order(name): len(values) for name, values in examples.items()}

    def load(number: tf.Tensor) -> dict[str, tf.Tensor]:
        step, replica = number // per_pipeline, first_replica + number % per_pipeline
        positions = step * batch_size + replica * share + tf.range(share, dtype=tf.int64)
        indices = {
            order: shuffled(positions, count, seed, order) for order, count in counts.items()
        }
        return {name: tf.gather(values, indices[_order(name)]) for name, values in tensors.items()}

    numbers = tf.data.Dataset.range(start_step * per_pipeline, _NEVER)
    # Drawing a batch costs less than handing it between threads: one worker of its own, no tuning.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.map_parallelization = False
    options.threading.private_threadpool_size = 1
    return numbers.map(load).prefetch(4).with_options(options)


def _order(name: str) -> int:
    return 0x5A01 if name.startswith("style") else 0x5A00


def shuffled(positions: tf.Tensor, count: int, seed: int, order: int = 0x5A00) -> tf.Tensor:
    """positions [B] int64 of an endless run -> indices [B] int32, each epoch a permutation.

    order: a number that tells apart the orders of several collections of one run.
    """
    epoch = tf.cast(positions // count, tf.int32)
    size = tf.size(positions)
    key = tf.stack([tf.fill([size], seed), epoch, tf.fill([size], order)], axis=1)
    # The public tf.random.experimental.index_shuffle pads batched seeds wrongly.
    return tf.raw_ops.RandomIndexShuffle(
        index=tf.cast(positions % count, tf.int32), seed=key, max_index=count - 1, rounds=4
    )
