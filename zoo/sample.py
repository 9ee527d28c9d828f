"""`python -m zoo.sample --run_dir=DIR`: pictures from a run by seed, or a walk between them."""

import dataclasses
import pathlib
from collections.abc import Sequence

from zoo import files, flags
from zoo.errors import UsageError, check_positive
from zoo.rundir import Run

_MOST_COLUMNS = 16


@dataclasses.dataclass(frozen=True)
class SampleFlags:
    """What a sheet or a walk can be told."""

    run_dir: str = ""
    """Directory of a training run."""
    checkpoint: str = "best"
    """Which weights: of the best evaluation, of the last step saved, or of a step by its number."""
    count: int | None = None
    """Pictures on the sheet (64 by default), or latents on the walk (8 by default)."""
    seed: int = 0
    """The same seed gives the same pictures, whatever their number."""
    label: str | None = None
    """Only this class, by its name or number."""
    sampler: str | None = None
    """Where latents come from, for models that have several ways."""
    walk: bool = False
    """An endless animation from latent to latent instead of a sheet."""
    frames: int = 12
    """With --walk, frames from each latent to the next."""
    out: str = ""
    """File to write: .png, with --walk .webp or .gif; default: samples.png or walk.webp in DIR."""

    def __post_init__(self):
        flags.check_checkpoint(self.checkpoint)
        check_positive(count=self.count, frames=self.frames)
        if not self.run_dir:
            raise UsageError("--run_dir is missing: expected the directory of a training run")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed={self.seed}: expected 0 to {2**63 - 1}")


def main(argv: list[str]) -> int:
    """Writes the picture; returns the exit code."""
    options = flags.parse_options(
        SampleFlags, "python -m zoo.sample --run_dir=DIR [--flag=value ...]", argv
    )
    if options is None:
        return 0

    from zoo import pictures, runtime

    count = options.count or (8 if options.walk else 64)
    out = pathlib.Path(
        options.out or pathlib.Path(options.run_dir, "walk.webp" if options.walk else "samples.png")
    )
    kind = pictures.format_of(out, *((".webp", ".gif") if options.walk else (".png",)))
    Run.open(options.run_dir)
    runtime.import_tensorflow()
    import numpy as np

    from zoo import hooks, restore
    from zoo.generative import row_seeds, sample_images

    restored = restore.restore(options.run_dir, options.checkpoint)
    model = restored.model
    if not model.draws:
        raise UsageError(
            f"{options.run_dir}: a {restored.settings.run.model} model repaints pictures and draws "
            "none: python -m zoo.stylize --image=PHOTO"
        )
    sampler = {}
    if options.sampler is not None:
        if options.sampler not in model.samplers:
            known = ", ".join(model.samplers) or "none for this model"
            raise UsageError(f"--sampler={options.sampler}: expected one of: {known}")
        sampler = {"sampler": options.sampler}
    labels = None
    if options.label is not None:
        if not (model.conditional or model.samplers):
            name = restored.settings.run.model
            raise UsageError(
                f"--label={options.label}: a {name} draws no class apart: leave it out"
            )
        labels = np.full(count, class_number(options.label, restored.class_names), np.int32)
    if options.walk:
        frames = hooks.walk(
            model,
            seed=options.seed,
            count=count,
            frames=options.frames,
            labels=labels,
            **sampler,
        )
        data = pictures.animate(frames, kind)
    else:
        seeds = row_seeds(options.seed, count)
        columns = max(1, round(count**0.5))
        if labels is None and model.conditional:
            labels = model.default_labels(seeds)
            if model.num_classes <= _MOST_COLUMNS:  # a class a column
                columns = model.num_classes
        images = sample_images(model, seeds, labels, **sampler)
        data = pictures.encode(pictures.grid(images, columns))
    try:
        files.write(out, data)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    how = f", sampler {options.sampler or model.samplers[0]}" if model.samplers else ""
    print(f"{out} (seed {options.seed}{how}, {restored.checkpoint})")
    return 0


def class_number(
    text: str, class_names: Sequence[str], flag: str = "label", kind: str = "class"
) -> int:
    """The number of a class that is given by its name or number; UsageError for any other."""
    if text in class_names:
        return class_names.index(text)
    if text.isdecimal() and int(text) < len(class_names):
        return int(text)
    known = ", ".join(class_names) or "no classes in this run's data"
    raise UsageError(f"--{flag}={text}: expected a {kind}: {known}")


if __name__ == "__main__":
    flags.run_command(main)
