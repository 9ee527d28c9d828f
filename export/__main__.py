"""`python -m export --run_dir=DIR --out=DIR`: a run as a SavedModel, verified."""

import dataclasses
import json
import pathlib
import shlex

from zoo import flags
from zoo.errors import UsageError, writing
from zoo.rundir import Run


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """What an export can be told."""

    run_dir: str = ""
    """Directory of a training run."""
    checkpoint: str = "best"
    """Which weights: of the best evaluation, of the last step saved, or of a step by its number."""
    out: str = ""
    """Directory of the served model; the next version number is made in it."""

    def __post_init__(self):
        flags.check_checkpoint(self.checkpoint)
        if not self.run_dir or not self.out:
            raise UsageError("--run_dir and --out are needed: a training run, and where to write")


def main(argv: list[str]) -> int:
    """Writes the SavedModel; returns the exit code."""
    options = flags.parse_options(ExportFlags, "python -m export --run_dir=DIR --out=DIR", argv)
    if options is None:
        return 0
    Run.open(options.run_dir)

    from zoo import runtime

    tf = runtime.import_tensorflow(gpu=False)
    from export import card, savedmodel
    from zoo import restore

    restored = restore.restore(options.run_dir, options.checkpoint)
    out = pathlib.Path(options.out)
    with writing(out, "make room, or choose another --out", tf.errors.OpError):
        path = savedmodel.write(restored.model, out, card.about(restored))
    report = json.loads((path / "verification.json").read_text(encoding="utf-8"))
    print(f"{path} from {restored.checkpoint}")
    for endpoint, difference in report["max_abs_difference"].items():
        print(f"  {endpoint}: verified in a fresh process, max abs difference {difference:.1e}")
    for endpoint in report["png_equal_bit_for_bit"]:
        print(f"  {endpoint}: verified in a fresh process, equal bit for bit")
    print(f"How to ask it: {path / 'README.md'}")
    print(f"How to serve it: python -m export.serving --models={shlex.quote(str(out.parent))}")
    return 0


if __name__ == "__main__":
    flags.run_command(main)
