"""Style transfer by optimisation: what moves, what stays, and sizes of any kind."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from zoo import gatys, lbfgs, models, perceptual
from zoo.errors import UsageError
from zoo.gatys import Settings, stylize
from zoo.generative import Noise

WEIGHTS = ("content", "style", "edge", "patch", "total_variation")
OPTIMIZERS = ("adam", "lbfgs")


def only(**settings) -> Settings:
    """No weights but those given."""
    return Settings(**{f"{name}_weight": 0.0 for name in WEIGHTS} | settings)


def photo(height: int = 48, width: int = 64) -> np.ndarray:
    """A bright disc before a dark slope, with fine grain: uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    disc = (x - 0.5) ** 2 + (y - 0.35) ** 2 < 0.04
    grain = np.random.default_rng(0).normal(0, 0.03, (height, width))
    grey = np.where(disc, 0.8, 0.2 + 0.3 * y) + grain
    colours = grey[..., None] * [1.0, 0.8, 0.6]
    return np.rint(255 * colours.clip(0, 1)).astype(np.uint8)


def stripes(height: int = 48, width: int = 48) -> np.ndarray:
    """Slanted blue and yellow stripes, 8 pixels wide."""
    y, x = np.mgrid[:height, :width]
    blue = (x + y) // 8 % 2 == 0
    return np.where(blue[..., None], [20, 40, 200], [250, 220, 30]).astype(np.uint8)


def follow(settings: Settings, content=None, style=None):
    """The result, and every report on the way to it."""
    told: list[gatys.Progress] = []
    content = photo() if content is None else content
    style = stripes() if style is None else style
    return stylize(content, style, settings, told.append), told


def change(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int(abs(ours.astype(int) - theirs.astype(int)).max())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_without_a_style_the_content_stays(optimizer):
    settings = only(content_weight=1, edge_weight=3, optimizer=optimizer, iterations=10)
    assert change(stylize(photo(), stripes(), settings), photo()) <= 1
    # Above the working size and over several levels, too.
    large = photo(100, 150)
    settings = dataclasses.replace(settings, max_size=90)
    assert change(stylize(large, stripes(), settings), large) <= 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("init", ["content", "noise"])
def test_without_a_content_the_style_is_met(optimizer, init):
    settings = only(style_weight=1, optimizer=optimizer, init=init, iterations=80)
    image, told = follow(settings)
    first, last = (progress.losses["style"] for progress in (told[0], told[-1]))
    assert last < 0.2 * first
    # In the style's colours: blue and red lie apart as in stripes, not together as in the photo.
    correlation = np.corrcoef(image[..., 0].ravel(), image[..., 2].ravel())[0, 1]
    assert np.corrcoef(photo()[..., 0].ravel(), photo()[..., 2].ravel())[0, 1] > 0.9
    assert correlation < -0.4


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_edges_stay_where_they_have_a_weight(optimizer):
    settings = only(patch_weight=1, style_weight=1, optimizer=optimizer, iterations=40)
    kept = dataclasses.replace(settings, edge_weight=3)

    def missing(image: np.ndarray) -> float:
        """Of the photo's edges to the right, in brightness from 0 to 1."""
        ours, theirs = (np.diff(x.mean(-1) / 255, axis=1) for x in (image, photo()))
        return float(np.maximum(np.abs(theirs) - np.sign(theirs) * ours, 0).mean())

    images = {}
    for name, chosen in (("free", settings), ("kept", kept)):
        images[name], told = follow(chosen)
        assert told[-1].losses["patches"] < 0.7 * told[0].losses["patches"]
    assert missing(images["kept"]) < 0.5 * missing(images["free"])


def test_lbfgs_ends_lower_than_adam_after_no_more_evaluations(monkeypatch):
    """On a smooth objective, on one level. Adam evaluates once a step, L-BFGS a little more."""
    settings = only(style_weight=1, content_weight=0.01, scales=1, iterations=60)
    found = []
    minimise = lbfgs.minimise
    monkeypatch.setattr(
        lbfgs, "minimise", lambda *a, **k: found.append(minimise(*a, **k)) or found[0]
    )
    _, curved = follow(dataclasses.replace(settings, optimizer="lbfgs"))
    evaluations = found[0].evaluations
    _, plain = follow(dataclasses.replace(settings, optimizer="adam", iterations=evaluations))
    ends = [told[-1].losses["stylization"] for told in (curved, plain)]
    assert ends[0] < 0.8 * ends[1] < 0.3 * plain[0].losses["stylization"]


def test_lbfgs_only_falls_within_a_level():
    _, told = follow(Settings(optimizer="lbfgs", iterations=15), photo(70, 70))
    assert {progress.level for progress in told} == {0, 1}
    for level in (0, 1):
        losses = [p.losses["stylization"] for p in told if p.level == level]
        assert (np.diff(losses) < 0).all() and len(losses) > 5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_seed_gives_the_same_picture_and_another_one_another(optimizer):
    settings = Settings(optimizer=optimizer, iterations=6, init="noise", seed=3)
    first = stylize(photo(), stripes(), settings)
    np.testing.assert_array_equal(first, stylize(photo(), stripes(), settings))
    other = stylize(photo(), stripes(), dataclasses.replace(settings, seed=4))
    assert change(first, other) > 10


@pytest.mark.parametrize(
    ("shape", "style_shape", "levels"),
    [
        ((8, 8), (8, 8), 1),
        ((8, 300), (33, 17), 1),
        ((75, 91), (300, 9), 2),
        ((301, 203), (48, 48), 2),  # above the working size: 96 pixels and half of that
        ((9, 2000), (64, 64), 1),
    ],
)
def test_results_have_the_contents_size_whatever_it_is(shape, style_shape, levels):
    content = photo(*shape)
    image, told = follow(Settings(iterations=2, max_size=96), content, stripes(*style_shape))
    assert image.shape == content.shape and image.dtype == np.uint8
    assert told[-1].levels == levels
    if max(shape) <= 96:
        assert told[-1].image().shape == content.shape


@pytest.mark.parametrize(("shape", "name"), [((1, 300), "300x1"), ((7, 7), "7x7")])
def test_pictures_that_are_too_thin_are_refused(shape, name):
    thin = np.zeros((*shape, 3), np.uint8)
    with pytest.raises(UsageError, match=f"the content has {name} pixels: expected at least 8x8"):
        stylize(thin, stripes(), Settings())
    with pytest.raises(UsageError, match=f"the style has {name} pixels"):
        stylize(photo(), thin, Settings())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_progress_tells_level_step_share_losses_and_picture(optimizer):
    settings = Settings(optimizer=optimizer, iterations=3, content_weight=0.1)
    image, told = follow(settings, photo(64, 80))
    assert [(p.level, p.step) for p in told] == [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (1, 6)]
    assert {(p.levels, p.total_steps) for p in told} == {(2, 6)}
    # The fine level has four times the pixels: a step there is four times the work.
    np.testing.assert_allclose(
        [p.share for p in told], np.array([1, 2, 3, 7, 11, 15]) / 15, rtol=1e-6
    )
    assert {p.image().shape for p in told} == {(32, 40, 3), (64, 80, 3)}
    np.testing.assert_array_equal(told[-1].image(), image)
    losses = told[0].losses
    weighed = {
        "content": 0.1, "style": settings.style_weight, "patches": settings.patch_weight,
        "edges": settings.edge_weight, "total_variation": settings.total_variation_weight,
    }  # fmt: skip
    assert losses["stylization"] == pytest.approx(
        sum(weight * losses[name] for name, weight in weighed.items()), rel=1e-5
    )
    layers = [value for name, value in losses.items() if name.startswith("style/")]
    assert losses["style"] == pytest.approx(np.mean(layers), rel=1e-5) and len(layers) == 4


def test_the_objective_is_that_of_the_trained_networks():
    module = models.load("style")
    weights = {
        "content_weight": 0.3, "style_weight": 0.7, "patch_weight": 0.5, "edge_weight": 2.0,
        "total_variation_weight": 0.1,
    }  # fmt: skip
    model = module.StyleTransfer(
        dataclasses.replace(module.TINY, **weights), image_shape=(48, 64, 3), num_classes=3
    )
    model.prepare()
    content, style = (
        tf.constant(image[None] / np.float32(255)) for image in (photo(), stripes(40, 56))
    )
    images = tf.concat([content[:, ::-1], style[:, :1, :1] + tf.zeros_like(content)], axis=0)
    theirs = model.compare(
        images, tf.repeat(content, 2, 0), tf.repeat(style, 2, 0), Noise(5, tf.constant(9), 2)
    )
    objective = gatys.Objective(Settings(**weights), perceptual.load("random"), content, style)
    ours = objective(images, *gatys.directions(5, 9))
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, err_msg=name)


def test_one_trace_a_level(monkeypatch):
    """Each trace asks for the directions once: two levels, one trace each."""
    calls = []
    directions = gatys.directions
    monkeypatch.setattr(gatys, "directions", lambda *a: calls.append(a) or directions(*a))
    stylize(photo(64, 64), stripes(), Settings(iterations=5))
    assert len(calls) == 2


def test_fine_detail_comes_back_above_the_working_size():
    """Painted darker, but not otherwise changed: the large result follows the large photo."""
    large = np.kron(photo(40, 40), np.ones((6, 6, 1), np.uint8))
    grid = 20 * ((np.mgrid[:240, :240].sum(0) // 2) % 2)[..., None].astype(np.uint8)
    large = (large // 2 + grid).astype(np.uint8)
    image = stylize(
        large, large // 2, Settings(iterations=40, max_size=60, edge_weight=0, content_weight=0)
    )
    only_enlarged = np.array(
        Image.fromarray(image).resize((60, 60), Image.Resampling.BOX).resize((240, 240))
    )

    def detail(x):
        return (x.astype(float) - np.roll(x.astype(float), 2, axis=0))[2:].mean(-1).ravel()

    assert np.corrcoef(detail(image), detail(large))[0, 1] > 0.7
    assert np.corrcoef(detail(only_enlarged), detail(large))[0, 1] < 0.4


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("optimizer", "sgd", "unknown --optimizer 'sgd'.*known: adam, lbfgs"),
        ("perceptual", "vgg", "unknown --perceptual 'vgg': did you mean vgg"),
        ("init", "photo", "unknown --init 'photo'"),
        ("style_weight", -1.0, "--style_weight=-1.0: expected 0 or more"),
        ("edge_weight", float("nan"), "--edge_weight=nan"),
        ("iterations", 0, "--iterations=0: expected a number greater than zero"),
        ("learning_rate", 0.0, "--learning_rate=0.0"),
        ("scales", 0, "--scales=0"),
        ("max_size", 7, "--max_size=7: expected 8 or more"),
        ("seed", -1, "--seed=-1: expected from 0 to 2147483647"),
    ],
)
def test_bad_settings_are_refused(setting, value, message):
    with pytest.raises(UsageError, match=message):
        Settings(**{setting: value})


def test_nothing_to_minimise_is_refused():
    with pytest.raises(UsageError, match="all weights are 0"):
        only()


def test_weights_of_vgg_that_are_not_there_are_refused(tmp_path):
    settings = Settings(perceptual="vgg19", perceptual_weights=str(tmp_path / "none.h5"))
    with pytest.raises(UsageError, match="no such file"):
        stylize(photo(), stripes(), settings)
