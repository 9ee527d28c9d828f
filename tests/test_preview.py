"""The preview server: TF Serving's documented answers, its refusals, and what it does on a disk."""

import base64
import concurrent.futures
import http.client
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import threading
import urllib.parse

import numpy as np
import pytest
import servables
from commands import assert_refused, run, start
from google.protobuf import json_format
from PIL import Image
from werkzeug.test import Client

from zoo import runtime

tf = runtime.import_tensorflow()

from export import json_tensors, page, rest, store  # noqa: E402
from zoo.errors import UsageError  # noqa: E402

HALF, MANY = "/v1/models/half_plus_three", "/v1/models/many"
LIMITS = {"max_body": 100_000, "max_batch": 8, "max_pixels": 1_000_000, "max_concurrent": 2}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A directory of two models, which no test may change."""
    directory = tmp_path_factory.mktemp("served")
    servables.half_plus(directory / "half_plus_three", 123, 3.0)
    servables.many(directory / "many")
    return directory


@pytest.fixture(scope="module")
def app(served):
    models = store.Store(served, lambda line: None)
    models.poll()
    models.poll()
    return rest.App(models, **LIMITS)


@pytest.fixture(scope="module")
def client(app):
    return Client(app)


def predict(client, body, path=MANY, **fields):
    """The answer to a body, which may be a string or bytes already."""
    data = body if isinstance(body, str | bytes) else json.dumps({**body, **fields})
    return client.post(f"{path}:predict", data=data)


def b64(data: bytes) -> dict:
    return {"b64": base64.b64encode(data).decode()}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def error_of(response) -> str:
    """The error's line, in TF Serving's shape."""
    assert response.content_type == "application/json"
    answer = json.loads(response.data)
    assert list(answer) == ["error"]
    assert "\n" not in answer["error"]
    return answer["error"]


# What api_rest.md and http_rest_api_handler_test.cc show


def test_the_documented_requests(client):
    answer = predict(client, '{"instances": [1.0,2.0,5.0]}', HALF)
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert json.loads(answer.data) == {"predictions": [3.5, 4.0, 5.5]}
    assert predict(client, {"inputs": [3.0, 4.0]}, HALF).json == {"outputs": [4.5, 5.0]}
    path = f"{HALF}/versions/123"
    body = {"signature_name": "serving_default", "instances": [3.0, 4.0]}
    assert predict(client, body, path).json == {"predictions": [4.5, 5.0]}
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in (
        HALF,
        f"{HALF}/versions/123",
        f"{HALF}/versions/0000123",
        "/V1/MODELS" + HALF[10:],
    ):
        assert client.get(path).json == {"model_version_status": [{"version": "123", **available}]}
    answer = predict(client, {"instances": [1.0, 5.0]}, "/v1/models/half")
    assert answer.status_code == 404
    assert answer.json == {"error": "Servable not found for request: Latest(half)"}


def test_metadata_is_the_signatures_of_the_file(client, served):
    answer = client.get(f"{MANY}/metadata").json
    assert answer["model_spec"] == {"name": "many", "signature_name": "", "version": "1"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

    file = saved_model_pb2.SavedModel.FromString((served / "many/1/saved_model.pb").read_bytes())
    expected = file.meta_graphs[0].signature_def
    assert set(signatures) == set(expected)
    for name, fields in signatures.items():
        assert json_format.ParseDict(fields, meta_graph_pb2.SignatureDef()) == expected[name]
    text = signatures["text"]["inputs"]["text"]
    assert text["dtype"] == "DT_STRING"
    assert text["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert client.get(f"{MANY}/versions/1/metadata").json == answer


@pytest.mark.parametrize(
    ("signature", "body", "expected"),
    [
        ("sample", {"instances": [[1, 2], [-3, 4]]}, [[[[1.25], [2.25]]], [[[-2.75], [4.25]]]]),
        ("sample", {"instances": [{"seed": [1, 2]}]}, [[[[1.25], [2.25]]]]),
        ("sample", {"inputs": {"seed": [[1, 2]]}}, [[[[1.25], [2.25]]]]),
        ("", {"inputs": [[1, 2]]}, [[[[1.25], [2.25]]]]),
        ("sample_label", {"instances": [{"label": 9, "seed": [0, 1]}]}, [[[[9.25], [10.25]]]]),
        ("sample_label", {"inputs": {"label": [9], "seed": [[0, 1]]}}, [[[[9.25], [10.25]]]]),
        (
            "stylize",
            {"inputs": {"images": [[[[0.1, 0.2, 0.3]]]], "strength": [2]}},
            {"images": [[[[0.2, 0.4, 0.6]]]], "mean": [0.2]},
        ),
        (
            "stylize",
            {"instances": [{"images": [[[0, 1, 2]]], "strength": 1}]},
            [{"images": [[[0.0, 1.0, 2.0]]], "mean": 1.0}],
        ),
        ("text", {"instances": ["a", "é\u0000\U0001f3a8"]}, ["<a>", "<é\u0000\U0001f3a8>"]),
        ("text", {"instances": [{"b64": "aGk="}, "x"]}, ["<hi>", "<x>"]),
        ("text", {"inputs": {"text": [{"b64": " a\nGk "}]}}, ["<hi>"]),
        ("scalar", {"inputs": 3}, {"half": 1.5, "y": 6.0}),
        ("scalar", {"inputs": {"x": 3.0}}, {"half": 1.5, "y": 6.0}),
        ("reciprocal", {"inputs": [[4.0, 0.5], [1, 2]]}, [[0.25, 2.0], [1.0, 0.5]]),
    ],
)
def test_rows_and_columns(client, signature, body, expected):
    answer = predict(client, body, **({"signature_name": signature} if signature else {}))
    assert answer.status_code == 200, answer.data
    assert answer.json == {"predictions" if "instances" in body else "outputs": expected}


def test_every_type_of_number_passes_unchanged(client):
    columns = {"f32": [0.1, -1e-30], "f64": [0.1, 1e300], "flag": [True, False]}
    for name, dtype in servables.NUMBERS.items():
        if dtype.is_integer:
            columns[name] = [dtype.min, dtype.max]
    answer = predict(client, {"inputs": columns}, signature_name="numbers")
    assert answer.json == {"outputs": columns}
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    answer = predict(client, {"instances": rows}, signature_name="numbers")
    assert answer.json == {"predictions": rows}


def test_bytes_are_base64_both_ways(client):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    pictures = [png(Image.fromarray(pixels)), png(Image.fromarray(pixels[::-1]))]
    body = {"instances": [{"image_bytes": b64(data)} for data in pictures]}
    rows = predict(client, body, signature_name="picture").json["predictions"]
    for row, data in zip(rows, pictures, strict=True):
        file = base64.b64decode(row["png_bytes"]["b64"], validate=True)
        assert row["length"] == len(file)
        grey = np.asarray(Image.open(io.BytesIO(file)))
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        np.testing.assert_allclose(grey.astype(int), expected.astype(int), atol=1)
    columns = {"inputs": {"image_bytes": [b64(data) for data in pictures]}}
    outputs = predict(client, columns, signature_name="picture").json["outputs"]
    assert outputs["png_bytes"] == [row["png_bytes"] for row in rows]


def test_floats_are_written_as_tf_serving_does():
    """By the comments of WriteDecimal, and "%g" as C prints it."""
    values = np.array(
        [0.2, 9e6, 3e-5, 1, -0.0, 1 / 3, 16777217, 3.4028235e38, np.nan, np.inf, -np.inf], "f4"
    )
    text = json_tensors.write({"y": values}, rows=False).decode()
    expected = "0.2, 9e+06, 3e-05, 1.0, -0.0, 0.333333343, 16777216.0, 3.40282347e+38"
    assert text == f'{{"outputs": [{expected}, NaN, Infinity, -Infinity]}}'
    random = np.random.Generator(np.random.PCG64(0)).integers(0, 2**32, 100_000, np.uint32)
    for dtype in (np.float32, np.float64):
        floats = random.view(dtype)
        floats = floats[np.isfinite(floats)][:40_000].reshape(2, -1)
        written = json.loads(json_tensors.write({"y": floats}, rows=False))["outputs"]
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(np.array(written, dtype), floats)


def test_non_finite_numbers_come_and_go(client):
    answer = predict(client, '{"instances": [0, -0.0, NaN, Infinity, -Infinity]}', HALF)
    assert answer.data == b'{"predictions": [3.0, 3.0, NaN, Infinity, -Infinity]}'
    answer = predict(client, {"inputs": [0.0, -0.0]}, signature_name="reciprocal")
    assert answer.data == b'{"outputs": [Infinity, -Infinity]}'


@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0), (2, 0, 3), (1, 1, 1), (3, 2, 2)])
def test_nesting_is_the_shape(shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    assert json.loads(json_tensors.write({"y": array}, rows=False)) == {"outputs": array.tolist()}
    assert json.loads(json_tensors.write({"y": array}, rows=True)) == {
        "predictions": array.tolist()
    }


def test_large_arrays_are_written_in_parts(monkeypatch):
    monkeypatch.setattr(json_tensors, "_CHUNK", 5)
    array = np.arange(60).reshape(2, 3, 10)
    assert json.loads(json_tensors.write({"y": array}, rows=False)) == {"outputs": array.tolist()}


# What is refused, and how

ROWS = {"instances": [[1, 2]]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "The document is empty"),
        ("instances = [1, 2]", "JSON Parse error"),
        ('{"instances": [[1, 2]]', "at offset: 22"),
        ('{"instances": [[1, 2]]} x', "at offset: 24"),
        (b'{"instances": ["\xff"]}', "not UTF-8 at offset: 16"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 20_000, "nested too deeply"),
        ('{"inputs": ' + "[" * 40 + "]" * 40 + "}", "nested more than 32"),
        ("[1]", "Is not object"),
        ("null", "Is not object"),
        ('{"inputs": [[1, 2]], "inputs": [[1, 2]]}', '"inputs" is given more than once'),
        ("{}", "Missing 'inputs' or 'instances'"),
        ({**ROWS, "inputs": []}, "only one of"),
        ({**ROWS, "signature_name": 100}, "'signature_name' key must be a string value."),
        ({**ROWS, "signature_name": "paint"}, '"paint" not found in signature def; known: brief, '),
        ({**ROWS, "signature_name": "\ud800"}, "not found"),
        ({**ROWS, "signature_name": "__saved_model_init_op"}, "not found in signature def"),
        ({"instances": []}, "No values in 'instances'"),
        ({"instances": {}}, "to be a list"),
        ({"instances": None}, "to be a list"),
        ({"instances": [[1, 2]] * 9}, "9 rows, at most 8"),
        ({"inputs": [[1, 2]] * 9}, "9 rows, at most 8"),
        ({"inputs": []}, "an empty list"),
        ({"inputs": [[]]}, "an empty list"),
        ({"inputs": 1}, "has shape [], expected [-1,2]"),
        ({"instances": [1]}, "has shape [1], expected [-1,2]"),
        ({"instances": [[1, 2, 3]]}, "has shape [1,3], expected [-1,2]"),
        ({"instances": [[[1, 2]]]}, "has shape [1,1,2], expected [-1,2]"),
        ({"instances": [[1, 2], [3]]}, "unexpected size: 1"),
        ({"instances": [[1, 2], 3]}, "found at incorrect level"),
        ({"instances": [[1, [2]]]}, "Type: Array is not of expected type: int64"),
        ({"instances": [[1, 2.5]]}, "2.5 Type: Number is not of expected type: int64"),
        ({"instances": [[1, 2**63]]}, "is not of expected type: int64"),
        ({"instances": [[1, 10**4000]]}, "hundreds of digits"),
        ('{"instances": [[1, ' + "9" * 5000 + "]]}", "too many digits"),
        ({"instances": [[1, True]]}, "true Type: Boolean"),
        ({"instances": [[1, None]]}, "null Type: Null"),
        ({"instances": [[1, "2"]]}, "Type: String"),
        ({"instances": [[1, b64(b"x")]]}, "Type: Object"),
        ({"instances": [{"sed": [1, 2]}]}, "keys must be equal to: seed"),
        ({"instances": [{"seed": [1, 2], "more": 1}]}, "keys must be equal to: seed"),
        ({"instances": [{"seed": [1, 2]}, [1, 2]]}, "Expecting object but got Array at item 1"),
        ({"instances": [[1, 2], {"seed": [1, 2]}]}, "got object at item 1"),
        ({"inputs": {"sed": [[1, 2]]}}, "Missing named input: seed"),
        ({"inputs": {"seed": [[1, 2]], "x": 1}}, "does not have named input"),
    ],
)
def test_a_bad_body_is_400_and_one_line(client, body, words):
    answer = predict(client, body)
    assert answer.status_code == 400
    assert words in error_of(answer)
    assert len(error_of(answer)) <= 500


@pytest.mark.parametrize(
    ("signature", "body", "words"),
    [
        ("sample_label", {"instances": [{"seed": [1, 2], "label": 10}]}, "label out of range"),
        ("sample_label", {"instances": [{"seed": [1, 2], "label": -1}]}, "label out of range"),
        ("sample_label", {"instances": [[1, 2]]}, "there are several inputs: label, seed"),
        ("sample_label", {"inputs": [[1, 2]]}, "there are several inputs: label, seed"),
        ("sample_label", {"inputs": {"seed": [[1, 2]] * 2, "label": [1] * 3}}, "Incompatible"),
        ("text", {"instances": [1]}, "is not of expected type: string"),
        ("text", {"instances": ["\ud800"]}, "surrogate pair"),
        ("text", {"instances": [{"b64": "a?=="}]}, "Unable to base64 decode"),
        ("text", {"instances": [{"b64": "a"}]}, "Unable to base64 decode"),
        ("text", {"instances": [{"b64": "é"}]}, "Unable to base64 decode"),
        ("text", {"inputs": [{"b64": 1}]}, "not formatted correctly for base64 data"),
        ("raw", {"instances": ["x"]}, "names that end in _bytes"),
        ("brief", {"instances": [1.0]}, "tensor type: bfloat16"),
        ("scalar", {"instances": [1.0]}, "has shape [1], expected []"),
        ("uneven", {"instances": [1.0, 2.0]}, "inconsistent batch sizes"),
        ("reciprocal", {"inputs": 10**400}, "too big to be stored in double"),
        ("picture", {"instances": [b64(b"no picture")]}, "PNG"),
        ("picture", {"instances": [b64(b"")]}, "Input is empty"),
    ],
)
def test_what_a_signature_or_its_graph_refuses_is_400(client, signature, body, words):
    answer = predict(client, body, signature_name=signature)
    assert answer.status_code == 400
    assert words in error_of(answer)


def test_no_depth_of_nesting_is_too_much(client):
    """Also what Python's parser just manages, before a message quotes it."""
    for depth in range(800, 1040):
        for opening, closing in (("[", "]"), ('{"a": ', "}")):
            deep = opening * depth + "1" + closing * depth
            for body in (f'{{"instances": [[1, {deep}]]}}', f"[{deep}]", f'{{"inputs": {deep}}}'):
                answer = predict(client, body)
                assert answer.status_code == 400, answer.data
                assert error_of(answer)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("i8", 128),
        ("u8", -1),
        ("i16", 2**15),
        ("u32", 2**32),
        ("u64", -1),
        ("flag", 1),
        ("f32", True),
    ],
)
def test_numbers_that_a_type_cannot_hold(client, name, bad):
    columns = {key: [0] for key in servables.NUMBERS} | {"flag": [True]}
    assert predict(client, {"inputs": columns}, signature_name="numbers").status_code == 200
    answer = predict(client, {"inputs": {**columns, name: [bad]}}, signature_name="numbers")
    assert answer.status_code == 400
    assert f"input {name}: " in error_of(answer)


def test_pictures_too_large_or_cut_short(client):
    huge = png(Image.new("1", (10_000, 10_000)))
    assert len(huge) < 50_000
    answer = predict(client, {"instances": [b64(huge)]}, signature_name="picture")
    assert answer.status_code == 400
    assert "pixels" in error_of(answer)
    four = png(Image.new("L", (800, 600)))
    answer = predict(client, {"instances": [b64(four)] * 3}, signature_name="picture")
    assert "1,440,000 pixels, at most 1,000,000" in error_of(answer)
    assert (
        predict(client, {"instances": [b64(four)] * 2}, signature_name="picture").status_code == 200
    )
    answer = predict(client, {"instances": [b64(four[:-20])]}, signature_name="picture")
    assert answer.status_code == 400
    frames = [Image.new("L", (500, 500), level) for level in range(5)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    answer = predict(client, {"instances": [b64(file.getvalue())]}, signature_name="picture")
    assert "1,250,000 pixels" in error_of(answer)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v1/models", 400, "Missing model name"),
        ("GET", f"{MANY}:predict", 400, f"Malformed request: GET {MANY}:predict"),
        ("POST", MANY, 400, "Malformed request"),
        ("POST", f"{MANY}/metadata", 400, "Malformed request"),
        ("PUT", f"{MANY}:predict", 400, "Malformed request"),
        ("POST", f"{MANY}/version/1:predict", 400, "Malformed request"),
        ("POST", f"{MANY}/versions/one:predict", 400, "Malformed request"),
        ("POST", f"{MANY}/versions/1/labels/a:predict", 400, "Malformed request"),
        ("POST", f"{MANY}/versions/١:predict", 400, "Malformed request"),
        ("POST", f"{MANY}/versions/{2**64 - 1}:predict", 400, "Failed to convert version"),
        ("POST", f"{MANY}/versions/{'9' * 5000}:predict", 400, "Failed to convert version"),
        ("POST", f"{MANY}/versions/2:predict", 404, "request: Specific(many, 2)"),
        (
            "POST",
            f"{MANY}/labels/stable:predict",
            400,
            "Unrecognized servable version label: stable",
        ),
        ("GET", f"{MANY}/labels/stable", 400, "Unrecognized servable version label: stable"),
        ("POST", f"{MANY}:classify", 400, "classify is not served"),
        ("GET", f"{MANY}/versions/2", 404, "Could not find version 2 of model many"),
        ("GET", f"{MANY}/versions/2/metadata", 404, "request: Specific(many, 2)"),
        ("GET", "/v1/models/none", 404, "Could not find any versions of model none"),
        ("GET", "/v1/models/..", 404, "Could not find any versions"),
        ("GET", "/v1/models/%2e%2e%2fmany", 400, "Malformed request"),
        ("GET", "/etc/passwd", 404, "Not found"),
        ("GET", "/v1/../../etc/passwd", 400, "Malformed request"),
        ("POST", "/", 404, "Not found"),
        ("GET", "/v1/models/" + "a" * 60_000, 404, "Could not find any versions of model aaa"),
    ],
)
def test_wrong_paths_and_methods(client, method, path, status, words):
    answer = client.open(path, method=method, data=json.dumps(ROWS))
    assert answer.status_code == status
    assert words in error_of(answer)
    assert len(error_of(answer)) <= 500


def test_limits_of_a_request(client, app, monkeypatch):
    answer = predict(client, json.dumps(ROWS) + " " * LIMITS["max_body"])
    assert (answer.status_code, error_of(answer)) == (413, "a body of more than 100,000 bytes")
    for length in ("many", "-1", "1e3", "9" * 30):
        environment = {"CONTENT_LENGTH": length}
        answer = client.post(f"{MANY}:predict", environ_overrides=environment)
        assert answer.status_code == 400
        assert "Content-Length" in error_of(answer)
    answer = client.post(f"{MANY}:predict", headers={"Content-Encoding": "gzip"}, data=b"\x1f\x8b")
    assert answer.status_code == 415
    monkeypatch.setattr(rest, "_SECONDS_TO_WAIT", 0.01)
    app.drain(1)
    try:
        answer = predict(client, ROWS)
        assert answer.status_code == 429
        assert "2 requests are under way" in error_of(answer)
    finally:
        for _ in range(LIMITS["max_concurrent"]):
            app._slots.release()
    assert predict(client, ROWS).status_code == 200


def test_only_this_machines_names_are_answered(served):
    models = store.Store(served, lambda line: None)
    client = Client(rest.App(models, **LIMITS, hosts=("localhost", "127.0.0.1", "[::1]")))
    for host in ("localhost", "LOCALHOST:8501", "127.0.0.1:8501", "[::1]:8501"):
        assert client.get("/", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "", "@"):
        answer = client.get("/", headers={"Host": host})
        assert answer.status_code == 400
        assert "addressed as" in error_of(answer)


def test_the_page_names_everything_and_trusts_no_name(client, app):
    shown = client.get("/")
    assert shown.content_type.startswith("text/html")
    text = shown.get_data(as_text=True)
    assert "not for production" in text
    for words in ("half_plus_three", "version 123", "sample_label", "png_bytes string [any]"):
        assert words in text
    assert not any(f'{attribute}="http' in text for attribute in ("src", "href"))
    ((_, versions),) = [item for item in app._store.listing().items() if item[0] == "many"]
    hostile = {'"><script>': versions, "b": {1: store.Version("END", error="<img>")}}
    text = page.render(hostile)
    assert text.count("<script>") == 1
    assert "<img>" not in text
    assert "END: &lt;img&gt;" in text
    assert "No model yet" in page.render({})


# The directory


class Shop:
    """A Store on a directory, what it said, and questions to it as a client puts them."""

    def __init__(self, directory: pathlib.Path):
        self.said: list[str] = []
        self.store = store.Store(directory, self.said.append)
        self.client = Client(rest.App(self.store, **LIMITS))

    def look(self, times: int = 2) -> list[str]:
        """What it says at that many looks; a version is loaded at the second that is the same."""
        self.said.clear()
        for _ in range(times):
            self.store.poll()
        return self.said

    def ask(self, which: str = "", name: str = "half") -> float | int:
        """half(0), which is what the version adds, or the HTTP status of a refusal."""
        answer = self.client.post(f"/v1/models/{name}{which}:predict", json={"instances": [0]})
        return answer.json["predictions"][0] if answer.status_code == 200 else answer.status_code

    def states(self, name: str = "half") -> dict[str, str]:
        versions = self.client.get(f"/v1/models/{name}").json["model_version_status"]
        return {version["version"]: version["state"] for version in versions}


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Number -> a version that adds it, to be copied."""
    directory = tmp_path_factory.mktemp("halves")
    return {number: servables.half_plus(directory, number, number) for number in (1, 2, 3)}


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


def test_versions_come_and_go(shop, halves, tmp_path):
    assert shop.look() == []
    shutil.copytree(halves[1], tmp_path / "half" / "1")
    assert shop.look(1) == []
    assert shop.ask() == 404
    assert shop.look(1) == ["half: version 1 is served: serving_default"]
    shutil.copytree(halves[2], tmp_path / "half" / "2")
    shop.look()
    assert (shop.ask(), shop.ask("/versions/1"), shop.ask("/versions/2")) == (2, 1, 2)
    assert list(shop.states().items()) == [("2", "AVAILABLE"), ("1", "AVAILABLE")]
    shutil.rmtree(tmp_path / "half" / "2")
    assert shop.look() == ["half: version 2 is gone"]
    assert (shop.ask(), shop.ask("/versions/2")) == (1, 404)
    assert shop.states() == {"2": "END", "1": "AVAILABLE"}
    shutil.copytree(halves[2], tmp_path / "half" / "2")
    shop.look()
    assert shop.ask() == 2
    shutil.rmtree(tmp_path / "half")
    assert shop.look() == ["half: version 2 is gone", "half: version 1 is gone"]
    assert shop.ask() == 404


def test_clients_notice_no_change_of_versions(shop, halves, tmp_path):
    shutil.copytree(halves[1], tmp_path / "half" / "1")
    shop.look()
    stop = threading.Event()

    def client(_) -> set:
        answers = set()
        while not stop.is_set():
            answers.add(Client(shop.client.application).post(
                "/v1/models/half:predict", data='{"instances": [0]}').data)  # fmt: skip
        return answers

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = pool.map(client, range(4))
        for _ in range(3):
            for number in (2, 3):
                shutil.copytree(halves[number], tmp_path / "half" / str(number))
                shop.look()
            for number in (2, 3):
                shutil.rmtree(tmp_path / "half" / str(number))
                shop.look()
        stop.set()
        seen = set().union(*answers)
    assert seen == {b'{"predictions": [%d.0]}' % number for number in (1, 2, 3)}


def test_an_unloaded_model_is_freed_and_one_in_use_is_not(shop, halves, tmp_path):
    import weakref

    shutil.copytree(halves[1], tmp_path / "half" / "1")
    shop.look()
    _, model = shop.store.find("half", None, None)
    shutil.rmtree(tmp_path / "half")
    shop.look()
    run = model.signatures["serving_default"].run
    np.testing.assert_array_equal(run({"x": np.zeros(1, np.float32)})["y"], [1])
    dead = weakref.ref(model)
    del model, run
    assert dead() is None


def test_half_written_versions_wait(shop, halves, tmp_path):
    """A copy, file by file: whatever lies there in between is neither served nor complained of."""
    target = tmp_path / "half" / "1"
    files = sorted(path for path in halves[1].rglob("*") if path.is_file())
    for path in files:
        copy = target / path.relative_to(halves[1])
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        for part in (data[: len(data) // 2], data):
            copy.write_bytes(part)
            assert shop.look(1) == []
            assert shop.ask() == 404
    shop.look(1)
    assert shop.ask() == 1
    (tmp_path / "half" / ".2.tmp").mkdir()
    shutil.copytree(halves[2], tmp_path / "half" / "latest")
    assert shop.look() == []


@pytest.mark.parametrize("harm", ["truncated", "no_variables", "no_model", "other_tags"])
def test_a_broken_version_is_told_once_and_disturbs_nobody(shop, halves, tmp_path, harm):
    shutil.copytree(halves[1], tmp_path / "half" / "1")
    broken = shutil.copytree(halves[2], tmp_path / "half" / "2")
    shutil.copytree(halves[3], tmp_path / "other" / "1")
    if harm == "truncated":
        (data,) = (broken / "variables").glob("variables.data*")
        data.write_bytes(data.read_bytes()[:1])
    elif harm == "no_variables":
        shutil.rmtree(broken / "variables")
    elif harm == "no_model":
        (broken / "saved_model.pb").write_bytes(b"no model at all")
    else:
        from tensorflow.core.protobuf import saved_model_pb2

        file = saved_model_pb2.SavedModel.FromString((broken / "saved_model.pb").read_bytes())
        file.meta_graphs[0].meta_info_def.tags[:] = ["train"]
        (broken / "saved_model.pb").write_bytes(file.SerializeToString())
    said = shop.look(5)
    assert len(said) == 3
    (line,) = [line for line in said if "cannot be loaded" in line]
    assert line.startswith("half: version 2 cannot be loaded: ")
    assert "\n" not in line
    assert (shop.ask(), shop.ask("/versions/2"), shop.ask(name="other")) == (1, 404, 3)
    status = shop.client.get("/v1/models/half/versions/2").json["model_version_status"][0]
    assert status["state"] == "END"
    assert status["status"]["error_code"] == "UNKNOWN"
    assert line.endswith(status["status"]["error_message"])
    shutil.rmtree(broken)
    shutil.copytree(halves[2], broken)
    shop.look(3)
    assert shop.ask() == 2


def test_one_models_own_directory(tmp_path, halves):
    for number in (1, 2):
        shutil.copytree(halves[number], tmp_path / "mine" / str(number))
    shop = Shop(tmp_path / "mine")
    shop.look()
    assert (shop.ask(name="mine"), shop.ask("/versions/1", name="mine")) == (2, 1)


CONFIG = """
# As export writes it, and as people do.
model_config_list {
  config {
    name: "half" base_path: "/models/half" model_platform: "tensorflow"
    %s
    version_labels { key: 'stable' value: 1 }
    version_labels { key: "canary", value: 2 }
    logging_config { log_collector_config { type: "none" } }
  }
  config: { name: "absent", base_path: "/models/absent" }
}
"""


def test_labels_and_version_policies(shop, halves, tmp_path):
    for number in (1, 2, 3):
        shutil.copytree(halves[number], tmp_path / "half" / str(number))
    shop.look()
    assert shop.ask("/labels/stable") == 400
    config = tmp_path / "models.config"
    config.write_text(CONFIG % "")
    assert shop.look() == []
    assert (shop.ask(), shop.ask("/labels/stable"), shop.ask("/labels/canary")) == (3, 1, 2)
    status = shop.client.get("/v1/models/half/labels/canary").json["model_version_status"]
    assert [version["version"] for version in status] == ["2"]
    metadata = shop.client.get("/v1/models/half/labels/stable/metadata").json
    assert metadata["model_spec"]["version"] == "1"
    assert shop.ask("/labels/other") == 400
    config.write_text(CONFIG % "model_version_policy { latest { num_versions: 2 } }")
    assert shop.look() == ["half: version 1 is gone"]
    assert (shop.ask(), shop.ask("/labels/stable"), shop.ask("/labels/canary")) == (3, 404, 2)
    config.write_text(CONFIG % "model_version_policy: { specific { versions: 1, versions: 2 } }")
    shop.look()
    assert (shop.ask(), shop.ask("/labels/stable")) == (2, 1)
    config.write_text(CONFIG % "model_version_policy { all {} }")
    shop.look()
    assert shop.ask() == 3
    config.write_text("model_config_list { config { nom")
    (line,) = shop.look()
    assert "models.config is no ModelServerConfig" in line
    assert (shop.ask(), shop.ask("/labels/stable")) == (3, 1)
    with pytest.raises(UsageError, match="models.config is no ModelServerConfig"):
        store.Store(tmp_path, print)


# The command


def test_wrong_usage(tmp_path, halves):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, words in (
            ((), "expected one directory"),
            ((tmp_path, tmp_path), "expected one directory of models, got 2"),
            ((tmp_path / "none",), "is no directory"),
            ((halves[1],), str(halves[1].parent)),
            ((tmp_path, "--port=70000"), "--port=70000"),
            ((tmp_path, "--max_batch=0"), "--max_batch=0"),
            ((tmp_path, "--prt=1"), "prt"),
            ((tmp_path, f"--port={port}"), f"port {port}"),
            ((tmp_path, "--host=no.such.host.invalid"), "no.such.host.invalid"),
        ):
            assert_refused(run("export.preview", *arguments), words)


@pytest.fixture(scope="module")
def server(served):
    """A running server: its process, its host and port."""
    with start("export.preview", served, "--port=0", "--max_body_mb=1") as process:
        lines = []
        while not lines or "http://" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        assert "Preview, not for production" in lines[-1]
        url = urllib.parse.urlsplit(next(w for w in lines[-1].split() if w.startswith("http://")))
        assert url.hostname == "127.0.0.1"
        try:
            yield process, url.hostname, url.port
        finally:
            process.kill()


def talk(server, data: bytes, *, finish: bool = True) -> tuple[int, dict]:
    """Bytes as they are to the server; its status and JSON."""
    with socket.create_connection(server[1:], timeout=60) as connection:
        connection.sendall(data)
        if finish:
            connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read())


def test_many_clients_at_once(server):
    def client(number: int) -> int:
        for index in range(20):
            connection = http.client.HTTPConnection(*server[1:], timeout=60)
            body = json.dumps({"instances": [[number, index]]})
            connection.request("POST", f"{MANY}:predict", body)
            answer = connection.getresponse()
            expected = {"predictions": [[[[number + 0.25], [index + 0.25]]]]}
            assert (answer.status, json.loads(answer.read())) == (200, expected)
            connection.close()
        return number

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(client, range(16))) == list(range(16))


HEAD = f"POST {MANY}:predict HTTP/1.1\r\nHost: localhost\r\n".encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),
        (HEAD + b"Content-Length: x\r\n\r\n{}", 400),
        (HEAD + b"Content-Length: -5\r\n\r\n{}", 400),
        (HEAD + b"Content-Length: 50\r\n\r\n{}", 400),
        (HEAD + b"Content-Length: 5000000\r\n\r\n{}", 413),
        (HEAD + CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", 400),
        (HEAD + CHUNKED + b"-5\r\n{}\r\n0\r\n\r\n", 400),
        (HEAD + CHUNKED + b"200000\r\n" + b" " * 0x200000 + b"\r\n0\r\n\r\n", 413),
        (HEAD + b"\r\n", 400),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_what_is_no_proper_http_is_refused_in_one_line(server, data, status):
    got, answer = talk(server, data)
    assert got == status
    assert list(answer) == ["error"]
    assert server[0].poll() is None


def test_a_client_that_says_nothing_more_holds_up_nobody(server):
    body = json.dumps({"instances": [[1, 2]]}).encode()
    whole = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection(server[1:]) as idle, socket.create_connection(server[1:]) as half:
        half.sendall(whole[:-3])
        assert talk(server, whole, finish=False)[0] == 200
        # A reset instead of an orderly end, in the middle of a request.
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        idle.sendall(whole[:-3])
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    assert talk(server, HEAD + CHUNKED + chunks)[0] == 200


def test_interrupting_ends_it_cleanly(server):
    process, *address = server
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("stopped\n")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(tuple(address)).close()
    assert not os.path.exists(f"/proc/{process.pid}")
