"""`python -m export.serving --models=DIR`: TensorFlow Serving's settings for exported models."""

import dataclasses
import json
import os
import pathlib
import shlex

from zoo import files, flags
from zoo.errors import UsageError

BATCHING = """\
# Requests that arrive together are answered together. Only rows of one shape can be: a client of
# stylize whose picture has another size than the next one's is refused; stylize_bytes takes any.
max_batch_size {{ value: 32 }}
batch_timeout_micros {{ value: 1000 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: {threads} }}  # the server's processors
"""


@dataclasses.dataclass(frozen=True)
class ServingFlags:
    """What the settings can be told."""

    models: str = ""
    """Directory of exported models: what --out of `python -m export` named, side by side."""
    mount: str = "/models"
    """Where the server sees that directory; as here in its Docker image."""

    def __post_init__(self):
        if not self.models:
            raise UsageError("--models is missing: expected a directory of exported models")
        if not self.mount.startswith("/"):
            raise UsageError(f"--mount={self.mount}: expected a path from the root, as /models")


def main(argv: list[str]) -> int:
    """Writes models.config and, if it is not there, batching_parameters.txt."""
    options = flags.parse_options(ServingFlags, "python -m export.serving --models=DIR", argv)
    if options is None:
        return 0
    directory = pathlib.Path(options.models)
    names = model_names(directory)
    if not names:
        raise UsageError(
            f"{directory} holds no exported model: expected DIR/NAME/VERSION, where "
            "`python -m export --out=DIR/NAME` wrote NAME"
        )
    config, batching = directory / "models.config", directory / "batching_parameters.txt"
    try:
        files.write(config, models_config(names, options.mount).encode())
        if not batching.exists():  # it is there to be tuned
            files.write(batching, BATCHING.format(threads=os.cpu_count()).encode())
    except OSError as error:
        raise UsageError(f"cannot write to {directory}: {error.strerror}") from error
    settings = (
        f"--model_config_file={options.mount}/{config.name} --enable_batching "
        f"--batching_parameters_file={options.mount}/{batching.name}"
    )
    volume = shlex.quote(f"{directory.resolve()}:{options.mount}:ro")
    print(
        f"{config}: {', '.join(names)}\n\n"
        f"docker run -p 8500:8500 -p 8501:8501 -v {volume} tensorflow/serving \\\n"
        f"  {settings}\n\n"
        f"or, where --mount is this directory's own path, "
        f"tensorflow_model_server --port=8500 --rest_api_port=8501 \\\n  {settings}"
    )
    return 0


def model_names(directory: pathlib.Path) -> list[str]:
    """The directories in it that hold a version of a model."""
    found = directory.glob("*/*/saved_model.pb")
    return sorted({path.parts[-3] for path in found if path.parts[-2].isdecimal()})


def models_config(names: list[str], mount: str) -> str:
    """A ModelServerConfig in protocol buffer's text format."""
    models = "".join(
        f"  config {{\n    name: {json.dumps(name)}\n"
        f"    base_path: {json.dumps(f'{mount}/{name}')}\n"
        '    model_platform: "tensorflow"\n  }\n'
        for name in names
    )
    return f"model_config_list {{\n{models}}}\n"


if __name__ == "__main__":
    flags.run_command(main)
