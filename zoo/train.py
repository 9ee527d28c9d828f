"""`python -m zoo.train --model=NAME`: trains a model, or resumes its run."""

import contextlib
import logging
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping

from zoo import flags
from zoo.data import source
from zoo.errors import UsageError
from zoo.progress import Progress
from zoo.rundir import Run

_PERIODIC_EXAMPLES = 2000
_THOROUGH_EXAMPLES = 1000
_PROJECTOR_EXAMPLES = 1000

_READING = """
| tab | what to look for |
|---|---|
| Scalars | train and eval curves of the same name should fall together; eval above train and rising: overfitting |
| Images | `samples*`: the same seeds at every step; `reconstructions`: original, then what the model makes of it; `walk`: from latent to latent |
| Projector | encoded held-out images, coloured by class |
| HParams | runs under one log directory side by side |
"""  # noqa: E501


def main(argv: list[str]) -> int:
    """Trains as the flags say; returns the exit code."""
    if flags.wants_help(argv):
        print(flags.training_help(argv))
        return 0
    logging.basicConfig(format="%(message)s")
    logging.getLogger("zoo").setLevel(logging.INFO)
    settings = flags.parse_training(argv)
    data = source.load(settings.run.dataset, settings.run.image_size)
    run = Run.lock(
        settings.run.run_dir,
        settings.recorded(),
        may_change=flags.MAY_CHANGE,
        overwrite=settings.run.overwrite,
    )
    with contextlib.closing(run):
        print(f"{settings.run.model} on {data.name}, run directory {run.path}", flush=True)
        examples = {split: _arrays(data, split) for split in ("train", "test")}
        return _train(settings, data, examples, run)


def _arrays(data: source.Source, split: str):
    progress = None

    def show(done: int, total: int) -> None:
        nonlocal progress
        progress = progress or Progress(f"Drawing {data.name} ({split})", total, unit="image")
        progress.update(done)

    arrays = data.arrays(split, on_progress=show)
    if progress:
        progress.close()
    return arrays


def _train(settings: flags.Settings, data: source.Source, examples: Mapping, run: Run) -> int:
    from zoo import runtime

    tf = runtime.import_tensorflow()
    from zoo import hooks, restore
    from zoo.checkpoints import BrokenCheckpoints, Checkpoints
    from zoo.data import pipeline
    from zoo.loop import Every, Loop, NonFiniteError

    options = settings.run
    model = restore.build_model(settings, data.image_shape, data.class_names)
    with _writing(run, tf.errors.OpError):
        run.record(
            settings.recorded(),
            {"image_shape": data.image_shape, "class_names": data.class_names},
            overwrite=options.overwrite,
        )
        checkpoints = Checkpoints(model.checkpoint(), run.checkpoints)
        checkpoints.remove_partial()
        try:
            restored = checkpoints.restore()
        except BrokenCheckpoints as error:
            raise UsageError(f"{error}; start anew with --overwrite") from error
        start = int(model.step.numpy())
        print(
            f"Resuming from step {start}"
            if restored
            else f"{model.count_params():,} parameters, {len(examples['train']['image']):,} examples",
            flush=True,
        )
        if start > options.total_steps:
            raise UsageError(
                f"{run.path} is at step {start} already: expected --total_steps={start} or more"
            )
        if not restored:
            checkpoints.save(0)
        writers = {
            split: tf.summary.create_file_writer(str(run.path / split))
            for split in ("train", "eval")
        }
        with writers["train"].as_default(step=start):
            table = "".join(f"| {k} | {v} |\n" for k, v in settings.recorded().items())
            tf.summary.text("flags", f"| flag | value |\n|---|---|\n{table}")
            tf.summary.text("reading", _READING)
        held_out = {name: values[:_PERIODIC_EXAMPLES] for name, values in examples["test"].items()}
        sheets = hooks.Sheets(
            writers["train"], run.samples, {k: v[:64] for k, v in held_out.items()}
        )
        evaluate = hooks.Evaluate(writers["eval"], held_out)
        progress = Progress(options.model, options.total_steps, start)
        scalars = hooks.Scalars(writers["train"], options.batch_size)

        def on_block(block) -> None:
            scalars(block)
            progress.update(block.step, block.scalars)

        loop = Loop(
            model,
            lambda step, context: pipeline.batches(
                examples["train"],
                options.batch_size,
                seed=options.seed,
                start_step=step,
                context=context,
            ),
            total_steps=options.total_steps,
            steps_per_loop=options.steps_per_loop,
            checkpoints=checkpoints,
            checkpoint_every=options.checkpoint_every,
            hooks=[Every(options.sample_every, sheets), Every(options.eval_every, evaluate)],
            on_block=on_block,
            jit_compile=options.jit_compile,
        )
        try:
            with _stopping(loop, progress) as signals:
                step = loop.train()
        except NonFiniteError as error:
            progress.close()
            print(
                f"error: {error}; the checkpoints in {run.checkpoints} are good: resume with a "
                "lower --learning_rate in another --run_dir, or from another --seed",
                file=sys.stderr,
            )
            return 1
        progress.close()
        for writer in writers.values():
            writer.flush()
        if signals:
            again = f"python -m zoo.train --flagfile={run.path}/flags.txt --run_dir={run.path}"
            print(f"Stopped at step {step}, all saved. To go on: {again}")
            return 128 + signals[0]
        done = run.read_json("metrics.json")
        if not done or done["step"] != step:
            _finish(settings, data, examples["test"], run, model)
        _report(run, step)
    return 0


def _finish(settings, data: source.Source, test: Mapping, run: Run, model) -> None:
    """The measures on the whole test split, the projector and the HParams entry."""
    from zoo import hooks

    print("Evaluating on the test split", flush=True)
    step = int(model.step.numpy())
    few = {name: values[:_THOROUGH_EXAMPLES] for name, values in test.items()}
    measures = hooks.means(model, model.evaluate_batch, test)
    thorough = hooks.means(model, model.thorough_measures, few)
    shown = test["image"][:_PROJECTOR_EXAMPLES]
    hooks.write_projector(
        run.path / "train", model, shown, test["label"][: len(shown)], data.class_names
    )
    hooks.write_hparams(run.path / "eval", settings.recorded())
    run.write_json(
        "metrics.json",
        {
            "step": step,
            "split": "test",
            "examples": len(test["image"]),
            "measures": measures,
            "thorough_examples": len(few["image"]),
            "thorough_measures": thorough,
        },
    )


def _report(run: Run, step: int) -> None:
    metrics = run.read_json("metrics.json")
    values = {**metrics["measures"], **metrics["thorough_measures"]}
    print(f"Step {step}, test split: " + ", ".join(f"{k} {v:.2f}" for k, v in values.items()))
    for path in sorted(run.samples.glob(f"step-{step:08d}-*.png")):
        print(f"Pictures: {path}")
    print(f"More pictures: python -m zoo.sample --run_dir={shlex.quote(str(run.path))}")
    print(f"Curves: tensorboard --logdir={shlex.quote(str(run.path.parent))}")


@contextlib.contextmanager
def _stopping(loop, progress: Progress) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end the loop after its block; a second one ends it at once."""
    received: list[int] = []

    def stop(number: int, frame) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        loop.stop_requested = True
        progress.say("Stopping after this block; once more to stop at once without saving")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _writing(run: Run, op_error: type[Exception]) -> Iterator[None]:
    """Turns a full or vanished disk into one line; other errors pass."""
    try:
        yield
    except (OSError, op_error) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        known = ("No space left", "File too large", "Read-only", "quota", "Input/output error")
        if not any(text in reason for text in known):
            raise
        raise UsageError(
            f"cannot write to {run.path}: {reason}; what was saved before is kept: make room, "
            "then run the same command again"
        ) from error


if __name__ == "__main__":
    flags.run_command(main)
