"""SavedModels for the tests of what serves them: small, each signature one thing."""

import pathlib

from zoo import runtime

tf = runtime.import_tensorflow()

NUMBERS = {
    "f32": tf.float32, "f64": tf.float64, "i8": tf.int8, "i16": tf.int16, "i32": tf.int32,
    "i64": tf.int64, "u8": tf.uint8, "u32": tf.uint32, "u64": tf.uint64, "flag": tf.bool,
}  # fmt: skip
CLASSES = 10


def half_plus(directory: pathlib.Path, number: int, added: float) -> pathlib.Path:
    """directory/<number>: y = x / 2 + added, as in TF Serving's documentation."""
    path = directory / str(number)

    def half(x):
        return {"y": module.half * x + added}

    module = tf.Module()
    module.half = tf.Variable(0.5)
    module.function = tf.function(half, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(path), {"serving_default": module.function})
    return path


def many(directory: pathlib.Path) -> pathlib.Path:
    """directory/1: a signature for each kind of input and output there is."""
    seed = tf.TensorSpec([None, 2], tf.int64, "seed")
    label = tf.TensorSpec([None], tf.int32, "label")
    text = tf.TensorSpec([None], tf.string, "text")
    images = tf.TensorSpec([None, None, None, 3], tf.float32, "images")
    strength = tf.TensorSpec([None], tf.float32, "strength")

    def sample(seed):
        """Row n is [[s0, s1]] + 0.25, in a picture of 1 x 2 x 1."""
        return {"images": tf.cast(seed, tf.float32)[:, None, :, None] + 0.25}

    def sample_label(seed, label):
        in_range = tf.reduce_all((label >= 0) & (label < CLASSES))
        with tf.control_dependencies([tf.debugging.Assert(in_range, ["label out of range"])]):
            return {
                "images": sample(seed)["images"] + tf.cast(label, tf.float32)[:, None, None, None]
            }

    def stylize(images, strength):
        return {
            "images": images * strength[:, None, None, None],
            "mean": tf.reduce_mean(images, [1, 2, 3]),
        }

    def picture(image_bytes):
        def grey(data):
            return tf.io.encode_png(tf.io.decode_png(data, channels=1))

        grey_bytes = tf.map_fn(grey, image_bytes, fn_output_signature=tf.string)
        return {"png_bytes": grey_bytes, "length": tf.strings.length(grey_bytes)}

    functions = {
        "sample": (sample, seed),
        "sample_label": (sample_label, seed, label),
        "stylize": (stylize, images, strength),
        "picture": (picture, tf.TensorSpec([None], tf.string, "image_bytes")),
        "text": (lambda text: {"text": tf.strings.join(["<", text, ">"])}, text),
        "raw": (lambda text: {"raw": tf.strings.join([text, b"\xff"])}, text),
        "scalar": (lambda x: {"y": x * 2.0, "half": x / 2.0}, tf.TensorSpec([], tf.float32, "x")),
        "reciprocal": (lambda x: {"y": 1.0 / x}, tf.TensorSpec(None, tf.float32, "x")),
        "uneven": (lambda x: {"y": x, "first": x[:1]}, tf.TensorSpec([None], tf.float32, "x")),
        "brief": (
            lambda x: {"y": tf.cast(x, tf.bfloat16)}, tf.TensorSpec([None], tf.float32, "x"),
        ),
        "numbers": (
            lambda *values: dict(zip(NUMBERS, values, strict=True)),
            *(tf.TensorSpec([None], dtype, name) for name, dtype in NUMBERS.items()),
        ),
    }  # fmt: skip
    module = tf.Module()
    signatures = {
        name: tf.function(function, input_signature=specs, autograph=False)
        for name, (function, *specs) in functions.items()
    }
    module.signatures_kept = list(signatures.values())
    path = directory / "1"
    tf.saved_model.save(module, str(path), {**signatures, "serving_default": signatures["sample"]})
    return path
