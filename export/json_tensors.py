"""JSON <-> arrays, by the rules of TF Serving's REST API (its util/json_tensor.cc).

Errors carry the HTTP status that TF Serving gives them and say what it says, not in its very words.
"""

import base64
import binascii
import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# TF's name of a type -> its name in messages, and NumPy's type; half and complex have no JSON.
TYPES: dict[str, tuple[str, Any]] = {
    "DT_FLOAT": ("float", np.float32),
    "DT_DOUBLE": ("double", np.float64),
    "DT_INT8": ("int8", np.int8),
    "DT_INT16": ("int16", np.int16),
    "DT_INT32": ("int32", np.int32),
    "DT_INT64": ("int64", np.int64),
    "DT_UINT8": ("uint8", np.uint8),
    "DT_UINT32": ("uint32", np.uint32),
    "DT_UINT64": ("uint64", np.uint64),
    "DT_BOOL": ("bool", np.bool_),
    "DT_STRING": ("string", np.object_),
}
_WRITTEN = frozenset(np.dtype(dtype) for _, dtype in TYPES.values())
_JSON_NAMES = {
    dict: "Object",
    list: "Array",
    str: "String",
    bool: "Boolean",
    int: "Number",
    float: "Number",
    type(None): "Null",
}
_MOST_SHOWN = 100
_MOST_DIMENSIONS = 32
# Numbers made into text at once: what they take in memory meanwhile is 50 times the array.
_CHUNK = 65536


class RequestError(Exception):
    """A request that gets no answer: the HTTP status, and one line that says why."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


@dataclasses.dataclass(frozen=True)
class Spec:
    """One input of a signature: dtype is TF's enum name; None: any size, or any rank."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    @property
    def type_name(self) -> str:
        """In messages, as TF Serving writes it."""
        return TYPES[self.dtype][0] if self.dtype in TYPES else self.dtype[3:].lower()

    @property
    def batched(self) -> bool:
        """Whether its first dimension is free: then it counts rows."""
        return self.shape is None or self.shape[:1] == (None,)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a request's body; RequestError 400."""
    if not body:
        raise RequestError(400, "JSON Parse error: The document is empty")
    try:
        document = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_members)
    except UnicodeDecodeError as error:
        raise RequestError(400, f"JSON Parse error: not UTF-8 at offset: {error.start}") from error
    except json.JSONDecodeError as error:
        raise RequestError(400, f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except RecursionError as error:
        raise RequestError(400, "JSON Parse error: nested too deeply") from error
    except ValueError as error:  # Python reads no integer of more than 4,300 digits
        raise RequestError(400, "JSON Parse error: a number has too many digits") from error
    if type(document) is not dict:
        raise RequestError(400, f"JSON Value: {_shown(document)} Is not object")
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in members if names.count(name) > 1)
        raise RequestError(400, f"JSON object: key {_shown(twice)} is given more than once")
    return members


def read(
    document: Mapping[str, Any], specs: Mapping[str, Spec], max_batch: int
) -> tuple[dict[str, np.ndarray], bool]:
    """Arrays by input name, and whether they came as rows ("instances"); RequestError 400."""
    rows = "instances" in document
    if rows == ("inputs" in document):
        if rows:
            raise RequestError(400, "expected only one of the keys 'inputs' and 'instances'")
        raise RequestError(400, "Missing 'inputs' or 'instances' key")
    if rows:
        columns = _columns_of_rows(document["instances"], specs, max_batch)
    else:
        columns = _columns(document["inputs"], specs)
    return {name: _array(columns[name], spec, max_batch) for name, spec in specs.items()}, rows


def _columns_of_rows(rows: Any, specs: Mapping[str, Spec], max_batch: int) -> dict[str, list]:
    if type(rows) is not list:
        raise RequestError(400, f"Expecting 'instances' to be a list, got {_shown(rows)}")
    if not rows:
        raise RequestError(400, "No values in 'instances' array")
    _check_batch("instances", len(rows), max_batch)
    if not _is_object(rows[0]):
        if len(specs) > 1:
            raise RequestError(
                400,
                "instances is a plain list, but expecting list of objects as there are several "
                f"inputs: {', '.join(sorted(specs))}",
            )
        for index, row in enumerate(rows):
            if _is_object(row):
                raise RequestError(
                    400, f"Expecting value/list but got object at item {index} of input list"
                )
        return {next(iter(specs)): rows}
    for index, row in enumerate(rows):
        if not _is_object(row):
            raise RequestError(
                400, f"Expecting object but got {_kind(row)} at item {index} of input list"
            )
        if row.keys() != specs.keys():
            raise RequestError(
                400,
                f"Failed to process element: {index} of 'instances' list. JSON object: "
                f"{_shown(row)} keys must be equal to: {','.join(sorted(specs))}",
            )
    return {name: [row[name] for row in rows] for name in specs}


def _columns(value: Any, specs: Mapping[str, Spec]) -> dict[str, Any]:
    if _is_object(value):
        for name in specs:
            if name not in value:
                raise RequestError(400, f"Missing named input: {name} in 'inputs' object.")
        for name in value:
            if name not in specs:
                raise RequestError(
                    400,
                    f"JSON object: does not have named input: {_shown(name)}; "
                    f"expected {','.join(sorted(specs))}",
                )
        return value
    if len(specs) > 1:
        raise RequestError(
            400,
            "inputs is a plain value/list, but expecting an object as there are several inputs: "
            f"{', '.join(sorted(specs))}",
        )
    return {next(iter(specs)): value}


def _array(value: Any, spec: Spec, max_batch: int) -> np.ndarray:
    shape = _dense_shape(value)
    if 0 in shape:
        raise RequestError(400, f"input {spec.name}: an empty list")
    if spec.batched and shape:
        _check_batch(f"input {spec.name}", shape[0], max_batch)
    if not _fits(shape, spec.shape):
        raise RequestError(
            400,
            f"input {spec.name} has shape {_written_shape(shape)}, "
            f"expected {_written_shape(spec.shape)}",
        )
    values = [value]
    for level, size in enumerate(shape):
        if set(map(type, values)) != {list}:
            stray = next(item for item in values if type(item) is not list)
            raise RequestError(
                400,
                f"input {spec.name}: JSON Value: {_shown(stray)} found at incorrect level: "
                f"{level} in the JSON DOM. Expected at level: {len(shape)}",
            )
        if set(map(len, values)) != {size}:
            stray = next(len(item) for item in values if len(item) != size)
            raise RequestError(
                400,
                f"input {spec.name}: Encountered list at unexpected size: {stray} at level: "
                f"{level} expected size: {size}",
            )
        values = list(itertools.chain.from_iterable(values))
    return _converted(values, spec).reshape(shape)


def _dense_shape(value: Any) -> list[int]:
    shape = []
    while type(value) is list:
        shape.append(len(value))
        if len(shape) > _MOST_DIMENSIONS:
            raise RequestError(400, f"lists nested more than {_MOST_DIMENSIONS} deep")
        if not value:
            break
        value = value[0]
    return shape


def _fits(shape: Sequence[int], expected: Sequence[int | None] | None) -> bool:
    return expected is None or (
        len(shape) == len(expected)
        and all(want in (None, size) for size, want in zip(shape, expected, strict=True))
    )


def _check_batch(what: str, rows: int, max_batch: int) -> None:
    if rows > max_batch:
        raise RequestError(400, f"{what}: {rows} rows, at most {max_batch} are served at once")


def _converted(values: list, spec: Spec) -> np.ndarray:
    """Flat JSON values -> [len(values)] of the input's type, as exactly as that type can."""
    if spec.dtype not in TYPES:
        raise RequestError(400, f"input {spec.name}: no JSON for type: {spec.type_name}")
    dtype = TYPES[spec.dtype][1]
    if spec.dtype == "DT_STRING":
        array = np.empty(len(values), object)
        array[:] = [_bytes(value, spec) for value in values]
        return array
    kind = np.dtype(dtype).kind
    accepted: set[type] = {int, float} if kind == "f" else {bool} if kind == "b" else {int}
    if not set(map(type, values)) <= accepted:
        stray = next(value for value in values if type(value) not in accepted)
        raise _type_error(stray, spec)
    if kind in "iu":
        limits = np.iinfo(dtype)
        for extreme in (min(values), max(values)):
            if not limits.min <= extreme <= limits.max:
                raise _type_error(extreme, spec)
        return np.array(values, dtype)
    if kind == "b":
        return np.array(values, dtype)
    try:
        array = np.array(values, np.float64)
    except OverflowError as error:
        raise RequestError(
            400, "JSON Parse error: Number too big to be stored in double."
        ) from error
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _bytes(value: Any, spec: Spec) -> bytes:
    if type(value) is str:
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                400, "JSON Parse error: The surrogate pair in string is invalid."
            ) from error
    if type(value) is not dict:
        raise _type_error(value, spec)
    if not _is_base64(value):
        raise RequestError(
            400, f"JSON Value: {_shown(value)} not formatted correctly for base64 data"
        )
    # As absl: white space does not count, padding may be missing.
    text = "".join(value["b64"].split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"input {spec.name}: Unable to base64 decode") from error


def _is_base64(value: Any) -> bool:
    return type(value) is dict and value.keys() == {"b64"} and type(value["b64"]) is str


def _is_object(value: Any) -> bool:
    return type(value) is dict and not _is_base64(value)


def _type_error(value: Any, spec: Spec) -> RequestError:
    return RequestError(
        400,
        f"input {spec.name}: JSON Value: {_shown(value)} Type: {_kind(value)} "
        f"is not of expected type: {spec.type_name}",
    )


def _kind(value: Any) -> str:
    return _JSON_NAMES[type(value)]


def _shown(value: Any) -> str:
    """The beginning of a value as JSON, for messages: one line of ASCII."""
    if type(value) is list:
        # Neither all of it, which may be megabytes, nor deep into it, which may be bottomless.
        return f"[{'...' if value else ''}]"
    if type(value) is dict:
        return f"{{{', '.join(map(_shown, itertools.islice(value, 3)))}}}"
    if type(value) is int and value.bit_length() > 1000:  # slow, or refused, by Python
        return "a number of hundreds of digits"
    text = json.dumps(value[: _MOST_SHOWN + 1] if type(value) is str else value)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def _written_shape(shape: Sequence[int | None] | None) -> str:
    if shape is None:
        return "[?]"
    return f"[{','.join('-1' if size is None else str(size) for size in shape)}]"


def write(outputs: Mapping[str, np.ndarray], rows: bool) -> bytes:
    """The body of an answer: "predictions" a row, or "outputs"; RequestError 400."""
    for name, array in outputs.items():
        if array.dtype not in _WRITTEN:
            raise RequestError(
                400, f"output {name}: Failed to write JSON value for tensor type: {array.dtype}"
            )
    several = len(outputs) > 1
    if not rows:
        parts = [(name, _text(array, name)) for name, array in sorted(outputs.items())]
        return f'{{"outputs": {_object(parts) if several else parts[0][1]}}}'.encode()
    sizes = {}
    for name, array in outputs.items():
        if array.ndim == 0:
            raise RequestError(400, f"Tensor name: {name} has no shape information ")
        sizes[name] = len(array)
        if len(set(sizes.values())) > 1:
            raise RequestError(400, f"outputs have inconsistent batch sizes: {sizes}")
    answers = []
    for row in range(next(iter(sizes.values()))):
        parts = [(name, _text(array[row], name)) for name, array in sorted(outputs.items())]
        answers.append(_object(parts) if several else parts[0][1])
    return f'{{"predictions": [{", ".join(answers)}]}}'.encode()


def _object(parts: Sequence[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in parts) + "}"


def _text(array: np.ndarray | bytes, name: str) -> str:
    """An array as nested JSON lists, a scalar as its value."""
    array = np.asarray(array, object) if isinstance(array, bytes) else np.asarray(array)
    if array.size > _CHUNK and array.ndim > 1:
        return "[" + ", ".join(_text(part, name) for part in array) + "]"
    texts = _words(array.ravel(), name)
    for axis in reversed(range(array.ndim)):
        size, count = array.shape[axis], math.prod(array.shape[:axis])
        texts = [f"[{', '.join(texts[i * size : (i + 1) * size])}]" for i in range(count)]
    return texts[0]


def _words(values: np.ndarray, name: str) -> list[str]:
    """Flat values, each as JSON."""
    kind = values.dtype.kind
    if kind == "f":
        return _decimals(values)
    if kind == "b":
        return ["true" if value else "false" for value in values.tolist()]
    if kind in "iu":
        return list(map(str, values.tolist()))
    if name.endswith("_bytes"):
        return [f'{{"b64": "{base64.b64encode(value).decode()}"}}' for value in values]
    try:
        return [json.dumps(value.decode(), ensure_ascii=False) for value in values]
    except UnicodeDecodeError as error:
        raise RequestError(
            400, f"output {name}: no UTF-8; bytes are served under names that end in _bytes"
        ) from error


def _decimals(values: np.ndarray) -> list[str]:
    """Each as "%g" where that reads back to the same float, else in full precision."""
    digits = 9 if values.dtype == np.float32 else 17
    numbers = values.tolist()
    short = [f"{number:.6g}" for number in numbers]
    with np.errstate(over="ignore"):  # "%g" may round the greatest up
        same = (np.array(list(map(float, short)), values.dtype) == values).tolist()
    words = [
        text if exact else f"{number:.{digits}g}"
        for text, exact, number in zip(short, same, numbers, strict=True)
    ]
    if not np.isfinite(values).all():
        names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
        words = [names.get(word, word) for word in words]
    return [word if not word.lstrip("-").isdigit() else word + ".0" for word in words]
