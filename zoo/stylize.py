"""`python -m zoo.stylize --image=PHOTO`: repaints photos, folders of them and animations.

With a trained network, `--run_dir=DIR`, or without any by optimisation, `--method=gatys`.
"""

import contextlib
import dataclasses
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from zoo import flags
from zoo.errors import UsageError, check_positive
from zoo.models import Field, dataclass_fields
from zoo.progress import Progress
from zoo.rundir import Run
from zoo.sample import class_number

if TYPE_CHECKING:
    import numpy as np

    from zoo.gatys import Progress as GatysProgress
    from zoo.photos import Frames
    from zoo.restore import Restored

# Frames of an animation whose statistics all frames share.
_LOOKED_AT = 8
_ROWS = 256
_LOGGED_PICTURES = 20
# Strokes are learned from pictures of about a hundred pixels: on large photos they would vanish.
_USUAL_SIZE = 512
# Of `zoo.gatys`: for this setting stands the flag --size.
_SIZE_OF_GATYS = "max_size"


@dataclasses.dataclass(frozen=True)
class StylizeFlags:
    """What can be told about what is painted, whatever the method."""

    image: str = ""
    """Photo, animation or video, or a folder of those."""
    run_dir: str = ""
    """Directory of a training run of the model style or adain."""
    checkpoint: str = "best"
    """Which weights: of the best evaluation, of the last step saved, or of a step by its number."""
    style: str = ""
    """A style of the run by its name or number, by default the first. For adain and
    --method=gatys a picture file, or one of the styles of `paintings`."""
    mix: str = ""
    """Instead of one style a weight for each style of the run, between commas, in sum 1."""
    strength: float = 1.0
    """1 is all the style, 0 the photo as it is."""
    preserve_color: bool = False
    """Only light and dark are repainted, the photo's colours stay."""
    size: int | None = None
    """Longer side in pixels at which it is painted; then it is brought to the photo's own size,
    with the photo's fine detail on top. A smaller number gives larger strokes. Default: 512, or
    the photo's own size if that is smaller."""
    out: str = ""
    """File to write, or a folder for a folder; default: PHOTO-STYLE in the current directory,
    .png, or for animations the photo's own format."""
    method: Literal["network", "gatys"] = "network"
    """A trained network, in seconds; or Gatys et al.'s optimisation, in minutes, without a run."""
    log_dir: str = ""
    """With --method=gatys: where TensorBoard finds losses and pictures while it paints."""

    def __post_init__(self):
        flags.check_checkpoint(self.checkpoint)
        check_positive(size=self.size)
        if not self.image:
            raise UsageError("--image is missing: expected a photo, an animation or a folder")
        if not 0 <= self.strength <= 1:
            raise UsageError(f"--strength={self.strength}: expected a number from 0 to 1")
        if self.style and self.mix:
            raise UsageError("--style and --mix exclude each other: expected one of them")
        if self.method == "gatys":
            if not self.style:
                raise UsageError("--style is missing: --method=gatys needs a picture to learn from")
            for name in ("run_dir", "mix"):
                if getattr(self, name):
                    raise UsageError(f"--{name} has no meaning for --method=gatys: leave it out")
        else:
            if not self.run_dir:
                raise UsageError(
                    "--run_dir is missing: expected the directory of a training run, or "
                    "--method=gatys --style=PICTURE, which needs none"
                )
            if self.log_dir:
                raise UsageError("--log_dir belongs to --method=gatys: add that, or leave it out")


class Painter(NamedTuple):
    """What repaints pictures of any size, uint8 [H, W, 3]."""

    name: str
    """Of the style, for file names."""
    told: str
    """What there is to say about it."""
    smallest: int
    """Pixels that a picture must have in height and width."""
    paint: "Callable[[np.ndarray, Any], np.ndarray]"
    """A picture, and statistics in place of its own, or None -> uint8 [H, W, 3]."""
    statistics: "Callable[[Iterable[np.ndarray]], Any]" = lambda images: None
    """Those that the frames of an animation share."""
    fades: bool = True
    """Whether a strength below 1 is left to be done, by cross-fading with the photo."""
    sizes: bool = True
    """Whether --size is left to be done, by giving it a smaller or larger photo."""


def main(argv: list[str]) -> int:
    """Writes the pictures; returns the exit code."""
    fields = dataclass_fields(pathlib.Path(__file__), "StylizeFlags")
    settings = _gatys_fields()
    if flags.wants_help(argv):
        usage = "python -m zoo.stylize --run_dir=DIR --image=PHOTO [--flag=value ...]"
        print(flags.help_text(usage, {"Flags": fields, "Flags of --method=gatys": settings}))
        return 0
    values = flags.parse([*fields, *settings], argv)
    options = StylizeFlags(**{field.name: values[field.name] for field in fields})
    own = {field.name: values[field.name] for field in settings}
    model = ""
    if options.method == "network":
        for field in settings:
            if own[field.name] != field.default:
                raise UsageError(f"--{field.name} belongs to --method=gatys: add that")
        model = _model(options.run_dir)

    source = pathlib.Path(options.image)
    if source.is_dir():
        _check_folder(options, source)
        _start()
        _paint_folder(source, _painter(options, model, own), options)
    else:
        picture = _read(source, options)
        _check_file(options, source, picture)
        _start()
        painter = _painter(options, model, own)
        out = _path(options.out, source.stem, painter, _ending(source, picture))
        _repaint(picture, out, painter, options, source.name)
        print(f"{out} ({painter.told})")
    return 0


def _gatys_fields() -> list[Field]:
    """The settings of `zoo.gatys` that are flags of their own."""
    fields = dataclass_fields(pathlib.Path(__file__).with_name("gatys.py"), "Settings")
    return [field for field in fields if field.name != _SIZE_OF_GATYS]


def _model(run_dir: str) -> str:
    """The name of a run's model; UsageError if it does not repaint pictures."""
    name = flags.read_recorded(Run.open(run_dir).flags()).run.model
    if name not in ("style", "adain"):
        raise UsageError(
            f"{run_dir}: a {name} model repaints nothing: expected a run of style or adain; for "
            f"its own pictures: python -m zoo.sample --run_dir={run_dir}"
        )
    return name


def _read(path: pathlib.Path, options: StylizeFlags) -> "np.ndarray | Frames":
    """A picture, or an animation that is read frame by frame; UsageError if it cannot be."""
    from zoo import photos

    if not photos.is_animation(path):
        return photos.read(path)
    if options.method == "gatys":
        raise UsageError(
            f"{path} is an animation, of which --method=gatys would paint each frame in another "
            "way: expected a photo, or a trained network: --run_dir=DIR"
        )
    return photos.Frames(path)


def _ending(path: pathlib.Path, picture: "np.ndarray | Frames") -> str:
    """Of the file that is written by default."""
    from zoo import photos

    if not isinstance(picture, photos.Frames):
        return ".png"
    ending = path.suffix.lower()
    if ending in photos.WRITABLE_ANIMATIONS:
        return ending
    return ".mp4" if ending in photos.VIDEOS else ".webp"


def _check_file(
    options: StylizeFlags, source: pathlib.Path, picture: "np.ndarray | Frames"
) -> None:
    """UsageError for an --out that could not be written, before any work."""
    from zoo import photos

    out = pathlib.Path(options.out)
    if not options.out or out.is_dir():
        return
    moving = isinstance(picture, photos.Frames)
    endings = photos.WRITABLE_ANIMATIONS if moving else photos.WRITABLE
    if out.suffix.lower() not in endings:
        what = "an animation" if moving else "a photo"
        raise UsageError(
            f"--out={out}: expected, for {what}, a name ending in {' '.join(endings)}, or a folder"
        )
    if out.exists() and out.samefile(source):
        raise UsageError(f"--out={out} is the picture itself: choose another name")


def _check_folder(options: StylizeFlags, source: pathlib.Path) -> None:
    """The same for a folder of pictures, or one without any."""
    _pictures(source)
    out = pathlib.Path(options.out)
    if not options.out:
        return
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out={out} is a file: expected a folder for the pictures of {source}")
    if out.exists() and out.samefile(source):
        raise UsageError(f"--out={out} is the folder of the photos: choose another")


def _pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    from zoo import photos

    return photos.paths(folder, (*photos.PICTURES, *photos.VIDEOS))


def _path(out: str, stem: str, painter: Painter, ending: str) -> pathlib.Path:
    """Where a picture goes: out, or, if that is a folder or nothing, a name of its own there."""
    if out and not pathlib.Path(out).is_dir():
        return pathlib.Path(out)
    return pathlib.Path(out, f"{stem}-{painter.name}{ending}")


def _paint_folder(source: pathlib.Path, painter: Painter, options: StylizeFlags) -> None:
    paths = _pictures(source)
    folder = pathlib.Path(options.out or f"{source.resolve().name}-{painter.name}")
    stems = Counter(path.stem for path in paths)
    skipped = 0
    with contextlib.closing(Progress("Painting", len(paths), unit="picture")) as progress:
        for number, path in enumerate(paths, start=1):
            try:
                picture = _read(path, options)
            except UsageError as error:
                skipped += 1
                progress.say(f"skipped: {error}")
            else:
                # photo.jpg and photo.png must not become one.
                stem = path.stem if stems[path.stem] == 1 else path.name
                out = folder / f"{stem}-{painter.name}{_ending(path, picture)}"
                _repaint(picture, out, painter, options)
            progress.update(number)
    if skipped == len(paths):
        raise UsageError(f"{source}: none of its {_count(skipped, 'picture')} could be read")
    left_out = f", {skipped} skipped" if skipped else ""
    print(f"{folder}: {_count(len(paths) - skipped, 'picture')}{left_out} ({painter.told})")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _repaint(
    picture: "np.ndarray | Frames",
    out: pathlib.Path,
    painter: Painter,
    options: StylizeFlags,
    shown: str = "",
) -> None:
    """Writes one picture or animation; shown: the name beside the progress of its frames."""
    from zoo import photos

    if not isinstance(picture, photos.Frames):
        photos.write(out, _painted(picture, painter, options, None))
        return
    count = picture.count or sum(1 for _ in picture)
    wanted = {round(number * (count - 1) / (_LOOKED_AT - 1)) for number in range(_LOOKED_AT)}
    chosen = (frame for number, frame in enumerate(picture) if number in wanted)
    statistics = painter.statistics(_resized(frame, painter, options) for frame in chosen)
    with contextlib.ExitStack() as stack:
        progress = None
        if shown:
            progress = stack.enter_context(contextlib.closing(Progress(shown, count, unit="frame")))

        def frames() -> "Iterator[np.ndarray]":
            for number, frame in enumerate(picture, start=1):
                yield _painted(frame, painter, options, statistics)
                if progress:
                    progress.update(number)

        photos.write_frames(out, frames(), picture.durations)


def _resized(photo: "np.ndarray", painter: Painter, options: StylizeFlags) -> "np.ndarray":
    """The photo at the size at which it is painted."""
    from zoo import photos

    sides = photo.shape[:2]
    factor = 1.0
    if painter.sizes:
        factor = (options.size or min(_USUAL_SIZE, max(sides))) / max(sides)
    factor = max(factor, painter.smallest / min(sides))
    height, width = (max(painter.smallest, round(side * factor)) for side in sides)
    return photo if (height, width) == sides else photos.resize(photo, height, width)


def _painted(
    photo: "np.ndarray", painter: Painter, options: StylizeFlags, statistics: Any
) -> "np.ndarray":
    """uint8 [H, W, 3] -> the same."""
    import numpy as np

    small = _resized(photo, painter, options)
    painted = painter.paint(small, statistics)
    if painted.shape != photo.shape:
        painted = _enlarged(painted, small, photo)
    if options.preserve_color:
        painted = with_colors(painted, photo)
    if painter.fades and options.strength < 1:
        share = np.float32(options.strength)
        painted = _by_rows(lambda new, old: old + share * (new - old), painted, photo)
    return painted


def _enlarged(painted: "np.ndarray", small: "np.ndarray", photo: "np.ndarray") -> "np.ndarray":
    """painted, of small, brought to the photo's size, with the detail that small lacks."""
    from zoo import gatys, photos

    height, width = photo.shape[:2]
    if len(painted) > height:
        return photos.resize(painted, height, width)
    ours, shrunk, large = (gatys.to_tensor(image) for image in (painted, small, photo))
    return gatys.to_array(gatys.with_detail(ours, shrunk, large, gatys.Settings()))


def with_colors(painted: "np.ndarray", photo: "np.ndarray") -> "np.ndarray":
    """Luminance Y of the one, I and Q of the other (Gatys, Bethge et al. 2016, section 3.2).

    Both uint8 [H, W, 3]. Y counts alike in red, green and blue, so its difference is added.
    """
    import numpy as np

    luminance = np.array([0.299, 0.587, 0.114], np.float32)
    return _by_rows(lambda new, old: old + ((new - old) @ luminance)[..., None], painted, photo)


def _by_rows(function: Callable, *images: "np.ndarray") -> "np.ndarray":
    """A function of uint8 [H, W, 3] as float32, a few rows at a time, rounded and clipped."""
    import numpy as np

    result = np.empty_like(images[0])
    for first in range(0, len(result), _ROWS):
        rows = [image[first : first + _ROWS].astype(np.float32) for image in images]
        result[first : first + _ROWS] = np.clip(np.rint(function(*rows)), 0, 255)
    return result


def _start() -> None:
    from zoo import runtime

    runtime.import_tensorflow()


def _painter(options: StylizeFlags, model: str, own: Mapping[str, Any]) -> Painter:
    if options.method == "gatys":
        return _gatys(options, own)
    from zoo import restore

    restored = restore.restore(options.run_dir, options.checkpoint)
    return {"style": _style, "adain": _adain}[model](restored, options)


def _style(restored: "Restored", options: StylizeFlags) -> Painter:
    """A network of some styles."""
    import numpy as np

    from zoo import strips

    names, net = restored.class_names, restored.model.net
    weights = np.zeros(len(names), np.float32)
    if options.mix:
        weights[:] = _mix(options.mix, names)
        name = "mix"
        shares = (
            f"{share:g} {style}" for share, style in zip(weights, names, strict=True) if share
        )
        told = " + ".join(shares)
    else:
        number = class_number(options.style or "0", names, flag="style", kind="style")
        weights[number] = 1.0
        name = told = names[number]
        others = ", ".join(other for other in names if other != name)
        if others and not options.style:
            told += f"; other styles: {others}"
    return Painter(
        name,
        f"{told}; {restored.checkpoint}",
        smallest=strips.SMALLEST,
        paint=lambda image, statistics: _joined(strips.paint(net, image, weights, statistics)),
        statistics=lambda images: strips.statistics(net, images, weights),
    )


def _mix(text: str, names: Sequence[str]) -> list[float]:
    """The weights of --mix; UsageError for what is no mixture of these styles."""
    expected = f"expected {len(names)} numbers between commas, for {', '.join(names)}"
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--mix={text}: {expected}") from None
    if len(weights) != len(names):
        raise UsageError(f"--mix={text}: {expected}; these are {len(weights)}")
    if not all(weight >= 0 for weight in weights):
        raise UsageError(f"--mix={text}: expected no number below 0")
    if not abs(sum(weights) - 1) <= 1e-3:
        raise UsageError(f"--mix={text}: expected a sum of 1, this is {sum(weights):g}")
    return weights


def _adain(restored: "Restored", options: StylizeFlags) -> Painter:
    """A network for the style of any picture."""
    from zoo import photos, strips

    if options.mix:
        raise UsageError("--mix has no meaning for adain, which has no styles of its own: --style")
    if not options.style:
        raise UsageError("--style is missing: adain needs a picture whose style it takes")
    model = restored.model
    # As large as the style pictures that it learned from: so are its strokes then.
    size = model.config.style_size
    name, style = _style_picture(options.style, size)
    factor = max(size, strips.SMALLEST) / min(style.shape[:2])
    height, width = (round(side * factor) for side in style.shape[:2])
    moments = strips.encoded(model.encoder, [photos.resize(style, height, width)])

    def paint(image: "np.ndarray", own: Any) -> "np.ndarray":
        return _joined(
            strips.exchange(model.encoder, model.decoder, image, moments, options.strength, own)
        )

    return Painter(
        name,
        f"{name}; {restored.checkpoint}",
        smallest=strips.SMALLEST,
        paint=paint,
        statistics=lambda images: strips.encoded(model.encoder, images),
        fades=False,
    )


def _style_picture(text: str, size: int) -> "tuple[str, np.ndarray]":
    """Name and picture, uint8, of a file, or of a style of `paintings` in that size."""
    from zoo import photos
    from zoo.data import paintings, styles

    if text in paintings.CLASS_NAMES:
        return text, styles.load(text, size, flag="style").images[0]
    return pathlib.Path(text).stem, photos.read(text)


def _joined(strips: "Iterable[np.ndarray]") -> "np.ndarray":
    import numpy as np

    from zoo.generative import to_uint8

    return np.concatenate([to_uint8(strip) for strip in strips])


def _gatys(options: StylizeFlags, own: Mapping[str, Any]) -> Painter:
    from zoo import gatys

    size = options.size or _USUAL_SIZE
    settings = gatys.Settings(**own, max_size=max(size, gatys.SMALLEST))
    name, style = _style_picture(options.style, size)

    def paint(image: "np.ndarray", statistics: None) -> "np.ndarray":
        with _watching(options) as watch:
            return gatys.stylize(image, style, settings, watch)

    return Painter(
        name, f"{name}; by optimisation", smallest=gatys.SMALLEST, paint=paint, sizes=False
    )


@contextlib.contextmanager
def _watching(options: StylizeFlags) -> "Iterator[Callable[[GatysProgress], None]]":
    """Shows how far an optimisation is, and writes it for TensorBoard if that was asked for."""
    import tensorflow as tf

    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(
            contextlib.closing(Progress("Painting", 100, unit="percent"))
        )
        writer = None
        if options.log_dir:
            writer = tf.summary.create_file_writer(options.log_dir)
            stack.callback(writer.close)
        pictures = 0

        def watch(state: "GatysProgress") -> None:
            nonlocal pictures
            progress.update(int(100 * state.share), {"loss": state.losses["stylization"]})
            if writer is None:
                return
            with writer.as_default(step=state.step):
                for name, value in state.losses.items():
                    tf.summary.scalar(name, value)
                if int(_LOGGED_PICTURES * state.share) > pictures:
                    pictures = int(_LOGGED_PICTURES * state.share)
                    tf.summary.image("picture", state.image()[None])
            writer.flush()

        yield watch


if __name__ == "__main__":
    flags.run_command(main)
