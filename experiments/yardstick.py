"""`python -m experiments.yardstick --run_dir=DIR`: a style network beside Gatys' optimisation.

Both are judged by the network's own objective, on held-out content pictures at the size it was
trained on, patches being looked at in directions that neither has seen. The optimisation takes 300
iterations of L-BFGS from the content for every pair of content and style; it is what the network
stands in for, so a loss of up to half as much again, at hundreds of times the speed, is well.
"""

import dataclasses
import statistics
import time

from zoo import flags
from zoo.errors import UsageError, check_positive


@dataclasses.dataclass(frozen=True)
class YardstickFlags:
    """What the command can be told."""

    run_dir: str = ""
    """Directory of a training run of the model style."""
    contents: int = 2
    """Held-out content pictures, each of them in each style."""
    iterations: int = 300
    """Of L-BFGS, for each pair."""

    def __post_init__(self):
        check_positive(contents=self.contents, iterations=self.iterations)


def main(argv: list[str]) -> int:
    """Prints a line a pair and their means; returns the exit code."""
    usage = "python -m experiments.yardstick --run_dir=DIR [--flag=value ...]"
    options = flags.parse_options(YardstickFlags, usage, argv)
    if options is None:
        return 0
    from zoo import runtime

    tf = runtime.import_tensorflow()
    import numpy as np

    from zoo import gatys, restore
    from zoo.data import source, styles
    from zoo.style_transfer import WEIGHTS, Objective

    restored = restore.restore(options.run_dir)
    model, settings = restored.model, restored.settings
    if settings.run.model != "style" or settings.config["add_style"]:
        raise UsageError(f"{options.run_dir}: expected a run of --model=style, without --add_style")
    model.prepare()
    config = settings.config
    pictures = styles.load(config["styles"], config["style_size"])
    contents = source.load(settings.run.dataset, settings.run.image_size).arrays("test")["image"]
    weights = {field: config[field] for field in WEIGHTS.values()}
    rival = gatys.Settings(
        **weights,
        perceptual=config["perceptual"],
        perceptual_weights=config["perceptual_weights"],
        optimizer="lbfgs",
        iterations=options.iterations,
        scales=1,
        max_size=max(contents.shape[1:3] + pictures.images.shape[1:3]),
    )
    paint = tf.function(model.net)
    ratios, speeds = [], []
    print(f"{'content':>7} {'style':12} {'network':>8} {'L-BFGS':>8} {'ratio':>6} {'speed':>7}")
    for number, content in enumerate(contents[: options.contents]):
        for index, name in enumerate(pictures.names):
            image, style = (gatys.to_tensor(x) for x in (content, pictures.images[index]))
            one_hot = tf.one_hot([index], len(pictures.names))
            painted, network_seconds = _timed(lambda i=image, w=one_hot: paint(i, w), repeat=5)
            found, seconds = _timed(
                lambda c=content, i=index: gatys.stylize(c, pictures.images[i], rival)
            )
            objective = Objective(rival, model.perceptual, image, style)
            losses = [_loss(objective, x) for x in (painted, gatys.to_tensor(found))]
            ratios.append(losses[0] / losses[1])
            speeds.append(seconds / network_seconds)
            print(
                f"{number:7} {name:12} {losses[0]:8.4f} {losses[1]:8.4f} {ratios[-1]:6.2f} "
                f"{speeds[-1]:6.0f}x",
                flush=True,
            )
    print(f"mean ratio {np.mean(ratios):.2f}, median speed {statistics.median(speeds):.0f}x")
    return 0


def _timed(function, repeat: int = 0):
    """What it returns, and the seconds of one call: the fastest of `repeat` after a first."""
    result, best = None, float("inf")
    for turn in range(repeat + 1):
        start = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - start
        if turn or not repeat:
            best = min(best, seconds)
    return result, best


def _loss(objective, images) -> float:
    """Over ten sets of directions that no optimisation has used."""
    from zoo import gatys

    values = [
        float(objective(images, *gatys.directions(2**30, step))["stylization"][0])
        for step in range(10)
    ]
    return statistics.fmean(values)


if __name__ == "__main__":
    flags.run_command(main)
