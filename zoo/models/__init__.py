"""The models, one file each: the file is the registration, its Config dataclass is its flags.

Names, summaries and Config fields are read from the source by its syntax tree, so that listing
models or `--help` imports nothing heavy. A field's help is the string that follows it.
"""

import ast
import dataclasses
import functools
import importlib
import pathlib
from types import ModuleType
from typing import Any

from zoo import errors

_FOLDER = pathlib.Path(__file__).parent
_TYPES = {"int": int, "float": float, "bool": bool, "str": str}


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a settings dataclass: what a flag needs to know."""

    name: str
    type: type
    default: Any
    choices: tuple[str, ...]
    help: str


def names() -> dict[str, str]:
    """Model name -> its one-line summary, the first line of the file's docstring."""
    files = sorted(path for path in _FOLDER.glob("*.py") if path.stem != "__init__")
    return {path.stem: summary(_tree(path)) for path in files}


def load(name: str) -> ModuleType:
    """The module of a model: Config, TINY, DEFAULTS, build. UsageError if there is none."""
    _path(name)
    return importlib.import_module(f"zoo.models.{name}")


def config_fields(name: str) -> list[Field]:
    """The fields of a model's Config, without importing the model."""
    return dataclass_fields(_path(name), "Config")


def defaults(name: str) -> dict[str, Any]:
    """The model's DEFAULTS: its data set, batch size and number of steps."""
    for node in _tree(_path(name)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DEFAULTS":
            return ast.literal_eval(node.value)
    raise ValueError(f"zoo/models/{name}.py: expected a literal dict DEFAULTS")


def summary(tree: ast.Module) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def dataclass_fields(path: pathlib.Path, class_name: str) -> list[Field]:
    """The fields of a dataclass in a source file: plain types, or Literal of strings.

    Those of a base class that the file imports from zoo come first; a field that gives another
    default keeps its place, and its help if it has none of its own.
    """
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            fields: dict[str, Field] = {}
            for base in node.bases:
                inherited = dataclass_fields(_source_of(path, base), ast.unparse(base))
                fields |= {field.name: field for field in inherited}
            for field in _fields(node):
                text = field.help or getattr(fields.get(field.name), "help", "")
                fields[field.name] = dataclasses.replace(field, help=text)
            return list(fields.values())
    raise ValueError(f"{path}: expected a dataclass {class_name}")


def _source_of(path: pathlib.Path, base: ast.expr) -> pathlib.Path:
    """The file from which this one imports a base class."""
    for node in _tree(path).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            if any(alias.name == ast.unparse(base) for alias in node.names):
                return _FOLDER.parents[1] / f"{node.module.replace('.', '/')}.py"
    raise ValueError(f"{path}: expected an import of {ast.unparse(base)}")


def _fields(node: ast.ClassDef) -> list[Field]:
    fields = []
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign):
            continue
        match following:
            case ast.Expr(value=ast.Constant(value=str(text))):
                text = " ".join(text.split())
            case _:
                text = ""
        kind, choices = _kind(statement.annotation)
        fields.append(
            Field(
                name=ast.unparse(statement.target),
                type=kind,
                default=ast.literal_eval(statement.value) if statement.value else None,
                choices=choices,
                help=text,
            )
        )
    return fields


def _kind(annotation: ast.expr) -> tuple[type, tuple[str, ...]]:
    match annotation:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=elements)):
            return str, tuple(ast.literal_eval(element) for element in elements)
        case ast.BinOp(left=ast.Name(id=name), right=ast.Constant(value=None)):
            return _TYPES[name], ()
        case ast.Name(id=name):
            return _TYPES[name], ()
    raise ValueError(f"no flag can hold a field of type {ast.unparse(annotation)}")


def _path(name: str) -> pathlib.Path:
    path = _FOLDER / f"{name}.py"
    if name not in names():
        raise errors.unknown("model", name, names())
    return path


@functools.cache
def _tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
