"""`python -m experiments.sweep --study=DIR --search=... --model=NAME`: flags that train best.

Optuna proposes the flags, `python -m zoo.train` trains each trial as a run DIR/trial-NUMBER, and
what looks worse than the median of the trials before at the same step is stopped. All of it is kept
in DIR: the same command goes on after a kill, a larger --trials adds some.

The measure is taken on test pictures, so that of the best trial looks better than it is: report
what `python -m experiments.compare` finds with its flags over other seeds.
"""

import contextlib
import csv
import dataclasses
import fcntl
import io
import json
import math
import pathlib
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import zoo.models
from experiments import processes
from zoo import errors, files, flags
from zoo.errors import UsageError, check_positive, writing
from zoo.models import Field
from zoo.rundir import BUSY, Run

if TYPE_CHECKING:
    import optuna

_SECONDS_BETWEEN_LOOKS = 1.0
_TRIALS_BEFORE_PRUNING = 4


@dataclasses.dataclass(frozen=True)
class SweepFlags:
    """What a sweep can be told."""

    study: str = ""
    """Directory of the study and of its trials."""
    search: str = ""
    """What to vary, with commas between: flag=low:high, flag=low:high:log or flag=a|b|c."""
    trials: int = 20
    """How many in all, those of before included."""
    measure: str = ""
    """What to minimise; by default that by which the model keeps its best state."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Whether less of the measure is better, or more."""
    prune: bool = True
    """Stop trials that look worse than the median of those before."""
    sweep_seed: int = 0
    """Of what is proposed; --seed is that of the training."""

    def __post_init__(self):
        check_positive(trials=self.trials)
        if not self.study or not self.search:
            missing = "--study" if self.search else "--search"
            raise UsageError(f"{missing} is missing: {_USAGE}")


_USAGE = "python -m experiments.sweep --study=DIR --search=FLAG=LOW:HIGH,... --model=NAME"


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from low to high."""

    field: Field
    low: float
    high: float
    log: bool

    def suggest(self, trial: "optuna.Trial") -> Any:
        """The trial's value."""
        if self.field.type is int:
            return trial.suggest_int(self.field.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.field.name, self.low, self.high, log=self.log)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values."""

    field: Field
    values: tuple[Any, ...]

    def suggest(self, trial: "optuna.Trial") -> Any:
        """The trial's value."""
        return trial.suggest_categorical(self.field.name, self.values)


def main(argv: list[str]) -> int:
    """Runs trials until there are enough; returns the exit code."""
    if flags.wants_help(argv):
        flags.parse_options(SweepFlags, f"{_USAGE} [--flag=value ...]", argv)
        print("\nAll other flags are those of python -m zoo.train")
        return 0
    fields = zoo.models.dataclass_fields(pathlib.Path(__file__), "SweepFlags")
    values, rest = flags.parse_known(fields, argv)
    options = SweepFlags(**values)
    settings = flags.parse_training(rest)
    if flags.parse_known(flags.run_fields(), rest)[0]["run_dir"]:
        raise UsageError("--run_dir: expected none, trials lie in --study")
    space = parse_search(options.search, settings.run.model)
    directory = pathlib.Path(options.study)
    with writing(directory, "what was finished is kept: make room, then repeat the command"):
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory):
            study = _open(directory, options, settings)
            Sweep(study, directory, options, rest, space).run()
            _report(study, directory, options)
    return 0


def parse_search(text: str, model: str) -> list[Range | Choice]:
    """`--search` -> what to vary; UsageError for what no flag of the model can be."""
    fields = {f.name: f for f in (*flags.run_fields(), *zoo.models.config_fields(model))}
    space: list[Range | Choice] = []
    for part in text.split(","):
        name, _, values = part.strip().partition("=")
        if name not in fields:
            raise errors.unknown("flag", name, fields, f" (in --search={part.strip()})")
        if any(name == other.field.name for other in space):
            raise UsageError(f"--search: {name} is there twice")
        try:
            space.append(_dimension(fields[name], values))
        except ValueError as error:
            raise UsageError(
                f"--search={part.strip()}: {error}; expected {name}=low:high, "
                f"{name}=low:high:log or {name}=a|b|c"
            ) from error
    return space


def _dimension(field: Field, text: str) -> Range | Choice:
    if ":" not in text:
        return Choice(field, tuple(_value(field, value) for value in text.split("|")))
    low, high, *log = text.split(":")
    if field.type not in (int, float) or log not in ([], ["log"]):
        raise ValueError(f"no range of {field.type.__name__}")
    found = Range(field, _value(field, low), _value(field, high), bool(log))
    if not found.low < found.high or (found.log and found.low <= 0):
        raise ValueError("an empty range, or a logarithm of what is not positive")
    return found


def _value(field: Field, text: str) -> Any:
    """As absl reads that flag."""
    if not text:
        raise ValueError("an empty value")
    return flags.parse([field], [f"--{field.name}={text}"])[field.name]


@contextlib.contextmanager
def _alone(directory: pathlib.Path) -> Iterator[None]:
    with open(directory / ".zoo-lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process sweeps in {directory}: wait for it, or choose another --study"
            ) from None
        yield


def _open(directory: pathlib.Path, options: SweepFlags, settings: flags.Settings) -> "optuna.Study":
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UsageError("sweeps need Optuna: pip install 'zoo-art[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{directory / 'study.db'}",
        study_name="sweep",
        direction=options.direction,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_TRIALS_BEFORE_PRUNING),
        load_if_exists=True,
    )
    asked = {
        "search": options.search,
        "measure": options.measure,
        "direction": options.direction,
        "flags": json.dumps(settings.recorded()),
    }
    for name, value in asked.items():
        before = study.user_attrs.get(name)
        if before is None:
            study.set_user_attr(name, value)
        elif before != value:
            shown = "other flags" if name == "flags" else f"--{name}={before}"
            raise UsageError(
                f"{directory} holds a study with {shown}: repeat its command, or choose another "
                "--study"
            )
    return study


class Sweep:
    """Asks for trials, trains and judges them."""

    def __init__(
        self,
        study: "optuna.Study",
        directory: pathlib.Path,
        options: SweepFlags,
        arguments: Sequence[str],
        space: Sequence[Range | Choice],
    ):
        self._study, self._directory, self._options = study, directory, options
        self._arguments, self._space = arguments, space

    def run(self) -> None:
        """Until there are as many trials as asked for."""
        import optuna

        from zoo import runtime

        # What reads event files imports it, and would print what this keeps quiet.
        runtime.import_tensorflow()
        killed = self._study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        for frozen in killed:
            self._one(optuna.Trial(self._study, frozen._trial_id))
        while (number := self._begun()) < self._options.trials:
            # A function of how many there are: a killed sweep proposes what it would have.
            self._study.sampler = optuna.samplers.TPESampler(
                seed=self._options.sweep_seed + 1000 * number
            )
            self._one(self._study.ask())

    def _begun(self) -> int:
        """How many trials there are, without those that somebody has queued."""
        return sum(trial.state.name != "WAITING" for trial in self._study.trials)

    def _one(self, trial: "optuna.Trial") -> None:
        from optuna.trial import TrialState

        values = {dimension.field.name: dimension.suggest(trial) for dimension in self._space}
        chosen = [f"--{name}={value}" for name, value in values.items()]
        run = Run(self._directory / f"trial-{trial.number:04d}")
        print(f"Trial {trial.number}: {' '.join(chosen)}", flush=True)
        log = self._directory / "logs" / f"{run.path.name}.log"
        code, reason, pruned = 2, BUSY, False
        while code == 2 and BUSY in reason:  # a process that a killed sweep has left
            run.wait()
            arguments = [*self._arguments, *chosen, f"--run_dir={run.path}"]
            code, pruned = self._train(processes.start(arguments, log), trial, run)
            reason = processes.failure(code, log) if code else ""
        if pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
            print("  stopped early", flush=True)
        elif code == 0:
            value = self._final(run)
            self._study.tell(trial, value)
            print(f"  {value:.5g}", flush=True)
        elif code == 1:  # collapsed, or not finite
            self._study.tell(trial, state=TrialState.FAIL)
            print(f"  failed: {reason}", flush=True)
        elif code == 2:
            self._study.tell(trial, state=TrialState.FAIL)
            raise UsageError(f"trial {trial.number}: {reason}")
        else:
            raise UsageError(f"trial {trial.number}: {reason}; repeat the command to go on")

    def _train(
        self, process: subprocess.Popen, trial: "optuna.Trial", run: Run
    ) -> tuple[int, bool]:
        """Its exit code, and whether it was stopped for looking bad."""
        # A trial that was killed has some.
        reported = set(self._study.trials[trial.number].intermediate_values)
        pruned = False
        try:
            while process.poll() is None:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                if not pruned and self._looks_bad(trial, run, reported):
                    pruned = True
                    process.send_signal(signal.SIGTERM)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
        return process.returncode, pruned

    def _looks_bad(self, trial: "optuna.Trial", run: Run, reported: set[int]) -> bool:
        from experiments import records

        for step, value in records.curve(run.path, self._measure(run)).items():
            if step not in reported and math.isfinite(value):
                reported.add(step)
                trial.report(value, step)
        return self._options.prune and bool(reported) and trial.should_prune()

    def _measure(self, run: Run) -> str:
        if self._options.measure:
            return self._options.measure
        best = run.read_json("best/best.json")
        return best["measure"] if best else ""

    def _final(self, run: Run) -> float:
        from experiments import records

        measure = self._measure(run)
        if curve := records.curve(run.path, measure):
            return list(curve.values())[-1]
        record = records.read(run.path)
        known = {k: v for kind in record.measures.values() for k, v in kind.items()}
        for name, value in known.items():
            if records.is_measure(name, measure):
                return value
        raise errors.unknown("measure", measure, known)


def _report(study: "optuna.Study", directory: pathlib.Path, options: SweepFlags) -> None:
    """Prints the best trials and writes all to trials.csv."""
    from optuna.trial import TrialState

    buffer = io.StringIO()
    names = [part.partition("=")[0].strip() for part in options.search.split(",")]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "state", "value", *names])
    for trial in study.trials:
        shown = "" if trial.value is None else repr(trial.value)
        row = [trial.params.get(name, "") for name in names]
        writer.writerow([trial.number, trial.state.name.lower(), shown, *row])
    files.write(directory / "trials.csv", buffer.getvalue().encode())
    done = study.get_trials(states=(TrialState.COMPLETE,))
    sign = 1 if options.direction == "minimize" else -1
    print(f"{len(study.trials)} trials, {len(done)} of them trained to the end; the best:")
    for trial in sorted(done, key=lambda trial: sign * trial.values[0])[:5]:
        print(f"  trial {trial.number}: {trial.value:.5g} by {_flags(trial.params)}")
    print(f"All: {directory / 'trials.csv'}")
    print(f"Curves and HParams: tensorboard --logdir={shlex.quote(str(directory))}")


def _flags(values: Mapping[str, Any]) -> str:
    return " ".join(f"--{name}={value}" for name, value in values.items())


if __name__ == "__main__":
    flags.run_command(main)
