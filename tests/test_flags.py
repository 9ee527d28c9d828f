"""Flags made from dataclasses: parsing, recording, and one clear error for each mistake."""

import dataclasses
import inspect
import textwrap
import typing

import pytest

import zoo.models
from zoo import flags
from zoo.errors import UsageError, check_positive, reason, unknown

MODELS = sorted(zoo.models.names())
DATACLASS = '''
"""One line.

More lines."""
import dataclasses
from typing import Literal

@dataclasses.dataclass(frozen=True)
class Other:
    number: int = 7

@dataclasses.dataclass(frozen=True)
class Config:
    """Its docstring is no field's help."""
    plain: int = 3
    """Help that
    goes on."""
    rate: float = 4e-3
    """A number."""
    kind: Literal["one", "two"] = "one"
    """A choice."""
    maybe: str | None = None
    count: int | None = None
    """May be left out."""
    on: bool = True
    """A switch."""

    def __post_init__(self):
        pass
'''


def training(*argv: str) -> flags.Settings:
    return flags.parse_training(argv)


def refusal(*argv: str) -> str:
    with pytest.raises(UsageError) as error:
        training(*argv)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def fields(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(textwrap.dedent(DATACLASS))
    return zoo.models.dataclass_fields(path, "Config")


def test_fields_are_read_from_the_source(fields):
    assert [dataclasses.astuple(field) for field in fields] == [
        ("plain", int, 3, (), "Help that goes on."),
        ("rate", float, 0.004, (), "A number."),
        ("kind", str, "one", ("one", "two"), "A choice."),
        ("maybe", str, None, (), ""),
        ("count", int, None, (), "May be left out."),
        ("on", bool, True, (), "A switch."),
    ]


def test_a_field_that_no_flag_can_hold_is_named(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("class Config:\n    sizes: list[int] = None\n")
    with pytest.raises(ValueError, match=r"list\[int\]"):
        zoo.models.dataclass_fields(path, "Config")
    with pytest.raises(ValueError, match="expected a dataclass Missing"):
        zoo.models.dataclass_fields(path, "Missing")


@pytest.mark.parametrize("name", MODELS)
def test_a_models_fields_are_those_of_its_config(name):
    module = zoo.models.load(name)
    hints = typing.get_type_hints(module.Config)
    read = zoo.models.config_fields(name)
    assert [field.name for field in read] == [f.name for f in dataclasses.fields(module.Config)]
    for field in read:
        assert field.help, f"{name}: {field.name} has no help"
        assert field.default == getattr(module.Config(), field.name)
        assert field.choices == (
            typing.get_args(hints[field.name])
            if typing.get_origin(hints[field.name]) is typing.Literal
            else ()
        )
        assert field.choices or hints[field.name] in (field.type, field.type | None)
    assert zoo.models.defaults(name) == module.DEFAULTS
    assert zoo.models.names()[name] == inspect.getdoc(module).splitlines()[0]


def test_run_flags_have_help_and_do_not_clash():
    run = flags.run_fields()
    assert [field.name for field in run] == [f.name for f in dataclasses.fields(flags.RunFlags)]
    assert all(field.help for field in run)
    names = {field.name for field in run}
    assert names >= flags.MAY_CHANGE
    for model in MODELS:
        assert not names & {field.name for field in zoo.models.config_fields(model)}


def test_parse(fields):
    assert flags.parse(fields, []) == {
        "plain": 3,
        "rate": 0.004,
        "kind": "one",
        "maybe": None,
        "count": None,
        "on": True,
    }
    argv = ["--plain=5", "--rate", "1e-2", "--kind=two", "--maybe=a b=c", "--count=0", "--noon"]
    assert flags.parse(fields, argv) == {
        "plain": 5,
        "rate": 0.01,
        "kind": "two",
        "maybe": "a b=c",
        "count": 0,
        "on": False,
    }
    assert flags.parse(fields, ["--plain=1", "--plain=2", "--on=false"])["plain"] == 2


@pytest.mark.parametrize(
    ("argument", "words"),
    (
        ("--plain=1.5", "--plain=1.5"),
        ("--rate=fast", "--rate=fast"),
        ("--on=perhaps", "--on=perhaps"),
        ("--kind=three", "one|two"),
        ("--plian=2", "Did you mean: plain"),
        ("--plain", "--plain"),
        ("stray", "'stray'"),
        ("--flagfile", "--flagfile"),
    ),
)
def test_parse_refuses(fields, argument, words):
    with pytest.raises(UsageError) as error:
        flags.parse(fields, [argument])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_known_only_leaves_the_rest_for_the_second_parse(fields):
    argv = ["--unknown=1", "--other", "4", "--plain=6", "stray"]
    assert flags.parse(fields, argv, known_only=True)["plain"] == 6
    with pytest.raises(UsageError, match="--plain=x"):
        flags.parse(fields, ["--plain=x"], known_only=True)


def test_flagfiles(fields, tmp_path):
    file = tmp_path / "some.flags"
    file.write_text("# a comment\n\n--plain=8\n--maybe=two words\n--noon\n")
    parsed = flags.parse(fields, [f"--flagfile={file}"])
    assert (parsed["plain"], parsed["maybe"], parsed["on"]) == (8, "two words", False)
    # Whatever stands later wins.
    assert flags.parse(fields, [f"--flagfile={file}", "--plain=9"])["plain"] == 9
    assert flags.parse(fields, ["--plain=9", f"--flagfile={file}"])["plain"] == 8
    file.write_text("--plian=8\n")
    with pytest.raises(UsageError, match="plian"):
        flags.parse(fields, [f"--flagfile={file}"])


def test_flagfiles_that_cannot_be_read(fields, tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError, match=f"flagfile.*{path}"):
            flags.parse(fields, [f"--flagfile={path}"])
    picture = tmp_path / "picture"
    picture.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UsageError, match="flagfile"):
        flags.parse(fields, [f"--flagfile={picture}"])


def test_training_takes_the_models_defaults_and_flags():
    settings = training("--model=vae", "--latent_dim=5")
    assert settings.run.dataset == "glyphs"
    assert settings.run.run_dir == "runs/vae-glyphs"
    assert (settings.run.batch_size, settings.run.total_steps) == (64, 4000)
    assert settings.config["latent_dim"] == 5
    assert settings.config["beta"] == 1.0
    told = training("--latent_dim", "5", "--model", "vae", "--batch_size=3", "--dataset=a/b")
    assert (told.run.batch_size, told.config["latent_dim"]) == (3, 5)
    assert told.run.run_dir == "runs/vae-a-b"
    assert training("--model=vae", "--run_dir=x").run.run_dir == "x"
    own = training("--model=vae", "--dataset=folder:/home/me/my photos")
    assert own.run.run_dir == "runs/vae-my-photos"


def test_what_training_refuses():
    for model in MODELS:
        assert model in refusal()
    assert "did you mean vae" in refusal("--model=vea")
    assert "--model is missing" in refusal("--mdoel=vae")
    assert "Did you mean: model" in refusal("--mdoel=vae")
    assert "Did you mean: latent_dim" in refusal("--model=vae", "--lattent_dim=4")
    assert "Did you mean: total_steps" in refusal("--model=vae", "--total_step=4")
    assert "'glyphs'" in refusal("--model=vae", "glyphs")
    assert "float32|bfloat16|float16" in refusal("--model=vae", "--precision=half")
    for name in ("total_steps", "batch_size", "steps_per_loop", "checkpoint_every", "image_size"):
        for value in ("0", "-3"):
            assert f"--{name}={value}" in refusal("--model=vae", f"--{name}={value}")
    assert "--max_rollbacks=-1: expected 0 or more" in refusal("--model=vae", "--max_rollbacks=-1")
    assert training("--model=vae", "--max_rollbacks=0").run.max_rollbacks == 0
    for seed in ("-1", str(2**31)):
        assert f"--seed={seed}" in refusal("--model=vae", f"--seed={seed}")


@pytest.mark.parametrize("name", MODELS)
def test_what_is_recorded_parses_to_the_same(name, tmp_path):
    for argv in (
        [],
        ["--seed=3", "--jit_compile", "--image_size=32", "--precision=bfloat16", "--overwrite"],
    ):
        settings = training(f"--model={name}", *argv, f"--run_dir={tmp_path}")
        recorded = settings.recorded()
        assert not {"run_dir", "overwrite"} & recorded.keys()
        assert flags.read_recorded(recorded).recorded() == recorded
        assert flags.read_recorded(recorded).config == settings.config
        # As a flagfile, with the two flags that are not the run's.
        file = tmp_path / "flags.txt"
        file.write_text("".join(f"--{key}={value}\n" for key, value in recorded.items()))
        again = training(f"--flagfile={file}", f"--run_dir={tmp_path}")
        assert again.recorded() == recorded
        assert again.run == dataclasses.replace(settings.run, overwrite=False)


def test_recorded_numbers_lose_nothing():
    recorded = training("--model=vae", "--beta=0.1234567890123456", "--seed=7").recorded()
    assert flags.read_recorded(recorded).config["beta"] == 0.1234567890123456
    assert recorded["jit_compile"] == "false"
    assert recorded["total_steps"] == "4000"
    assert "image_size" not in recorded


def test_help_names_every_flag_with_its_default():
    general = flags.training_help(["--help"])
    for field in flags.run_fields():
        assert f"--{field.name}=" in general
        assert field.help in general
    assert "--model=NAME --help" in general
    assert "--latent_dim" not in general
    for argv in (["--model=vae", "--help"], ["--help", "--model", "vae"]):
        text = flags.training_help(argv)
        for field in zoo.models.config_fields("vae"):
            assert f"--{field.name}=" in text
            assert field.help in text
        assert "--architecture=conv|mlp (default conv)" in text
    with pytest.raises(UsageError, match="did you mean vae"):
        flags.training_help(["--model=vea", "--help"])
    assert flags.wants_help(["--model=vae", "-h"])
    assert not flags.wants_help(["--model=help"])


def test_the_pieces_of_messages():
    check_positive(a=1, b=None, c=1e-9)
    for bad in (0, -1, -0.5, float("nan")):
        with pytest.raises(UsageError, match=f"--size={bad}"):
            check_positive(fine=1, size=bad)
    assert str(unknown("model", "vea", ["gan", "vae"])) == (
        "unknown model 'vea': did you mean vae? known: gan, vae"
    )
    assert str(unknown("model", "xyz", ["vae"])) == "unknown model 'xyz': known: vae"
    assert reason(OSError(28, "No space left on device", "a/file")) == "No space left on device"
    assert reason(ValueError("{{node Save}} no room\nmore [Op:SaveV2]")) == "no room"
    assert reason(ValueError("no room [Op:SaveV2]")) == "no room"
