"""Runs SavedModels by the C++ code that TensorFlow Serving loads them with, without Python's.

`python -I cpp_loader.py DIR ...` asks every signature, through TensorFlow's C API by ctypes, what
assets.extra/verification.npz holds, and prints a JSON object: DIR -> "signature/batch/output" ->
the largest absolute difference, for PNG files in levels of 255.
"""

import ctypes as c
import importlib.util
import io
import json
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
from PIL import Image

STRING = 7
DTYPES = {1: np.float32, 3: np.int32, 9: np.int64}
TSTRING_SIZE = 24
P = c.c_void_p


class Output(c.Structure):
    """TF_Output: the index-th output of an operation."""

    _fields_ = [("operation", P), ("index", c.c_int)]


class Buffer(c.Structure):
    """TF_Buffer."""

    _fields_ = [("data", P), ("length", c.c_size_t), ("deallocator", P)]


PROTOTYPES = {
    "TF_NewStatus": (P,),
    "TF_GetCode": (c.c_int, P),
    "TF_Message": (c.c_char_p, P),
    "TF_NewGraph": (P,),
    "TF_NewSessionOptions": (P,),
    "TF_NewBuffer": (c.POINTER(Buffer),),
    "TF_LoadSessionFromSavedModel": (
        (P, P, P, c.c_char_p, c.POINTER(c.c_char_p), c.c_int, P, c.POINTER(Buffer), P)
    ),
    "TF_GraphOperationByName": (P, P, c.c_char_p),
    "TF_AllocateTensor": (P, c.c_int, c.POINTER(c.c_int64), c.c_int, c.c_size_t),
    "TF_DeleteTensor": (None, P),
    "TF_TensorData": (P, P),
    "TF_TensorType": (c.c_int, P),
    "TF_NumDims": (c.c_int, P),
    "TF_Dim": (c.c_int64, P, c.c_int),
    "TF_StringInit": (None, P),
    "TF_StringCopy": (None, P, c.c_char_p, c.c_size_t),
    "TF_StringGetDataPointer": (P, P),
    "TF_StringGetSize": (c.c_size_t, P),
    "TF_SessionRun": (
        *(None, P, P, c.POINTER(Output), c.POINTER(P), c.c_int),
        *(c.POINTER(Output), c.POINTER(P), c.c_int, P, c.c_int, P, P),
    ),
}


class Library:
    """The functions of libtensorflow_cc and _framework, typed, as attributes."""

    def __init__(self):
        spec = importlib.util.find_spec("tensorflow")  # finds it, imports nothing
        folder = pathlib.Path(spec.origin).parent
        libraries = [
            c.CDLL(str(folder / f"libtensorflow_{name}.so.2"), c.RTLD_GLOBAL)
            for name in ("framework", "cc")
        ]
        for name, (result, *arguments) in PROTOTYPES.items():
            function = next(getattr(lib, name) for lib in libraries if hasattr(lib, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)


class SavedModel:
    """A model in a session of its own, tag `serve`."""

    def __init__(self, library: Library, path: str):
        self.tf = library
        self.status, self.graph = library.TF_NewStatus(), library.TF_NewGraph()
        meta_graph = library.TF_NewBuffer()
        self.session = library.TF_LoadSessionFromSavedModel(
            library.TF_NewSessionOptions(),
            None,
            path.encode(),
            (c.c_char_p * 1)(b"serve"),
            1,
            self.graph,
            meta_graph,
            self.status,
        )
        self._check()
        data = c.string_at(meta_graph.contents.data, meta_graph.contents.length)
        self.signatures = dict(signatures(data))

    def run(self, signature: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        inputs, outputs = self.signatures[signature]
        if set(feeds) != set(inputs):
            raise KeyError(f"{signature} has the inputs {sorted(inputs)}, got {sorted(feeds)}")
        tensors = [self._tensor(value) for value in feeds.values()]
        results = (P * len(outputs))()
        self.tf.TF_SessionRun(
            self.session,
            None,
            (Output * len(feeds))(*(self._output(inputs[name]) for name in feeds)),
            (P * len(feeds))(*tensors),
            len(feeds),
            (Output * len(outputs))(*(self._output(name) for name in outputs.values())),
            results,
            len(outputs),
            None,
            0,
            None,
            self.status,
        )
        self._check()
        values = {name: self._array(result) for name, result in zip(outputs, results, strict=True)}
        for tensor in (*tensors, *results):
            self.tf.TF_DeleteTensor(tensor)
        return values

    def _check(self) -> None:
        if self.tf.TF_GetCode(self.status):
            raise RuntimeError(self.tf.TF_Message(self.status).decode())

    def _output(self, tensor_name: str) -> Output:
        operation, _, index = tensor_name.partition(":")
        found = self.tf.TF_GraphOperationByName(self.graph, operation.encode())
        if not found:
            raise KeyError(f"the graph has no operation {operation}")
        return Output(found, int(index))

    def _tensor(self, value: np.ndarray) -> int:
        is_string = value.dtype.kind == "S"
        kind = STRING if is_string else next(k for k, v in DTYPES.items() if v == value.dtype)
        size = TSTRING_SIZE * value.size if is_string else value.nbytes
        shape = (c.c_int64 * value.ndim)(*value.shape)
        tensor = self.tf.TF_AllocateTensor(kind, shape, value.ndim, size)
        data = self.tf.TF_TensorData(tensor)
        if not is_string:
            c.memmove(data, np.ascontiguousarray(value).ctypes.data, size)
            return tensor
        for index, text in enumerate(value.ravel().tolist()):
            self.tf.TF_StringInit(data + TSTRING_SIZE * index)
            self.tf.TF_StringCopy(data + TSTRING_SIZE * index, text, len(text))
        return tensor

    def _array(self, tensor: int) -> np.ndarray:
        shape = [self.tf.TF_Dim(tensor, axis) for axis in range(self.tf.TF_NumDims(tensor))]
        data, count = self.tf.TF_TensorData(tensor), int(np.prod(shape))
        kind = self.tf.TF_TensorType(tensor)
        if kind != STRING:
            dtype = np.dtype(DTYPES[kind])
            return np.frombuffer(c.string_at(data, count * dtype.itemsize), dtype).reshape(shape)
        places = [data + TSTRING_SIZE * index for index in range(count)]
        get_data, get_size = self.tf.TF_StringGetDataPointer, self.tf.TF_StringGetSize
        return np.array([c.string_at(get_data(at), get_size(at)) for at in places]).reshape(shape)


def signatures(meta_graph: bytes) -> Iterator[tuple[str, tuple[dict, dict]]]:
    """Of a MetaGraphDef: name -> (input name -> tensor name, output name -> tensor name)."""
    for number, entry in fields(meta_graph):
        if number == 5:  # signature_def
            name, definition = (value for _, value in fields(entry))
            sides: dict[int, dict[str, str]] = {1: {}, 2: {}}
            for side, pair in fields(definition):
                if side in sides:
                    key, info = (value for _, value in fields(pair))
                    names = [value for part, value in fields(info) if part == 1]
                    sides[side][key.decode()] = names[0].decode() if names else ""
            yield name.decode(), (sides[1], sides[2])


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The number and bytes of each field of a protocol buffer; b"" for one that is a number."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            varint()
            yield tag >> 3, b""
            continue
        length = varint() if tag & 7 == 2 else {1: 8, 5: 4}[tag & 7]
        yield tag >> 3, message[at : at + length]
        at += length


def difference(answer: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute one; infinite for another shape."""
    if answer.shape != expected.shape:
        return float("inf")
    if answer.dtype.kind != "S":
        return float(np.abs(answer.astype(float) - expected).max())
    return max(
        difference(*(np.asarray(Image.open(io.BytesIO(file))) for file in pair))
        for pair in zip(answer.tolist(), expected.tolist(), strict=True)
    )


def compare(library: Library, path: str) -> dict[str, float]:
    """ "signature/batch/output" -> difference."""
    model, differences = SavedModel(library, path), {}
    with np.load(pathlib.Path(path, "assets.extra", "verification.npz")) as file:
        arrays = dict(file)
    for case in dict.fromkeys("/".join(key.split("/")[:2]) for key in arrays):
        prefix = f"{case}/in/"
        feeds = {key.removeprefix(prefix): v for key, v in arrays.items() if key.startswith(prefix)}
        for name, answer in model.run(case.split("/")[0], feeds).items():
            expected = arrays[f"{case}/out/{name}"]
            differences[f"{case}/{name}"] = difference(answer, expected)
    if "serving_default" not in model.signatures:
        raise KeyError("serving_default")
    return differences


if __name__ == "__main__":
    ours = Library()
    print(json.dumps({path: compare(ours, path) for path in sys.argv[1:]}))
    assert "tensorflow" not in sys.modules
