"""The network of FID: Inception of 2015, for those who have its file.

Heusel et al. 2017 compare the 2,048 averages `pool_3` of the frozen graph
`classify_image_graph_def.pb` (in `inception-2015-12-05.tgz`), and so do the scores of Salimans et
al. 2016, from its logits without their bias. Other ports of Inception give other figures, so the
graph is run as it is, its own resizing included: bilinear to 299x299, without antialiasing. It does
not come with the zoo; the protocol names the SHA-256 of the file that was used.

Shape letters: N images, H W C height, width, channels, K the network's 1,008 classes.
"""

import hashlib
import pathlib

import numpy as np
import tensorflow as tf

from zoo.errors import UsageError, reason
from zoo.metrics.extractors import MeasureNames, Outputs, softmax

# Every chunk is filled up to this size, so that a picture is computed alike whatever its company.
CHUNK = 50
_INPUT, _FEATURES, _LOGITS = "ExpandDims:0", "pool_3:0", "softmax/logits/MatMul"


class Inception:
    """The frozen graph as an extractor; see `zoo.metrics.extractors.Extractor`.

    Attributes:
      hash: the SHA-256 of the file, whole.
      image_shape: of what the network sees after its own resizing.
    """

    name = "inception-2015-12-05"
    names = MeasureNames("fid", "kid", "inception_score")
    class_names: tuple[str, ...] = ()
    image_shape = (299, 299, 3)
    resize = "bilinear to 299x299 by the graph, without antialiasing"
    kernel_scale: float | None = 1.0
    num_features = 2048

    def __init__(self, path: pathlib.Path):
        """UsageError unless the file is a frozen graph with the tensors that FID is made of."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"--inception_weights={path}: {reason(error)}") from error
        definition = tf.compat.v1.GraphDef()
        expected = "expected classify_image_graph_def.pb of inception-2015-12-05.tgz"
        self.hash = hashlib.sha256(data).hexdigest()
        # In a graph and a session of its own: its operations are too old for a tf.function.
        graph = tf.Graph()
        try:
            definition.ParseFromString(data)
            with graph.as_default():
                self._images = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
                pool, product = tf.import_graph_def(
                    definition,
                    input_map={_INPUT: self._images},
                    return_elements=[_FEATURES, _LOGITS],
                    name="",
                )
                self._features = tf.reshape(pool, [-1, self.num_features])
                self._session = tf.compat.v1.Session(graph=graph)
                self._weights = self._session.run(product.inputs[1]).astype(np.float64)  # [2048, K]
        except Exception as error:  # protobuf's, ValueError and TensorFlow's own: none in common
            raise UsageError(
                f"--inception_weights={path}: no such graph ({reason(error)}); {expected}"
            ) from error
        if self._weights.shape[0] != self.num_features:
            raise UsageError(
                f"--inception_weights={path}: logits of {self._weights.shape[0]} features; "
                f"{expected}, which has {self.num_features}"
            )

    def outputs(self, images: np.ndarray) -> Outputs:
        """images uint8 [N, H, W, 1 or 3] -> features float64 [N, 2048], probabilities [N, K].

        Grey pictures are shown as red = green = blue.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise UsageError(
                f"images are {images.dtype} {list(images.shape)}; Inception expects uint8 "
                "[N, H, W, 1 or 3]"
            )
        features = [np.empty([0, self.num_features])]
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            filled = np.zeros([CHUNK, *chunk.shape[1:3], 3], np.float32)
            filled[: len(chunk)] = chunk
            found = self._session.run(self._features, {self._images: filled})
            features.append(found[: len(chunk)].astype(np.float64))
        rows = np.concatenate(features)
        return Outputs(rows, softmax(rows @ self._weights))
