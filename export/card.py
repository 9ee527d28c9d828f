"""The model card, README.md of an exported model: what it is, how to ask it, what it came from."""

import hashlib
import inspect
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import tensorflow as tf

import zoo.models
from zoo.data import source
from zoo.generative import GenerativeModel
from zoo.restore import Restored
from zoo.rundir import Run

_MOST_NUMBERS = 64
"""In a row of a request that is short enough to be shown."""
_FILES = {"image_bytes": "photo.jpg", "style_image_bytes": "style.jpg"}
_MEASURES = ("measures", "thorough_measures", "sample_measures")


class About(NamedTuple):
    """Where a model comes from."""

    checkpoint: str
    step: int
    dataset: str
    class_names: tuple[str, ...]
    flags: Mapping[str, str]
    versions: Mapping[str, str]
    measured: Mapping[str, Any]
    """The part of metrics.json that is of this step; empty if there is none."""
    protocol: Mapping[str, Any]
    """How it was measured."""


def about(restored: Restored) -> About:
    """What the run directory tells of a restored model."""
    run = Run.open(restored.run_dir)
    step = int(restored.model.step.numpy())
    metrics = run.read_json("metrics.json") or {}
    parts = [part for part in (metrics, metrics.get("best", {})) if part.get("step") == step]
    return About(
        checkpoint=str(pathlib.Path(restored.checkpoint).relative_to(restored.run_dir)),
        step=step,
        dataset=restored.settings.run.dataset,
        class_names=restored.class_names,
        flags=run.flags(),
        versions=run.read_json("versions.json") or {},
        measured=parts[0] if parts else {},
        protocol={key: metrics[key] for key in ("split", "examples", "protocol") if key in metrics},
    )


def text(
    name: str,
    model: GenerativeModel,
    endpoints: Mapping[str, Any],
    examples: Mapping[str, Mapping[str, np.ndarray]],
    path: pathlib.Path,
    origin: About | None,
) -> str:
    """The card as Markdown.

    name: that it is served under; examples: inputs of a small request to each endpoint; path: the
    files of the exported model, for their checksums.
    """
    parts = [
        f"# {name}",
        f"{zoo.models.names().get(model.name, model.name)}\n{model.summary_line()}.",
        _serve(name),
        "## Signatures",
        "The first is `serving_default`. N, the number of rows, is yours.",
        *(_signature(endpoint, function) for endpoint, function in endpoints.items()),
        "## Ask it",
        *_requests(name, endpoints, examples),
    ]
    if origin:
        parts += ["## What it came from", *_origin(origin), "## Measured", *_measured(origin)]
    parts += ["## Use and limits", _limits(model), "## Files", _checksums(path)]
    return "\n\n".join(parts) + "\n"


def _serve(name: str) -> str:
    return (
        f"In the directory that holds `{name}/`, with TensorFlow Serving of version "
        f"{tf.__version__} or later:\n\n```sh\n"
        f'docker run -p 8501:8501 -v "$PWD/{name}:/models/{name}:ro" -e MODEL_NAME={name} '
        "tensorflow/serving\n```\n\nSeveral models, with batching: `python -m export.serving`."
    )


def _signature(endpoint: str, function: Any) -> str:
    rows = [
        f"| {kind} | `{name}` | {spec.dtype.name} | {_shape(spec)} |"
        for kind, specs in (
            ("in", {spec.name: spec for spec in function.input_signature}),
            ("out", function.get_concrete_function().structured_outputs),
        )
        for name, spec in specs.items()
    ]
    table = "\n".join(["| | name | type | shape |", "|---|---|---|---|", *rows])
    return f"### {endpoint}\n\n{inspect.getdoc(function.python_function)}\n\n{table}"


def _shape(spec: tf.TensorSpec) -> str:
    letters = iter("NHW")
    sizes = [str(next(letters) if size is None else size) for size in spec.shape]
    return f"[{', '.join(sizes)}]"


def _requests(
    name: str, endpoints: Mapping[str, Any], examples: Mapping[str, Mapping[str, np.ndarray]]
) -> list[str]:
    """Every signature whose request is short by curl, and one that gives PNG files in Python."""
    url = f"http://localhost:8501/v1/models/{quote(name)}:predict"
    short = {
        endpoint: {key: _FILES.get(key) or _plain(value[0]) for key, value in inputs.items()}
        for endpoint, inputs in examples.items()
        if all(value[0].size <= _MOST_NUMBERS for value in map(np.atleast_2d, inputs.values()))
    }
    gives_files = {
        endpoint
        for endpoint, function in endpoints.items()
        if "png_bytes" in function.get_concrete_function().structured_outputs
    }
    parts = [_curl(url, endpoint, row, endpoint in gives_files) for endpoint, row in short.items()]
    endpoint = next(endpoint for endpoint in short if endpoint in gives_files)
    return [*parts, _python(url, endpoint, short[endpoint])]


def _plain(value: np.ndarray) -> Any:
    return np.round(value.astype(float), 3).tolist() if value.dtype.kind == "f" else value.tolist()


def _curl(url: str, endpoint: str, row: Mapping[str, Any], gives_files: bool) -> str:
    fields = {key: {"b64": f"@{row[key]}@"} if key in _FILES else row[key] for key in row}
    body = json.dumps({"signature_name": endpoint, "instances": [fields]})
    if any(key in _FILES for key in row):
        # Files are too long for a command line: the body comes by a pipe.
        pieces = re.sub(r"@([^@]+)@", r"'; base64 -w0 \1; printf '%s' '", body)
        command = f"(printf '%s' '{pieces}') |\n  curl -s {url} -d @-"
    else:
        command = f"curl -s {url} \\\n  -d '{body}'"
    if gives_files:
        command += (
            " |\n  sed -n 's/.*\"b64\": *\"\\([^\"]*\\)\".*/\\1/p' | base64 -d"
            f" > {endpoint}.png"
        )  # fmt: skip
    return f"```sh\n{command}\n```"


def _python(url: str, endpoint: str, row: Mapping[str, Any]) -> str:
    fields = ", ".join(
        f'"{key}": read("{value}")' if key in _FILES else f'"{key}": {json.dumps(value)}'
        for key, value in row.items()
    )
    read = (
        "\n\ndef read(path):\n"
        '    with open(path, "rb") as file:\n'
        '        return {"b64": base64.b64encode(file.read()).decode()}\n\n'
        if any(key in _FILES for key in row)
        else ""
    )
    return f"""```python
import base64
import json
import urllib.request
{read}
request = {{
    "signature_name": "{endpoint}",
    "instances": [{{{fields}}}],
}}
url = "{url}"
with urllib.request.urlopen(url, json.dumps(request).encode()) as answer:
    predictions = json.load(answer)["predictions"]
for number, prediction in enumerate(predictions):
    with open(f"picture-{{number}}.png", "wb") as file:
        file.write(base64.b64decode(prediction["b64"]))
```"""


def _origin(origin: About) -> list[str]:
    classes = f", classes from 0: {', '.join(origin.class_names)}" if origin.class_names else ""
    lines = [
        f"- Data: `{origin.dataset}`{classes}.",
        f"- Rights in the data: {_rights(origin.dataset)}",
        "- Code: zoo, Apache-2.0. The weights are whose the run was.",
        f"- Weights of step {origin.step}, `{origin.checkpoint}`.",
    ]
    flags = "".join(f"--{name}={value}\n" for name, value in origin.flags.items())
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    return [
        "\n".join(lines),
        f"Trained by {versions}, `python -m zoo.train --flagfile=FILE` with\n\n```\n{flags}```",
    ]


def _rights(dataset: str) -> str:
    if source.is_drawn(dataset):
        return "none of others: it is drawn by zoo's own code."
    return "those of whoever made the pictures; nobody checked them here."


def _measured(origin: About) -> list[str]:
    values = [pair for kind in _MEASURES for pair in origin.measured.get(kind, {}).items()]
    if not values:
        return ["Nothing was measured at this step."]
    rows = [f"| {name} | {value:.4g} |" for name, value in values]
    protocol = json.dumps(origin.protocol, indent=2)
    return [
        "\n".join(["| measure | value |", "|---|---|", *rows]),
        f"Held-out pictures; the protocol:\n\n```json\n{protocol}\n```",
    ]


def _limits(model: GenerativeModel) -> str:
    height, width, channels = model.image_shape
    colour = "colour" if channels == 3 else "grey"
    if model.draws:
        use = (
            f"Draws {colour} pictures of {height}x{width} like those it was trained on, for art, "
            "teaching and comparison; it knows nothing else. A picture may come near to a training "
            "picture: nothing was done against that."
        )
    else:
        use = (
            "Repaints pictures, for art, teaching and comparison. Memory and time grow with the "
            "number of pixels. It repaints whatever it is given: what may be repainted and shown "
            "is for whoever serves it to say."
        )
    return (
        f"{use} Answers are the same for the same request; between processors and batch sizes "
        "they differ by rounding, up to 1e-5: a value of a PNG file may be another by one level. "
        "Every signature was verified in a process without zoo and Keras, at batches of 1, 3 and "
        "16: `verification.json`; `python -m export.verify` on this directory repeats it."
    )


def _checksums(path: pathlib.Path) -> str:
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(path)}"
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    listed = "\n".join(lines)
    return (
        "SHA-256, checked by `grep -E '^[0-9a-f]{64} ' README.md | sha256sum -c`:\n\n"
        f"```\n{listed}\n```"
    )
