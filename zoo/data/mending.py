"""What the doctor writes: a clean copy of a folder, and a sheet of examples by finding."""

import collections
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zoo import photos
from zoo.data import doctor
from zoo.errors import UsageError, one_line, reason

LOG = "doctor.tsv"

_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
_LONGEST_NAME = 255  # bytes, of every file system that matters here

_TILE, _GAP, _TEXT = 128, 8, 13  # pixels
_EXAMPLES = 7
_PAPER, _INK, _FAINT, _FRAME = (250, 250, 248), (20, 20, 20), (110, 110, 110), (200, 60, 40)


def check_outside(flag: str, path: Path, root: Path) -> None:
    """UsageError for a place within the folder, or within a folder that it links to."""
    place = Path(os.path.realpath(path.expanduser()))
    folders = [root, *(entry for entry in root.iterdir() if os.path.isdir(entry))]
    for folder in folders:
        real = Path(os.path.realpath(folder))
        if place == real or real in place.parents:
            raise UsageError(
                f"--{flag}={path} lies within {folder}: expected a place outside, as the original "
                "is never changed"
            )


def check_new(path: Path) -> None:
    """UsageError for a place where something is."""
    try:
        if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"--fix_into={path} is there already: expected a new or empty folder")
    except OSError as error:
        raise UsageError(f"--fix_into={path}: {reason(error)}") from error


def check_sheet(path: Path) -> None:
    """UsageError for an ending that no picture can be written under."""
    if path.suffix.lower() not in photos.WRITABLE:
        known = " ".join(photos.WRITABLE)
        raise UsageError(f"--sheet={path}: expected a name ending in {known}")


def fix_into(
    target: Path,
    diagnosis: doctor.Diagnosis,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Writes a clean copy of a folder; returns how many files were copied, rewritten and left out.

    Nothing but pictures that can be read, each once, in their class folders. One that has nothing
    to mend is copied byte for byte; another is rewritten upright in sRGB: from JPEG and the like as
    JPEG of quality 95, else as PNG. The log in the copy tells of every file. The copy is made under
    another name and renamed when it is whole.

    Raises UsageError if the target is there and not empty, or cannot be written to.
    """
    check_new(target)
    names = _names(diagnosis)
    lines = [
        f"# Copy of {one_line(diagnosis.root)}. A new name may mean another split.",
        "file\tcopy\twhat was done",
    ]
    counts = collections.Counter({"copied": 0, "rewritten": 0, "left out": 0})
    temporary = target.absolute().parent / f".{target.name[:100]}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        for done, file in enumerate(diagnosis.files):
            new, why = names[file.path]
            what = "left out"
            if new:
                (temporary / new).parent.mkdir(exist_ok=True)
                what = _copy(file, diagnosis.root / file.path, temporary / new)
            counts[what] += 1
            lines.append("\t".join((one_line(file.path), one_line(new or "-"), f"{what}{why}")))
            if on_progress is not None:
                on_progress(done + 1, len(diagnosis.files))
        (temporary / LOG).write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        raise UsageError(f"cannot write to {target}: {reason(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return dict(counts)


def _names(diagnosis: doctor.Diagnosis) -> dict[str, tuple[str, str]]:
    """Path -> its path in the copy, or "", and in words why."""
    again = {path: group[0] for group in diagnosis.duplicates for path in group[1:]}
    names: dict[str, tuple[str, str]] = {}
    kept = []
    for file in diagnosis.files:
        if file.path in again:
            names[file.path] = "", f": the same as {one_line(again[file.path])}"
        elif not file.is_readable:
            names[file.path] = "", f": {', '.join(file.findings) or 'not listed'}"
        else:
            kept.append(file)
    # Those that keep their names come first, so that no other takes them.
    kept.sort(key=lambda file: _ending(file) != Path(file.path).suffix)
    taken: set[str] = set()
    for file in kept:
        new, ending, number = file.path, _ending(file), 0
        folder, stem = os.path.split(os.path.splitext(file.path)[0])
        while new.lower() in taken or Path(new).suffix != ending:
            suffix = f"-{number}{ending}" if number else ending
            room = _LONGEST_NAME - len(suffix)
            short = os.fsdecode(os.fsencode(stem)[:room])
            new, number = os.path.join(folder, short + suffix), number + 1
        taken.add(new.lower())
        mended = [name for name in file.findings if doctor.FINDINGS[name].fix != "copied"]
        names[file.path] = new, f": {', '.join(mended)}" if mended else ""
    return names


def _is_rewritten(file: doctor.File) -> bool:
    assert file.nature
    if "wrong_ending" in file.findings and file.nature.format not in photos.ENDINGS:
        return True
    return any(doctor.FINDINGS[name].fix == "rewritten" for name in file.findings)


def _ending(file: doctor.File) -> str:
    """What the copy's name ends in."""
    assert file.nature
    if _is_rewritten(file):
        longest = max(file.nature.height, file.nature.width)
        is_jpeg = file.nature.format in _LOSSY and longest <= photos.WRITABLE[".jpg"]
        return ".jpg" if is_jpeg else ".png"
    if "wrong_ending" in file.findings:
        return photos.ENDINGS[file.nature.format][0]
    return Path(file.path).suffix


def _copy(file: doctor.File, path: Path, target: Path) -> str:
    """Returns what was done."""
    try:
        if _is_rewritten(file):
            target.write_bytes(photos.encode(target, photos.read(path)))
            return "rewritten"
        shutil.copyfile(path, target)
        return "copied"
    except photos.PictureError as error:
        raise UsageError(f"{error}: it has changed meanwhile, look again") from error


def write_sheet(path: Path, diagnosis: doctor.Diagnosis) -> None:
    """A row of examples for each finding on pictures, its count and what training does."""
    rows = [
        _row(diagnosis, name, len(found))
        for name, found in diagnosis.by_finding().items()
        if any(file.nature or file.why for file in found) and name != "deeper_folder"
    ]
    title = _canvas(2 * _TEXT + _GAP)
    words = f"{one_line(diagnosis.name)}: {len(diagnosis.files):,} files"
    _write(title, (_GAP, _GAP), words, _INK, title.width - 2 * _GAP)
    parts = [title, *rows] if rows else [title]
    sheet = np.concatenate([np.asarray(part) for part in parts])
    photos.write(path, sheet)


def _row(diagnosis: doctor.Diagnosis, name: str, count: int) -> Image.Image:
    finding = doctor.FINDINGS[name]
    row = _canvas(_TILE + 3 * _TEXT + 4 * _GAP)
    heading = f"{count:,} x {finding.what}: {finding.training}"
    _write(row, (_GAP, _GAP), heading, _INK, row.width - 2 * _GAP)
    top, number = 2 * _GAP + _TEXT + 2, 0
    files = {file.path: file for file in diagnosis.files}
    for group in doctor.groups_of(diagnosis, name):
        shown = group[:2]
        if number + len(shown) > _EXAMPLES:
            break
        left = _GAP + number * (_TILE + _GAP)
        for path in shown:
            tile = _tile(diagnosis.root / path, files[path])
            x = _GAP + number * (_TILE + _GAP)
            row.paste(tile, (x, top))
            _write(row, (x, top + _TILE + 2), one_line(path), _FAINT, _TILE)
            number += 1
        if len(shown) > 1:  # Framed: these are the same.
            right = _GAP + number * (_TILE + _GAP) - _GAP
            box = (left - 3, top - 3, right + 2, top + _TILE + 2)
            ImageDraw.Draw(row).rectangle(box, outline=_FRAME, width=2)
    return row


def _tile(path: Path, file: doctor.File) -> Image.Image:
    """The whole picture, or why there is none."""
    tile = Image.new("RGB", (_TILE, _TILE), (225, 225, 222))
    if file.nature:
        picture = Image.fromarray(photos.read(path))
        picture.thumbnail((_TILE, _TILE), reducing_gap=2.0)
        larger = max(1, _TILE // max(picture.size))
        picture = picture.resize([side * larger for side in picture.size], Image.Resampling.NEAREST)
        tile.paste(picture, ((_TILE - picture.width) // 2, (_TILE - picture.height) // 2))
        return tile
    words = file.why or ", ".join(doctor.FINDINGS[name].what for name in file.findings)
    line, y = "", 4
    for word in [*words.split(), ""]:
        if line and (not word or _font().getlength(f"{line} {word}") > _TILE - 8):
            _write(tile, (4, y), line, _INK, _TILE - 8)
            line, y = word, y + _TEXT + 2
        else:
            line = f"{line} {word}".strip()
    return tile


def _canvas(height: int) -> Image.Image:
    return Image.new("RGB", (_GAP + _EXAMPLES * (_TILE + _GAP), height), _PAPER)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT)


def _write(
    image: Image.Image, place: tuple[int, int], text: str, ink: tuple[int, int, int], width: int
) -> None:
    """Text on one line, its middle left out where it is too long."""
    font = _font()
    whole, kept = text, len(text)
    while font.getlength(text) > width and kept > 4:
        kept -= 1
        text = f"{whole[: kept // 2]}...{whole[len(whole) - (kept + 1) // 2 :]}"
    ImageDraw.Draw(image).text(place, text, ink, font)
