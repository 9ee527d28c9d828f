"""Part `preview` of the benchmark: requests a second of the preview server.

Serves the default VAE, untrained, in a process of its own; clients are threads of this one, each
request a connection of its own that asks for one picture by seed. Every answer is checked.
"""

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.bench import BenchFlags, Report

_WARM_UP = 50
_CLIENTS = (1, 8)


def run(options: "BenchFlags", report: "Report") -> dict[str, Any]:
    """Prints to the report; returns all figures."""
    requests = 20 if options.quick else 10_000
    with tempfile.TemporaryDirectory() as directory:
        _write_model(pathlib.Path(directory) / "vae")
        with serving(pathlib.Path(directory)) as address:
            figures = measure(*address, "vae", requests)
    for line in figures["clients"]:
        report.title(f"Preview server, {line['requests']:,} requests of {line['clients']} clients")
        report.figure("requests/s", f"{line['requests_per_second']:.0f}")
        report.figure("median, p99", f"{line['median_ms']:.1f}, {line['p99_ms']:.1f} ms")
        errors = line["errors"]
        report.check("errors", errors, str(errors), "0", errors == 0)
    return figures


def measure(host: str, port: int, model: str, requests: int) -> dict[str, Any]:
    """Figures for each number of clients, of a server whose default signature takes a seed."""
    path = f"/v1/models/{model}:predict"

    def ask(seed: int) -> tuple[float, bool]:
        """Seconds until the answer was read, and whether it holds one prediction."""
        began = time.perf_counter()
        try:
            connection = http.client.HTTPConnection(host, port, timeout=60)
            connection.request("POST", path, json.dumps({"instances": [[1, seed]]}))
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
        except (OSError, http.client.HTTPException):
            return time.perf_counter() - began, False
        took = time.perf_counter() - began
        return took, answer.status == 200 and len(json.loads(body)["predictions"]) == 1

    for seed in range(_WARM_UP):
        ask(seed)
    return {"clients": [_run(ask, clients, requests // len(_CLIENTS)) for clients in _CLIENTS]}


def _run(ask: Any, clients: int, requests: int) -> dict[str, Any]:
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, range(requests)))
    took = time.perf_counter() - began
    seconds = sorted(second for second, _ in answers)
    return {
        "clients": clients,
        "requests": requests,
        "errors": sum(not good for _, good in answers),
        "requests_per_second": requests / took,
        "median_ms": 1000 * statistics.median(seconds),
        "p99_ms": 1000 * seconds[int(0.99 * (len(seconds) - 1))],
    }


@contextlib.contextmanager
def serving(directory: pathlib.Path) -> Iterator[tuple[str, int]]:
    """Host and port of a preview of that directory; it is stopped at the end."""
    command = [sys.executable, "-m", "export.preview", str(directory), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "http://" in line:
                    host, _, port = line.partition("http://")[2].partition("/")[0].rpartition(":")
                    yield host, int(port)
                    return
            raise RuntimeError("the preview server did not start")
        finally:
            process.terminate()  # SIGINT is ignored by what a script starts in the background


def _write_model(directory: pathlib.Path) -> None:
    from zoo import runtime

    runtime.import_tensorflow()
    import keras

    from zoo.models import vae

    model = vae.build(vae.Config(), image_shape=(28, 28, 1), num_classes=10, total_steps=1)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", model.endpoints()["sample"])
    archive.write_out(str(directory / "1"), verbose=False)
