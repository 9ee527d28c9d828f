"""Our own sets as builders of TensorFlow Datasets: `tfds.load("paintings/hills", split="train")`.

They have the pictures, order and labels of `zoo.data.source`, at the default size. tfds keeps what
it has prepared under the version, which is the zoo's: prepare anew what an older one has drawn.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

import zoo
from zoo.data import glyphs, paintings, scenes, source


class _Drawn(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """One of our sets; its variants are its configurations."""

    VERSION = tfds.core.Version(zoo.__version__)

    def _source(self) -> source.Source:
        variant = self.builder_config.name if self.builder_config else "default"
        return source.load(self.name if variant == "default" else f"{self.name}/{variant}")

    def _info(self) -> tfds.core.DatasetInfo:
        drawn = self._source()
        features = {
            "image": tfds.features.Image(shape=drawn.image_shape),
            "label": tfds.features.ClassLabel(names=drawn.class_names),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=source.names()[self.name],
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            license="Apache-2.0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._source().num_examples}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        arrays = self._source().arrays(split)
        for number, (image, label) in enumerate(zip(arrays["image"], arrays["label"], strict=True)):
            yield number, {"image": _png(image), "label": int(label)}


def _png(image: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "PNG")
    file.seek(0)
    return file


def _configs(module: Any) -> list[tfds.core.BuilderConfig]:
    return [
        tfds.core.BuilderConfig(name=variant or "default", version=_Drawn.VERSION)
        for variant in module.VARIANTS
    ]


class Glyphs(_Drawn):
    """Hand-drawn digits."""

    BUILDER_CONFIGS = _configs(glyphs)


class Paintings(_Drawn):
    """Ten named styles."""

    BUILDER_CONFIGS = _configs(paintings)


class Scenes(_Drawn):
    """Photo-like content pictures."""

    BUILDER_CONFIGS = _configs(scenes)
