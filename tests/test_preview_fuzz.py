"""The preview server against requests that nobody meant: no crash, no hang, no growth.

Each request is made by Hypothesis and put to the WSGI application in this process.
"""

import base64
import collections
import io
import json
import pathlib
import re

import pytest
import servables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from werkzeug.test import run_wsgi_app

from export import rest, store

LIMITS = {"max_body": 10_000, "max_batch": 4, "max_pixels": 10_000, "max_concurrent": 1}
SIGNATURES = ["sample", "sample_label", "stylize", "picture", "text", "raw", "scalar"]
SIGNATURES += ["reciprocal", "uneven", "brief", "numbers", "serving_default"]
INPUTS = ["seed", "label", "images", "strength", "image_bytes", "text", "x", *servables.NUMBERS]
RUNS = {"deadline": None, "database": None, "derandomize": True}
RUNS["suppress_health_check"] = list(HealthCheck)


def _png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("1", size).save(file, "PNG")
    return file.getvalue()


# Values: from what a signature wants to what nothing could want.
names = st.sampled_from([*INPUTS, *SIGNATURES, "b64", "instances", "inputs", "signature_name", "é"])
edges = [0, -1, 127, 128, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, -(10**400), 1e300, -0.0]
# By their places, as Hypothesis writes down what it samples from, and warns when that is long.
numbers = st.integers() | st.floats() | st.integers(0, len(edges) - 1).map(lambda i: edges[i])
small = st.integers(-2, 12)
heads = [_png((1, 1)), _png((9, 9)), _png((2000, 2000)), b"\xff\xd8\xff", b"GIF89a", b"\xff\x0a"]
files = st.integers(0, len(heads) - 1).map(lambda i: heads[i])
cut = st.tuples(files, st.integers(0, 99)).map(lambda pair: pair[0][: pair[1]])
encoded = (files | cut | st.binary(max_size=50)).map(lambda data: base64.b64encode(data).decode())
texts = st.text(st.characters(), max_size=20)  # lone surrogates too
base64s = st.fixed_dictionaries({"b64": encoded | texts | numbers})
scalars = st.none() | st.booleans() | numbers | small | texts | base64s
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names | texts, inner, max_size=4),
    max_leaves=12,
)
seeds = st.lists(small | numbers, min_size=2, max_size=2)
pixel = st.lists(st.floats(width=32) | small, min_size=3, max_size=3)
pictures = st.tuples(st.integers(1, 3), st.integers(1, 3), pixel).map(
    lambda made: [[made[2]] * made[1]] * made[0]
)
rows = {
    "seed": seeds,
    "label": small,
    "images": pictures,
    "strength": st.floats(width=32),
    "image_bytes": base64s,
    "text": texts | base64s,
    "x": st.floats(width=32),
    **{
        name: st.booleans() if name == "flag" else st.integers(0, 127) for name in servables.NUMBERS
    },
}
WANTED = {
    "sample_label": ["seed", "label"], "stylize": ["images", "strength"],
    "picture": ["image_bytes"], "text": ["text"], "raw": ["text"], "scalar": ["x"],
    "reciprocal": ["x"], "uneven": ["x"], "brief": ["x"], "numbers": list(servables.NUMBERS),
}  # fmt: skip


@st.composite
def meant(draw) -> dict:
    """Nearly what a signature wants: then one thing of it is replaced, or nothing."""
    signature = draw(st.sampled_from(SIGNATURES))
    wanted = WANTED.get(signature, ["seed"])
    count = draw(st.integers(1, 5))
    made = [{name: draw(rows[name]) for name in wanted} for _ in range(count)]
    if draw(st.booleans()):
        document = {"instances": made}
        place = draw(st.sampled_from(made))
    else:
        place = {name: [row[name] for row in made] for name in wanted}
        document = {"inputs": place}
    document["signature_name"] = signature
    if draw(st.booleans()):
        place[draw(names)] = draw(values)
    if draw(st.integers(0, 9)) == 0:
        document[draw(names)] = draw(values)
    return document


pieces = st.sampled_from([b"", b'"', b"[", b"{", b",", b"\xff", b"\\ud800"]) | st.binary(max_size=4)


@st.composite
def damaged(draw) -> bytes:
    """The bytes of a request, some of them replaced or lost."""
    data = bytearray(json.dumps(draw(meant())).encode())
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 9)))
        data[start:end] = draw(pieces)
    return bytes(data)


deep = st.tuples(st.sampled_from([b"[", b'{"a":', b'{"inputs":', b"[["]), st.integers(1, 1500))
bodies = st.one_of(
    meant().map(lambda document: json.dumps(document).encode()),
    st.dictionaries(names, values, max_size=4).map(lambda document: json.dumps(document).encode()),
    damaged(),
    deep.map(lambda pair: pair[0] * pair[1]),
    st.binary(max_size=100),
    st.integers(1, 12_000).map(lambda size: b'{"instances": [' + b"9" * size + b"]}"),
)
model = st.sampled_from(["many", "half_plus_three", "none", "..", "", "%2e", "MANY"]) | texts
which = st.just("") | st.sampled_from(["/versions/1", "/versions/2", "/labels/x", "/versions/"])
which |= st.integers(-1, 2**70).map(lambda number: f"/versions/{number}")
verbs = st.sampled_from(
    [":predict", ":classify", ":regress", "/metadata", "", ":PREDICT", ":", "/"]
)
paths = st.builds("/v1/models/{}{}{}".format, model, which, verbs)
paths |= st.sampled_from(["/", "", "/v1", "/v1/models", "//", "/v1/models/many:predict/"])
paths |= texts.map(lambda text: "/" + text)
lengths = st.none() | st.sampled_from(["", "0", "-1", "x", "1e3", "9" * 30, "٣", "9999", "10001"])
headers = st.dictionaries(
    st.sampled_from(["HTTP_CONTENT_ENCODING", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING"]),
    st.sampled_from(["gzip", "identity", "chunked", "application/json", "\xff", ""]),
    max_size=2,
)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served")
    servables.half_plus(directory / "half_plus_three", 1, 3.0)
    servables.many(directory / "many")
    models = store.Store(directory, lambda line: None)
    models.poll()
    models.poll()
    return rest.App(models, **LIMITS)


def ask(app, method: str, path: str, body: bytes, length: str | None, more: dict) -> int:
    """Puts a request to the application, checks the form of its answer; the status."""
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        # As a server hands it on: bytes of UTF-8, or of anything, in a Latin-1 string.
        "PATH_INFO": path.encode("utf-8", "surrogatepass").decode("latin-1"),
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)) if length is None else length,
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
        **more,
    }
    chunks, status, answered = run_wsgi_app(app, environ, buffered=True)
    answer, code = b"".join(chunks), int(status.split()[0])
    assert code == 200 or 400 <= code < 500, (status, answer)
    if code != 200:
        assert answered["Content-Type"] == "application/json"
        error = json.loads(answer)
        assert list(error) == ["error"]
        assert error["error"]
        assert "\n" not in error["error"]
    elif method == "POST":
        assert json.loads(answer).keys() <= {"predictions", "outputs"}
    return code


def memory() -> int:
    """Bytes of this process that are in memory."""
    return 1024 * int(
        re.search(r"VmRSS:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]
    )


def fuzz(app, predictions: int, others: int) -> tuple[list[tuple], collections.Counter]:
    """That many requests of each kind: what they were, and how often each status came."""
    asked: list[tuple] = []
    statuses: collections.Counter = collections.Counter()

    def put(*request) -> None:
        asked.append(request)
        statuses[ask(app, *request)] += 1

    @settings(max_examples=predictions, **RUNS)
    @given(bodies)
    def predict(body):
        put("POST", "/v1/models/many:predict", body, None, {})

    @settings(max_examples=others, **RUNS)
    @given(st.sampled_from(["GET", "POST", "PUT", "X"]), paths, bodies, lengths, headers)
    def anything(method, path, body, length, more):
        put(method, path, body, length, more)

    predict()
    anything()
    return asked, statuses


def test_hundreds_of_requests(app):
    asked, statuses = fuzz(app, 300, 200)
    assert len(asked) >= 500
    assert statuses[200] > 20
    assert statuses[400] > 100


@pytest.mark.slow
def test_more_than_ten_thousand_requests_without_growth(app):
    asked, statuses = fuzz(app, 8_000, 2_000)
    assert len(asked) >= 10_000
    assert statuses[200] > 500
    # Hypothesis remembers what it made, and grows by 150 MB: the same again, without it.
    start = memory()
    for request in asked:
        ask(app, *request)
    assert memory() - start < 10 * 2**20
