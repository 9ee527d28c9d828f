"""TensorFlow Serving's warm-up file: requests that it answers itself before a model is ready.

https://www.tensorflow.org/tfx/serving/saved_model_warmup: a TFRecord file of PredictionLog, at most
1,000; one that fails keeps the model from being served. Its messages consist of nothing but fields
with a length, so that they are written here without tensorflow-serving-api.
"""

import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

FILE = "assets.extra/tf_serving_warmup_requests"


def write(
    directory: pathlib.Path, model: str, requests: Iterable[tuple[str, Mapping[str, np.ndarray]]]
) -> None:
    """requests: signature, and its inputs by name."""
    with tf.io.TFRecordWriter(str(directory / FILE)) as writer:
        for signature, inputs in requests:
            # PredictionLog.predict_log, PredictLog.request
            writer.write(_field(6, _field(1, predict_request(model, signature, inputs))))


def predict_request(model: str, signature: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    """A tensorflow.serving.PredictRequest: what is sent by gRPC too."""
    spec = _field(1, model.encode()) + _field(3, signature.encode())
    request = _field(1, spec)
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += _field(2, _field(1, name.encode()) + _field(2, tensor))
    return request


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
