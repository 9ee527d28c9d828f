"""From a run directory to its model: what sampling, export and evaluation share."""

import os
from collections.abc import Callable
from typing import NamedTuple

import keras

import zoo.models
from zoo.checkpoints import Best, BrokenCheckpoints, Checkpoints
from zoo.errors import UsageError
from zoo.flags import Settings, read_recorded
from zoo.generative import GenerativeModel
from zoo.layers import BatchNormalization
from zoo.rundir import Run


class Restored(NamedTuple):
    """A run's model with the weights of one of its checkpoints."""

    model: GenerativeModel
    settings: Settings
    class_names: tuple[str, ...]
    checkpoint: str
    run_dir: str | os.PathLike


def build_model(
    settings: Settings, image_shape: tuple[int, int, int], class_names: tuple[str, ...]
) -> GenerativeModel:
    """The model that a run's settings describe, with fresh weights from its seed."""
    run = settings.run
    module = zoo.models.load(run.model)
    keras.utils.set_random_seed(run.seed)
    keras.config.set_dtype_policy(
        "float32" if run.precision == "float32" else f"mixed_{run.precision}"
    )
    model = module.build(
        module.Config(**settings.config),
        image_shape=tuple(image_shape),
        num_classes=len(class_names),
        total_steps=run.total_steps,
        seed=run.seed,
    )
    model.accumulate_steps = run.accumulate_steps
    for layer in model._flatten_layers():
        if isinstance(layer, BatchNormalization):
            layer.synchronized = run.sync_batch_norm
    return model


def restore(
    run_dir: str | os.PathLike, checkpoint: str = "best", say: Callable[[str], None] = print
) -> Restored:
    """The model of a run directory; UsageError if it is none or has no readable checkpoint.

    checkpoint: "best", "last" for the newest, or a step. Where there is no best, or it is damaged,
    the last is taken and `say` is told; where there is none of that step, UsageError.
    """
    run = Run.open(run_dir)
    settings = read_recorded(run.flags())
    data = run.read_json("data.json")
    if data is None:
        raise UsageError(f"{run_dir} has no data.json: its training never began; train it first")
    model = build_model(settings, data["image_shape"], tuple(data["class_names"]))
    state = model.checkpoint()
    best, all_of_them = Best(state, run.best), Checkpoints(state, run.checkpoints)
    path = None
    try:
        if checkpoint.isdecimal():
            path = _restore_step(int(checkpoint), best, all_of_them, say)
        else:
            if checkpoint == "best":
                path = best.restore(lambda line: say(f"{line}: taking the last"))
            path = path or all_of_them.restore(say)
    except BrokenCheckpoints as error:
        raise UsageError(str(error)) from error
    if path is None:
        raise UsageError(f"{run_dir} has no checkpoint yet: let it train a while first")
    return Restored(model, settings, tuple(data["class_names"]), path, run_dir)


def _restore_step(
    step: int, best: Best, checkpoints: Checkpoints, say: Callable[[str], None]
) -> str | None:
    record, steps = best.record(), checkpoints.steps()
    if step in steps:
        return checkpoints.restore_step(step)
    if record and record["step"] == step:
        return best.restore(say)
    kept = [*map(str, steps), *([f"{record['step']} (the best)"] if record else [])]
    raise UsageError(
        f"--checkpoint={step}: no checkpoint of that step is kept; there are: "
        f"{', '.join(kept) or 'none'}"
    )
