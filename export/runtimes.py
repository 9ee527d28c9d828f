"""Writes a model's endpoints for ONNX Runtime or LiteRT, and proves them in another process.

An artifact is a directory: an ONNX file for each endpoint, or one `model.tflite` with a signature
for each; `latents.py`, which draws latents from seeds by NumPy; `verification.json`; a README with
an example. What each format can do of each model is the table of `export/README.md`.

Neither format has TensorFlow's random numbers. ONNX has the integer operations that they are made
of: there the seeds' arithmetic is part of the graph. LiteRT has no bitwise ones of 64 bits.
"""

import contextlib
import importlib.util
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from export import latents, savedmodel
from zoo.adversarial import AdversarialModel
from zoo.errors import UsageError
from zoo.generative import GenerativeModel
from zoo.models.style import StyleTransfer
from zoo.models.vae import VAE
from zoo.style_nets import fixed_grain

PACKAGES = {"onnx": ("tf2onnx", "onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
"""Format, which is the name of its extra too -> the modules that it needs."""
TOLERANCE = 1e-5
# Its rounding grows with the picture: 1e-5 at 256x256, 2.5e-5 at 512x512 of a style net, where ONNX
# Runtime has 4e-6 and 6e-6. A level of 255 is 4e-3.
LITERT_PAINTING_TOLERANCE = 1e-4
OPSET = 18  # the first with bitwise operations
IMPOSSIBLE = {
    "EncodePng": "writes a picture file",
    "DecodeImage": "reads a picture file",
    "StatelessRandomUniformFullIntV2": "draws random numbers",
}
"""Operation that neither format has -> what an endpoint with it does; the first is what is told."""
_VERIFY = pathlib.Path(__file__).with_name("verify_runtime.py")
_LATENTS = pathlib.Path(latents.__file__)


class Endpoint(NamedTuple):
    """A function with the input signature that it is converted with."""

    reference: Any
    """tf.function of the model: what the artifact has to agree with."""
    convertible: Any
    """The same, made of what the format can do; or as it is, if it can do that or nothing helps."""
    refusal: str
    """Why the format cannot; "" if it can."""


def write(
    model: GenerativeModel, directory: pathlib.Path, form: str, image_size: int | None = None
) -> pathlib.Path:
    """Writes directory, which must not be there yet, verified; under its name only when right.

    form: a key of PACKAGES. image_size: height and width of the pictures that a LiteRT model takes
    where the model itself takes any; by default those of its training. UsageError if the format
    cannot be written; RuntimeError if the artifact does not agree with the model. Nothing is left
    behind then.
    """
    missing = [name for name in PACKAGES[form] if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--format={form} needs {', '.join(missing)}: pip install 'zoo-art[{form}]'"
        )
    if directory.exists():
        raise UsageError(f"{directory} is there already: remove it, or choose another --out")
    any_size = any(map(_takes_any_size, model.endpoints().values()))
    if image_size and not any_size:
        height, width = model.image_shape[:2]
        raise UsageError(
            f"--image_size={image_size}: this model's pictures are {height}x{width}, leave it out"
        )
    every = endpoints(model, form, image_size)
    offered = {name: endpoint for name, endpoint in every.items() if not endpoint.refusal}
    if not offered:
        reasons = ", ".join(f"{name} {endpoint.refusal}" for name, endpoint in every.items())
        raise UsageError(f"--format={form} can do nothing of this model: {reasons}")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        holder = tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=directory.parent)
    except OSError as error:
        raise UsageError(f"cannot write {directory}: {error.strerror}; choose another --out") from (
            error
        )
    with holder as temporary:
        made = pathlib.Path(temporary) / "artifact"
        made.mkdir()
        functions = {name: endpoint.convertible for name, endpoint in offered.items()}
        if form == "onnx":
            for name, function in functions.items():
                (made / f"{name}.onnx").write_bytes(to_onnx(function).SerializeToString())
        else:
            saved_model = pathlib.Path(temporary) / "saved_model"
            savedmodel.write_archive(functions, saved_model)
            (made / "model.tflite").write_bytes(to_litert(saved_model, list(functions)))
        references = {name: endpoint.reference for name, endpoint in offered.items()}
        arrays = savedmodel.live_requests(references, model.num_classes)
        parameters = latent_parameters(model)
        if parameters:
            shutil.copy(_LATENTS, made)
            np.savez(made / "latents.npz", **parameters)  # type: ignore[arg-type]
            arrays |= _latent_requests(model)
        requests = pathlib.Path(temporary) / "requests.npz"
        np.savez(requests, **arrays)  # type: ignore[arg-type]
        tolerance = LITERT_PAINTING_TOLERANCE if form == "litert" and any_size else TOLERANCE
        report = _verify_in_fresh_process(made, requests, tolerance)
        refusals = {name: endpoint.refusal for name, endpoint in every.items() if endpoint.refusal}
        report |= {"format": form, "left_out": refusals}
        (made / "verification.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        readme = _readme(model, form, references, report["max_abs_difference"])
        (made / "README.md").write_text(readme, "utf-8")
        os.rename(made, directory)
    return directory


def endpoints(
    model: GenerativeModel, form: str, image_size: int | None = None
) -> dict[str, Endpoint]:
    """Every endpoint of the model, whether the format can do it or not."""
    plain = _plain_functions(model)
    found = {}
    for name, function in model.endpoints().items():
        signature = function.input_signature
        if form == "litert":
            signature = [_of_fixed_size(spec, image_size, model) for spec in signature]
        reference, convertible = (
            tf.function(body, input_signature=signature, autograph=False)
            for body in (function.python_function, plain.get(name, function.python_function))
        )
        found[name] = Endpoint(reference, convertible, _refusal(convertible, form))
    return found


def _takes_any_size(function: Any) -> bool:
    return any(None in spec.shape[1:] for spec in function.input_signature)


def _of_fixed_size(
    spec: tf.TensorSpec, image_size: int | None, model: GenerativeModel
) -> tf.TensorSpec:
    sizes = iter((image_size, image_size) if image_size else model.image_shape)
    shape = [next(sizes) if size is None else size for size in spec.shape[1:]]
    return tf.TensorSpec([None, *shape], spec.dtype, spec.name)


def _refusal(function: Any, form: str) -> str:
    """Why the format has no such function, read off its operations; "" if it can have."""
    graph = function.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
    operations = {node.op for node in nodes}
    for operation, what in IMPOSSIBLE.items():
        if operation in operations:
            return what
    if form == "litert" and "BitwiseXor" in operations:
        return IMPOSSIBLE["StatelessRandomUniformFullIntV2"]
    types = {value.type for node in nodes for value in node.attr.values()}
    return "computes in bfloat16" if tf.bfloat16.as_datatype_enum in types else ""


# What draws random numbers, without an operation that draws them.


def latent_parameters(model: GenerativeModel) -> dict[str, Any] | None:
    """What `latents.py` reads; None for a model that has no latents, or some of its own."""
    if isinstance(model, VAE):
        share, mean, factor = (value.numpy() for value in model.mixture.gaussians())
        return {
            "distribution": "mixture",
            "size": model.config.latent_dim,
            "labelled": model.labelled,
            "bounds": np.cumsum(share)[:-1],
            "mean": mean,
            "factor": factor,
        }
    if isinstance(model, AdversarialModel):
        return {"distribution": model.config.latents, "size": model.config.latent_dim}
    return None


def _plain_functions(model: GenerativeModel) -> dict[str, Callable]:
    """By name, those endpoints that must be put in another way to be converted."""
    if isinstance(model, StyleTransfer):

        def stylize(images, style_weights, strength):
            grain = _grain(images)
            return {"images": model.stylize(images, style_weights, strength, grain)}

        return {"stylize": stylize}
    parameters = latent_parameters(model)
    if parameters is None:
        return {}

    def sample(seed, label=None):
        if label is None and model.conditional:
            # Twice, as the sum may be negative: see `latents.blocks`.
            total, count = tf.reduce_sum(seed, 1), model.num_classes
            label = tf.cast((total % count + count) % count, tf.int32)
        return {"images": model.decode(_latents(parameters, seed, label), label)}

    return {"sample": sample, "sample_label": sample}


def _latents(parameters: dict[str, Any], seeds: tf.Tensor, labels: tf.Tensor | None) -> tf.Tensor:
    """`latents.latents` of tensors."""
    size = parameters["size"]
    if parameters["distribution"] == "uniform":
        return 2.0 * _uniform(seeds, size, "latents") - 1.0
    draws = _normal(_random_bits(seeds, size, "latents"))
    if parameters["distribution"] == "normal":
        return draws
    if labels is None or not parameters["labelled"]:
        above = _uniform(seeds, 1, "component") >= parameters["bounds"]  # [N, K - 1]
        labels = tf.reduce_sum(tf.cast(above, tf.int32), axis=1)
    factors = tf.gather(tf.constant(parameters["factor"]), labels)
    means = tf.gather(tf.constant(parameters["mean"]), labels)
    return means + tf.reduce_sum(factors * draws[:, None, :], axis=2)


def _random_bits(seeds: tf.Tensor, size: int, purpose: str) -> tf.Tensor:
    counter = np.arange(-(-size // 4))
    words = latents.blocks(seeds ^ tf.constant(latents.purpose_key(purpose)), counter)
    return tf.reshape(tf.stack(words, axis=-1), [-1, 4 * len(counter)])[:, :size]


def _uniform(seeds: tf.Tensor, size: int, purpose: str) -> tf.Tensor:
    return tf.cast(_random_bits(seeds, size, purpose) // 2**8, tf.float32) * 2.0**-24


def _normal(bits: tf.Tensor) -> tf.Tensor:
    """`stateless_normal` of these bits, at most 2e-6 from it: Wichura 1988, AS 241, PPND7."""
    share = (tf.cast(bits // 2**9, tf.float32) + 0.5) * 2.0**-23
    q = share - 0.5
    r = 0.180625 - q * q
    centre = q * _polynomial(r, 59.109374720, 159.29113202, 50.434271938, 3.3871327179)
    centre /= _polynomial(r, 67.187563600, 78.757757664, 17.895169469, 1.0)
    # Below 2**-24 there is nothing, so that the third of the algorithm's ranges is never met.
    r = tf.sqrt(-tf.math.log(tf.minimum(share, 1.0 - share))) - 1.6
    tail = _polynomial(r, 0.17023821103, 1.3067284816, 2.7568153900, 1.4234372777)
    tail /= _polynomial(r, 0.12021132975, 0.73700164250, 1.0)
    return tf.where(tf.abs(q) <= 0.425, centre, tf.sign(q) * tail)


def _polynomial(x: tf.Tensor, *coefficients: float) -> tf.Tensor:
    """By Horner's rule, the highest power's coefficient first."""
    value = tf.fill(tf.shape(x), coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _grain(images: tf.Tensor) -> list[tf.Tensor]:
    """`fixed_grain` for images [B, H, W, 3]: constants where H and W are known."""
    static = images.shape[1:3]
    if static.is_fully_defined():
        with tf.init_scope():
            return [
                tf.constant(values.numpy())
                for values in fixed_grain(*(-(-size // 4) * 4 for size in static))
            ]
    height, width = ((size + 3) // 4 for size in tf.unstack(tf.shape(images)[1:3]))
    grain = []
    for times, scale in ((4, 1), (2, 2)):
        shape = [1, height * scale, width * scale, 1]
        count = tf.cast(shape[1] * shape[2], tf.int64)
        words = latents.blocks(np.array([[0, times]]), tf.range((count + 3) // 4))
        bits = tf.reshape(tf.stack(words, axis=-1), [-1])[:count]
        grain.append(tf.reshape(_normal(bits), shape))
    return grain


# The formats.


def to_onnx(function: Any) -> Any:
    """A tf.function with an input signature -> ModelProto; ValueError if ONNX cannot do it.

    An output that has the name of an input is called NAME_out: in ONNX they must differ.
    """
    import onnx
    import tf2onnx

    signature = function.input_signature

    def renamed(*values):
        answers = function(*values)
        return {_output(name, function, "onnx"): answers[name] for name in answers}

    with _quiet("tf2onnx"):
        try:
            proto, _ = tf2onnx.convert.from_function(
                tf.function(renamed, input_signature=signature, autograph=False),
                input_signature=signature,
                opset=OPSET,
                custom_op_handlers={"Erfc": (_erfc, [])},
            )
        except UnicodeDecodeError as error:
            raise ValueError(f"not to be had in ONNX: it has text, no bytes ({error})") from error
    for value, spec in zip(proto.graph.input, signature, strict=True):
        names = ("batch", f"{spec.name}_height", f"{spec.name}_width")
        for number, size in enumerate(spec.shape):
            if size is None:
                value.type.tensor_type.shape.dim[number].dim_param = names[number]
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"not to be had in ONNX: {error}") from error
    return proto


def _erfc(graph: Any, node: Any, name: str, args: Any) -> None:
    """Keras's exact GELU: ONNX has 1 - erfc only."""
    output = node.output[0]
    shape, dtype = graph.get_shape(output), graph.get_dtype(output)
    graph.remove_node(node.name)
    error = graph.make_node("Erf", [node.input[0]])
    one = graph.make_const(f"{name}_one", np.ones([], np.float32))
    inputs = [one.output[0], error.output[0]]
    graph.make_node("Sub", inputs, outputs=[output], shapes=[shape], dtypes=[dtype], name=name)


def to_litert(path: pathlib.Path, signatures: list[str]) -> bytes:
    """Signatures of a SavedModel -> a LiteRT model; ValueError if LiteRT cannot do one."""
    from tensorflow.lite.python.convert_phase import ConverterError

    converter = tf.lite.TFLiteConverter.from_saved_model(str(path), signature_keys=signatures)
    try:
        return converter.convert()
    except ConverterError as error:
        raise ValueError(f"not to be had in LiteRT: {error}") from error


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without that package's log: it tells of failures that we find out ourselves."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


# The proof, and what the artifact says of itself.


def _latent_requests(model: GenerativeModel) -> dict[str, np.ndarray]:
    """Like those of an endpoint: what `latents.py` has to give."""
    arrays = {}
    for batch in savedmodel.BATCHES:
        seeds = np.random.Generator(np.random.PCG64(batch)).integers(-(2**63), 2**63, (batch, 2))
        arrays[f"latents.py/{batch}/in/seed"] = seeds
        drawn = model.sample_latents(tf.constant(seeds))
        arrays[f"latents.py/{batch}/out/latents"] = drawn.numpy()
    return arrays


def _verify_in_fresh_process(
    directory: pathlib.Path, requests: pathlib.Path, tolerance: float
) -> dict:
    # -I: no environment, no working directory on the path; -B: no byte code beside latents.py.
    command = [sys.executable, "-I", "-B", str(_VERIFY)]
    command += [str(directory), str(requests), str(tolerance)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise RuntimeError(f"the exported model failed its verification: {lines[-1]}")
    return json.loads(done.stdout)


def _readme(
    model: GenerativeModel, form: str, functions: dict[str, Any], largest: dict[str, float]
) -> str:
    """What is in the artifact, and a Python program that draws or repaints pictures with it."""
    runtime = "ONNX Runtime" if form == "onnx" else "LiteRT"
    lines = [
        f"# A model of the zoo, `{model.name}`, for {runtime}",
        "",
        "Pictures are in [0, 1]; N is any number of them.",
        "",
        "| endpoint | takes | gives | largest difference from the trained model |",
        "|---|---|---|---|",
    ]
    for name, function in functions.items():
        takes = [_words(spec.name, spec) for spec in function.input_signature]
        answers = function.get_concrete_function().structured_outputs
        gives = [_words(_output(key, function, form), answers[key]) for key in answers]
        lines.append(f"| {name} | {', '.join(takes)} | {', '.join(gives)} | {largest[name]:.1e} |")
    endpoint = next(name for name in ("stylize", "decode", *functions) if name in functions)
    program = _program(model, form, endpoint, functions[endpoint].input_signature)
    needed = "onnxruntime" if form == "onnx" else "ai-edge-litert"
    lines += ["", f"After `pip install {needed} numpy pillow`, in this directory:"]
    return "\n".join([*lines, "", "```python", *program, "```", ""])


def _words(name: str, spec: Any) -> str:
    """ "`images` float32 [N, 28, 28, 1]" """
    sizes = ["N", *("any" if size is None else str(size) for size in spec.shape[1:])]
    return f"`{name}` {spec.dtype.name} [{', '.join(sizes)}]"


def _output(name: str, function: Any, form: str) -> str:
    """An output's name in the artifact: in ONNX it must not be an input's."""
    taken = {spec.name for spec in function.input_signature}
    return f"{name}_out" if form == "onnx" and name in taken else name


def _program(
    model: GenerativeModel, form: str, endpoint: str, signature: Sequence[tf.TensorSpec]
) -> list[str]:
    onnx = form == "onnx"
    names = [spec.name for spec in signature]
    lines = ["import numpy as np"]
    lines += ["import onnxruntime"] if onnx else []
    lines += [] if onnx else ["from ai_edge_litert.interpreter import Interpreter"]
    lines += ["from PIL import Image", ""]
    if "latents" in names:
        lines += ["from latents import latents", "", "seeds = [(0, i) for i in range(8)]"]
    for spec in signature:
        if spec.name in ("images", "style_images"):
            height, width = spec.shape[1:3]
            resize = f".resize(({width}, {height}))" if height else ""
            lines += [
                f'{spec.name} = Image.open("{spec.name}.jpg").convert("RGB"){resize}',
                f"{spec.name} = np.asarray({spec.name}, np.float32)[None] / 255",
            ]
    values = {
        "latents": "latents(seeds)",
        "label": f"np.arange(8, dtype=np.int32) % {model.num_classes}",
        "style_weights": f"np.eye({model.num_classes}, dtype=np.float32)[:1]",
        "strength": "np.ones(1, np.float32)",
    }
    feeds = [f'    "{name}": {values.get(name, name)},' for name in names]
    lines += ["feeds = {", *feeds, "}"]
    lines += (
        [
            f'session = onnxruntime.InferenceSession("{endpoint}.onnx")',
            "images = session.run(None, feeds)[0]",
        ]
        if onnx
        else [
            f'{endpoint} = Interpreter("model.tflite").get_signature_runner("{endpoint}")',
            f'images = {endpoint}(**feeds)["images"]',
        ]
    )
    sheet = "np.hstack(images)" + ("[..., 0]" if model.image_shape[-1] == 1 else "")
    return [
        *lines,
        f"sheet = np.round(255 * {sheet}).astype(np.uint8)",
        'Image.fromarray(sheet).save("pictures.png")',
    ]
