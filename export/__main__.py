"""`python -m export --run_dir=DIR --out=DIR`: a run as a SavedModel or for others, verified."""

import dataclasses
import json
import pathlib
import shlex
from typing import Literal

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
    """Directory of the served model; the next version number is made in it, but for the formats
    of other runtimes, which are this directory."""
    format: Literal["savedmodel", "onnx", "litert"] = "savedmodel"
    """For TensorFlow Serving, ONNX Runtime or LiteRT."""
    image_size: int | None = None
    """Height and width of a LiteRT model's pictures, where the model itself takes any; those of
    its training by default."""

    def __post_init__(self):
        flags.check_checkpoint(self.checkpoint)
        if not self.run_dir or not self.out:
            raise UsageError("--run_dir and --out are needed: a training run, and where to write")
        if self.image_size is not None and self.image_size < 8:
            raise UsageError(f"--image_size={self.image_size}: expected 8 or more")
        if self.image_size and self.format != "litert":
            raise UsageError(
                f"--image_size is for --format=litert: --format={self.format} keeps the model's"
            )


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
        if options.format == "savedmodel":
            path = savedmodel.write(restored.model, out, card.about(restored))
        else:
            from export import runtimes

            path = runtimes.write(restored.model, out, options.format, options.image_size)
    report = json.loads((path / "verification.json").read_text(encoding="utf-8"))
    print(f"{path} from {restored.checkpoint}")
    for endpoint, difference in report["max_abs_difference"].items():
        print(f"  {endpoint}: verified in a fresh process, max abs difference {difference:.1e}")
    for endpoint in report.get("png_equal_bit_for_bit", ()):
        print(f"  {endpoint}: verified in a fresh process, equal bit for bit")
    print(f"How to ask it: {path / 'README.md'}")
    if options.format == "savedmodel":
        print(f"How to serve it: python -m export.serving --models={shlex.quote(str(out.parent))}")
    return 0


if __name__ == "__main__":
    flags.run_command(main)
