"""`python -m export --run_dir=DIR --out=DIR`: a run as a SavedModel, verified."""

import dataclasses
import json
import pathlib
from typing import Literal

from zoo import flags
from zoo.errors import UsageError, writing
from zoo.rundir import Run


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """What an export can be told."""

    run_dir: str = ""
    """Directory of a training run."""
    checkpoint: Literal["best", "last"] = "best"
    """Which weights: of the best evaluation, or of the last step saved."""
    out: str = ""
    """Directory of the served model; the next version number is made in it."""

    def __post_init__(self):
        if not self.run_dir or not self.out:
            raise UsageError("--run_dir and --out are needed: a training run, and where to write")


def main(argv: list[str]) -> int:
    """Writes the SavedModel; returns the exit code."""
    options = flags.parse_options(ExportFlags, "python -m export --run_dir=DIR --out=DIR", argv)
    if options is None:
        return 0
    Run.open(options.run_dir)

    from zoo import runtime

    tf = runtime.import_tensorflow()
    from export import savedmodel
    from zoo import restore

    restored = restore.restore(options.run_dir, options.checkpoint)
    out = pathlib.Path(options.out)
    with writing(out, "make room, or choose another --out", tf.errors.OpError):
        path = savedmodel.write(restored.model, out)
    report = json.loads((path / "verification.json").read_text(encoding="utf-8"))
    print(f"{path} from {restored.checkpoint}")
    for endpoint, difference in report["max_abs_difference"].items():
        print(f"  {endpoint}: verified in a fresh process, max abs difference {difference:.1e}")
    return 0


if __name__ == "__main__":
    flags.run_command(main)
