"""Asks every signature of a SavedModel what the live model was asked, and compares.

`python verify.py MODEL REQUESTS.npz TOLERANCE` prints a JSON report; exit code 1 on a mismatch.
Imports TensorFlow and NumPy, nothing of ours and no Keras.
"""

import json
import os
import sys


def verify(path: str, requests: str, tolerance: float) -> dict:
    """The largest absolute difference of each signature, over all batch sizes.

    ValueError if one is above the tolerance or not finite, or a signature is missing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow imports Keras where it finds it; a server has none.
    sys.modules["keras"] = None  # type: ignore[assignment]
    import numpy as np
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    cases: dict[tuple[str, str], dict[str, dict]] = {}
    with np.load(requests) as arrays:
        for key in arrays.files:
            endpoint, batch, direction, name = key.split("/")
            case = cases.setdefault((endpoint, batch), {"in": {}, "out": {}})
            case[direction][name] = arrays[key]
    differences: dict[str, float] = {}
    for (endpoint, batch), case in cases.items():
        if endpoint not in loaded.signatures:
            raise ValueError(f"signature {endpoint} is missing")
        feeds = {name: tf.constant(value) for name, value in case["in"].items()}
        answers = loaded.signatures[endpoint](**feeds)
        for name, expected in case["out"].items():
            answer = answers[name].numpy()
            if answer.shape != expected.shape:
                raise ValueError(
                    f"{endpoint} at batch {batch}: {name} has shape {answer.shape}, "
                    f"expected {expected.shape}"
                )
            difference = float(np.max(np.abs(answer.astype("f8") - expected.astype("f8"))))
            if not difference <= tolerance:
                raise ValueError(
                    f"{endpoint} at batch {batch}: {name} differs by {difference:.3g}, "
                    f"more than {tolerance:g}"
                )
            differences[endpoint] = max(differences.get(endpoint, 0.0), difference)
    if "zoo" in sys.modules:
        raise ValueError("the verification imported zoo: it proves nothing")
    return {
        "tolerance": tolerance,
        "batch_sizes": sorted({int(batch) for _, batch in cases}),
        "max_abs_difference": differences,
        "tensorflow": tf.__version__,
    }


if __name__ == "__main__":
    print(json.dumps(verify(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
