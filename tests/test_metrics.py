"""Distances against closed forms and plain loops, extractors, sample quality by its orderings."""

import hashlib
import itertools
import math
import pathlib
import random

import commands
import numpy as np
import pytest

from zoo import runtime

tf = runtime.import_tensorflow()

import keras  # noqa: E402

from experiments import extractor as training  # noqa: E402
from zoo.data import glyphs, paintings  # noqa: E402
from zoo.errors import UsageError  # noqa: E402
from zoo.metrics import distances, quality  # noqa: E402
from zoo.metrics.distances import Moments  # noqa: E402
from zoo.metrics.extractors import CHUNK, Extractor  # noqa: E402

DRAW = {"glyphs": (glyphs, 28, 0.99), "paintings": (paintings, 32, 0.95)}


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def normal(*shape, seed=0):
    return generator(seed).standard_normal(shape)


def distance(x, y):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


# ---- Fréchet distance


def test_frechet_distance_of_commuting_gaussians_is_the_closed_form():
    basis, _ = np.linalg.qr(normal(5, 5))
    a, b = np.array([4.0, 1.0, 0.25, 9.0, 0.0]), np.array([1.0, 1.0, 16.0, 0.0, 0.0])
    mean = np.array([1.0, -2.0, 0.0, 0.5, 3.0])
    found = distances.frechet_distance_of_moments(
        Moments(mean, basis * a @ basis.T), Moments(np.zeros(5), basis * b @ basis.T)
    )
    expected = np.sum(mean**2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert found == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_gaussians_that_do_not_commute():
    """In two dimensions tr (AB)^½ = (tr AB + 2 (det AB)^½)^½, by the eigenvalues of AB."""
    a, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, 0.5], [0.5, 2.0]])
    assert not np.allclose(a @ b, b @ a)
    root = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    mean = np.array([0.3, -1.0])
    found = distances.frechet_distance_of_moments(Moments(mean, a), Moments(-mean, b))
    assert found == pytest.approx(4 * np.sum(mean**2) + np.trace(a + b) - 2 * root, rel=1e-9)


def test_frechet_distance_of_features():
    features = normal(400, 6) @ normal(6, 6, seed=1)
    features[:, 2] = 0.0  # a ReLU that never fires
    trace = np.trace(np.cov(features.T))
    assert distances.frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-9)
    moved = features + np.array([3.0, 0, 0, 0, 0, 4.0])
    assert distances.frechet_distance(features, moved) == pytest.approx(25.0)
    # Spreading everything by s adds (s - 1)² of the variance, and (s - 1)² of the mean's square.
    spread = trace + np.sum(features.mean(0) ** 2)
    assert distances.frechet_distance(features, 3 * features) == pytest.approx(4 * spread)
    assert distances.frechet_distance(3 * features, features) == pytest.approx(4 * spread)
    mean, covariance = distances.moments(features)
    np.testing.assert_allclose(mean, features.sum(0) / 400)
    centred = features - mean
    np.testing.assert_allclose(covariance, centred.T @ centred / 399, atol=1e-12)


def waves(rows, width, phase):
    i, j = np.arange(rows)[:, None], np.arange(width)[None]
    values = np.sin(0.7 * i * (j + 1) + phase * j) + 0.3 * phase * np.cos(1.3 * (i + 1) * (j + 2))
    return values + 0.1 * phase * np.sqrt(j + 1)


@pytest.mark.parametrize(
    ("rows", "others", "width", "expected"),
    [
        (400, 500, 64, 51.61056039721734),
        (300, 300, 16, 3.463692101158022),
        pytest.param(2500, 2600, 512, 2970.509672990041, marks=pytest.mark.slow),
    ],
)
def test_frechet_distance_is_that_of_scipy(rows, others, width, expected):
    """|Δmean|² + tr(A + B - 2 scipy.linalg.sqrtm(A @ B).real) by scipy 1.17.1, NumPy 2.4.6."""
    found = distances.frechet_distance(waves(rows, width, 0.5), waves(others, width, 2.0))
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sizes", [(1000,), (1, 999), (7, 500, 1, 492)])
def test_running_moments_are_those_of_all_rows(sizes):
    rows = 1e6 + normal(1000, 5) @ normal(5, 5, seed=1)
    running = distances.RunningMoments(5)
    for batch in np.split(rows, np.cumsum(sizes)[:-1]):
        running.add(batch)
    found, expected = running.moments(), distances.moments(rows)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-8, atol=1e-8)
    assert running.count == 1000


def test_running_moments_of_one_row_are_refused():
    running = distances.RunningMoments(3)
    running.add(normal(1, 3))
    with pytest.raises(ValueError, match="1 rows have no covariance"):
        running.moments()


# ---- kernel distance


def unbiased_mmd(x, y):
    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def others(rows):
        return np.mean([kernel(a, b) for a, b in itertools.permutations(rows, 2)])

    return others(x) + others(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])


def test_kernel_distance_is_the_unbiased_estimate():
    real, samples = 5 * normal(12, 3), 4 * normal(12, 3, seed=1) + 1
    scale = 1 / math.sqrt(np.mean(real**2))
    found, error = distances.kernel_distance(real, samples, num_subsets=3)
    assert found == pytest.approx(unbiased_mmd(scale * real, scale * samples), rel=1e-9)
    assert error == pytest.approx(0, abs=1e-12)  # every subset is the whole set
    again, _ = distances.kernel_distance(100 * real, 100 * samples)
    assert again == pytest.approx(found)
    unscaled, _ = distances.kernel_distance(real, samples, scale=1.0)
    assert unscaled == pytest.approx(unbiased_mmd(real, samples), rel=1e-9)


def test_kernel_distance_averages_over_subsets():
    real, samples = normal(300, 4), normal(200, 4, seed=1) + 0.7
    whole = unbiased_mmd(*(rows / math.sqrt(np.mean(real**2)) for rows in (real, samples)))
    found, error = distances.kernel_distance(real, samples, subset_size=50, num_subsets=20)
    assert 0 < error < 0.2 * whole
    assert abs(found - whole) < 4 * error
    more, smaller = distances.kernel_distance(real, samples, subset_size=50, num_subsets=320)
    assert abs(more - whole) < 4 * smaller
    assert smaller == pytest.approx(error / 4, rel=0.5)
    same = (real, samples)
    assert distances.kernel_distance(*same, seed=3) == distances.kernel_distance(*same, seed=3)
    assert distances.kernel_distance(real[:150], real[150:])[0] < 0.05 * whole


# ---- precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 2])
def test_neighbours_are_those_of_plain_loops(k):
    real, samples = normal(25, 3), 1.2 * normal(20, 3, seed=1) + 1.0

    def radii(rows):
        every = [sorted(distance(a, b) for b in rows if b is not a) for a in rows]
        return [near[k - 1] for near in every]

    real, samples = list(real), list(samples)
    balls = list(zip(real, radii(real), strict=True))
    sample_balls = list(zip(samples, radii(samples), strict=True))
    inside = [[distance(x, c) < r for c, r in balls] for x in samples]
    expected = (
        np.mean([any(row) for row in inside]),
        np.mean([any(distance(x, c) < r for c, r in sample_balls) for x in real]),
        sum(map(sum, inside)) / (k * len(samples)),
        np.mean([any(row[i] for row in inside) for i in range(len(real))]),
    )
    found = distances.precision_recall_density_coverage(np.array(real), np.array(samples), k)
    assert found == pytest.approx(expected)
    assert all(0 < share < 1 for share in (found.precision, found.recall, found.coverage))


def test_neighbours_of_copies():
    real = 100 + normal(60, 8)
    found = distances.precision_recall_density_coverage(real, np.repeat(real[:3], 20, axis=0))
    assert found.precision == 1
    assert found.recall == 0  # balls without extent, even around the very pictures
    assert 0 < found.coverage < 0.8
    assert found.density >= 1


def test_equal_rows_are_at_distance_zero():
    rows = 100 + normal(50, 64)
    found = distances.pairwise_distances(rows, np.concatenate([rows[::-1], rows[:7]]))
    expected = [[distance(a, b) for b in [*rows[::-1], *rows[:7]]] for a in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.sum(found == 0) == 57


def test_distances_of_more_columns_than_fit_at_once():
    a, b = normal(4, 9000), normal(3, 9000, seed=1)
    found = distances.pairwise_distances(a, b)
    np.testing.assert_allclose(found, [[distance(x, y) for y in b] for x in a], rtol=1e-12)


def test_nearest_rows_are_those_of_plain_loops(monkeypatch):
    monkeypatch.setattr(distances, "_BLOCK_ROWS", 7)
    rows, queries = normal(40, 6), normal(9, 6, seed=1)
    queries[3] = rows[38]
    found, numbers = distances.nearest(queries, rows, 3)
    for query, distances_found, numbers_found in zip(queries, found, numbers, strict=True):
        every = sorted((distance(query, row), number) for number, row in enumerate(rows))[:3]
        assert list(numbers_found) == [number for _, number in every]
        assert list(distances_found) == pytest.approx([value for value, _ in every])
    assert found[3, 0] == 0
    pixels = generator().integers(0, 256, [30, 20], np.uint8)
    assert list(distances.nearest(pixels, pixels[::-1], 30)[1][:, 0]) == [*range(30)][::-1]


# ---- diversity


def test_diversity():
    images = generator().integers(0, 256, [30, 4, 4, 3], np.uint8)
    assert distances.diversity(images, images) == 1
    assert distances.diversity(images, np.repeat(images[:1], 10, axis=0)) == 0
    assert distances.diversity(images, (images // 2).astype(float)) == pytest.approx(0.5, abs=0.01)
    pairs = itertools.combinations(images.reshape(30, -1).astype(float), 2)
    expected = np.mean([distance(a, b) for a, b in pairs])
    assert distances.mean_distance(images) == pytest.approx(expected)


@pytest.mark.parametrize(
    "shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,)), ((5, 3, 1), (5, 3, 1))]
)
def test_features_of_other_shapes_are_refused(shapes):
    real, samples = (normal(*shape) for shape in shapes)
    for function in (
        distances.frechet_distance,
        distances.kernel_distance,
        distances.precision_recall_density_coverage,
    ):
        with pytest.raises(ValueError, match=r"expected \[N, D\]"):
            function(real, samples)


def test_features_that_are_not_finite_are_refused():
    wrong = normal(20, 3)
    wrong[7, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        distances.frechet_distance(normal(20, 3), wrong)


# ---- extractors


@pytest.fixture(scope="module", params=DRAW)
def extractor(request):
    return Extractor.load(request.param)


def draw(name, count, size=None, start=0):
    module, own_size, _ = DRAW[name]
    indices = range(start, start + count)
    return module.draw(indices, split="test", image_size=size or own_size)


def test_extractor_tells_our_classes_apart(extractor):
    images, labels = draw(extractor.name, 300)
    probabilities = extractor.probabilities(images)
    assert probabilities.shape == (300, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    module, _, least = DRAW[extractor.name]
    assert extractor.class_names == module.CLASS_NAMES
    assert np.mean(probabilities.argmax(1) == labels) >= least
    features = extractor.features(images)
    assert features.shape == (300, 64)
    assert features.dtype == np.float64
    assert features.min() == 0
    assert np.mean(features.std(0) > 0) > 0.5


def test_features_do_not_depend_on_the_batch(extractor):
    images, _ = draw(extractor.name, 12)
    features = extractor.features(images)
    np.testing.assert_array_equal(extractor.features(images[7:8])[0], features[7])
    many = np.concatenate([images[::-1]] * 25)  # two chunks
    assert len(many) > CHUNK
    np.testing.assert_array_equal(extractor.features(many)[-12:], features[::-1])
    assert extractor.features(images[:0]).shape == (0, 64)
    assert extractor.probabilities(images[:0]).shape == (0, 10)
    assert extractor._net.experimental_get_tracing_count() == 1


def test_features_depend_on_no_global_state(extractor):
    images, _ = draw(extractor.name, 5)
    features = extractor.features(images)
    before = keras.config.dtype_policy().name
    np.random.seed(1)
    random.seed(1)
    tf.random.set_seed(1)
    expected = np.random.random(), random.random(), float(tf.random.uniform([]))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        np.random.seed(1)
        random.seed(1)
        tf.random.set_seed(1)
        again = Extractor.load(extractor.name).features(images)
        assert expected == (np.random.random(), random.random(), float(tf.random.uniform([])))
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(again, features)


def test_other_sizes_are_resized_with_antialiasing(extractor):
    own = DRAW[extractor.name][1]
    images, labels = draw(extractor.name, 200)
    larger, _ = draw(extractor.name, 200, size=2 * own)
    outputs = extractor.outputs(larger)
    assert np.mean(outputs.probabilities.argmax(1) == labels) >= 0.95
    # Without antialiasing every third pixel of a chequer is taken: a chequer again, and not grey.
    side = 3 * own
    chequer = np.indices([side, side]).sum(0) % 2 * 255
    chequer = np.broadcast_to(chequer[None, :, :, None], [1, side, side, images.shape[-1]])
    grey = np.full([1, own, own, images.shape[-1]], 127.5)
    grey = extractor.features(np.rint(grey).astype(np.uint8))
    scale = np.abs(grey).max()
    found = extractor.features(chequer.astype(np.uint8))
    np.testing.assert_allclose(found, grey, atol=0.1 * scale)


def test_the_hash_is_that_of_the_file(extractor, tmp_path):
    path = pathlib.Path(quality.__file__).with_name(f"{extractor.name}.npz")
    data = path.read_bytes()
    assert len(data) < 450_000
    assert extractor.hash == hashlib.sha256(data).hexdigest()[:12]
    changed = tmp_path / "changed.npz"
    changed.write_bytes(data + b"\0")
    assert Extractor(changed).hash == hashlib.sha256(data + b"\0").hexdigest()[:12]


def test_the_extractor_is_chosen_by_the_channels():
    assert Extractor.for_images((64, 48, 1)).name == "glyphs"
    assert Extractor.for_images((64, 48, 3)).name == "paintings"
    with pytest.raises(UsageError, match="4 channels"):
        Extractor.for_images((28, 28, 4))
    with pytest.raises(UsageError, match="did you mean glyphs"):
        Extractor.load("glyph")


def test_wrong_images_are_refused(extractor):
    channels = 4 - extractor.image_shape[-1]  # the other net's
    for wrong in (
        np.zeros([2, 28, 28, channels], np.uint8),
        np.zeros([2, 28, 28, extractor.image_shape[-1]], np.float32),
        np.zeros([28, 28, extractor.image_shape[-1]], np.uint8),
    ):
        with pytest.raises(UsageError, match=f"the extractor {extractor.name} expects uint8"):
            extractor.features(wrong)


# ---- quality


def half_resolution(images):
    count, height, width, channels = images.shape
    blocks = images.reshape(count, height // 2, 2, width // 2, 2, channels)
    return blocks.mean((2, 4)).round().astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)


@pytest.fixture(scope="module", params=DRAW)
def measured(request):
    """Sets of the study's table, 500 samples against 500 real images, by what was done to them."""
    name = request.param
    real, _ = draw(name, 500)
    images, labels = draw(name, 1000, start=500)
    noise = generator().integers(0, 256, images[:500].shape, np.uint8)
    grainy = images[:500] + 25.5 * normal(*images[:500].shape)
    sets = {
        "real": (images[:500], labels[:500]),
        "grainy": (np.clip(grainy, 0, 255).astype(np.uint8), labels[:500]),
        "half resolution": (half_resolution(images[:500]), None),
        "half the classes": (images[labels < 5], labels[labels < 5]),
        "25 images repeated": (np.repeat(images[:25], 20, axis=0), None),
        "mislabelled": (images[:500], (labels[:500] + 1) % 10),
        "one picture": (np.repeat(images[:1], 500, axis=0), None),
        "noise": (noise, None),
    }
    judge = quality.SampleQuality(real, DRAW[name][0].CLASS_NAMES)
    return judge, {key: judge.measure(*samples) for key, samples in sets.items()}


def test_quality_orders_sets_as_the_study_does(measured):
    judge, table = measured
    for name in (judge.frechet_name, judge.kernel_name):
        value = {key: measures[name] for key, measures in table.items()}
        assert value["real"] < 0.5 * value["grainy"]
        assert value["grainy"] < value["half resolution"] < value["noise"]
        assert 20 * value["real"] < value["half the classes"] < 0.5 * value["noise"]
    relative = table["real"][f"relative_{judge.frechet_name}"]
    assert 0 < relative < 0.02
    assert table["noise"][f"relative_{judge.frechet_name}"] > 0.8
    real = table["real"]
    for share in ("precision", "recall", "coverage"):
        assert real[share] > 0.85
    assert real["density"] == pytest.approx(1, abs=0.15)
    # What only copies have: they look right, and all else is missing.
    copies = table["25 images repeated"]
    assert copies["precision"] > 0.85
    assert copies["recall"] < 0.02
    assert copies["coverage"] < 0.4
    assert table["noise"]["recall"] == 0
    assert table["noise"]["coverage"] < 0.05
    assert table["half the classes"]["coverage"] < 0.65
    assert table["half the classes"]["recall"] < 0.65
    assert table["half the classes"]["precision"] > 0.85


def test_quality_knows_diversity_and_classes(measured):
    _, table = measured
    assert table["real"]["diversity"] == pytest.approx(1, abs=0.03)
    assert table["one picture"]["diversity"] == 0
    assert table["one picture"]["class_entropy"] == 0
    assert table["real"]["class_entropy"] > 0.99
    half = math.log(5) / math.log(10)
    assert table["half the classes"]["class_entropy"] == pytest.approx(half, abs=0.02)
    assert table["real"]["class_accuracy"] > 0.95
    assert table["mislabelled"]["class_accuracy"] < 0.05
    assert "class_accuracy" not in table["one picture"]
    for measures in table.values():
        assert all(type(value) is float and math.isfinite(value) for value in measures.values())


def test_quality_reports_what_it_is_asked_for():
    real, _ = draw("glyphs", 30)
    judge = quality.SampleQuality(real, ("a", "b"))
    expected = ["fd_glyphs", "relative_fd_glyphs", "kd_glyphs", "precision", "recall", "density"]
    expected += ["coverage", "diversity", "classifier_score_glyphs"]
    measures = judge.measure(real, np.zeros(30, np.int32))
    assert list(measures) == expected
    assert measures["fd_glyphs"] == pytest.approx(0, abs=1e-6)
    assert measures["diversity"] == 1
    features = judge.extractor.features(real)
    samples, _ = draw("glyphs", 40, start=30)
    other = judge.extractor.features(samples)
    measures = judge.measure(samples)
    frechet = distances.frechet_distance(features, other)
    assert measures["fd_glyphs"] == pytest.approx(frechet)
    trace = features.var(axis=0, ddof=1).sum()
    assert measures["relative_fd_glyphs"] == pytest.approx(frechet / trace)
    kernel = 1000 * distances.kernel_distance(features, other)[0]
    assert measures["kd_glyphs"] == pytest.approx(kernel)
    neighbours = distances.precision_recall_density_coverage(features, other, 5)
    assert [measures[name] for name in neighbours._fields] == list(neighbours)
    assert measures["diversity"] == distances.diversity(real, samples)
    shares = judge.extractor.probabilities(samples)
    whole = shares.mean(0)
    divergences = [
        sum(p * math.log(p / q) for p, q in zip(row, whole, strict=True) if p > 0) for row in shares
    ]
    assert measures["classifier_score_glyphs"] == pytest.approx(math.exp(np.mean(divergences)))


@pytest.mark.parametrize("sizes", [(64,) * 4, (1, 200, 55)])
def test_samples_in_batches_are_measured_as_at_once(monkeypatch, sizes):
    monkeypatch.setattr(quality, "_KERNEL_ROWS", 100)
    images, labels = draw("glyphs", 456)
    judge = quality.SampleQuality(images[:200], glyphs.CLASS_NAMES)
    images, labels = images[200:], labels[200:]
    measurement = quality.Measurement(judge, len(images))
    for rows in np.split(np.arange(len(images)), np.cumsum(sizes)[:-1]):
        measurement.add(images[rows], labels[rows])
    assert measurement.result() == pytest.approx(judge.measure(images, labels), rel=1e-9)
    assert len(measurement._features.rows) == 100
    short = quality.Measurement(judge, len(images) + 1)
    short.add(images)
    with pytest.raises(ValueError, match="256 samples came; expected 257"):
        short.result()


def test_rows_beyond_the_most_are_left_out_at_random():
    rows = np.arange(5000)
    some = quality.some(rows)
    assert len(set(some)) == len(some) == quality.MAX_ROWS
    assert abs(some.mean() - 2500) < 100
    np.testing.assert_array_equal(some, quality.some(rows))
    assert quality.some(rows[:2000]) is not None
    np.testing.assert_array_equal(quality.some(rows[:2000]), rows[:2000])
    kept = quality.Rows(5000)
    for start in range(0, 5000, 321):
        kept.add(rows[start : start + 321])
    np.testing.assert_array_equal(kept.rows, some)


def test_protocol():
    real, _ = draw("paintings", 6, size=64)
    judge = quality.SampleQuality(real)
    protocol = judge.protocol(num_samples=7)
    assert protocol["extractor"] == "paintings"
    assert protocol["extractor_hash"] == judge.extractor.hash
    assert protocol["resize"] == "antialiased bilinear"
    assert (protocol["num_real"], protocol["num_samples"], protocol["neighbours"]) == (6, 7, 5)
    assert "num_samples" not in judge.protocol()
    assert protocol["reference_hash"] == hashlib.sha256(real.tobytes()).hexdigest()[:12]
    small = quality.SampleQuality(draw("paintings", 6)[0]).protocol()
    assert "resize" not in small


def test_sets_that_cannot_be_measured_are_refused():
    real, _ = draw("glyphs", 10)
    with pytest.raises(UsageError, match="5 real images: expected at least 6"):
        quality.SampleQuality(real[:5])
    with pytest.raises(UsageError, match="all the same"):
        quality.SampleQuality(np.repeat(real[:1], 10, axis=0))
    with pytest.raises(UsageError, match="2 channels"):
        quality.SampleQuality(np.repeat(real, 2, axis=-1))
    judge = quality.SampleQuality(real)
    with pytest.raises(UsageError, match="5 samples"):
        judge.measure(real[:5])
    with pytest.raises(UsageError, match="expected the same"):
        judge.measure(real[:, 2:])


# ---- training


def test_a_file_holds_the_net_that_was_trained(tmp_path):
    """Batch normalisation folded, to the rounding of float16; the same bytes from the same seed."""
    images, labels = glyphs.draw(range(320))
    recipe = training.Recipe(28, num_images=320, num_test=0, epochs=2, flips=True)
    examples = {"image": images, "label": labels}
    model = training.train(recipe, examples, 10, seed=1)
    data = training.serialize(model, glyphs.CLASS_NAMES)
    (tmp_path / "net.npz").write_bytes(data)
    extractor = Extractor(tmp_path / "net.npz")
    layers = [layer for layer in model.layers if layer.name != "logits"]
    expected = keras.Sequential([keras.Input((28, 28, 1)), *layers])(images[:50] / 255.0).numpy()
    found = extractor.features(images[:50])
    np.testing.assert_allclose(found, expected, atol=0.01 * expected.max())
    assert expected.std() > 0
    again = training.train(recipe, examples, 10, seed=1)
    assert training.serialize(again, glyphs.CLASS_NAMES) == data
    other = training.train(recipe, examples, 10, seed=2)
    assert training.serialize(other, glyphs.CLASS_NAMES) != data


def test_training_writes_the_net_and_reports_on_it(tmp_path, monkeypatch, capsys):
    recipe = training.Recipe(28, num_images=64, num_test=200, epochs=4, flips=False)
    monkeypatch.setitem(training.RECIPES, "glyphs", recipe)
    out = tmp_path / "new" / "net.npz"
    assert training.main(["--num_images=640", f"--out={out}"]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["net.npz"]
    extractor = Extractor(out)
    lines = capsys.readouterr().out.splitlines()
    assert extractor.hash in lines[-1]
    figures = {line[:28].strip(): float(line[28:]) for line in lines[-7:-1]}
    images, labels = draw("glyphs", 200)
    features, probabilities = extractor.outputs(images)
    accuracy = np.mean(probabilities.argmax(1) == labels)
    assert figures["test accuracy"] == pytest.approx(accuracy)
    assert accuracy > 0.4
    trace = features.var(axis=0, ddof=1).sum()
    assert figures["trace of the covariance"] == pytest.approx(trace, abs=1e-3)
    floor = distances.frechet_distance(features[:100], features[100:])
    assert figures["floor, 100 against 100"] == pytest.approx(floor, abs=1e-3)
    assert figures["floor / trace"] == pytest.approx(floor / trace, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "least"), [("glyphs", 0.99), ("paintings", 0.5)])
def test_the_training_command(tmp_path, dataset, least):
    out = tmp_path / "net.npz"
    done = commands.run(
        "experiments.extractor",
        f"--dataset={dataset}",
        "--num_images=3200",
        "--epochs=2",
        f"--out={out}",
    )
    commands.assert_done(done)
    accuracy = next(line for line in done.stdout.splitlines() if "accuracy" in line)
    assert float(accuracy.split()[-1]) > least
    assert Extractor(out).hash in done.stdout


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--dataset=letters", "letters"),
        ("--epochs=0", "--epochs=0"),
        ("--num_images=63", "64"),
        ("--seed=-1", "--seed=-1"),
        ("--out=.", "--out"),
    ],
)
def test_the_training_command_refuses_wrong_flags(flag, words):
    with pytest.raises(UsageError, match=words):
        training.main([flag])
