"""`python -m zoo.train --model=NAME`: trains a model, or resumes its run."""

import collections
import contextlib
import dataclasses
import hashlib
import logging
import os
import pathlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from zoo import flags
from zoo.data import source, styles
from zoo.devices import Devices, is_chief
from zoo.errors import UsageError, one_line, reason, writing
from zoo.progress import Progress
from zoo.rundir import Run

_SHOWN_EXAMPLES = 64
_PERIODIC_EXAMPLES = 2000
_FINAL_SAMPLES = 4000
_THOROUGH_EXAMPLES = 1000
_PROJECTOR_EXAMPLES = 1000
_STEPS_TO_ADD = 300
# Scales and shifts alone bear, and need, larger steps than a whole net.
_RATE_TO_ADD = 3e-2
_logger = logging.getLogger("zoo")

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
    settings = flags.parse_training(_with_base(argv))
    devices = None
    if settings.run.dataset.startswith(source.TFDS):  # it needs TensorFlow itself
        devices = _devices(settings.run)
    data = source.load(settings.run.dataset, settings.run.image_size)
    from zoo.data import doctor

    doctor.check_listing(data)
    if warning := doctor.listing_warning(data):
        _logger.warning(warning)
    # Written out, so that naming the default size is no other run.
    size = dataclasses.replace(settings.run, image_size=data.image_shape[0])
    settings = dataclasses.replace(settings, run=size)
    with contextlib.ExitStack() as stack:
        if is_chief(settings.run.strategy):
            run = Run.lock(
                settings.run.run_dir,
                settings.recorded(),
                may_change=flags.MAY_CHANGE,
                defaults=flags.recorded_defaults(settings.run.model),
                overwrite=settings.run.overwrite,
            )
            stack.callback(run.close)
        else:  # it reads the run, and leaves writing to the chief
            run = Run(settings.run.run_dir)
        name = one_line(data.name)
        print(f"{settings.run.model} on {name}, run directory {run.path}", flush=True)
        devices = devices or _devices(settings.run)
        if not devices.chief:  # from here on it leaves talking to the chief too
            silent = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silent))
        return _train(settings, data, run, devices)


def _devices(options: flags.RunFlags) -> Devices:
    """Those that the flags ask for; UsageError if they cannot take the batch, or XLA's programs."""
    devices = Devices.set_up(options.strategy, options.num_devices)
    shares = devices.num_replicas * options.accumulate_steps
    if options.batch_size % shares:
        among = f"{devices.num_replicas} devices"
        if options.accumulate_steps > 1:
            among += f" times {options.accumulate_steps} parts of --accumulate_steps"
        raise UsageError(
            f"--batch_size={options.batch_size} does not divide by {among}: "
            f"use a multiple of {shares}"
        )
    # In a compiled step only GPUs can meet each other.
    if options.jit_compile and devices.num_replicas > 1 and not devices.are_gpus:
        raise UsageError(
            f"--jit_compile on {devices.num_replicas} devices: TensorFlow compiles such a step for "
            "GPUs only; leave it out, or add --strategy=one_device"
        )
    return devices


def _with_base(argv: list[str]) -> list[str]:
    """For `--add_style`: the flags of the network that it is added to come before the others."""
    config = flags.parse_training(argv).config
    if not (config.get("add_style") and config["base_run"]):
        return argv
    run = Run.open(config["base_run"])
    base = flags.read_recorded(run.flags())
    together = ",".join(filter(None, (base.config.get("styles"), base.config.get("add_style"))))
    return [
        *(f"--{name}={value}" for name, value in base.recorded().items()),
        f"--styles={together}",
        f"--total_steps={_STEPS_TO_ADD}",
        f"--learning_rate={_RATE_TO_ADD}",
        f"--run_dir={run.path}-{pathlib.Path(config['add_style']).stem}",
        *argv,
    ]


def _train(settings: flags.Settings, data: source.Source, run: Run, devices: Devices) -> int:
    import tensorflow as tf

    from zoo import restore
    from zoo.checkpoints import Best, BrokenCheckpoints, Checkpoints
    from zoo.data import doctor
    from zoo.loop import TrainingFailure

    options = settings.run
    # Before anything is drawn or written: a model may refuse the images' shape.
    pictures = styles.of_config(settings.config)
    class_names = pictures.names if pictures else data.class_names
    with devices.strategy.scope():
        model = restore.build_model(settings, data.image_shape, class_names)
        model.prepare()
    checkpoints = Checkpoints(model.checkpoint(), run.checkpoints)
    best = Best(model.checkpoint(), run.best)
    if not options.overwrite:
        try:
            checkpoints.restore()
        except BrokenCheckpoints as error:
            raise UsageError(f"{error}: start anew with --overwrite") from error
    start = int(model.step.numpy())
    if devices.mean(start) != start:
        raise UsageError(
            f"the workers do not find the same checkpoints in {run.path}: --run_dir must be one "
            "directory that all hosts share"
        )
    if start > options.total_steps:
        raise UsageError(
            f"{run.path} is at step {start} already: expected --total_steps={start} or more"
        )
    profiled = options.profiled()
    if profiled and not start <= profiled[0] < profiled[1] <= options.total_steps:
        raise UsageError(
            f"--profile={options.profile}: this run goes from step {start} to "
            f"{options.total_steps}; expected steps between"
        )
    metrics = None if options.overwrite else run.read_json("metrics.json")
    if metrics and start == metrics["step"] == options.total_steps:
        print(
            f"This run is finished at step {start}: nothing is changed. A larger --total_steps "
            "goes on, under the learning rates of that longer run"
        )
        _report(run, metrics, model.draws)
        return 0
    facts: dict[str, Any] = {"image_shape": data.image_shape, "class_names": class_names}
    if pictures:
        facts["styles_hash"] = pictures.hash
    before: dict[str, Any] = {}
    if start:
        before = run.read_json("data.json") or facts
        if facts.get("styles_hash") != before.get("styles_hash"):
            raise UsageError(
                f"the style pictures are not those that {run.path} began with: put them back, or "
                "choose another --run_dir or --overwrite"
            )
        print(f"Resuming from step {start}", flush=True)
        if devices.chief and (changes := run.elsewhere()):
            _logger.warning(f"this run goes on elsewhere ({changes}): its rounding may differ")
    examples, digests = {}, {}
    for split in ("train", "test"):
        examples[split], digests[split] = _arrays(data, split)
    if warning := doctor.check(data, examples):
        _logger.warning(warning)
    facts["data_hash"] = _hash(digests)
    if facts["data_hash"] != before.get("data_hash", facts["data_hash"]):
        raise UsageError(
            f"the pictures of {data.name} are not those that {run.path} began with "
            f"({_difference(run.read_digests(), digests)}): put them back, choose another "
            "--run_dir, or start anew with --overwrite"
        )
    if pictures:
        only_last = bool(settings.config.get("add_style"))
        styles.add_to(examples, pictures, only_last)
    keeps = "what was saved before is kept: make room, then run the same command again"
    with writing(run.path, keeps, tf.errors.OpError):
        if devices.chief:
            if options.overwrite:
                run.clear()
            run.record(settings.recorded(), facts)
            if not source.is_drawn(data.name):  # those change with our code alone
                run.write_digests(digests.values())
            checkpoints.remove_partial()
            best.remove_partial()
        if not start:
            if settings.config.get("add_style"):
                model.adopt(restore.restore(settings.config["base_run"]).model)
            count = len(examples["train"]["image"])
            print(f"{model.summary_line()}, {count:,} examples", flush=True)
            if devices.chief:
                checkpoints.save(0)
        try:
            with _ending_with_the_others(devices):
                received = _run_loop(
                    settings, data, model, examples, run, checkpoints, best, devices
                )
        except TrainingFailure as error:
            if not devices.chief:
                return 1
            print(
                f"error: {error}; given up after {_times(int(model.rollbacks.numpy()))}: "
                f"{_kept(run, best)}; train with a lower --learning_rate or another --seed, in "
                "another --run_dir or with --overwrite",
                file=sys.stderr,
            )
            return 1
        if received:
            step = int(model.step.numpy())
            command = ["python", "-m", "zoo.train"]
            command += [f"--flagfile={run.path / 'flags.txt'}", f"--run_dir={run.path}"]
            print(f"Stopped at step {step}, all saved. To go on: {shlex.join(command)}")
            return 128 + received
        if devices.chief:
            print("Evaluating on the test split", flush=True)
            metrics = _finish(settings, data, examples["test"], run, model, best)
            _report(run, metrics, model.draws)
        with _ending_with_the_others(devices):
            devices.any(False)  # the others wait: a worker that leaves ends the job of all
    return 0


@contextlib.contextmanager
def _ending_with_the_others(devices: Devices) -> Iterator[None]:
    """Ends this process, with one line, when a collective operation says that a worker is gone."""
    import tensorflow as tf

    names = ("Unavailable", "Aborted", "Cancelled", "DeadlineExceeded", "Internal")
    try:
        yield
    except tuple(getattr(tf.errors, f"{name}Error") for name in names) as error:
        if devices.num_workers == 1:
            raise
        print(
            f"error: another worker is gone ({reason(error)}): start all workers again, and the "
            "run goes on from its last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # what takes down a broken cluster in order may hang, or complain


def _times(number: int) -> str:
    return f"{number} roll-back{'' if number == 1 else 's'}"


def _kept(run: Run, best) -> str:
    """What a run that failed is still good for."""
    if record := best.record():
        return (
            f"its best state, of step {record['step']} ({_best_value(record)}), is kept in "
            f"{run.best} and can be sampled and exported"
        )
    return f"the checkpoints in {run.checkpoints} are of states before it"


def _best_value(record: Mapping[str, Any]) -> str:
    return f"{record['measure']} {record['value']:.4g}"


def _arrays(data: source.Source, split: str):
    progress = None

    def show(done: int, total: int) -> None:
        nonlocal progress
        progress = progress or Progress(f"Drawing {data.name} ({split})", total, unit="image")
        progress.update(done)

    arrays, digests = data.arrays_and_digests(split, on_progress=show)
    if progress:
        progress.close()
    return arrays, digests


def _hash(digests: Mapping[str, Any]) -> str:
    """12 hexadecimal digits for all examples, in their order and splits."""
    whole = hashlib.sha256()
    for split, its in digests.items():
        whole.update(f"{split} {len(its)}".encode() + its.tobytes())
    return whole.hexdigest()[:12]


def _difference(before, digests: Mapping[str, Any]) -> str:
    """What has become of the examples, whose hashes were `before` (None: not known)."""
    if before is None:
        return "which ones is not known"
    then = collections.Counter(before.tolist())
    now = collections.Counter(number for its in digests.values() for number in its.tolist())
    gone, new = (then - now).total(), (now - then).total()
    if not gone + new:
        return "the same in another order, as by other names"
    return f"{gone} of {then.total()} are gone or changed, {new} are new"


def _run_loop(
    settings,
    data: source.Source,
    model,
    examples: Mapping,
    run: Run,
    checkpoints,
    best,
    devices: Devices,
) -> int | None:
    """Trains to the end, or until a signal: its number."""
    import tensorflow as tf

    from zoo import hooks
    from zoo.data import pipeline
    from zoo.loop import Every, Loop, Profile
    from zoo.metrics.quality import SampleQuality

    options = settings.run
    batch_size = options.batch_size * model.batches_per_step
    start = int(model.step.numpy())
    writers = {
        split: tf.summary.create_file_writer(str(run.path / split))
        if devices.chief
        else tf.summary.create_noop_writer()
        for split in ("train", "eval")
    }
    profile = None
    if devices.chief and (profiled := options.profiled()):
        profile = Profile(profiled[0], profiled[1], str(run.path / "train"))
    with writers["train"].as_default(step=start):
        table = "".join(f"| {k} | {v} |\n" for k, v in settings.recorded().items())
        tf.summary.text("flags", f"| flag | value |\n|---|---|\n{table}")
        tf.summary.text("reading", _READING + model.reading.strip())
    held_out = {name: values[:_PERIODIC_EXAMPLES] for name, values in examples["test"].items()}
    shown = {name: values[:_SHOWN_EXAMPLES] for name, values in held_out.items()}
    quality = None
    if model.selection_measure == hooks.JUDGED_BY_SAMPLES:
        quality = SampleQuality(held_out["image"], data.class_names)
    evaluate = hooks.Evaluate(writers["eval"], held_out, quality, best)
    scalars = hooks.Scalars(writers["train"], batch_size)
    with contextlib.closing(Progress(options.model, options.total_steps, start)) as progress:

        def on_block(block) -> None:
            if devices.chief:
                run.check_there()
            scalars(block)
            progress.update(block.step, block.scalars)

        def on_rollback(rollback) -> None:
            progress.say(
                f"{_capital(str(rollback.failure))}: going back to step {rollback.step}, and on "
                f"with other noise (attempt {rollback.number} of {options.max_rollbacks})"
            )

        loop = Loop(
            model,
            lambda step, context: pipeline.batches(
                examples["train"],
                batch_size,
                seed=options.seed,
                start_step=step,
                context=context,
                augment=options.augmentations(),
            ),
            total_steps=options.total_steps,
            steps_per_loop=options.steps_per_loop,
            checkpoints=checkpoints,
            checkpoint_every=options.checkpoint_every,
            hooks=[
                Every(options.sample_every, hooks.Sheets(writers["train"], run.samples, shown)),
                Every(options.eval_every, evaluate, judges=True),
            ],
            on_block=on_block,
            max_rollbacks=options.max_rollbacks,
            on_rollback=on_rollback,
            devices=devices,
            jit_compile=options.jit_compile,
            profile=profile,
        )
        with _stopping(loop, progress) as received:
            reached = loop.train()
    for writer in writers.values():
        writer.flush()
    if reached < options.total_steps and not received:
        return signal.SIGTERM  # another worker received it
    return received[0] if received else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _finish(settings, data: source.Source, test: Mapping, run: Run, model, best) -> dict[str, Any]:
    """Writes the projector, the HParams entry and metrics.json, and returns what it holds.

    The model ends with the weights of the best checkpoint.
    """
    from zoo import hooks
    from zoo.metrics.quality import SampleQuality

    few = {name: values[:_THOROUGH_EXAMPLES] for name, values in test.items()}
    quality, protocol = None, model.protocol()
    if model.draws:
        quality = SampleQuality(test["image"][:_FINAL_SAMPLES], data.class_names)
        protocol |= quality.protocol(_FINAL_SAMPLES)

    def measure() -> dict[str, dict[str, float]]:
        measures = {
            "measures": hooks.means(model, model.evaluate_batch, test),
            "thorough_measures": hooks.means(model, model.thorough_measures, few),
        }
        if quality:
            measures["sample_measures"] = hooks.sample_measures(model, quality, _FINAL_SAMPLES)
        return measures

    metrics: dict[str, Any] = {
        "step": int(model.step.numpy()),
        "split": "test",
        "examples": len(test["image"]),
        "thorough_examples": len(few["image"]),
        "protocol": protocol,
        **measure(),
    }
    shown = test["image"][:_PROJECTOR_EXAMPLES]
    hooks.write_projector(
        run.path / "train", model, shown, test["label"][: len(shown)], data.class_names
    )
    hooks.write_hparams(run.path / "eval", settings.recorded())
    if record := best.record():
        evaluated = {name: record[name] for name in ("step", "measure", "value")}
        if record["step"] == metrics["step"]:
            metrics["best"] = evaluated
        elif best.restore():
            metrics["best"] = {**evaluated, **measure()}
    # The last file: a run that has it for its last step is finished.
    run.write_json("metrics.json", metrics)
    return metrics


def _report(run: Run, metrics: Mapping[str, Any], draws: bool) -> None:
    step, best = metrics["step"], metrics.get("best")
    print(f"Step {step}, test split: {_values(metrics)}")
    weights = f"of step {step}"
    if best and best["step"] != step:
        print(f"Step {best['step']}, the best evaluated ({_best_value(best)}): {_values(best)}")
        weights = f"of step {best['step']} ({weights}: --checkpoint=last)"
    elif best:
        weights += f", the best evaluated ({_best_value(best)})"
    for path in sorted(run.samples.glob(f"step-{step:08d}-*.png")):
        print(f"Pictures: {path}")
    command = "sample" if draws else "stylize --image=PHOTO"
    print(
        f"More pictures, {weights}: python -m zoo.{command} --run_dir={shlex.quote(str(run.path))}"
    )
    print(f"Curves: tensorboard --logdir={shlex.quote(str(run.path.parent))}")


def _values(metrics: Mapping[str, Any]) -> str:
    kinds = ("measures", "thorough_measures", "sample_measures")
    values = [pair for kind in kinds for pair in metrics.get(kind, {}).items()]
    return ", ".join(f"{name} {value:.4g}" for name, value in values)


@contextlib.contextmanager
def _stopping(loop, progress: Progress) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end the loop after its block; a second one ends the process at once.

    A signal handler in Python would run after the block, and once for two signals: their numbers
    go through a pipe instead, to a thread.
    """
    received: list[int] = []
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while number := os.read(reader, 1):
            if received:
                os._exit(128 + number[0])
            received.append(number[0])
            loop.stop_requested = True
            progress.say("Stopping after this block; once more to stop at once without saving")

    thread = threading.Thread(target=watch)
    thread.start()
    before = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)
    }
    signal.set_wakeup_fd(writer)
    try:
        yield received
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)


if __name__ == "__main__":
    flags.run_command(main)
