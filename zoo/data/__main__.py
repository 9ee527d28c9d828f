"""`python -m zoo.data doctor --dataset=folder:PATH`: what is wrong with a folder of pictures."""

import contextlib
import dataclasses
import json
import pathlib

from zoo import files, flags
from zoo.data import source
from zoo.errors import UsageError, one_line, reason, unknown, writing
from zoo.progress import Progress

_USAGE = "python -m zoo.data doctor --dataset=folder:PATH"


@dataclasses.dataclass(frozen=True)
class DoctorFlags:
    """What the doctor can be told."""

    dataset: str = ""
    """The folder to look at, folder:PATH."""
    image_size: int | None = None
    """Height and width to train at; the data set's own by default."""
    json: str = ""
    """File to write all of the report to."""
    sheet: str = ""
    """Picture to write with examples of each finding: .png, .webp or .jpg."""
    fix_into: str = ""
    """New folder for a clean copy: upright sRGB pictures, none that cannot be read, none twice."""

    def __post_init__(self):
        if not self.dataset:
            raise UsageError(f"--dataset is missing: {_USAGE}")
        if not self.dataset.startswith(source.FOLDER):
            raise UsageError(
                f"--dataset={self.dataset}: the doctor is for folders of pictures, expected "
                f"{source.FOLDER}PATH; what is drawn or prepared by code needs none"
            )


def main(argv: list[str]) -> int:
    """Prints what the doctor finds; returns the exit code: 1 if training would refuse."""
    if flags.wants_help(argv) and argv[0] != "doctor":
        argv = ["doctor", "--help"]
    if not argv or argv[0] != "doctor":
        raise unknown("command", argv[0] if argv else "", ["doctor"], f": {_USAGE}")
    options = flags.parse_options(DoctorFlags, _USAGE, argv[1:])
    if options is None:
        return 0
    from zoo.data import doctor, folder, mending

    root = folder.find(options.dataset, options.image_size)
    for flag in ("json", "sheet", "fix_into"):
        if value := getattr(options, flag):
            mending.check_outside(flag, pathlib.Path(value), root)
    if options.sheet:
        mending.check_sheet(pathlib.Path(options.sheet))
    if options.fix_into:
        mending.check_new(pathlib.Path(options.fix_into))
    with _progress("Looking at the files") as show:
        diagnosis = doctor.diagnose(options.dataset, options.image_size, show)
    print(doctor.summary(diagnosis))
    with writing(root, "choose a place with room"):
        if options.json:
            text = json.dumps(doctor.report(diagnosis), indent=1) + "\n"
            _write(options.json, text.encode())
        if options.sheet:
            mending.write_sheet(pathlib.Path(options.sheet), diagnosis)
            print(f"Examples: {one_line(options.sheet)}")
        if options.fix_into:
            with _progress("Copying") as show:
                counts = mending.fix_into(pathlib.Path(options.fix_into), diagnosis, show)
            told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
            print(f"{one_line(options.fix_into)}: {told}; listed in {mending.LOG}")
    return 1 if diagnosis.stops else 0


def _write(path: str, data: bytes) -> None:
    try:
        files.write(pathlib.Path(path), data)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {reason(error)}") from error


@contextlib.contextmanager
def _progress(label: str):
    progress = None

    def show(done: int, total: int) -> None:
        nonlocal progress
        progress = progress or Progress(label, total, unit="file")
        progress.update(done)

    try:
        yield show
    finally:
        if progress:
            progress.close()


if __name__ == "__main__":
    flags.run_command(main)
