"""`python -m zoo.evaluate`: how good a run, an exported model or a folder of pictures is.

Whatever it measures it writes down with its protocol, in evaluation.json; figures of another
protocol are never put in its place unasked.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from zoo import files, flags
from zoo.errors import UsageError, check_positive

if TYPE_CHECKING:  # --help must not wait for them
    import numpy as np

    from zoo.metrics.quality import SampleQuality
    from zoo.subjects import Subject

_SAMPLES = 4000
_THOROUGH_EXAMPLES = 1000
# Fewer say more about their number than about the model.
_FEW_SAMPLES = 1000
_SUSPICIOUS = 32
_PAIRS_A_ROW = 4


@dataclasses.dataclass(frozen=True)
class EvaluateFlags:
    """What can be evaluated, and how."""

    run_dir: str = ""
    """Directory of a training run."""
    checkpoint: Literal["best", "last"] = "best"
    """Which weights of the run: of the best evaluation, or of the last step saved."""
    saved_model: str = ""
    """Directory of an exported SavedModel: what is served is what is measured."""
    samples: str = ""
    """Folder of pictures, of whatever drew them."""
    dataset: str = ""
    """The real pictures, for --saved_model; by default those that the run was trained on."""
    reference: str = ""
    """The real pictures, for --samples: a data set, or a folder of which all pictures count."""
    split: str = "test"
    """Which part of the data set is the reference."""
    image_size: int | None = None
    """Height and width at which a folder and its reference are compared; by default their own."""
    num_samples: int | None = None
    """Pictures to draw, by default 4000; of a folder, to take: by default all."""
    num_reference: int | None = None
    """Real pictures to compare with; as many as samples by default, or all if there are fewer."""
    seed: int | None = None
    """Of the samples; that of the run by default, which repeats its metrics.json, or 0."""
    num_seeds: int = 1
    """Sets of samples, of this seed and the following ones; their spread is reported too."""
    inception_weights: str = ""
    """File classify_image_graph_def.pb of inception-2015-12-05.tgz: adds FID, KID, Inception score
    """
    out: str = ""
    """JSON file to write; evaluation.json in the run's or model's directory, or here, by default.
    """
    overwrite: bool = False
    """Replace results of another protocol."""

    def __post_init__(self):
        counts = ("num_samples", "num_reference", "num_seeds", "image_size")
        check_positive(**{name: getattr(self, name) for name in counts})
        if self.seed is not None and not 0 <= self.seed < 2**31 - self.num_seeds:
            raise UsageError(f"--seed={self.seed}: expected 0 to {2**31 - 1 - self.num_seeds}")
        given = [name for name in ("run_dir", "saved_model", "samples") if getattr(self, name)]
        if len(given) != 1:
            raise UsageError(
                f"{' and '.join(f'--{name}' for name in given) or 'nothing'} to evaluate: expected "
                "one of --run_dir, --saved_model and --samples"
            )
        for subject, needed in (("saved_model", "dataset"), ("samples", "reference")):
            if getattr(self, subject) and not getattr(self, needed):
                raise UsageError(f"--{subject} needs --{needed}: the real pictures to compare with")
        if self.reference and not self.samples:
            raise UsageError("--reference goes with --samples; expected --dataset")
        if self.samples and (self.dataset or self.num_seeds > 1 or self.seed is not None):
            raise UsageError(
                "--samples has neither seeds nor a data set of its own: expected --reference, and "
                "no --dataset, --seed or --num_seeds"
            )
        if self.image_size and not self.samples:
            raise UsageError(f"--image_size={self.image_size}: a model draws at its own size")


def main(argv: list[str]) -> int:
    """Measures, writes and prints; returns the exit code."""
    usage = "python -m zoo.evaluate --run_dir=DIR [--flag=value ...]"
    options = flags.parse_options(EvaluateFlags, usage, argv)
    if options is None:
        return 0
    from zoo import runtime
    from zoo.rundir import Run

    if options.run_dir:
        Run.open(options.run_dir)
    runtime.import_tensorflow()
    from zoo import subjects

    out = pathlib.Path(options.out or "evaluation.json")
    if not options.out and options.run_dir:
        out = pathlib.Path(options.run_dir, out)
    elif not options.out and options.saved_model:
        out = subjects.saved_model_path(options.saved_model) / out
    if out.suffix != ".json":
        raise UsageError(f"--out={out}: expected a name ending in .json")
    began = time.monotonic()
    result, sheet = _evaluate(options, _previous(out))
    result["seconds"]["all"] = round(time.monotonic() - began, 1)
    try:
        if sheet is not None:
            files.write(out.with_suffix(".png"), sheet)
        files.write(out, (json.dumps(result, indent=2) + "\n").encode())
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    print(table(result))
    if sheet is not None:
        print(f"The samples nearest to training pictures, beside these: {out.with_suffix('.png')}")
    print(f"All figures, with their protocol: {out}")
    return 0


def _evaluate(
    options: EvaluateFlags, previous: Mapping[str, Any] | None
) -> tuple[dict[str, Any], bytes | None]:
    """The results, and the sheet of suspicious samples as a PNG."""
    from zoo.metrics import reconstruction
    from zoo.metrics.quality import SampleQuality
    from zoo.rundir import versions

    subject, real = _subject_and_reference(options)
    result: dict[str, Any] = {
        "subject": subject.facts,
        "split": real.split,
        "examples": len(real.images),
        "protocol": {"dataset": real.name, "split": real.split},
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "seconds": {},
    }
    protocol = result["protocol"]
    model = subject.restored and subject.restored.model
    if model:
        result["step"] = int(model.step.numpy())
        result["thorough_examples"] = min(len(real.images), _THOROUGH_EXAMPLES)
        protocol |= model.protocol()
    judges: dict[str, SampleQuality] = {}
    if subject.samples:
        count = min(options.num_samples or subject.count or _SAMPLES, subject.count or 2**62)
        seed = options.seed if options.seed is not None else model.seed if model else 0
        rows = real.images[: options.num_reference or count]
        judges["sample_measures"] = SampleQuality(rows, real.class_names)
        protocol |= judges["sample_measures"].protocol(count)
        if not subject.count:
            protocol |= {"seed": seed, "num_seeds": options.num_seeds}
        if options.inception_weights:
            from zoo.metrics.inception import Inception

            net = Inception(pathlib.Path(options.inception_weights))
            judges["inception_measures"] = SampleQuality(rows, extractor=net)
            result["inception_protocol"] = judges["inception_measures"].protocol(count)
    elif options.num_samples or options.inception_weights or options.num_seeds > 1:
        raise UsageError(
            f"{subject.facts['path']}: this model repaints pictures and draws none: expected no "
            "--num_samples, --num_seeds or --inception_weights"
        )
    if previous and not options.overwrite:
        check_same_protocol(previous, result)
    if model:
        result |= _of_model(model, real, result["thorough_examples"])
    sheet = None
    if subject.samples:
        kept = _measure_samples(result, subject, judges, seed, options.num_seeds, count)
        if real.other is not None:
            # What no model can be better than: other real pictures, in place of samples.
            labels = real.other["label"][:count]
            result["real_measures"] = judges["sample_measures"].measure(
                real.other["image"][:count], labels
            )
        if real.train is not None and real.held_out is not None:
            sheet = _measure_novelty(result, real.train, real.held_out, kept)
    if subject.reconstruct:
        originals = real.images[: options.num_samples or _SAMPLES]
        result["reconstruction_measures"] = reconstruction.measure(
            originals, subject.reconstruct(originals)
        )
    if subject.encode:
        active = reconstruction.active_units(subject.encode(real.images))
        result.setdefault("reconstruction_measures", {})["active_units"] = active
    return result, sheet


@dataclasses.dataclass(frozen=True)
class _Real:
    """The real pictures: what is compared with, and whatever there is beside it."""

    name: str
    split: str
    class_names: tuple[str, ...]
    examples: dict[str, "np.ndarray"]
    other: "dict[str, np.ndarray] | None" = None
    train: "np.ndarray | None" = None
    held_out: "np.ndarray | None" = None

    @property
    def images(self) -> "np.ndarray":
        return self.examples["image"]


def _subject_and_reference(options: EvaluateFlags) -> "tuple[Subject, _Real]":
    from zoo import subjects
    from zoo.data import source, styles

    if options.samples:
        real = None
        if not pathlib.Path(options.reference).is_dir():
            size = options.image_size or subjects.common_size(options.samples)
            real = _real(source.load(options.reference, size), options.split)
        grey = real is not None and real.images.shape[-1] == 1
        found = subjects.read_folder(options.samples, options.image_size, grey=grey)
        if real is None:
            other = subjects.read_folder(options.reference, options.image_size)
            real = _Real(options.reference, "all", other.class_names, {"image": other.images})
        if found.class_names != real.class_names or len(real.class_names) < 2:
            found = found._replace(labels=None)
        return subjects.of_pictures(options.samples, found), real
    if options.saved_model:
        num_classes = len(source.load(options.dataset).class_names)
        subject = subjects.of_saved_model(options.saved_model, num_classes)
        name, size = options.dataset, subject.image_shape[0]
    else:
        subject = subjects.of_run(options.run_dir, options.checkpoint)
        run = subject.restored.settings.run  # type: ignore[union-attr]
        name, size = options.dataset or run.dataset, subject.image_shape[0]
    data = source.load(name, size)
    if data.image_shape != subject.image_shape:
        raise UsageError(
            f"{data.name} has pictures of shape {list(data.image_shape)}, the model draws "
            f"{list(subject.image_shape)}: choose another --dataset"
        )
    real = _real(data, options.split)
    if subject.restored and (pictures := styles.of_config(subject.restored.settings.config)):
        only_last = bool(subject.restored.settings.config.get("add_style"))
        styles.add_to({real.split: real.examples}, pictures, only_last)
    return subject, real


def _real(data: "Any", split: str) -> _Real:
    examples = {split: dict(data.arrays(split))}
    examples |= {name: data.arrays(name) for name in ("train", "test") if name in data.num_examples}
    others = [arrays for name, arrays in examples.items() if name != split]
    both = {"train", "test"} <= set(examples)
    return _Real(
        name=data.name,
        split=split,
        class_names=data.class_names,
        examples=examples[split],
        other=others[0] if others else None,
        train=examples["train"]["image"] if both else None,
        held_out=examples["test"]["image"] if both else None,
    )


def _of_model(model: Any, real: _Real, thorough: int) -> dict[str, dict[str, float]]:
    from zoo import hooks

    few = {name: values[:thorough] for name, values in real.examples.items()}
    return {
        "measures": hooks.means(model, model.evaluate_batch, real.examples),
        "thorough_measures": hooks.means(model, model.thorough_measures, few),
    }


def _measure_samples(
    result: dict[str, Any],
    subject: "Subject",
    judges: "Mapping[str, SampleQuality]",
    seed: int,
    num_seeds: int,
    count: int,
) -> "np.ndarray":
    """Adds what the judges find, and its spread over seeds; returns some samples of the first."""
    from zoo.metrics.quality import Measurement, Rows
    from zoo.progress import Progress

    assert subject.samples is not None
    progress = Progress("Samples", count * num_seeds, unit="sample")
    kept, sampling, done = Rows(count), 0.0, 0
    found: dict[str, list[dict[str, float]]] = {name: [] for name in judges}
    for number in range(num_seeds):
        measurements = {name: Measurement(judge, count) for name, judge in judges.items()}
        asked = time.monotonic()
        for images, labels in subject.samples(seed + number, count):
            sampling += time.monotonic() - asked
            for measurement in measurements.values():
                measurement.add(images, labels)
            if not number:
                kept.add(images)
            done += len(images)
            progress.update(done)
            asked = time.monotonic()
        for name, measurement in measurements.items():
            found[name].append(measurement.result())
    progress.close()
    for name, sets in found.items():
        result[name], spread = _mean_and_spread(sets)
        if num_seeds > 1:
            result.setdefault("spread", {})[name] = spread
    result["seconds"]["sampling"] = round(sampling, 1)
    return kept.rows


def _mean_and_spread(
    sets: "list[dict[str, float]]",
) -> tuple[dict[str, float], dict[str, float]]:
    """Of each measure: its mean over sets, and its standard deviation."""
    import numpy as np

    columns = {name: [measures[name] for measures in sets] for name in sets[0]}
    mean = {name: float(np.mean(values)) for name, values in columns.items()}
    spread = {name: float(np.std(values, ddof=1)) for name, values in columns.items() if sets[1:]}
    return mean, spread


def _measure_novelty(
    result: dict[str, Any], train: "np.ndarray", held_out: "np.ndarray", samples: "np.ndarray"
) -> bytes:
    """Adds novelty_measures; returns the most suspicious samples beside their training pictures."""
    import numpy as np

    from zoo import pictures
    from zoo.metrics.novelty import Novelty

    novelty = Novelty(train, held_out)
    found = novelty.measure(samples)
    result["novelty_measures"] = found.measures
    result["novelty_protocol"] = novelty.protocol()
    worst = np.argsort(found.suspicion, kind="stable")[:_SUSPICIOUS]
    pairs = np.stack([samples[worst], train[found.nearest[worst]]], axis=1)
    pairs = pairs.reshape(-1, *samples.shape[1:])
    return pictures.encode(pictures.grid(pairs, 2 * _PAIRS_A_ROW))


def _previous(out: pathlib.Path) -> Mapping[str, Any] | None:
    try:
        return json.loads(out.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        raise UsageError(f"--out={out}: cannot be read ({error}): remove it") from error


def check_same_protocol(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """UsageError unless two results, as they are written, were measured by one protocol."""
    for name in ("protocol", "inception_protocol", "novelty_protocol"):
        ours, theirs = a.get(name), b.get(name)
        if ours is None or theirs is None:  # one measured more than the other
            continue
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                raise UsageError(
                    f"the results that are there have another protocol: {key} was "
                    f"{ours.get(key)}, is {theirs.get(key)}; such figures do not compare: choose "
                    "another --out, or replace them with --overwrite"
                )


_TITLES = {
    "measures": "Objectives and their parts",
    "thorough_measures": "On {thorough_examples} of them",
    "sample_measures": "Samples",
    "inception_measures": "Samples, by Inception",
    "reconstruction_measures": "Reconstructions",
    "novelty_measures": "Nearest training pictures",
}


def table(result: Mapping[str, Any]) -> str:
    """Results as text: a measure a line, with its spread, and what other real pictures have."""
    subject, protocol = result["subject"], result["protocol"]
    step = f", step {result['step']}" if "step" in result else ""
    lines = [
        f"{subject['path']}{step}: {protocol['dataset']}, {result['split']} split, "
        f"{result['examples']} pictures"
    ]
    spread, real = result.get("spread", {}), result.get("real_measures", {})
    for kind, title in _TITLES.items():
        if not result.get(kind):
            continue
        compared = real if kind == "sample_measures" else {}
        head = title.format_map(result)
        if spread.get(kind):
            head += f", mean ± s.d. of {protocol['num_seeds']} seeds"
        lines += ["", f"{head:44}" + (f"{'real':>24}" if compared else "")]
        for name, value in result[kind].items():
            text = f"  {name:34}{value:12.5g}"
            text += f" ± {spread[kind][name]:<9.2g}" if spread.get(kind) else 12 * " "
            lines.append(text + (f"{compared[name]:8.4g}" if name in compared else ""))
    lines.append("")
    if "num_samples" in protocol:
        lines.append(
            f"{protocol['num_samples']} samples against {protocol['num_real']} real pictures, "
            f"features of {protocol['extractor']} {protocol['extractor_hash'][:12]}: comparable "
            "with equal numbers and features only"
        )
        if protocol["num_samples"] < _FEW_SAMPLES:
            lines.append(
                "Too few samples for Fréchet distances: their bias falls as 1 / number, and as "
                "many real pictures have that of the column `real`, not 0"
            )
    return "\n".join(line.rstrip() for line in lines).rstrip()


if __name__ == "__main__":
    flags.run_command(main)
