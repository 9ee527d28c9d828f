"""Command lines: absl flags made from dataclasses, parsed twice so that a model's Config counts.

The first parse finds `--model`, the second knows the fields of its Config too. A run's flags.txt
is a flagfile, read back by the same code.
"""

import dataclasses
import inspect
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from absl import flags

import zoo.models
from zoo.data import source
from zoo.errors import UsageError, check_positive, one_line, unknown
from zoo.models import Field, dataclass_fields

Options = TypeVar("Options")


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """What every training run can be told, whatever its model."""

    model: str = ""
    """Which model to train; `python -m zoo` lists them."""
    dataset: str = ""
    """Which data set to train on; `python -m zoo` lists them. Default: the model's own."""
    image_size: int | None = None
    """Height and width of the images; the data set's own by default."""
    data_augment: str = ""
    """Changes to training pictures at random, each time anew: some of crop, flip and color, with
    commas between. crop: 0.8 to 1 of the side; flip: left and right, one in two; color: brightness,
    contrast and saturation by up to a fifth."""
    run_dir: str = ""
    """Directory of the run; runs/<model>-<dataset> by default."""
    overwrite: bool = False
    """Remove the run in run_dir and start anew."""
    seed: int = 0
    """Of weights, noise and data order."""
    total_steps: int = None  # type: ignore[assignment]  # the model knows
    """Train until this step; the model's own default."""
    batch_size: int = None  # type: ignore[assignment]  # the model knows
    """Examples a step; the model's own default."""
    accumulate_steps: int = 1
    """Parts that a batch is computed in, one after the other, where its memory does not suffice for
    the whole: the same step, but that batch normalization, and the mixture of a VAE, see one part
    at a time."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of matrix products, convolutions and what lies between them. In float32 stay: weights,
    averages and optimizers, normalization statistics, the singular values of spectral_norm, losses
    and penalties, pictures in and out. float16 scales each objective's loss."""
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker"] = "auto"
    """Devices: all GPUs of this host, or of the hosts that TF_CONFIG names; or as it says."""
    num_devices: int = 0
    """Split the CPU into so many devices, to try `mirrored` without GPUs; 0: do not."""
    sync_batch_norm: bool = True
    """Batch normalization by the whole batch; false: by each device's part, one exchange less."""
    jit_compile: bool = False
    """Compile the step with XLA; slower on CPUs."""
    profile: str = ""
    """START:STOP: record what the devices do between these steps, for TensorBoard's Profile tab
    (pip install 'zoo-art[profile]'); ten steps say enough."""
    steps_per_loop: int = 100
    """Most steps in one call of the compiled loop."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    sample_every: int = 500
    """Steps between picture sheets."""
    eval_every: int = 500
    """Steps between evaluations on held-out examples."""
    max_rollbacks: int = 3
    """How often in a run to go back to an earlier state, and on with other noise, after training
    collapsed or became non-finite; 0: never."""

    def __post_init__(self):
        names = ["image_size", "total_steps", "batch_size", "steps_per_loop", "accumulate_steps"]
        names += ["checkpoint_every", "sample_every", "eval_every"]
        check_positive(**{name: getattr(self, name) for name in names})
        self.augmentations()
        self.profiled()
        for name in ("max_rollbacks", "num_devices"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name}={getattr(self, name)}: expected 0 or more")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"--seed={self.seed}: expected 0 to {2**31 - 1}")

    def profiled(self) -> tuple[int, int] | None:
        """The first and last step of `profile`; UsageError if it names none."""
        if not self.profile:
            return None
        first, _, last = self.profile.partition(":")
        if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
            raise UsageError(f"--profile={self.profile}: expected START:STOP, as 100:110")
        return int(first), int(last)

    def augmentations(self) -> list[str]:
        """The names in `data_augment`; UsageError for unknown ones."""
        names = [name.strip() for name in self.data_augment.split(",") if name.strip()]
        for name in names:
            if name not in source.AUGMENTATIONS:
                raise unknown("augmentation", name, source.AUGMENTATIONS)
        return names


# What may differ when a run goes on: none of it changes what a step computes, but for
# total_steps, which the learning rate's schedule follows, and the devices' rounding.
MAY_CHANGE = frozenset(
    (
        "total_steps",
        "steps_per_loop",
        "checkpoint_every",
        "sample_every",
        "eval_every",
        "max_rollbacks",
        "strategy",
        "num_devices",
    )
)
_NOT_RECORDED = ("run_dir", "overwrite", "profile")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A parsed training command: the run's flags, and those of the model's Config."""

    run: RunFlags
    config: Mapping[str, Any]

    def recorded(self) -> dict[str, str]:
        """Flag name -> text, for flags.txt: all that the run depends on, defaults written out."""
        values = {**dataclasses.asdict(self.run), **self.config}
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in values.items()
            if name not in _NOT_RECORDED and value is not None
        }


def run_fields() -> list[Field]:
    """The fields of RunFlags."""
    return dataclass_fields(pathlib.Path(__file__), "RunFlags")


def parse_training(argv: Sequence[str]) -> Settings:
    """argv without the program's name -> Settings; UsageError on anything wrong."""
    known = parse(run_fields(), argv, known_only=True)
    name = known["model"]
    if not name:
        missing = f"--model is missing: expected one of {', '.join(zoo.models.names())}"
        try:
            parse(run_fields(), argv)
        except UsageError as error:  # "--mdel=vae"
            missing += f" ({error})"
        raise UsageError(missing)
    fields = zoo.models.config_fields(name)
    values = parse([*run_fields(), *fields], argv)
    defaults = zoo.models.defaults(name)
    run = {field.name: values[field.name] for field in run_fields()}
    run |= {key: value for key, value in defaults.items() if run[key] in (None, "")}
    if not run["run_dir"]:
        run["run_dir"] = f"runs/{name}-{source.short_name(run['dataset'])}"
    config = {field.name: values[field.name] for field in fields}
    return Settings(RunFlags(**run), config)


def recorded_defaults(model: str) -> dict[str, str]:
    """What `Settings.recorded` gives where nothing is asked for: flags that a run does not name."""
    return parse_training([f"--model={model}"]).recorded()


def read_recorded(recorded: Mapping[str, str]) -> Settings:
    """Settings from what `Settings.recorded` gave."""
    return parse_training([f"--{name}={value}" for name, value in recorded.items()])


def parse(
    fields: Sequence[Field], argv: Sequence[str], *, known_only: bool = False
) -> dict[str, Any]:
    """Flag values by name; UsageError for unknown flags, bad values and stray arguments."""
    values, rest = parse_known(fields, argv, known_only=known_only)
    if rest and not known_only:
        raise UsageError(f"unexpected argument {rest[0]!r}: flags are written --name=value")
    return values


def parse_known(
    fields: Sequence[Field], argv: Sequence[str], *, known_only: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """Flag values by name, and the arguments that are none of these flags."""
    values = flags.FlagValues()
    for field in fields:
        _define(field, values)
    try:
        rest = values(["", *argv], known_only=known_only)[1:]
    except flags.Error as error:
        raise UsageError(" ".join(str(error).removeprefix("ERROR:: ").split())) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read flagfile, which is no text: {error}") from error
    return {field.name: getattr(values, field.name) for field in fields}, rest


def _define(field: Field, values: flags.FlagValues) -> None:
    if field.choices:
        flags.DEFINE_enum(
            field.name, field.default, list(field.choices), field.help, flag_values=values
        )
        return
    define: Any = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
        str: flags.DEFINE_string,
    }[field.type]
    define(field.name, field.default, field.help, flag_values=values)


def help_text(usage: str, sections: Mapping[str, Sequence[Field]]) -> str:
    """What --help prints: a usage line, then each section's flags with help and default."""
    lines = [f"usage: {usage}"]
    for title, fields in sections.items():
        lines += ["", f"{title}:"]
        for field in fields:
            kind = "|".join(field.choices) or field.type.__name__
            default = "" if field.default in (None, "") else f" (default {field.default})"
            lines += [f"  --{field.name}={kind}{default}", f"      {field.help}"]
    return "\n".join(lines)


def training_help(argv: Sequence[str]) -> str:
    """--help of the training command; with a known --model, its flags too."""
    sections = {"Flags of every run": run_fields()}
    name = parse(run_fields(), argv, known_only=True)["model"]
    if name:
        own = zoo.models.defaults(name)
        sections["Flags of every run"] = [
            dataclasses.replace(field, default=own.get(field.name, field.default))
            for field in run_fields()
        ]
        sections[f"Flags of {name}"] = zoo.models.config_fields(name)
    text = help_text("python -m zoo.train --model=NAME [--flag=value ...]", sections)
    return text if name else f"{text}\n\nA model's own flags: --model=NAME --help"


def parse_options(kind: type[Options], usage: str, argv: Sequence[str]) -> Options | None:
    """An instance of a command's flags dataclass; None if --help was asked for, and printed."""
    fields = dataclass_fields(pathlib.Path(inspect.getfile(kind)), kind.__name__)
    if wants_help(argv):
        print(help_text(usage, {"Flags": fields}))
        return None
    return kind(**parse(fields, argv))


def check_checkpoint(value: str) -> None:
    """UsageError for a --checkpoint that is neither best, last nor a step."""
    if value not in ("best", "last") and not value.isdecimal():
        raise UsageError(f"--checkpoint={value}: expected best, last or the number of a step")


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Runs a command's main(argv) and exits: 2 and one line on stderr for a UsageError."""
    # As an exception, so that temporary files are removed on the way out.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except UsageError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt as interrupt:
        print("interrupted: the same command starts again from what was saved", file=sys.stderr)
        code = 128 + (interrupt.args or (signal.SIGINT,))[0]
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _interrupt(number, frame):
    raise KeyboardInterrupt(number)


def wants_help(argv: Sequence[str]) -> bool:
    """Whether the command line asks for help."""
    return any(argument in ("--help", "-help", "-h", "--helpfull") for argument in argv)
