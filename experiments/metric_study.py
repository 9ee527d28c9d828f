"""`python -m experiments.metric_study`: do the sample measures tell apart what they must?

Real pictures of the training split, changed in known ways, and generators early and late, stand for
samples against the test split. Then how many samples a Fréchet distance needs, and what all of it
costs in time.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from zoo import flags
from zoo.errors import UsageError, check_positive

if TYPE_CHECKING:  # --help must not wait for it
    import numpy as np

_COUNTS = (250, 500, 1000, 2000, 4000, 8000)
_MOST_SETS = 10
_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class StudyFlags:
    """What the study can be told."""

    dataset: Literal["glyphs", "paintings"] = "glyphs"
    """The real pictures."""
    num_samples: int = 2000
    """In each set, and of real pictures."""
    pool: int = 8000
    """Pictures whose distance stands for that of any number, and is to be met by fewer."""
    run_dirs: str = ""
    """Training runs, between commas: of each the first and the last checkpoint that it keeps."""

    def __post_init__(self):
        check_positive(num_samples=self.num_samples, pool=self.pool)
        if self.num_samples < 100:
            raise UsageError(f"--num_samples={self.num_samples}: expected at least 100")


def main(argv: list[str]) -> int:
    """Prints three tables; returns the exit code."""
    usage = "python -m experiments.metric_study [--flag=value ...]"
    options = flags.parse_options(StudyFlags, usage, argv)
    if options is None:
        return 0
    from zoo import runtime

    runtime.import_tensorflow()
    from zoo.data import source
    from zoo.metrics.novelty import Novelty
    from zoo.metrics.quality import SampleQuality

    data = source.load(options.dataset)
    train, test = data.arrays("train"), data.arrays("test")
    count = options.num_samples
    if len(test["image"]) < 2 * count:
        raise UsageError(
            f"--num_samples={count}: expected at most half of the {len(test['image'])} test "
            "pictures"
        )
    clock = _Clock()
    quality = clock("reference", lambda: SampleQuality(test["image"][:count], data.class_names))
    novelty = clock("training pictures", lambda: Novelty(train["image"], test["image"]))
    names = [quality.frechet_name, quality.kernel_name, "precision", "recall", "density"]
    names += ["coverage", "diversity", quality.score_name, "novelty_pixels", "near_copies_pixels"]
    print(f"{data.name}, {count} of each against {count} test pictures")
    print(f"{'':22}" + "".join(f"{_short(name):>11}" for name in names))
    rest = {name: values[count:] for name, values in test.items()}
    sampled = sets(train["image"], rest, count)
    drawn = list(generators(options.run_dirs, count))
    for name, images in (*sampled.items(), *drawn):
        measures = clock("measures of a set", lambda x=images: quality.measure(x))
        measures |= clock("novelty of a set", lambda x=images: novelty.measure(x[:2000]).measures)
        print(f"{name:22}" + "".join(f"{measures[n]:11.4g}" for n in names), flush=True)
    pools = {"held-out + noise": with_noise(train["image"][: options.pool])}
    pools |= dict(generators(options.run_dirs, options.pool, only_last=True))
    for name, images in pools.items():
        print(f"\n{quality.frechet_name} of {name}, by the number of samples")
        features = clock(
            f"features of {len(images)}", lambda x=images: quality.extractor.outputs(x)
        )
        for line in needed(quality.moments, features.features):
            print(line)
    print("\nProcessor time, seconds (last)")
    for name, seconds in clock.seconds.items():
        print(f"  {name:24}{seconds:8.2f}")
    return 0


def sets(train: "np.ndarray", rest: "dict[str, np.ndarray]", count: int) -> "dict[str, np.ndarray]":
    """Name -> uint8 [count, H, W, C]: training pictures, and what becomes of the rest of the test
    split, {"image", "label"}; of seven classes there may be fewer."""
    import numpy as np

    real = rest["image"][:count]
    random = np.random.Generator(np.random.PCG64(0))
    mean = np.round(real.mean(axis=0)).astype(np.uint8)
    return {
        "held-out": real,
        "held-out + noise": with_noise(real),
        "half resolution": half_resolution(real),
        "7 of 10 classes": rest["image"][rest["label"] < 7][:count],
        "100 pictures repeated": np.tile(real[:100], (count // 100, 1, 1, 1)),
        "mean picture": np.repeat(mean[None], count, axis=0),
        "uniform noise": random.integers(0, 256, real.shape).astype(np.uint8),
        "training pictures": train[:count],
    }


def with_noise(images: "np.ndarray") -> "np.ndarray":
    """Gaussian noise of deviation 0.1 on pictures in [0, 1]."""
    import numpy as np

    random = np.random.Generator(np.random.PCG64(1))
    noise = 25.5 * random.standard_normal(images.shape, np.float32)
    return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)


def half_resolution(images: "np.ndarray") -> "np.ndarray":
    """Means of 2x2 pixels, in their place; sides are even."""
    import numpy as np

    count, height, width, channels = images.shape
    means = images.reshape(count, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    return np.round(means).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)


def generators(
    run_dirs: str, count: int, only_last: bool = False
) -> "Iterator[tuple[str, np.ndarray]]":
    """Name and pictures of the first and the last checkpoint of each run."""
    import pathlib

    from zoo import restore
    from zoo.checkpoints import Checkpoints
    from zoo.generative import fold_seed, row_seeds, sample_images

    for run_dir in filter(None, run_dirs.split(",")):
        model, settings, *_ = restore.restore(run_dir, "last")
        seeds = row_seeds(fold_seed(model.seed, "quality"), count)
        checkpoints = Checkpoints(model.checkpoint(), pathlib.Path(run_dir, "checkpoints"))
        steps = [step for step in checkpoints.steps() if step]
        for step in dict.fromkeys(steps[-1:] if only_last else (steps[0], steps[-1])):
            checkpoints.restore(up_to=step)
            images = sample_images(model, seeds, model.default_labels(seeds))
            yield f"{settings.run.model}, step {step}", images


def needed(real, features: "np.ndarray") -> Iterator[str]:
    """A line for each number of samples: mean and deviation of the distance, from all's."""
    import numpy as np

    from zoo.metrics import distances

    def distance(rows):
        return distances.frechet_distance_of_moments(real, distances.moments(rows))

    whole, enough = distance(features), None
    for count in (count for count in _COUNTS if count < len(features)):
        num_sets = min(_MOST_SETS, len(features) // count)
        values = [distance(features[i * count : (i + 1) * count]) for i in range(num_sets)]
        off = np.array(values) / whole - 1
        within = bool(np.abs(off).max() <= _TOLERANCE)
        enough = (enough or count) if within else None
        yield (
            f"  {count:6}  {np.mean(values):9.4f}  mean {off.mean():+7.1%}, farthest "
            f"{off[np.abs(off).argmax()]:+7.1%} of {num_sets} sets"
        )
    yield f"  {len(features):6}  {whole:9.4f}"
    tolerance = f"{_TOLERANCE:.0%}"
    yield f"  within ±{tolerance} from {enough} on" if enough else f"  none is within ±{tolerance}"


class _Clock:
    """Calls functions, and remembers what processor time each kind took last."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, function: Callable):
        began = time.process_time()
        result = function()
        self.seconds[name] = time.process_time() - began
        return result


def _short(name: str) -> str:
    for long, short in (("classifier_", ""), ("novelty_", "nov_"), ("near_copies_", "near_")):
        name = name.replace(long, short)
    return name.replace("_glyphs", "").replace("_paintings", "").replace("_pixels", "_px")


if __name__ == "__main__":
    flags.run_command(main)
