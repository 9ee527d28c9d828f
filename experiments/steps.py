"""A run's training step without its data: the model, and what a batch of it looks like."""

from typing import Any, NamedTuple

from zoo import flags, restore
from zoo.data import source, styles
from zoo.generative import GenerativeModel


class Step(NamedTuple):
    """What `model.train_step` belongs to and is called with."""

    model: GenerativeModel
    specs: dict[str, dict[str, Any]]
    """Batch key -> of one example: `shape`, `dtype`, and `below`, which its values are."""
    pictures: styles.Styles | None
    """The styles that it learns, if it does."""


def prepare(settings: flags.Settings) -> Step:
    """Builds the model, in the scope of whatever strategy there is; draws no training pictures."""
    data = source.load(settings.run.dataset, settings.run.image_size)
    pictures = styles.of_config(settings.config)
    class_names = pictures.names if pictures else data.class_names
    model = restore.build_model(settings, data.image_shape, class_names)
    model.prepare()
    specs = {"image": data.image_shape, "label": ()}
    if pictures:
        specs |= {"style": pictures.images.shape[1:], "style_label": ()}
    classes = {"label": len(data.class_names), "style_label": len(class_names)}
    return Step(
        model,
        {
            name: {
                "shape": list(shape),
                "dtype": "uint8" if shape else "int32",
                "below": 256 if shape else max(1, classes[name]),
            }
            for name, shape in specs.items()
        },
        pictures,
    )
