"""The import rules of the design, read off the syntax trees."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
COMMANDS = {"train", "sample", "stylize", "evaluate", "subjects", "flags", "restore", "__main__"}
MIDDLE = {"models", "data", "loop", "hooks", "metrics", "rundir", "checkpoints", "devices"}
BOTTOM = {
    "adversarial", "augment", "endpoints", "errors", "files", "gatys", "generative", "layers",
    "lbfgs", "losses", "nets", "optimizers", "perceptual", "photos", "pictures", "progress",
    "runtime", "strips", "style_nets", "style_transfer",
}  # fmt: skip
FILES = sorted(ROOT.glob("zoo/**/*.py"))


def imports(path: pathlib.Path) -> set[str]:
    """Dotted names that a file imports, `from a import b` as both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it points"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(dotted: str) -> str:
    """The module or package directly below zoo that a dotted name belongs to."""
    return dotted.split(".")[1] if dotted.startswith("zoo.") else ""


def own_layer(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT / "zoo").parts
    return "__main__" if path.name == "__main__.py" else parts[0].removesuffix(".py")


def test_every_module_has_its_layer():
    layers = {own_layer(path) for path in FILES} - {"__init__"}
    assert layers <= COMMANDS | MIDDLE | BOTTOM, "name the new module's layer here"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    found, own = imports(path), own_layer(path)
    used = {layer(name) for name in found} & (COMMANDS | MIDDLE | BOTTOM)
    if own in MIDDLE:
        assert not used & COMMANDS
    if own in BOTTOM:
        assert not used & (COMMANDS | MIDDLE)
    assert not {name.split(".")[0] for name in found} & {"export", "experiments", "tests"}
    if own not in COMMANDS:
        assert not any(name.startswith("absl") for name in found)
    if own == "models":
        assert not used & {"loop", "data", "hooks", "rundir", "checkpoints", "devices"}
        others = {name for name in found if name.startswith("zoo.models.")}
        assert not others


@pytest.mark.parametrize("package", ["export", "experiments"])
def test_other_packages_stand_on_zoo_alone(package):
    for path in ROOT.glob(f"{package}/**/*.py"):
        own = {"export", "experiments"} - {package}
        assert not {name.split(".")[0] for name in imports(path)} & (own | {"tests"})


@pytest.mark.parametrize(
    "module",
    [
        "zoo.train",
        "zoo.sample",
        "zoo.stylize",
        "zoo.evaluate",
        "zoo.flags",
        "zoo.data.source",
        "zoo.data.__main__",
        "export.__main__",
        "export.serving",
        "export.verify",
        "experiments.bench",
        "experiments.hlo",
        "experiments.scaling",
        "experiments.survival",
        "export.preview",
    ],
)
def test_commands_start_without_anything_heavy(module):
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "numpy", "PIL"} & set(done.stdout.split())
