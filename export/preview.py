"""`python -m export.preview DIR`: exported models over HTTP, to try them; not for production.

Speaks TF Serving's REST API (api_rest.md) on machines without Docker: `:predict` with "instances"
and "inputs", metadata, status; a page to try models at `/`. New versions are served as they come.

What differs from tensorflow_model_server:
- No gRPC, classify, regress, warm-up requests, batching, CORS, gzip or monitoring; no time limit;
  each answer closes its connection.
- It serves every version it finds, not only the newest, unless DIR/models.config has a
  model_version_policy. Of that file, name, model_version_policy and version_labels are read, and
  not base_path: models are DIR/<name>/<version>, or DIR/<version> for a single one. Models that it
  omits are served too.
- A version is loaded when two looks, one second apart, found the same files; one that failed, again
  when its files change. Status tells a failure by the code UNKNOWN.
- A label's status is that of its version, not of all.
- Refused with 400, where TF Serving takes the first, ignores or wraps: duplicate keys, text after
  the JSON, invalid UTF-8, inputs that the signature has not, numbers outside of int8, int16 or
  uint8, an empty list; and before the graph runs, a shape that the signature has not.
- "Inf" and "-NaN" are no numbers here; 1e999 is read as Infinity.
- Limits: bytes of a body (413), rows and pixels of encoded pictures (400; JPEG XL at all),
  requests at once (429 after a minute), nesting as deep as Python's stack (400).
- The Host header must name this machine while only this machine can reach the server.
- Errors say the same in other words, white space differs, unknown paths get JSON too.
"""

import contextlib
import dataclasses
import ipaddress
import json
import pathlib
import socket
import sys
import threading
from typing import Any

from zoo import flags
from zoo.errors import UsageError, check_positive

_USAGE = """python -m export.preview DIR [--flag=value ...]

Serves DIR/<name>/<version>/saved_model.pb, or DIR/<version>/..., by TF Serving's REST API, with a
page to try the models. For a preview on your own machine, not for production: no encryption, no
passwords, no promise of speed."""
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_FINISH = 5.0
_MOST_CONNECTIONS = 64


@dataclasses.dataclass(frozen=True)
class PreviewFlags:
    """What the preview can be told."""

    port: int = 8501
    """TCP port; 0: any free one, which is printed."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine alone."""
    max_body_mb: int = 16
    """Largest request, in MB."""
    max_batch: int = 256
    """Most rows in a request."""
    max_megapixels: int = 8
    """Most pixels of the encoded pictures in a request, in millions."""
    max_concurrent: int = 4
    """Requests computed at once; others wait."""

    def __post_init__(self):
        if not 0 <= self.port < 65536:
            raise UsageError(f"--port={self.port}: expected 0 to 65535")
        names = ["max_body_mb", "max_batch", "max_megapixels", "max_concurrent"]
        check_positive(**{name: getattr(self, name) for name in names})


def main(argv: list[str]) -> int:
    """Serves until it is interrupted; returns the exit code."""
    places = [argument for argument in argv if not argument.startswith("-")]
    options = flags.parse_options(
        PreviewFlags, _USAGE, [argument for argument in argv if argument.startswith("-")]
    )
    if options is None:
        return 0
    if len(places) != 1:
        raise UsageError(
            f"expected one directory of models, got {len(places)}; flags are written --name=value"
        )
    from PIL import Image

    from export.store import Store

    Image.MAX_IMAGE_PIXELS = None  # --max_megapixels counts them
    store = Store(pathlib.Path(places[0]), _say)
    with _listen(options.host, options.port) as listening:
        store.poll()  # the first of two looks; importing takes longer than what is between them

        from zoo import runtime

        runtime.import_tensorflow()
        store.poll()
        return _serve(store, listening, options)


def _serve(store: Any, listening: socket.socket, options: PreviewFlags) -> int:
    from export.rest import App

    address = listening.getsockname()
    local = ipaddress.ip_address(address[0]).is_loopback
    app = App(
        store,
        max_body=options.max_body_mb * 1_000_000,
        max_batch=options.max_batch,
        max_pixels=options.max_megapixels * 1_000_000,
        max_concurrent=options.max_concurrent,
        hosts=("localhost", address[0], "[::1]") if local else (),
    )
    stopping = threading.Event()

    def look() -> None:
        while not stopping.wait(_SECONDS_BETWEEN_LOOKS):
            store.poll()

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    if not store.listing():
        _say(f"No model in {store.directory} yet: python -m export --run_dir=RUN --out=...")
    if not local:
        _say("Whoever reaches this machine can use it: --host=127.0.0.1 keeps it to yourself")
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    _say(f"Preview, not for production: http://{shown}:{address[1]}/ (Ctrl-C stops it)")
    try:
        _make_server(app, listening).serve_forever()
    finally:
        listening.close()
        stopping.set()
        app.drain(_SECONDS_TO_FINISH)
        looking.join(_SECONDS_TO_FINISH)
    _say("stopped")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        words = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot listen on {host}, port {port}: {words}; choose another --host or --port"
        ) from error


def _make_server(app: Any, listening: socket.socket) -> Any:
    from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

    class Handler(WSGIRequestHandler):
        """Quiet, without waiting for Nagle, and with errors in TF Serving's shape."""

        timeout = 30
        disable_nagle_algorithm = True

        def log(self, *arguments: Any) -> None:
            pass

        def send_error(
            self, code: int, message: str | None = None, explain: str | None = None
        ) -> None:
            """What is no HTTP at all: never gets as far as the application."""
            self.request_version = self.protocol_version  # else, before HTTP/1.0, no status is sent
            words = message or self.responses.get(code, ("malformed request", ""))[0]
            body = json.dumps({"error": " ".join(words.split())}).encode() + b"\n"
            self.send_response(400 if code >= 500 else code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

    class Server(ThreadedWSGIServer):
        """With an end to the number of threads: more connections wait in the listening queue."""

        def __init__(self) -> None:
            host, port = listening.getsockname()[:2]
            super().__init__(host, port, app, Handler, fd=listening.fileno())
            self._connections = threading.BoundedSemaphore(_MOST_CONNECTIONS)

        def process_request(self, request: Any, client_address: Any) -> None:
            self._connections.acquire()
            super().process_request(request, client_address)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                self._connections.release()

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has gone is no news."""
            if not isinstance(sys.exception(), OSError):
                super().handle_error(request, client_address)

    return Server()


def _say(line: str) -> None:
    # Whoever read our output may have gone; that is no reason to stop.
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


if __name__ == "__main__":
    flags.run_command(main)
