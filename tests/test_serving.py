"""What is served: every model exported, asked by other code than ours, as an operator would."""

import base64
import functools
import io
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from zoo import runtime

tf = runtime.import_tensorflow()

import zoo.models  # noqa: E402
from export import serving, verify, warmup  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.generative import to_uint8  # noqa: E402

HERE = pathlib.Path(__file__).parent
NAMES = list(zoo.models.names())
DRAWN = {"sample", "sample_png", "interpolate", "decode", "serving_default"}
LABELLED = {"sample_label", "sample_label_png"}
SIGNATURES = {
    "vae": DRAWN | LABELLED | {"encode", "reconstruct"},
    "cgan": DRAWN | LABELLED | {"sample_truncated"},
    "style": {"stylize", "stylize_bytes", "serving_default"},
    "adain": {"stylize", "stylize_bytes", "serving_default"},
}
GAN = DRAWN | {"sample_truncated"}

each_model = pytest.mark.parametrize("name", NAMES)


@functools.cache
def load(directory: pathlib.Path):
    return tf.saved_model.load(str(directory / "1"))


def ask(directory: pathlib.Path, signature: str, **inputs) -> dict[str, np.ndarray]:
    """The signature's answers, from inputs as JSON has them."""
    function = load(directory).signatures[signature]
    specs = function.structured_input_signature[1]
    assert set(inputs) == set(specs)
    feeds = {name: tf.constant(value, specs[name].dtype) for name, value in inputs.items()}
    return {name: value.numpy() for name, value in function(**feeds).items()}


def pixels(file: bytes) -> np.ndarray:
    """uint8 [H, W, C] of a PNG file."""
    picture = Image.open(io.BytesIO(file))
    assert picture.format == "PNG"
    values = np.asarray(picture)
    return values[..., None] if values.ndim == 2 else values


def picture_file(height: int, width: int, kind: str, mode: str = "RGB") -> bytes:
    generator = np.random.Generator(np.random.PCG64(height))
    corners = Image.fromarray(generator.integers(0, 256, (3, 3, 3), np.uint8))
    buffer = io.BytesIO()
    corners.resize((width, height), Image.Resampling.BILINEAR).convert(mode).save(buffer, kind)
    return buffer.getvalue()


# Every model


@each_model
def test_signatures_and_their_verification(name, served):
    path = served(name) / "1"
    assert set(load(served(name)).signatures) == SIGNATURES.get(name, GAN)
    report = json.loads((path / "verification.json").read_text())
    checked = {**report["max_abs_difference"], **report["png_equal_bit_for_bit"]}
    assert set(checked) == SIGNATURES.get(name, GAN) - {"serving_default"}
    assert report["batch_sizes"] == [1, 3, 16]
    assert max(report["max_abs_difference"].values()) <= 1e-5
    assert all(report["png_equal_bit_for_bit"].values())
    assert set(report["png_equal_bit_for_bit"]) == {
        signature
        for signature, function in load(served(name)).signatures.items()
        if "png_bytes" in function.structured_outputs
    }


def test_the_loader_of_tensorflow_serving_answers_alike(served):
    """All in one process, which loads the C++ libraries once; it has no Python TensorFlow."""
    paths = [str(served(name) / "1") for name in NAMES]
    command = [sys.executable, "-I", str(HERE / "cpp_loader.py"), *paths]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    differences = json.loads(done.stdout)
    for name, path in zip(NAMES, paths, strict=True):
        asked = {key.rpartition("/")[0] for key in differences[path]}
        signatures = SIGNATURES.get(name, GAN) - {"serving_default"}
        assert asked == {f"{signature}/{n}" for signature in signatures for n in (1, 3, 16)}
        for key, difference in differences[path].items():
            # Another rounding may move a level of a PNG file by one.
            assert difference <= (1 if key.endswith("png_bytes") else 1e-5), (name, key)


@each_model
def test_a_row_has_the_same_answer_in_any_batch(name, served):
    cases = verify.read_requests(served(name) / "1")
    for signature in SIGNATURES.get(name, GAN) - {"serving_default"}:
        inputs = cases[signature, "16"]["in"]
        alone = {key: value[5:6] for key, value in inputs.items()}
        for key, value in ask(served(name), signature, **alone).items():
            expected = cases[signature, "16"]["out"][key][5]
            if key == "png_bytes":
                difference = pixels(value[0]).astype(int) - pixels(expected)
                assert np.abs(difference).max() <= 1
            else:
                np.testing.assert_allclose(value[0], expected, atol=1e-5)


@each_model
def test_no_graph_touches_files_or_the_network(name, served, capsys):
    from tensorflow.python.tools import saved_model_cli, saved_model_utils

    for meta_graph in saved_model_utils.read_saved_model(str(served(name) / "1")).meta_graphs:
        saved_model_cli.scan_meta_graph_def(meta_graph, saved_model_cli._OP_DENYLIST)
        graph = meta_graph.graph_def
        ops = {node.op for node in graph.node}
        ops |= {node.op for function in graph.library.function for node in function.node_def}
        assert not [op for op in ops if re.search(r"Py|File|Rpc|Send|Recv|Print|Dataset", op)
                    and op not in ("ReadVariableOp", "ShardedFilename")]  # fmt: skip
    assert "does not contain the default denylisted ops" in capsys.readouterr().out


@functools.cache
def prediction_log():
    """tensorflow.serving.PredictionLog by its published field numbers."""
    from tensorflow.core.framework import tensor_pb2  # noqa: F401  the file depends on it

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="serving_for_tests.proto",
        package="serving",
        syntax="proto3",
        dependency=["tensorflow/core/framework/tensor.proto"],
    )

    def field(message, name, number, kind, type_name=None, label=kinds.LABEL_OPTIONAL):
        message.field.add(name=name, number=number, type=kind, label=label, type_name=type_name)

    spec = file.message_type.add(name="ModelSpec")
    field(spec, "name", 1, kinds.TYPE_STRING)
    field(spec, "signature_name", 3, kinds.TYPE_STRING)
    for name, tensors, number, model_spec in (
        ("PredictRequest", "inputs", 2, 1),
        ("PredictResponse", "outputs", 1, 2),
    ):
        message = file.message_type.add(name=name)
        field(message, "model_spec", model_spec, kinds.TYPE_MESSAGE, ".serving.ModelSpec")
        entry = message.nested_type.add(name=f"{tensors.capitalize()}Entry")
        entry.options.map_entry = True
        field(entry, "key", 1, kinds.TYPE_STRING)
        field(entry, "value", 2, kinds.TYPE_MESSAGE, ".tensorflow.TensorProto")
        entry_name = f".serving.{name}.{entry.name}"
        field(message, tensors, number, kinds.TYPE_MESSAGE, entry_name, kinds.LABEL_REPEATED)
    log = file.message_type.add(name="PredictLog")
    field(log, "request", 1, kinds.TYPE_MESSAGE, ".serving.PredictRequest")
    log = file.message_type.add(name="PredictionLog")
    field(log, "predict_log", 6, kinds.TYPE_MESSAGE, ".serving.PredictLog")
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"serving.{name}"))
        for name in ("PredictionLog", "PredictResponse")
    }


@each_model
def test_each_warm_up_request_is_answered(name, served):
    """One that fails would keep the model from being served."""
    records = tf.data.TFRecordDataset(str(served(name) / "1" / warmup.FILE))
    asked = []
    for record in records:
        log = prediction_log()["PredictionLog"].FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == name
        signature = request.model_spec.signature_name
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        answers = ask(served(name), signature, **inputs)
        expected = verify.read_requests(served(name) / "1")[signature, "1"]["out"]
        for key, value in answers.items():
            if key != "png_bytes":
                np.testing.assert_allclose(value, expected[key], atol=1e-5)
        asked.append(signature)
    assert sorted(asked) == sorted(SIGNATURES.get(name, GAN) - {"serving_default"})


# The model card


class StandIn:
    """Answers as TensorFlow Serving's REST API does, from a loaded SavedModel.

    https://www.tensorflow.org/tfx/serving/api_rest: rows in, rows out; binary strings, whose names
    end in _bytes, in base64.
    """

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.asked: list[tuple[str, dict, dict]] = []
        """Signature, its inputs, its answers."""
        self.server = make_server("localhost", 0, self.answer, threaded=True)
        self.port = self.server.server_port

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @Request.application
    def answer(self, request: Request) -> Response:
        assert request.path == f"/v1/models/{self.directory.name}:predict"
        body = json.loads(request.get_data())
        signature = body.get("signature_name", "serving_default")
        inputs = {
            name: [self.decoded(name, row[name]) for row in body["instances"]]
            for name in body["instances"][0]
        }
        answers = ask(self.directory, signature, **inputs)
        self.asked.append((signature, inputs, answers))
        columns = {
            name: [
                {"b64": base64.b64encode(value).decode()} if name.endswith("_bytes") else value
                for value in values.tolist()
            ]
            for name, values in answers.items()
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        # A lone output goes without its name.
        predictions = [next(iter(row.values())) if len(row) == 1 else row for row in rows]
        return Response(json.dumps({"predictions": predictions}, indent=4))

    @staticmethod
    def decoded(name: str, value):
        return base64.b64decode(value["b64"]) if name.endswith("_bytes") else value


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


@pytest.mark.skipif(not shutil.which("curl"), reason="the card's examples need curl")
@each_model
def test_the_cards_examples_do_what_they_say(name, served, tmp_path):
    card = (served(name) / "1" / "README.md").read_text()
    (tmp_path / "photo.jpg").write_bytes(picture_file(48, 41, "JPEG"))
    (tmp_path / "style.jpg").write_bytes(picture_file(40, 50, "JPEG"))
    environment = {**os.environ, "no_proxy": "localhost", "NO_PROXY": "localhost"}
    commands = [block for block in blocks(card, "sh") if "curl" in block]
    with StandIn(served(name)) as server:

        def run(*command: str) -> str:
            command = [
                part.replace("localhost:8501", f"localhost:{server.port}") for part in command
            ]
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stderr) == (0, ""), done
            return done.stdout

        for command in commands:
            said = run("bash", "-euo", "pipefail", "-c", command)
            signature, _, answers = server.asked[-1]
            assert f'"{signature}"' in command
            if "png_bytes" in answers:
                assert (tmp_path / f"{signature}.png").read_bytes() == answers["png_bytes"][0]
            else:
                prediction = json.loads(said)["predictions"][0]
                if len(answers) == 1:
                    prediction = {next(iter(answers)): prediction}
                assert prediction.keys() == answers.keys()
                for output, value in prediction.items():
                    np.testing.assert_allclose(value, answers[output][0], atol=1e-6)
        (script,) = blocks(card, "python")
        run(sys.executable, "-c", script)
    answers = server.asked[-1][2]
    assert (tmp_path / "picture-0.png").read_bytes() == answers["png_bytes"][0]
    shown = {signature for signature, _, _ in server.asked}
    assert shown >= SIGNATURES.get(name, GAN) & {*GAN, *LABELLED, "stylize_bytes"} - {
        "serving_default"
    }


@each_model
def test_the_card_tells_what_is_served(name, served):
    path = served(name) / "1"
    card = (path / "README.md").read_text()
    assert card.startswith(f"# {name}\n\n{zoo.models.names()[name]}\n")
    assert f"MODEL_NAME={name} " in card
    for signature, function in load(served(name)).signatures.items():
        if signature == "serving_default":
            continue
        section = card.partition(f"### {signature}\n")[2].partition("\n#")[0]
        rows = dict(re.findall(r"\| in \| `(\w+)` \| (\w+) \|", section))
        specs = function.structured_input_signature[1]
        assert rows == {key: spec.dtype.name for key, spec in specs.items()}
        for key in specs:
            assert re.search(rf"(^|[ ,\n]){key}(, \w+)*( of each)?(:|, if)", section), (
                signature,
                key,
            )
        assert set(re.findall(r"\| out \| `(\w+)`", section)) == set(function.structured_outputs)
    (check,) = re.findall(r"checked by `(.*?)`", card)
    done = subprocess.run(check, shell=True, cwd=path, capture_output=True, text=True)
    assert done.returncode == 0
    assert "saved_model.pb: OK" in done.stdout
    assert done.stdout.count(": OK") == sum(file.is_file() for file in path.rglob("*")) - 1


# What the signatures mean


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("style", "adain")])
def test_pictures_as_files_are_those_as_numbers_and_paths_meet_their_ends(name, served):
    seeds = [[5, 0], [-7, 2**40], [5, 1]]
    images = ask(served(name), "sample", seed=seeds)["images"]
    files = ask(served(name), "sample_png", seed=seeds)["png_bytes"]
    for image, file in zip(images, files, strict=True):
        difference = pixels(file).astype(int) - to_uint8(image)
        assert np.abs(difference).max() <= 1
    label = {"label": [(5 + 0) % 3, (-7 + 2**40) % 3, (5 + 1) % 3]} if name == "cgan" else {}
    ends = {"seed_a": seeds, "seed_b": seeds[::-1], **label}
    # The second end has the first one's class.
    first = ask(served(name), "interpolate", t=[0.0] * 3, **ends)["images"]
    last = ask(served(name), "interpolate", t=[1.0] * 3, **ends)["images"]
    np.testing.assert_allclose(first, images, atol=1e-5)
    if not label:
        np.testing.assert_allclose(last, images[::-1], atol=1e-5)


@pytest.mark.parametrize("name", ["dcgan", "cgan", "gan"])
def test_truncation_goes_from_the_middle_picture_to_the_one_drawn(name, served):
    seeds = [[5, 0], [6, 0], [8, 1]]
    label = {"label": [2, 0, 0]} if name == "cgan" else {}

    def draw(truncation):
        inputs = {"seed": seeds, "truncation": [truncation] * 3, **label}
        return ask(served(name), "sample_truncated", **inputs)["images"]

    full = 1.0 if name == "gan" else 6.0
    np.testing.assert_allclose(
        draw(full), ask(served(name), "sample", seed=seeds)["images"], atol=1e-5
    )
    zeros = np.zeros_like(verify.read_requests(served(name) / "1")["decode", "3"]["in"]["latents"])
    middle = ask(served(name), "decode", latents=zeros, **label)["images"]
    np.testing.assert_allclose(draw(1e-7), middle, atol=1e-5)
    half, whole = np.abs(draw(full / 10) - middle).mean(), np.abs(draw(full) - middle).mean()
    assert 0 < half < whole


@pytest.mark.parametrize("name", ["style", "adain"])
def test_files_of_any_size_in_one_request(name, served):
    """Grey, transparent, of another size: each is painted as it would be alone, as numbers."""
    files = [
        picture_file(33, 50, "PNG"),
        picture_file(9, 12, "PNG", "L"),
        picture_file(21, 8, "PNG", "RGBA"),
        picture_file(40, 31, "JPEG"),
    ]
    images = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    strength = [1.0, 0.5, 1.0, 0.0]
    others = [[0.0, 1.0, 0.0]] * 4 if name == "style" else files[::-1]
    field = "style_weights" if name == "style" else "style_image_bytes"
    painted = ask(
        served(name), "stylize_bytes", image_bytes=files, strength=strength, **{field: others}
    )["png_bytes"]
    for number, (image, file) in enumerate(zip(images, painted, strict=True)):
        assert pixels(file).shape == image.shape
        if number == 3:
            assert np.abs(pixels(file).astype(int) - image).max() <= 4  # two decoders of JPEG
            continue
        style = others[number] if name == "style" else images[3 - number] / 255
        if name == "adain" and number == 0:
            continue  # its style is the JPEG file
        inputs = {"images": [image / 255], "strength": strength[number : number + 1]}
        inputs["style_weights" if name == "style" else "style_images"] = [style]
        expected = to_uint8(ask(served(name), "stylize", **inputs)["images"][0])
        assert np.abs(pixels(file).astype(int) - expected).max() <= 1


# Operators


def test_settings_for_a_directory_of_models(served, tmp_path, capsys):
    for name in ("vae", "cgan"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "saved_model.pb").touch()
    (tmp_path / "half-written" / ".export-x.tmp").mkdir(parents=True)
    (tmp_path / "half-written" / ".export-x.tmp" / "saved_model.pb").touch()
    (tmp_path / "batching_parameters.txt").write_text("tuned")
    assert serving.main([f"--models={tmp_path}"]) == 0
    # https://www.tensorflow.org/tfx/serving/serving_config
    assert (
        (tmp_path / "models.config").read_text()
        == """model_config_list {
  config {
    name: "cgan"
    base_path: "/models/cgan"
    model_platform: "tensorflow"
  }
  config {
    name: "vae"
    base_path: "/models/vae"
    model_platform: "tensorflow"
  }
}
"""
    )
    assert (tmp_path / "batching_parameters.txt").read_text() == "tuned"
    said = capsys.readouterr().out
    assert f"-v {tmp_path}:/models:ro tensorflow/serving" in said
    assert "--model_config_file=/models/models.config --enable_batching" in said
    (tmp_path / "batching_parameters.txt").unlink()
    assert serving.main([f"--models={tmp_path}", f"--mount={tmp_path}"]) == 0
    assert f'base_path: "{tmp_path}/vae"' in (tmp_path / "models.config").read_text()
    batching = (tmp_path / "batching_parameters.txt").read_text()
    lines = [line.partition("#")[0].strip() for line in batching.splitlines()]
    for line in filter(None, lines):
        assert re.fullmatch(r"[a-z_]+ \{ value: [1-9][0-9]* \}", line)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--models is missing"),
        (["--models={}"], "holds no exported model: expected DIR/NAME/VERSION"),
        (["--models={}/none"], "holds no exported model"),
        (["--models={}", "--mount=models"], "--mount=models: expected a path from the root"),
    ],
)
def test_settings_refuse(arguments, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        serving.main([argument.format(tmp_path) for argument in arguments])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    not shutil.which("tensorflow_model_server"),
    reason="no tensorflow_model_server on the PATH: only its C++ loader was tried, above",
)
def test_the_real_server(served, tmp_path):
    """Every verified request by REST and by gRPC, with the settings that we write."""
    import grpc

    for name in NAMES:
        shutil.copytree(served(name), tmp_path / name)
    serving.main([f"--models={tmp_path}", f"--mount={tmp_path}"])
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            ports.append(free.getsockname()[1])
    command = [
        "tensorflow_model_server",
        f"--port={ports[0]}",
        f"--rest_api_port={ports[1]}",
        f"--model_config_file={tmp_path}/models.config",
        "--enable_batching",
        f"--batching_parameters_file={tmp_path}/batching_parameters.txt",
    ]
    url = f"http://localhost:{ports[1]}/v1/models"
    with (
        open(tmp_path / "log", "wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as server,
        grpc.insecure_channel(f"localhost:{ports[0]}") as channel,
    ):
        try:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            for name in NAMES:
                wait_until_available(f"{url}/{name}", server, tmp_path / "log")
                for (signature, _), case in verify.read_requests(served(name) / "1").items():
                    for answers in (
                        by_rest(f"{url}/{name}:predict", signature, case["in"]),
                        by_grpc(call, name, signature, case["in"]),
                    ):
                        assert_alike(answers, case["out"])
        finally:
            server.terminate()


def wait_until_available(url: str, server: subprocess.Popen, log: pathlib.Path) -> None:
    deadline = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url) as answer:
                states = json.load(answer)["model_version_status"]
            if [state["state"] for state in states] == ["AVAILABLE"]:
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(log.read_text()[-2000:])


def by_rest(url: str, signature: str, inputs: dict) -> dict[str, np.ndarray]:
    def plain(value):
        if isinstance(value, bytes):
            return {"b64": base64.b64encode(value).decode()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    body = {
        "signature_name": signature,
        "inputs": {key: plain(value.tolist()) for key, value in inputs.items()},
    }
    with urllib.request.urlopen(url, json.dumps(body).encode()) as answer:
        outputs = json.load(answer)["outputs"]
    if not isinstance(outputs, dict):  # a lone output goes without its name
        is_file = isinstance(outputs[0], dict)
        outputs = {"png_bytes" if is_file else "images": outputs}
    return {
        key: np.array([base64.b64decode(value["b64"]) for value in values], object)
        if key.endswith("_bytes")
        else np.array(values)
        for key, values in outputs.items()
    }


def by_grpc(call, model: str, signature: str, inputs: dict) -> dict[str, np.ndarray]:
    answer = call(warmup.predict_request(model, signature, inputs))
    response = prediction_log()["PredictResponse"].FromString(answer)
    return {key: tf.make_ndarray(value) for key, value in response.outputs.items()}


def assert_alike(answers: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(answers) == set(expected)
    for key, values in expected.items():
        if key.endswith("_bytes"):
            for one, other in zip(answers[key], values, strict=True):
                assert np.abs(pixels(one).astype(int) - pixels(other)).max() <= 1
        else:
            np.testing.assert_allclose(answers[key], values, atol=1e-5)
