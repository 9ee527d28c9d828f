"""Style pictures: from the embedded paintings, the user's files, or folders of them."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import UsageError, check_positive

if TYPE_CHECKING:
    import numpy as np

MANY = "paintings"
PICTURES_A_STYLE = 20
# The picture that stands for a style: chosen by eye for clear colours and strokes.
_CHOSEN = {"strokes": 7, "glass": 1, "marble": 5, "circles": 1, "dots": 3}


class Styles(NamedTuple):
    """S pictures: images uint8 [S, H, W, 3], and a name for each."""

    images: "np.ndarray"
    names: tuple[str, ...]

    @property
    def hash(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the pixels."""
        return hashlib.sha256(self.images.tobytes()).hexdigest()[:12]

    def __add__(self, other: "Styles") -> "Styles":  # type: ignore[override]
        import numpy as np

        return Styles(np.concatenate([self.images, other.images]), self.names + other.names)


def load(spec: str, image_size: int, flag: str = "styles") -> Styles:
    """The pictures that a comma-separated list, the value of a flag, names: cut square, resized.

    Each part is one of the ten styles of `paintings`, the word `paintings` for many pictures of
    all ten, a picture file, or a folder of those. UsageError for anything else, and for a list
    that names nothing or a name twice.
    """
    import numpy as np

    images, names = [], []
    for part in filter(None, (part.strip() for part in spec.split(","))):
        for name, image in _pictures(part, image_size):
            if name in names:
                raise UsageError(f"--{flag}={spec}: {name} is there twice; expected each once")
            images.append(image)
            names.append(name)
    if not images:
        raise UsageError(f"--{flag}={spec}: expected at least one style")
    return Styles(np.stack(images), tuple(names))


def of_config(config: Mapping[str, Any]) -> Styles | None:
    """The style pictures that a run's flags name; None for a model that repaints in none."""
    if "styles" not in config:
        return None
    size = config["style_size"]
    check_positive(style_size=size)
    pictures = load(config["styles"], size)
    if not config.get("add_style"):
        return pictures
    added = load(config["add_style"], size, flag="add_style")
    if len(added.names) != 1 or added.names[0] in pictures.names:
        raise UsageError(
            f"--add_style={config['add_style']}: expected one picture, of another name than "
            f"{', '.join(pictures.names)}"
        )
    return pictures + added


def add_to(examples: Mapping[str, dict[str, Any]], pictures: Styles, only_last: bool) -> None:
    """To train on in an order of their own; in other splits one beside each content, in turn."""
    import numpy as np

    labels = np.arange(len(pictures.names), dtype=np.int32)[-1 if only_last else 0 :]
    for split, arrays in examples.items():
        rows = labels
        if split != "train":
            rows = labels[np.arange(len(arrays["image"])) % len(labels)]
        arrays |= {"style": pictures.images[rows], "style_label": rows}


def _pictures(part: str, image_size: int) -> "list[tuple[str, np.ndarray]]":
    from zoo.data import paintings

    if part == MANY:
        images, labels = paintings.draw(
            range(PICTURES_A_STYLE * len(paintings.CLASS_NAMES)), image_size=image_size
        )
        named = [paintings.CLASS_NAMES[label] for label in labels]
        numbers = [index // len(paintings.CLASS_NAMES) for index in range(len(labels))]
        return [(f"{n}-{i}", image) for n, i, image in zip(named, numbers, images, strict=True)]
    if part in paintings.CLASS_NAMES:
        number = _CHOSEN.get(part, 0)
        return [(part, paintings.paint(part, number, image_size=image_size))]
    from zoo import photos

    path = Path(part).expanduser()
    if not os.path.lexists(path):
        raise UsageError(
            f"style {part!r} is no file and none of the embedded styles: "
            f"{', '.join(paintings.CLASS_NAMES)}, {MANY}"
        )
    return [
        (file.stem, photos.crop_square(photos.read(file), image_size))
        for file in photos.paths(path)
    ]
