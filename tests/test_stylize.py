"""Photos, folders and animations repainted, most of them by the command as a user runs it."""

import contextlib
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from commands import assert_done, assert_refused, run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import zoo.flags
import zoo.restore
from zoo import stylize
from zoo.checkpoints import Checkpoints
from zoo.errors import UsageError
from zoo.rundir import Run

HEIGHT, WIDTH = 45, 70


def photo(seed=0, height=HEIGHT, width=WIDTH):
    y, x = np.mgrid[0:height, 0:width] / 20
    waves = [np.sin(3 * x + y + seed), np.cos(4 * y - 2 * x), np.sin(x * y - seed)]
    return (127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def saved(path, image):
    Image.fromarray(image).save(path)
    return path


def loaded(path):
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def frames(path):
    """Of an animation: uint8 [N, H, W, 3], and milliseconds."""
    with Image.open(path) as image:
        pictures, durations = [], []
        for number in range(image.n_frames):
            image.seek(number)
            pictures.append(np.array(image.convert("RGB")))
            durations.append(image.info["duration"])
    return np.stack(pictures), durations


def begun(path, class_names, *arguments):
    """A run directory as training begins it, but with styles that differ."""
    settings = zoo.flags.parse_training([*arguments, "--image_size=32", f"--run_dir={path}"])
    model = zoo.restore.build_model(settings, (32, 32, 3), class_names)
    model.prepare()
    for number, style in enumerate(model.net.styles if hasattr(model, "net") else ()):
        style.assign_add(tf.random.stateless_normal(style.shape, [1, number]))
    with contextlib.closing(Run.lock(path, settings.recorded())) as made:
        facts = {"image_shape": (32, 32, 3), "class_names": class_names}
        made.record(settings.recorded(), facts)
        Checkpoints(model.checkpoint(), made.checkpoints).save(0)
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A run of two styles."""
    path = tmp_path_factory.mktemp("runs") / "a run"
    return begun(
        path, ("strokes", "glass"), "--model=style", "--width=4", "--residual_blocks=1",
        "--styles=strokes,glass",
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(network):
    return zoo.restore.restore(network).model


@pytest.fixture(scope="module")
def adain_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("adain") / "run"
    return begun(path, ("strokes",), "--model=adain", "--styles=strokes", "--style_size=32")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, empty but for a photo."""
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "photo.png", photo())
    return tmp_path


def paint(*arguments):
    """The command, in this process."""
    assert stylize.main([str(argument) for argument in arguments]) == 0


def whole(model, image, weights):
    """What the net makes of the whole picture at once."""
    images = image[None].astype(np.float32) / 255
    return 255 * model.net(images, np.array([weights], np.float32))[0].numpy()


def assert_close(image, expected):
    """But for rounding."""
    np.testing.assert_allclose(image.astype(float), expected, atol=0.51)


def test_from_training_to_a_picture(here):
    done = run(
        "zoo.train", "--model=style", "--width=4", "--residual_blocks=1", "--batch_size=2",
        "--styles=strokes,glass", "--image_size=32", "--total_steps=3", "--run_dir=run",
    )  # fmt: skip
    assert_done(done)
    assert "python -m zoo.stylize --image=PHOTO --run_dir=run" in done.stdout
    done = run("zoo.stylize", "--image=photo.png", "--run_dir=run")
    assert_done(done)
    assert done.stdout.startswith("photo-strokes.png (strokes; other styles: glass; ")
    assert done.stdout.count("\n") == 1
    base = zoo.restore.restore("run").model
    assert_close(loaded("photo-strokes.png"), whole(base, photo(), [1, 0]))

    saved("odd.png", photo(7))
    add = ("zoo.train", "--model=style", "--base_run=run", "--add_style=odd.png")
    done = run(*add, "--total_steps=2")
    assert_done(done)
    more = zoo.restore.restore("run-odd")
    assert more.class_names == ("strokes", "glass", "odd")
    old = whole(more.model, photo(), [0, 1, 0])
    np.testing.assert_array_equal(old, whole(base, photo(), [0, 1]))
    assert_done(run("zoo.stylize", "--image=photo.png", "--run_dir=run-odd", "--style=odd"))
    assert_close(loaded("photo-odd.png"), whole(more.model, photo(), [0, 0, 1]))

    shutil.copy("photo.png", "odd.png")
    assert_refused(run(*add, "--total_steps=3"), "not those that run-odd began with", "--overwrite")
    assert_refused(
        run(*add[:3], "--add_style=glass", "--run_dir=other"), "of another name than strokes, glass"
    )


def test_a_style_by_name_or_number(network, model, here):
    paint(f"--run_dir={network}", "--image=photo.png", "--style=1", "--out=number.png")
    paint(f"--run_dir={network}", "--image=photo.png", "--style=glass")
    assert pathlib.Path("number.png").read_bytes() == pathlib.Path("photo-glass.png").read_bytes()
    assert_close(loaded("number.png"), whole(model, photo(), [0, 1]))


def test_a_mixture(network, model, here, capsys):
    paint(f"--run_dir={network}", "--image=photo.png", "--mix=0.3,0.7")
    assert_close(loaded("photo-mix.png"), whole(model, photo(), [0.3, 0.7]))
    assert "0.3 strokes + 0.7 glass" in capsys.readouterr().out


def test_strength_fades(network, model, here):
    for strength in (0, 0.25):
        paint(
            f"--run_dir={network}", "--image=photo.png", f"--strength={strength}", "--out=out.png"
        )
        expected = photo() + strength * (whole(model, photo(), [1, 0]) - photo())
        # What is painted was rounded before.
        np.testing.assert_allclose(loaded("out.png").astype(float), expected, atol=0.51 + strength)
    paint(f"--run_dir={network}", "--image=photo.png", "--strength=0", "--out=out.png")
    np.testing.assert_array_equal(loaded("out.png"), photo())


YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def test_colours_are_kept():
    random = np.random.Generator(np.random.PCG64(0))
    painted, original = random.integers(90, 160, (2, 600, 20, 3), dtype=np.uint8)
    kept = stylize.with_colors(painted, original) @ YIQ.T
    np.testing.assert_allclose(kept[..., 0], (painted @ YIQ.T)[..., 0], atol=0.51)
    np.testing.assert_allclose(kept[..., 1:], (original @ YIQ.T)[..., 1:], atol=0.7)


def test_preserve_color(network, model, here):
    image = saved("grey.png", np.repeat(photo()[..., :1], 3, axis=-1))
    paint(f"--run_dir={network}", f"--image={image}", "--preserve_color")
    result = loaded("grey-strokes.png")
    np.testing.assert_array_equal(result, np.repeat(result[..., :1], 3, axis=-1))
    expected = whole(model, loaded(image), [1, 0]) @ YIQ[0]
    np.testing.assert_allclose(result[..., 0], expected, atol=1.01)


def test_large_strokes_on_a_large_photo(network, model, here):
    flat = np.full((120, 200, 3), (200, 90, 40), np.uint8)
    saved("flat.png", flat)
    paint(f"--run_dir={network}", "--image=flat.png", "--size=50")
    small = whole(model, flat[:30, :50], [1, 0])
    expected = tf.image.resize(np.rint(small), [120, 200], "bicubic")
    np.testing.assert_allclose(
        loaded("flat-strokes.png").astype(float), np.clip(expected, 0, 255), atol=0.6
    )


@pytest.mark.parametrize(
    "height, width, size", [(45, 70, 140), (45, 70, 20), (5, 3, None), (1, 90, None)]
)
def test_a_result_has_the_photos_size(network, here, height, width, size):
    saved("odd.png", photo(height=height, width=width))
    paint(f"--run_dir={network}", "--image=odd.png", *([f"--size={size}"] if size else []))
    assert loaded("odd-strokes.png").shape == (height, width, 3)


def test_an_animation(network, here):
    """Its upper half stands still, and stays so when it is painted."""
    pictures = np.stack([photo(height=150, width=24) for _ in range(3)])
    for number in range(3):
        pictures[number, 120:] = 80 * number
    images = [Image.fromarray(picture) for picture in pictures]
    durations = [40, 250, 90]
    images[0].save("a.png", save_all=True, append_images=images[1:], duration=durations, loop=0)
    paint(f"--run_dir={network}", "--image=a.png")
    painted, found = frames("a-strokes.png")
    assert painted.shape == pictures.shape
    assert found == durations
    np.testing.assert_array_equal(painted[0, :60], painted[1, :60])
    assert (painted[0, 120:] != painted[1, 120:]).any()
    paint(f"--run_dir={network}", "--image=a.png", "--out=a.gif", "--size=32")
    painted, found = frames("a.gif")
    assert painted.shape == pictures.shape and found == durations


def test_a_folder(network, model, here):
    album = here / "album"
    album.mkdir()
    for number, name in enumerate(("b.png", "a.png", "a.bmp")):
        saved(album / name, photo(number))
    (album / "broken.png").write_bytes((here / "photo.png").read_bytes()[:300])
    (album / "notes.txt").write_text("no picture")
    done = run("zoo.stylize", f"--run_dir={network}", "--image=album", "--style=glass", cwd=here)
    assert_done(done)
    lines = done.stdout.splitlines()
    assert next(line for line in lines if "broken.png" in line).startswith("skipped: ")
    assert lines[-1].startswith("album-glass: 3 pictures, 1 skipped (glass; ")
    painted = {path.name: loaded(path) for path in (here / "album-glass").iterdir()}
    assert set(painted) == {"a.bmp-glass.png", "a.png-glass.png", "b-glass.png"}
    assert_close(painted["b-glass.png"], whole(model, photo(0), [0, 1]))
    assert_close(painted["a.bmp-glass.png"], whole(model, photo(2), [0, 1]))


def test_a_folder_without_one_good_picture(network, here):
    (here / "album").mkdir()
    (here / "album" / "a.png").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="none of its 1 picture could be read"):
        paint(f"--run_dir={network}", "--image=album", "--out=painted")
    assert not (here / "painted").exists()


def test_adain_takes_any_picture_for_its_style(adain_run, here):
    style = saved("style.png", photo(5, 40, 64))
    done = run("zoo.stylize", f"--run_dir={adain_run}", "--image=photo.png", f"--style={style}")
    assert_done(done)
    model = zoo.restore.restore(adain_run, say=lambda line: None).model
    shrunk = Image.fromarray(photo(5, 40, 64)).resize((51, 32), Image.Resampling.LANCZOS)
    images, styles = (np.asarray(image, np.float32)[None] / 255 for image in (photo(), shrunk))
    expected = 255 * model.stylize(images, styles, np.ones(1, np.float32))[0].numpy()
    assert_close(loaded("photo-style.png"), expected)
    paint(f"--run_dir={adain_run}", "--image=photo.png", "--style=strokes", "--strength=0")
    np.testing.assert_array_equal(loaded("photo-strokes.png"), photo())
    with pytest.raises(UsageError, match="--style is missing: adain needs"):
        paint(f"--run_dir={adain_run}", "--image=photo.png")
    with pytest.raises(UsageError, match="--mix has no meaning for adain"):
        paint(f"--run_dir={adain_run}", "--image=photo.png", "--mix=1")


def test_gatys(here):
    done = run(
        "zoo.stylize", "--method=gatys", "--image=photo.png", "--style=strokes", "--iterations=3",
        "--scales=1", "--size=35", "--log_dir=logs",
    )  # fmt: skip
    assert_done(done)
    assert "percent 100/100" in done.stdout
    assert done.stdout.splitlines()[-1] == "photo-strokes.png (strokes; by optimisation)"
    painted = loaded("photo-strokes.png")
    assert painted.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(painted.astype(int) - photo()).mean() > 1
    events = EventAccumulator("logs").Reload()
    tags = events.Tags()["tensors"]
    assert {"stylization", "picture"} <= set(tags)
    assert [event.step for event in events.Tensors("stylization")] == [1, 2, 3]
    data = events.Tensors("picture")[-1].tensor_proto.string_val
    assert tuple(map(int, data[:2])) == (35, 22)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["--image is missing"]),
        (["--image=gone.jpg"], ["gone.jpg"]),
        (["--image=cut.png"], ["cut.png", "damaged"]),
        (["--image=huge.png"], ["huge.png", "make it smaller"]),
        (["--image=empty"], ["empty", "expected files"]),
        (["--image=photo.png", "--strength=1.1"], ["--strength=1.1", "from 0 to 1"]),
        (["--image=photo.png", "--strength=nan"], ["--strength=nan"]),
        (["--image=photo.png", "--size=0"], ["--size=0"]),
        (["--image=photo.png", "--style=1", "--mix=1,0"], ["--style and --mix"]),
        (["--image=photo.png", "--log_dir=x"], ["--log_dir", "--method=gatys"]),
        (["--image=photo.png", "--iterations=7"], ["--iterations", "--method=gatys"]),
        (["--image=photo.png", "--out=a.xyz"], ["a.xyz", ".png"]),
        (["--image=photo.png", "--out=photo.png"], ["photo.png", "the picture itself"]),
        (["--image=album", "--out=album"], ["--out=album", "choose another"]),
        (["--image=album", "--out=photo.png"], ["photo.png is a file"]),
        (["--image=photo.png", "--method=gatys"], ["--style is missing"]),
        (["--image=photo.png", "--method=gatys", "--style=1"], ["--run_dir has no meaning"]),
    ],
)
def test_what_is_refused_before_tensorflow_starts(network, here, arguments, words):
    (here / "cut.png").write_bytes((here / "photo.png").read_bytes()[:300])
    Image.new("1", (10_100, 10_000)).save(here / "huge.png")
    (here / "empty").mkdir()
    (here / "album").mkdir()
    saved(here / "album" / "a.png", photo())
    assert_refused(run("zoo.stylize", f"--run_dir={network}", *arguments), *words)


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--style=2", "expected a style: strokes, glass"),
        ("--style=-1", "expected a style: strokes, glass"),
        ("--style=monet", "expected a style: strokes, glass"),
        ("--mix=1", "2 numbers .*, for strokes, glass; these are 1"),
        ("--mix=1,0,0", "2 numbers .*; these are 3"),
        ("--mix=0.5,0.502", "a sum of 1, this is 1.002"),
        ("--mix=1.5,-0.5", "no number below 0"),
        ("--mix=nan,1", "no number below 0"),
        ("--mix=a,b", "2 numbers"),
    ],
)
def test_styles_that_there_are_not(network, here, argument, words):
    with pytest.raises(UsageError, match=words):
        paint(f"--run_dir={network}", "--image=photo.png", argument)
    assert [path.name for path in here.iterdir()] == ["photo.png"]


def test_a_mixture_may_be_rounded(network, here):
    paint(f"--run_dir={network}", "--image=photo.png", "--mix=0.3333,0.6666")


def test_only_runs_that_repaint(here):
    settings = zoo.flags.parse_training(["--model=vae", "--run_dir=vae"])
    with contextlib.closing(Run.lock("vae", settings.recorded())) as made:
        made.record(settings.recorded(), {})
    for directory, words in (("vae", "a vae model repaints nothing"), ("gone", "gone")):
        with pytest.raises(UsageError, match=words):
            paint(f"--run_dir={directory}", "--image=photo.png")


def test_gatys_leaves_animations_alone(here):
    images = [Image.fromarray(photo(number)) for number in range(2)]
    images[0].save("a.gif", save_all=True, append_images=images[1:], duration=50)
    with pytest.raises(UsageError, match="a.gif is an animation"):
        paint("--method=gatys", "--image=a.gif", "--style=strokes")


def test_the_yardstick_judges_network_and_optimisation_alike(network, here):
    done = run("experiments.yardstick", f"--run_dir={network}", "--contents=1", "--iterations=3")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[1] for row in rows[-3:-1]] == ["strokes", "glass"]
    for row in rows[-3:-1]:
        net, optimised, ratio = map(float, row[2:5])
        assert ratio == pytest.approx(net / optimised, abs=0.01)
        # An untrained net is no match for even three steps from the content.
        assert ratio > 1
    mean = np.mean([float(row[4]) for row in rows[-3:-1]])
    assert float(rows[-1][2].rstrip(",")) == pytest.approx(mean, abs=0.011)
