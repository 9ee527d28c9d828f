"""The SavedModels below a directory, loaded as they come and let go as they are removed.

A version is loaded once two looks at it have found the same files, so that one that is still being
copied waits. It runs by its tensors' names in a session, as TF Serving runs it.
"""

import contextlib
import dataclasses
import functools
import gc
import logging
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, json_format, message_factory, text_format

from export.json_tensors import RequestError, Spec
from zoo.errors import UsageError, reason

CONFIG = "models.config"
_LARGEST_VERSION = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Signature:
    """What can be asked of a model: inputs by name, names of outputs, and how to run it."""

    inputs: Mapping[str, Spec]
    outputs: Mapping[str, Spec]
    call: Callable[..., list]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; tf.errors.OpError where the graph refuses."""
        values = self.call(*(arrays[name] for name in self.inputs))
        return dict(zip(self.outputs, map(np.asarray, values), strict=True))


class Model:
    """One SavedModel in memory; whatever is wrong with it is raised when it is loaded."""

    def __init__(self, path: pathlib.Path):
        import tensorflow as tf

        v1 = tf.compat.v1
        graph = tf.Graph()
        session = v1.Session(graph=graph)
        logger = tf.get_logger()
        level = logger.level
        logger.setLevel(logging.ERROR)  # that this way of loading is old: it is TF Serving's
        try:
            with graph.as_default():
                meta_graph = v1.saved_model.load(session, ["serve"], str(path))
        finally:
            logger.setLevel(level)
        self.signatures: dict[str, Signature] = {}
        for name, signature in meta_graph.signature_def.items():
            tensors = [*signature.inputs.values(), *signature.outputs.values()]
            dense = all(tensor.WhichOneof("encoding") == "name" for tensor in tensors)
            if signature.inputs and signature.outputs and dense:
                inputs, outputs = _specs(signature.inputs), _specs(signature.outputs)
                call = session.make_callable(
                    [signature.outputs[key].name for key in outputs],
                    [signature.inputs[key].name for key in inputs],
                )
                self.signatures[name] = Signature(inputs, outputs, call)
        self.signature_defs = {
            name: json_format.MessageToDict(
                signature,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for name, signature in sorted(meta_graph.signature_def.items())
        }


def _specs(tensors: Mapping[str, Any]) -> dict[str, Spec]:
    from tensorflow.core.framework import types_pb2

    specs = {}
    for name, info in sorted(tensors.items()):
        sizes = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
        dtype = types_pb2.DataType.Name(info.dtype)
        specs[name] = Spec(name, dtype, None if info.tensor_shape.unknown_rank else sizes)
    return specs


@dataclasses.dataclass(frozen=True)
class Version:
    """What is known of one version: its state in TF Serving's words, and why it failed."""

    state: str
    model: Model | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    """What a models.config says of one model: labels, and which of the versions found to serve."""

    labels: Mapping[str, int]
    chosen: Callable[[list[int]], list[int]]


class Store:
    """Models by name, their versions by number. `poll` looks at the disk, from one thread."""

    def __init__(self, directory: pathlib.Path, say: Callable[[str], None]):
        if not directory.is_dir():
            raise UsageError(f"{directory} is no directory: expected one that holds SavedModels")
        if (directory / "saved_model.pb").is_file():
            raise UsageError(
                f"{directory} is one version of a model: give the directory above it, "
                f"{directory.absolute().parent}"
            )
        self.directory, self._say = directory, say
        self._models: dict[str, dict[int, Version]] = {}
        self._seen: dict[pathlib.Path, object] = {}
        self._failed: dict[pathlib.Path, object] = {}
        self._configs: dict[str, Config] = {}
        self._config_text: bytes | None = None
        self._complaint = ""
        self._read_config()

    def listing(self) -> dict[str, dict[int, Version]]:
        """All that is known; newest version first. Not to be changed."""
        return self._models

    def find(self, name: str, number: int | None, label: str | None) -> tuple[int, Model]:
        """The version asked for, or the newest; RequestError 404, or 400 for a label."""
        if label is not None:
            number = self.labelled(name, label)
        versions = self._models.get(name, {})
        for candidate in versions if number is None else [number]:
            version = versions.get(candidate)
            if version and version.model:
                return candidate, version.model
        asked = f"Latest({name})" if number is None else f"Specific({name}, {number})"
        raise RequestError(404, f"Servable not found for request: {asked}")

    def labelled(self, name: str, label: str) -> int:
        """The number of the version that a label names; RequestError 400."""
        config = self._configs.get(name)
        if config is None or label not in config.labels:
            raise RequestError(400, f"Unrecognized servable version label: {label}")
        return config.labels[label]

    def poll(self) -> None:
        """Looks once at the disk: loads what has settled, lets go of what is gone."""
        try:
            self._read_config()
            found = self._find()
        except (OSError, UsageError) as error:
            # What is served stays: the directory may be back at the next look.
            text = str(error) if isinstance(error, UsageError) else f"cannot read: {error}"
            if text != self._complaint:
                self._say(text)
            self._complaint = text
            return
        self._complaint = ""
        self._let_go(found)
        for name, paths in sorted(found.items()):
            for number, path in sorted(paths.items(), reverse=True):
                known = self._models.get(name, {}).get(number)
                if known is None or known.model is None:
                    self._consider(name, number, path)

    def _consider(self, name: str, number: int, path: pathlib.Path) -> None:
        files = _files(path)
        settled = self._seen.get(path) == files
        self._seen[path] = files
        if not settled or self._failed.get(path) == files:
            return
        self._put(name, number, Version("LOADING"))
        try:
            model = Model(path)
        except Exception as error:  # whatever it is, the others are served
            self._failed[path] = files
            line = " ".join(reason(error).split()) or type(error).__name__
            self._put(name, number, Version("END", error=line))
            self._say(f"{name}: version {number} cannot be loaded: {line}")
            return
        self._put(name, number, Version("AVAILABLE", model))
        self._say(f"{name}: version {number} is served: {', '.join(sorted(model.signatures))}")

    def _let_go(self, found: Mapping[str, Mapping[int, pathlib.Path]]) -> None:
        gone = [
            (name, number)
            for name, versions in self._models.items()
            for number, version in versions.items()
            if (version.model or version.error) and number not in found.get(name, {})
        ]
        for name, number in gone:
            self._put(name, number, Version("END"))
            self._say(f"{name}: version {number} is gone")
        present = {path for paths in found.values() for path in paths.values()}
        for record in (self._seen, self._failed):
            for path in record.keys() - present:
                del record[path]
        if gone:
            gc.collect()  # graphs are cycles; a request under way keeps its own

    def _put(self, name: str, number: int, version: Version) -> None:
        """Requests read without a lock: a dictionary is never changed, only replaced."""
        versions = {**self._models.get(name, {}), number: version}
        ordered = dict(sorted(versions.items(), reverse=True))
        self._models = dict(sorted({**self._models, name: ordered}.items()))

    def _find(self) -> dict[str, dict[int, pathlib.Path]]:
        """Name -> number -> path of each version there is to serve."""
        own = _versions(self.directory)
        if own:
            models = {self.directory.absolute().name: own}
        else:
            models = {}
            for path in self.directory.iterdir():
                if path.is_dir() and not path.name.startswith("."):
                    # A directory that cannot be read is no reason not to serve the others.
                    with contextlib.suppress(OSError):
                        models[path.name] = _versions(path)
        for name, config in self._configs.items():
            chosen = config.chosen(sorted(models.get(name, {})))
            models[name] = {number: models[name][number] for number in chosen}
        return models

    def _read_config(self) -> None:
        path = self.directory / CONFIG
        text = path.read_bytes() if path.is_file() else b""
        if text != self._config_text:
            self._configs = _parse_config(text, path)
            self._config_text = text


def _versions(directory: pathlib.Path) -> dict[int, pathlib.Path]:
    """Number -> path of the sub-directories that are named by one and hold a SavedModel."""
    found = {}
    for path in sorted(directory.iterdir()):
        if re.fullmatch("[0-9]{1,19}", path.name) and (path / "saved_model.pb").is_file():
            if int(path.name) <= _LARGEST_VERSION:
                found[int(path.name)] = path
    return found


def _files(path: pathlib.Path) -> object:
    """What changes when a file below does: names, sizes and times."""
    found = []
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            try:
                status = os.stat(file)
            except OSError:  # gone since it was listed, or a broken link
                continue
            found.append((file, status.st_size, status.st_mtime_ns))
    return sorted(found)


def _parse_config(text: bytes, path: pathlib.Path) -> dict[str, Config]:
    """Model name -> its labels and version policy; UsageError if it is no ModelServerConfig."""
    message = _config_message()()
    try:
        text_format.Parse(text.decode(), message, allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise UsageError(f"{path} is no ModelServerConfig in text form: {line}") from error
    return {
        model.name: Config(dict(model.version_labels), _policy(model.model_version_policy))
        for model in message.model_config_list.config
    }


def _policy(policy: Any) -> Callable[[list[int]], list[int]]:
    match policy.WhichOneof("policy_choice"):
        case "latest":
            newest = max(policy.latest.num_versions, 1)
            return lambda numbers: numbers[-newest:]
        case "specific":
            asked = set(policy.specific.versions)
            return lambda numbers: [number for number in numbers if number in asked]
    return lambda numbers: numbers


@functools.cache
def _config_message() -> Any:
    """The class of tensorflow.serving.ModelServerConfig, as far as it is used here.

    TensorFlow does not bring it, and its package brings all of TensorFlow a second time.
    """
    kinds = {"string": 9, "int64": 3, "uint32": 13}
    package = "tensorflow.serving"
    file = descriptor_pb2.FileDescriptorProto(
        name="zoo_model_server_config.proto", package=package, syntax="proto3"
    )

    def message(name: str, *fields: tuple[str, str, int, bool]) -> descriptor_pb2.DescriptorProto:
        made = file.message_type.add(name=name)
        for field, kind, number, repeated in fields:
            added = made.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind in kinds:
                added.type = kinds[kind]
            else:
                added.type, added.type_name = 11, f".{package}.{kind}"
        return made

    message("Latest", ("num_versions", "uint32", 1, False))
    message("All")
    message("Specific", ("versions", "int64", 1, True))
    policy = message(
        "Policy",
        ("latest", "Latest", 100, False),
        ("all", "All", 101, False),
        ("specific", "Specific", 102, False),
    )
    policy.oneof_decl.add(name="policy_choice")
    for field in policy.field:
        field.oneof_index = 0
    model = message(
        "ModelConfig",
        ("name", "string", 1, False),
        ("base_path", "string", 2, False),
        ("model_version_policy", "Policy", 7, False),
        ("version_labels", "ModelConfig.VersionLabelsEntry", 8, True),
    )
    entry = model.nested_type.add(name="VersionLabelsEntry")
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=3)
    entry.options.map_entry = True
    message("ModelConfigList", ("config", "ModelConfig", 1, True))
    message("ModelServerConfig", ("model_config_list", "ModelConfigList", 1, False))
    classes = message_factory.GetMessages([file])
    return classes[f"{package}.ModelServerConfig"]
