"""Asks every endpoint of an ONNX or LiteRT artifact what the live model was asked, and compares.

`python verify_runtime.py DIRECTORY REQUESTS.npz TOLERANCE` prints a JSON report; exit code 1 on a
mismatch. Imports NumPy and the one runtime, no TensorFlow and nothing of ours.
"""

import importlib.metadata
import json
import pathlib
import sys
from collections.abc import Callable

import numpy as np

Answer = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def verify(directory: pathlib.Path, requests: str, tolerance: float) -> dict:
    """The largest absolute difference of each endpoint, over all batch sizes.

    ValueError if one is above the tolerance or not finite, or of another shape.
    """
    is_onnx = not (directory / "model.tflite").exists()
    cases: dict[str, dict[str, dict[str, dict]]] = {}
    with np.load(requests) as arrays:
        for key in arrays.files:
            endpoint, batch, direction, name = key.split("/")
            case = cases.setdefault(endpoint, {}).setdefault(batch, {"in": {}, "out": {}})
            case[direction][name] = arrays[key]
    differences = {}
    for endpoint, batches in cases.items():
        if endpoint == "latents.py":
            answer = _latents(directory)
        else:
            answer = (_onnx if is_onnx else _litert)(directory, endpoint)
        differences[endpoint] = max(
            _difference(f"{endpoint} at batch {batch}", answer(case["in"]), case["out"], tolerance)
            for batch, case in batches.items()
        )
    if {"tensorflow", "keras", "zoo"} & set(sys.modules):
        raise ValueError("the verification imported TensorFlow or zoo: it proves nothing")
    package = "onnxruntime" if is_onnx else "ai-edge-litert"
    return {
        "tolerance": tolerance,
        "batch_sizes": sorted({int(batch) for batches in cases.values() for batch in batches}),
        "max_abs_difference": differences,
        package: importlib.metadata.version(package),
    }


def _difference(what: str, answers: dict, expected: dict, tolerance: float) -> float:
    largest = 0.0
    for name, wanted in expected.items():
        answer = answers[name]
        if answer.shape != wanted.shape:
            raise ValueError(f"{what}: {name} has shape {answer.shape}, expected {wanted.shape}")
        difference = float(np.max(np.abs(answer.astype("f8") - wanted.astype("f8"))))
        if not difference <= tolerance:
            raise ValueError(f"{what}: {name} differs by {difference:.3g}, more than {tolerance:g}")
        largest = max(largest, difference)
    return largest


def _onnx(directory: pathlib.Path, endpoint: str) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        directory / f"{endpoint}.onnx", providers=["CPUExecutionProvider"]
    )
    # An output that would have the name of an input is called NAME_out.
    names = [output.name.removesuffix("_out") for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))


def _litert(directory: pathlib.Path, endpoint: str) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(directory / "model.tflite"))
    runner = interpreter.get_signature_runner(endpoint)
    return lambda feeds: runner(**feeds)


def _latents(directory: pathlib.Path) -> Answer:
    sys.path.insert(0, str(directory))
    import latents

    return lambda feeds: {"latents": latents.latents(feeds["seed"], feeds.get("label"))}


if __name__ == "__main__":
    print(json.dumps(verify(pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))))
