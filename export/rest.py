"""TF Serving's REST API as a WSGI application: predict, metadata and status.

What differs from TF Serving is listed in export/preview.py.
"""

import io
import json
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.wrappers import Request, Response

from export import json_tensors, page
from export.json_tensors import RequestError, Spec
from export.store import Store, Version

# Its two patterns: without a model's name, a version of digits only, case of letters free.
_FLAGS = re.IGNORECASE | re.ASCII
_WHICH = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_ASK = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_WHICH}:(?P<verb>classify|regress|predict)", _FLAGS
)
_LOOK = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_WHICH}(?P<metadata>/metadata)?", _FLAGS)
_LARGEST_INT64 = 2**63 - 1
# tensorflow::error::Code -> HTTP status, as its http_server.cc.
_STATUSES = {1: 499, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400}
_STATUSES |= {12: 501, 14: 503, 16: 401}
# What TensorFlow decodes; Pillow cannot tell the size of the last.
_PICTURES = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n")
_SECONDS_TO_WAIT = 60
_LONGEST_MESSAGE = 500


class App:
    """WSGI application over a Store.

    Args:
      max_body: bytes of a request.
      max_batch: rows of a request.
      max_pixels: of all encoded pictures of a request together, which may be small as files.
      max_concurrent: requests computed at once; others wait, and get 429 after a minute.
      hosts: names that requests may be addressed to; empty: any. A page of another site can point
        its own name at this machine, but not send this machine's name.
    """

    def __init__(
        self,
        store: Store,
        *,
        max_body: int,
        max_batch: int,
        max_pixels: int,
        max_concurrent: int,
        hosts: Collection[str] = (),
    ):
        self._store = store
        self._max_body, self._max_batch, self._max_pixels = max_body, max_batch, max_pixels
        self._slots = threading.BoundedSemaphore(max_concurrent)
        self._max_concurrent = max_concurrent
        self._hosts = hosts

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        request = Request(environ)
        try:
            response = self._answer(request)
        except RequestError as error:
            response = _error(error.status, error.message)
        except MemoryError:
            response = _error(429, "out of memory: ask for less at once")
        except Exception:
            traceback.print_exc(file=sys.stderr)
            response = _error(500, "internal error of the preview: see its log")
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response(environ, start_response)

    def drain(self, seconds: float) -> None:
        """Lets no more requests in and waits for those under way."""
        deadline = time.monotonic() + seconds
        for _ in range(self._max_concurrent):
            self._slots.acquire(timeout=max(0, deadline - time.monotonic()))

    def _answer(self, request: Request) -> Response:
        host = re.sub(":[0-9]*$", "", request.headers.get("Host", "")).lower()
        if self._hosts and host not in self._hosts:
            raise RequestError(400, "this server is addressed as localhost or 127.0.0.1")
        path, method = request.path, request.method
        if path == "/" and method in ("GET", "HEAD"):
            return Response(page.render(self._store.listing()), mimetype="text/html")
        if not re.match("/v1/", path, _FLAGS):
            raise RequestError(404, f"Not found: {method} {path}")
        ask, look = _ASK.fullmatch(path), _LOOK.fullmatch(path)
        if method == "POST" and ask and ask["verb"] == "predict":
            return self._predict(request, *_model(ask))
        if method == "POST" and ask and ask["verb"] in ("classify", "regress"):
            raise RequestError(400, f"{ask['verb']} is not served by the preview, only predict")
        if method == "GET" and look:
            if not look["name"]:
                raise RequestError(400, "Missing model name in request.")
            answer = self._metadata if look["metadata"] else self._status
            return _json(answer(*_model(look)))
        raise RequestError(400, f"Malformed request: {method} {path}")

    def _body(self, request: Request) -> bytes:
        length = request.environ.get("CONTENT_LENGTH") or "0"
        if not re.fullmatch("[0-9]{1,18}", length):
            raise RequestError(400, "Content-Length is no number of bytes")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise RequestError(415, "an encoded body: the preview reads plain JSON only")
        too_long = RequestError(413, f"a body of more than {self._max_body:,} bytes")
        # One byte more than is served: a chunked body is cut off there without a word.
        request.max_content_length = self._max_body + 1
        try:
            body = request.get_data(cache=False)
        except RequestEntityTooLarge as error:
            raise too_long from error
        except ClientDisconnected as error:
            raise RequestError(400, "the body is malformed, cut short or too slow") from error
        if len(body) > self._max_body:
            raise too_long
        return body

    def _predict(
        self, request: Request, name: str, number: int | None, label: str | None
    ) -> Response:
        body = self._body(request)
        if not self._slots.acquire(timeout=_SECONDS_TO_WAIT):
            raise RequestError(429, f"{self._max_concurrent} requests are under way: try later")
        try:
            return Response(self._predicted(body, name, number, label), mimetype="application/json")
        finally:
            self._slots.release()

    def _predicted(self, body: bytes, name: str, number: int | None, label: str | None) -> bytes:
        import tensorflow as tf

        document = json_tensors.parse(body)
        wanted = document.get("signature_name", "")
        if type(wanted) is not str:
            raise RequestError(400, "'signature_name' key must be a string value.")
        _, model = self._store.find(name, number, label)
        signature = model.signatures.get(wanted or "serving_default")
        if signature is None:
            known = ", ".join(sorted(model.signatures))
            raise RequestError(
                400,
                f'Serving signature name: "{wanted or "serving_default"}" not found in signature '
                f"def; known: {known}",
            )
        arrays, rows = json_tensors.read(document, signature.inputs, self._max_batch)
        del document
        self._check_pictures(signature.inputs, arrays)
        try:
            outputs = signature.run(arrays)
        except tf.errors.OpError as error:
            text = error.message.removeprefix("Graph execution error:").strip()
            status = _STATUSES.get(error.error_code, 500)
            raise RequestError(status, text.partition("\n")[0]) from error
        return json_tensors.write(outputs, rows)

    def _check_pictures(self, specs: Mapping[str, Spec], arrays: Mapping[str, np.ndarray]) -> None:
        """A picture of gigabytes is some kilobytes as a file: its header tells."""
        total = 0
        for name, spec in specs.items():
            if spec.dtype == "DT_STRING":
                total += sum(map(_pixels, arrays[name].ravel()))
        if total > self._max_pixels:
            raise RequestError(
                400,
                f"pictures of {total:,} pixels, at most {self._max_pixels:,} are served at once",
            )

    def _metadata(self, name: str, number: int | None, label: str | None) -> dict[str, Any]:
        number, model = self._store.find(name, number, label)
        return {
            "model_spec": {"name": name, "signature_name": "", "version": str(number)},
            "metadata": {"signature_def": {"signature_def": model.signature_defs}},
        }

    def _status(self, name: str, number: int | None, label: str | None) -> dict[str, Any]:
        if label is not None:
            number = self._store.labelled(name, label)
        versions = self._store.listing().get(name, {})
        if number is None and not versions:
            raise RequestError(404, f"Could not find any versions of model {name}")
        if number is not None and number not in versions:
            raise RequestError(404, f"Could not find version {number} of model {name}")
        wanted = versions if number is None else [number]
        return {"model_version_status": [_version_status(n, versions[n]) for n in wanted]}


def _model(match: re.Match) -> tuple[str, int | None, str | None]:
    """Name, version and label of a path."""
    text = match["version"]
    if text is None:
        return match["name"], None, match["label"]
    if len(text.lstrip("0")) > 19 or int(text) > _LARGEST_INT64:
        raise RequestError(400, f"Failed to convert version: {text[:100]} to numeric.")
    return match["name"], int(text), None


def _version_status(number: int, version: Version) -> dict[str, Any]:
    code = "UNKNOWN" if version.error else "OK"
    status = {"error_code": code, "error_message": version.error}
    return {"version": str(number), "state": version.state, "status": status}


def _pixels(data: bytes) -> int:
    """Of all frames of an encoded picture; 0 if it is none."""
    from PIL import Image

    if data.startswith(_JPEG_XL):
        raise RequestError(400, "picture: JPEG XL is not served by the preview")
    try:
        with Image.open(io.BytesIO(data), formats=_PICTURES) as image:
            return image.width * image.height * getattr(image, "n_frames", 1)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestError(400, f"picture: {error}") from error
    except Exception:  # Pillow's readers raise all kinds for damaged files: the graph will tell
        return 0


def _json(value: Any) -> Response:
    return Response(json.dumps(value, indent=1) + "\n", mimetype="application/json")


def _error(status: int, message: str) -> Response:
    line = " ".join(message.split())[:_LONGEST_MESSAGE]  # it may quote a path
    return Response(json.dumps({"error": line}) + "\n", status, mimetype="application/json")
