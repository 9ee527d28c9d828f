"""`python -m zoo`: the models and data sets by name, and the commands."""

import zoo
from zoo import models
from zoo.data import source

_COMMANDS = {
    "zoo.train": "train a model, or resume its run",
    "zoo.sample": "pictures from a run by seed; --walk for an animation",
    "export": "a run as a SavedModel that needs nothing of ours",
    "experiments.bench": "measure the loop, the input and the memory of this machine",
}


def main() -> None:
    """Prints the lists."""
    print(f"zoo {zoo.__version__}: models for AI art\n")
    for title, names in (
        ("Models (--model)", models.names()),
        ("Data sets (--dataset)", source.names()),
        ("Commands (python -m ..., each with --help)", _COMMANDS),
    ):
        print(f"{title}:")
        for name, text in names.items():
            print(f"  {name:18} {text}")
        print()
    print("Start: python -m zoo.train --model=vae")


if __name__ == "__main__":
    main()
