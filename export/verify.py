"""`python -m export.verify DIR`: asks a served model what the live one was asked, and compares.

DIR is a version of an exported model, or a directory of versions, of which the newest is taken.
Prints a JSON report; exits 1 on a mismatch, 2 if there is nothing to verify. Imports TensorFlow and
NumPy, nothing of ours and no Keras, so that what passes needs neither.
"""

import json
import os
import pathlib
import sys

TOLERANCE = 1e-5
REQUESTS = "assets.extra/verification.npz"
# PNG files hold whole levels: another processor's rounding may tip one that is half-way.
_MOST_TIPPED = 1e-3


def verify(path: pathlib.Path) -> dict:
    """The largest absolute difference of each signature, over all batch sizes.

    ValueError if one is above the tolerance or not finite, or a signature is missing. PNG files
    that are not equal bit for bit are decoded: a thousandth of their values may be off by one.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A GPU would choose algorithms of its own, that round otherwise.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # TensorFlow imports Keras where it finds it; a server has none.
    sys.modules["keras"] = None  # type: ignore[assignment]
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    cases = read_requests(path)
    differences: dict[str, float] = {}
    equal: dict[str, bool] = {}
    for (endpoint, batch), case in cases.items():
        if endpoint not in loaded.signatures:
            raise ValueError(f"signature {endpoint} is missing")
        feeds = {name: tf.constant(value) for name, value in case["in"].items()}
        answers = loaded.signatures[endpoint](**feeds)
        for name, expected in case["out"].items():
            where = f"{endpoint} at batch {batch}: {name}"
            answer = answers[name].numpy()
            if answer.shape != expected.shape:
                raise ValueError(f"{where} has shape {answer.shape}, expected {expected.shape}")
            if answer.dtype == object:
                equal[endpoint] = equal.get(endpoint, True) and bool((answer == expected).all())
                answer, expected = _pixels(answer), _pixels(expected)
                _check_levels(where, answer, expected)
                continue
            difference = float(abs(answer.astype("f8") - expected.astype("f8")).max())
            if not difference <= TOLERANCE:
                raise ValueError(f"{where} differs by {difference:.3g}, more than {TOLERANCE:g}")
            differences[endpoint] = max(differences.get(endpoint, 0.0), difference)
    if "zoo" in sys.modules:
        raise ValueError("the verification imported zoo: it proves nothing")
    return {
        "tolerance": TOLERANCE,
        "batch_sizes": sorted({int(batch) for _, batch in cases}),
        "max_abs_difference": differences,
        "png_equal_bit_for_bit": equal,
        "tensorflow": tf.__version__,
    }


def read_requests(path: pathlib.Path) -> dict[tuple[str, str], dict[str, dict]]:
    """(signature, batch) -> {"in": arrays by name, "out": the live model's answers}."""
    import numpy as np

    cases: dict[tuple[str, str], dict[str, dict]] = {}
    with np.load(path / REQUESTS) as arrays:
        for key in arrays.files:
            endpoint, batch, direction, name = key.split("/")
            case = cases.setdefault((endpoint, batch), {"in": {}, "out": {}})
            array = arrays[key]
            case[direction][name] = array.astype(object) if array.dtype.kind == "S" else array
    return cases


def _pixels(files):
    import numpy as np
    import tensorflow as tf

    images = [tf.io.decode_png(file).numpy().astype(np.int16) for file in files]
    return np.concatenate([image.ravel() for image in images])


def _check_levels(where: str, answer, expected) -> None:
    if answer.shape != expected.shape:
        raise ValueError(f"{where} has {answer.size} values, expected {expected.size}")
    off = abs(answer - expected)
    if off.max() > 1 or (off > 0).mean() > _MOST_TIPPED:
        raise ValueError(
            f"{where} differs in {(off > 0).mean():.1%} of its values, by up to {off.max()} of 255"
        )


def find(directory: pathlib.Path) -> pathlib.Path:
    """The version itself, or the newest below; FileNotFoundError if there is none."""
    versions = [path for path in directory.glob("*") if path.name.isdecimal() and path.is_dir()]
    for path in [directory, *sorted(versions, key=lambda path: -int(path.name))]:
        if (path / "saved_model.pb").is_file() and (path / REQUESTS).is_file():
            return path
    raise FileNotFoundError(
        f"{directory} holds no exported model: expected saved_model.pb and {REQUESTS}, in it or in "
        "a numbered directory"
    )


def main(argv: list[str]) -> int:
    """Prints the report; returns the exit code."""
    if len(argv) != 1 or argv[0].startswith("-"):
        help_asked = argv in (["--help"], ["-h"])
        print(__doc__.strip() if help_asked else "error: expected one directory; see --help",
              file=sys.stdout if help_asked else sys.stderr)  # fmt: skip
        return 0 if help_asked else 2
    try:
        path = find(pathlib.Path(argv[0]))
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        print(json.dumps(verify(path), indent=2))
    except Exception as error:
        # Whatever a damaged model raises: it is no good.
        lines = str(error).splitlines() or [type(error).__name__]
        print(f"{path} failed its verification: {lines[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
