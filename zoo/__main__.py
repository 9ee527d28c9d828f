"""`python -m zoo`: the models and data sets by name, and the commands."""

import zoo
from zoo import flags, models
from zoo.data import source
from zoo.errors import UsageError

COMMANDS = {
    "zoo.train": "train a model, or resume its run",
    "zoo.sample": "pictures from a run by seed; --walk for an animation",
    "zoo.stylize": "a photo, a folder of them or an animation, repainted",
    "zoo.evaluate": "how good a run, an exported model or a folder of pictures is",
    "zoo.data": "doctor: what is wrong with a folder of pictures; --fix_into for a clean copy",
    "export": "a run as a SavedModel that needs nothing of ours",
    "export.serving": "TensorFlow Serving's settings for a directory of exported models",
    "export.preview": "exported models over HTTP on this machine, with a page to try them",
    "experiments.compare": "runs or a suite of them side by side: means, intervals, tests, a page",
    "experiments.sweep": "search for the flags that train best",
    "experiments.bench": "measure training, input, serving and memory on this machine",
    "experiments.metric_study": "what the sample measures tell apart, and from how many samples",
    "experiments.yardstick": "a style network beside Gatys' optimisation, by its own objective",
    "experiments.perceptual": "make the random net in whose features style models compare",
    "experiments.extractor": "train the classifier whose features the sample measures use",
}


def main(argv: list[str]) -> int:
    """Prints the lists; returns the exit code."""
    if argv and not flags.wants_help(argv):
        raise UsageError(f"unexpected argument {argv[0]!r}: to train, python -m zoo.train")
    print(f"zoo {zoo.__version__}: models for AI art\n")
    for title, names in (
        ("Models (--model)", models.names()),
        ("Data sets (--dataset)", source.names() | source.OTHERS),
        ("Commands (python -m ..., each with --help)", COMMANDS),
    ):
        print(f"{title}:")
        for name, text in names.items():
            print(f"  {name:22} {text}")
        print()
    print("Start: python -m zoo.train --model=vae")
    return 0


if __name__ == "__main__":
    flags.run_command(main)
