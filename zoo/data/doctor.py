"""Doctor: what is wrong with a folder of pictures, and what training does about it.

`diagnose` reads every file; `listing_warning` and `check` are what training itself can tell, from
the listing and from the pictures that it has read anyway.
"""

import collections
import dataclasses
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from zoo import photos
from zoo.data import duplicates, folder, parallel
from zoo.data.source import DEFAULT_SIZE, FOLDER, Source
from zoo.errors import UsageError, one_line

# As many as the nearest neighbours that sample quality looks at, and the picture itself.
LEAST_HELD_OUT = 6

_FILES_PER_TASK = 16
# Longer side over shorter: beyond it, the middle square is less than half of the picture.
_LONG = 2.0
# Largest class over smallest.
_IMBALANCED = 10
# Levels that a picture of one colour may vary by.
_ONE_COLOR = 4


class Finding(NamedTuple):
    """A kind of finding: what it is, and what training and `--fix_into` do about it."""

    group: str
    what: str
    training: str
    fix: str = "copied"


_OUT = "Left out of training"
_IGNORED = "Not looked at"
_MENDED = "Read, and made fit"
_LOOK = "To look at"
_NAMES = "Names"
_LEFT, _REWRITTEN, _COPIED = "left out", "rewritten", "copied"

FINDINGS = {
    "unreadable": Finding(_OUT, "may not be read, or the disk fails", "left out", _LEFT),
    "empty": Finding(_OUT, "empty file", "left out", _LEFT),
    "no_picture": Finding(_OUT, "no picture, whatever its name says", "left out", _LEFT),
    "truncated": Finding(_OUT, "the end of the file is missing", "left out", _LEFT),
    "damaged": Finding(_OUT, "damaged picture", "left out", _LEFT),
    "too_large": Finding(_OUT, "more than 100 million pixels", "left out", _LEFT),
    "dangling_link": Finding(_IGNORED, "link to nowhere", "ignored", _LEFT),
    "looping_link": Finding(_IGNORED, "link that leads back to itself", "ignored", _LEFT),
    "no_file": Finding(_IGNORED, "pipe, socket or device", "ignored", _LEFT),
    "hidden": Finding(_IGNORED, "hidden: its name begins with a dot", "ignored", _LEFT),
    "other_file": Finding(_IGNORED, "not a picture by its ending", "ignored", _LEFT),
    "picture_by_other_name": Finding(
        _IGNORED, "a picture under an ending that is not looked at", "ignored: rename it", _LEFT
    ),
    "deeper_folder": Finding(
        _IGNORED, "folder inside a class, or folders inside those", "ignored: move it up", _LEFT
    ),
    "folder_named_as_picture": Finding(_LOOK, "folder named as a picture", "is a class, if any"),
    "wrong_ending": Finding(
        _MENDED, "another format than its ending says", "read as what it is", "named rightly"
    ),
    "several_frames": Finding(
        _MENDED, "animation, or several pages", "the first frame is taken", _REWRITTEN
    ),
    "grey": Finding(_MENDED, "grey", "read as three equal channels", _REWRITTEN),
    "palette": Finding(_MENDED, "palette", "read as RGB", _REWRITTEN),
    "transparent": Finding(_MENDED, "transparency", "laid on white", _REWRITTEN),
    "cmyk": Finding(_MENDED, "CMYK, as for printing", "converted to sRGB", _REWRITTEN),
    "sixteen_bits": Finding(_MENDED, "more than 8 bits a channel", "scaled to 8", _REWRITTEN),
    "floats": Finding(
        _MENDED, "floats or 32-bit integers", "0 to 1 as they are, else stretched", _REWRITTEN
    ),
    "other_mode": Finding(_MENDED, "LAB, YCbCr and the like", "converted to sRGB", _REWRITTEN),
    "profile": Finding(_MENDED, "colour profile, not sRGB", "converted to sRGB", _REWRITTEN),
    "broken_profile": Finding(
        _MENDED, "colour profile that is broken or for other channels", "ignored", _REWRITTEN
    ),
    "turned": Finding(_MENDED, "turned or mirrored by its EXIF", "set upright", _REWRITTEN),
    "broken_exif": Finding(
        _MENDED, "EXIF that cannot be read or makes no sense", "ignored", _REWRITTEN
    ),
    "small": Finding(_LOOK, "smaller than the training size", "enlarged: it will be soft"),
    "long": Finding(_LOOK, "over twice as long as wide", "the middle square: most is cut off"),
    "one_color": Finding(_LOOK, "one colour all over", "trained on as it is"),
    "duplicate": Finding(
        _LOOK, "same bytes as another file", "trained on twice", "one of them is copied"
    ),
    "near_duplicate": Finding(
        _LOOK, "nearly the same picture as another", "trained on as two pictures"
    ),
    "leak": Finding(
        _LOOK,
        "the same picture, or nearly, in the training and the test split",
        "measures on the test split look better than they are",
    ),
    "two_classes": Finding(
        _LOOK, "the same picture, or nearly, under two classes", "trained on under both"
    ),
    "name_not_utf8": Finding(_NAMES, "name that is not UTF-8", "read like any other"),
    "name_control": Finding(_NAMES, "line break or the like in the name", "read like any other"),
    "name_not_ascii": Finding(_NAMES, "name beyond ASCII", "read like any other"),
    "name_space": Finding(_NAMES, "space in the name", "read like any other"),
}  # fmt: skip
UNREADABLE = frozenset(name for name, finding in FINDINGS.items() if finding.group == _OUT)


@dataclasses.dataclass
class File:
    """One entry of the folder.

    Attributes:
      path: within the folder, with slashes.
      findings: names of FINDINGS.
      why: in words, for what cannot be read.
      class_name, split: of a picture that training lists, else None.
      nature: what it holds, if it can be read.
      sha256: of its bytes.
    """

    path: str
    findings: list[str] = dataclasses.field(default_factory=list)
    why: str = ""
    class_name: str | None = None
    split: str | None = None
    nature: photos.Nature | None = None
    sha256: str = ""

    @property
    def is_readable(self) -> bool:
        """Whether training gets a picture out of it."""
        return self.class_name is not None and not UNREADABLE & set(self.findings)


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All that was found in a folder.

    Attributes:
      name, root, image_size: of the data set.
      files: every entry, pictures first, each part sorted by path.
      duplicates, near_duplicates: groups of paths; of exact duplicates, only the first is in the
        latter.
      remarks: sentences on the whole, such as classes of very different sizes.
      stops: why training would refuse it; empty if it would not.
    """

    name: str
    root: Path
    image_size: int
    files: list[File]
    duplicates: list[list[str]]
    near_duplicates: list[list[str]]
    remarks: list[str]
    stops: list[str]

    def by_finding(self) -> dict[str, list[File]]:
        """The files of each finding that there is, in the order of FINDINGS."""
        return {
            name: found
            for name in FINDINGS
            if (found := [file for file in self.files if name in file.findings])
        }

    def classes(self) -> dict[str, dict[str, int]]:
        """Class -> split -> pictures that can be read."""
        counts: dict[str, dict[str, int]] = {}
        for file in self.files:
            if file.class_name is not None:
                count = counts.setdefault(file.class_name, {"train": 0, "test": 0})
                count[str(file.split)] += file.is_readable
        return counts


def diagnose(
    name: str, image_size: int | None = None, on_progress: Callable[[int, int], None] | None = None
) -> Diagnosis:
    """Reads every file of "folder:PATH", by all processors.

    on_progress(done, all) is called now and then. UsageError if there is no such folder, and for a
    size out of range.
    """
    root = folder.find(name, image_size)
    size = image_size or DEFAULT_SIZE
    files = scan(root)
    stops = []
    try:
        data = folder.load(name, image_size)
    except UsageError as error:
        stops.append(one_line(error))
    else:
        by_path = {file.path: file for file in files}
        for split, listed in data.files.items():
            for path, label in listed:
                file = by_path.setdefault(path, File(path))
                file.split, file.class_name = split, data.class_names[label]
        # A folder may have changed in between.
        files = sorted(by_path.values(), key=lambda file: (file.class_name is None, file.path))
    looked_at = [file for file in files if not set(file.findings) & _NOT_TO_OPEN]
    hashes, thumbnails = _examine(looked_at, root, size, on_progress)
    exact, near = _find_duplicates(files, looked_at, hashes, thumbnails)
    diagnosis = Diagnosis(name, root, size, files, exact, near, [], stops)
    if not stops:
        counts = diagnosis.classes()
        test = sum(count["test"] for count in counts.values())
        stops += _held_out_stop(name, test)
        if not any(count["train"] for count in counts.values()):
            stops.append(f"{name}: no picture of the train split can be read")
        diagnosis.remarks.extend(_imbalance(counts))
    for file in files:
        file.findings += _name_findings(file.path)
        file.findings.sort(key=list(FINDINGS).index)
    return diagnosis


def scan(root: Path) -> list[File]:
    """Every entry that `folder` comes by, with what can be told without opening it.

    Those of the folder and of the folders in it; of deeper ones, only their names.
    """
    files = []
    for entry in _entries(root):
        file = File(entry.name)
        is_class = os.path.isdir(entry) and not entry.name.startswith(".")
        if not is_class:
            file.findings = _listing_findings(entry)
            files.append(file)
            continue
        if Path(entry).suffix.lower() in photos.PICTURES:
            files.append(File(entry.name, ["folder_named_as_picture"]))
        for inner in _entries(Path(entry)):
            path = f"{entry.name}/{inner.name}"
            if os.path.isdir(inner) and not inner.name.startswith("."):
                files.append(File(path, ["deeper_folder"], _pictures_below(Path(inner))))
            else:
                files.append(File(path, _listing_findings(inner)))
    return files


def listing_warning(data: Source) -> str | None:
    """One line on what training passes over, as the listing tells; None if that is nothing.

    Hidden files and those of other endings are no news.
    """
    if not isinstance(data, folder.FolderSource) or not _is_folder(data):
        return None
    found = collections.Counter(
        name
        for file in scan(data.root)
        for name in file.findings
        if name in ("empty", "dangling_link", "looping_link", "no_file", "deeper_folder")
    )
    if not found:
        return None
    parts = [f"{count} x {FINDINGS[name].what}" for name, count in sorted(found.items())]
    return f"{one_line(data.name)}: passed over: {', '.join(parts)}; {folder.advice(data.name)}"


def check(data: Source, examples: dict[str, dict[str, np.ndarray]]) -> str | None:
    """What training learns from the pictures it has read: a warning in one line, or None.

    examples: split -> what `data.arrays` gave. UsageError if too few can be read to test on.
    """
    if stop := _held_out_stop(data.name, len(examples["test"]["image"])):
        raise UsageError(f"{stop[0]}; {folder.advice(data.name)}" if _is_folder(data) else stop[0])
    if not _is_folder(data):
        return None
    both = [examples[split] for split in ("train", "test")]
    count, total = len(both[0]["image"]), sum(len(split["image"]) for split in both)
    labels = np.concatenate([split["label"] for split in both])
    prints = [duplicates.fingerprints(split["image"]) for split in both]
    leaks = twice = 0
    for group in duplicates.near(*map(np.concatenate, zip(*prints, strict=True))):
        held_out = sum(index >= count for index in group)
        leaks += held_out if held_out < len(group) else 0
        twice += len(group) if len(set(labels[group].tolist())) > 1 else 0
    told = []
    if leaks:
        told.append(f"{leaks} of {total - count} test pictures are in the train split too")
    if twice:
        told.append(f"{twice} pictures lie under two classes")
    if not told:
        return None
    return f"{one_line(data.name)}: {', '.join(told)}, or nearly; {folder.advice(data.name)}"


def _is_folder(data: Source) -> bool:
    return data.name.startswith(FOLDER)


# Looking at files.

_NOT_TO_OPEN = {
    "dangling_link",
    "looping_link",
    "no_file",
    "hidden",
    "deeper_folder",
    "folder_named_as_picture",
}


def _entries(root: Path) -> list[os.DirEntry]:
    """By name; none where the folder may not be read, which `folder.load` tells."""
    try:
        with os.scandir(root) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _listing_findings(entry: os.DirEntry) -> list[str]:
    if entry.name.startswith("."):
        return ["hidden"]
    try:
        size = os.stat(entry).st_size
    except OSError as error:
        if not entry.is_symlink():
            return ["unreadable"]
        return ["looping_link" if error.errno == errno.ELOOP else "dangling_link"]
    if not os.path.isfile(entry):
        return ["no_file"]
    if Path(entry).suffix.lower() not in photos.PICTURES:
        return ["other_file"]
    return [] if size else ["empty"]


def _pictures_below(root: Path) -> str:
    count = sum(
        Path(name).suffix.lower() in photos.PICTURES
        for _, _, names in os.walk(root)
        for name in names
    )
    return f"{count} pictures in it"


def _examine(
    files: Sequence[File],
    root: Path,
    size: int,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fills in what the files hold; returns the fingerprints of all, zeros where there is none."""
    tasks = [files[at : at + _FILES_PER_TASK] for at in range(0, len(files), _FILES_PER_TASK)]
    thumbnails, hashes = [np.zeros((0, 16, 16, 3), np.uint8)], list[int]()
    for pictures, examined in parallel.draw_in_parallel(
        __name__, tasks, threads=True, image_size=size, root=root
    ):
        thumbnails.append(pictures)
        for file, (seen, bits) in zip(files[len(hashes) :], examined, strict=False):
            file.findings, file.why = seen.findings, seen.why
            file.nature, file.sha256 = seen.nature, seen.sha256
            hashes.append(bits)
        if on_progress is not None:
            on_progress(len(hashes), len(files))
    return np.array(hashes, np.uint64), np.concatenate(thumbnails)


def draw(files: Sequence[File], *, image_size: int, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """For `parallel`: thumbnails uint8 [N, 16, 16, 3], and (File, hash) objects [N]."""
    thumbnails = np.zeros((len(files), 16, 16, 3), np.uint8)
    examined = np.empty(len(files), object)
    for row, before in enumerate(files):
        file = dataclasses.replace(before, findings=list(before.findings))
        examined[row] = file, 0
        listed = "other_file" not in file.findings
        path = root / file.path
        try:
            image, file.nature = photos.examine(path)
            with open(path, "rb") as opened:
                file.sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        except (photos.PictureError, OSError) as error:
            if listed:
                kind = getattr(error, "kind", "unreadable")
                file.findings, file.why = [kind], _why(error, path)
            continue
        except MemoryError:
            file.findings, file.why = ["too_large"], "more than fits into memory"
            continue
        if not listed:
            file.findings = ["picture_by_other_name"]
            continue
        file.findings += file.nature.traits
        height, width = image.shape[:2]
        if min(height, width) < image_size:
            file.findings.append("small")
        if max(height, width) > _LONG * min(height, width):
            file.findings.append("long")
        extremes = Image.fromarray(image).getextrema()
        if all(high - low <= _ONE_COLOR for low, high in extremes):  # type: ignore[misc]
            file.findings.append("one_color")
        bits, thumbnails[row] = duplicates.fingerprint(image)
        examined[row] = file, int(bits)
    return thumbnails, examined


def _why(error: Exception, path: Path) -> str:
    """What is wrong with a file, in words, without its name and what was expected instead."""
    told = str(error).replace(f"{path}: ", "").replace(f"{path} ", "").partition("; expected")[0]
    return one_line(told.removesuffix(": expected a picture or video"))


def _find_duplicates(
    files: Sequence[File], looked_at: Sequence[File], hashes: np.ndarray, thumbnails: np.ndarray
) -> tuple[list[list[str]], list[list[str]]]:
    """Groups of exact and near duplicates; adds the findings that follow to the files."""
    rows: dict[str, list[int]] = {}
    for row, file in enumerate(looked_at):
        if file.nature and "picture_by_other_name" not in file.findings:
            rows.setdefault(file.sha256, []).append(row)
    firsts = [same[0] for same in rows.values()]
    exact = [same for same in rows.values() if len(same) > 1]
    near = [
        [firsts[index] for index in group]
        for group in duplicates.near(hashes[firsts], thumbnails[firsts])
    ]
    for kind, groups in (("duplicate", exact), ("near_duplicate", near)):
        for group in groups:
            # Of what is near, also the exact copies count where splits and classes are compared.
            everyone = [looked_at[row] for first in group for row in rows[looked_at[first].sha256]]
            found = [kind] if kind == "duplicate" else []
            if {file.split for file in everyone} >= {"train", "test"}:
                found.append("leak")
            if len({file.class_name for file in everyone}) > 1:
                found.append("two_classes")
            for file in everyone:
                file.findings += [name for name in found if name not in file.findings]
            if kind == "near_duplicate":
                for row in group:
                    looked_at[row].findings.append(kind)
    paths = [[[looked_at[row].path for row in group] for group in kind] for kind in (exact, near)]
    return paths[0], paths[1]


def _name_findings(path: str) -> Iterable[str]:
    if re.search("[\udc80-\udcff]", path):
        yield "name_not_utf8"
    elif not path.isascii():
        yield "name_not_ascii"
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", path):
        yield "name_control"
    if " " in path:
        yield "name_space"


# What holds for the whole.


def _held_out_stop(name: str, count: int) -> list[str]:
    if count >= LEAST_HELD_OUT:
        return []
    return [
        f"{one_line(name)} has {count} pictures to test on: expected at least {LEAST_HELD_OUT}; "
        "about one picture in ten is kept for that, so add more"
    ]


def check_listing(data: Source) -> None:
    """UsageError for too few held-out images."""
    for stop in _held_out_stop(data.name, data.num_examples["test"]):
        raise UsageError(stop)


def _imbalance(counts: dict[str, dict[str, int]]) -> Iterable[str]:
    totals = {name: sum(count.values()) for name, count in counts.items()}
    if len(totals) < 2:
        return
    most, least = max(totals, key=totals.__getitem__), min(totals, key=totals.__getitem__)
    if totals[most] > _IMBALANCED * totals[least]:
        yield (
            f"classes of very different sizes: {one_line(most)} has {totals[most]:,} pictures, "
            f"{one_line(least)} {totals[least]:,}; training draws each picture equally often"
        )
    for split in ("train", "test"):
        if missing := [one_line(name) for name, count in counts.items() if not count[split]]:
            yield f"no picture of the {split} split can be read of: {', '.join(missing)}"


# What is told.


def report(diagnosis: Diagnosis) -> dict[str, Any]:
    """All of it, for JSON: names that are not UTF-8 keep their bytes as lone surrogates."""
    findings = {
        name: {
            **FINDINGS[name]._asdict(),
            "count": len(files),
            "files": [file.path for file in files],
        }
        for name, files in diagnosis.by_finding().items()
    }
    return {
        "dataset": diagnosis.name,
        "root": os.fspath(diagnosis.root),
        "image_size": diagnosis.image_size,
        "stops": diagnosis.stops,
        "remarks": diagnosis.remarks,
        "classes": diagnosis.classes(),
        "findings": findings,
        "duplicates": diagnosis.duplicates,
        "near_duplicates": diagnosis.near_duplicates,
        "files": [dataclasses.asdict(file) for file in diagnosis.files],
    }


def summary(diagnosis: Diagnosis, examples: int = 3) -> str:
    """The same for a reader, with a few paths of each finding."""
    classes, found = diagnosis.classes(), diagnosis.by_finding()
    readable = sum(sum(count.values()) for count in classes.values())
    test = sum(count["test"] for count in classes.values())
    sizes = [f"{one_line(name)} {sum(count.values()):,}" for name, count in classes.items()]
    if len(sizes) > 12:
        sizes[10:] = [f"and {len(sizes) - 10} more"]
    lines = [
        f"{one_line(diagnosis.name)}: {readable:,} pictures that can be read, {test:,} of them to "
        f"test on; seen at {diagnosis.image_size} pixels",
        f"Classes: {', '.join(sizes)}" if sizes else "No classes",
    ]
    for group in (_OUT, _MENDED, _LOOK, _NAMES, _IGNORED):
        names = [name for name in found if FINDINGS[name].group == group]
        if not names:
            continue
        lines += ["", group]
        for name in names:
            finding, files = FINDINGS[name], found[name]
            lines.append(f"{len(files):7,}  {finding.what} -> {finding.training}")
            for path in _shown(diagnosis, name)[:examples]:
                lines.append(f"           {path}")
    if diagnosis.remarks:
        lines += ["", *(f"Note: {remark}" for remark in diagnosis.remarks)]
    lines.append("")
    lines += [f"Training stops: {stop}" for stop in diagnosis.stops]
    if not diagnosis.stops:
        lines.append("Nothing here stops training.")
    return "\n".join(lines)


def groups_of(diagnosis: Diagnosis, finding: str) -> list[list[str]]:
    """The groups of paths that a finding on duplicates is about; of another, each path alone."""
    files = {file.path: file for file in diagnosis.files}
    kinds = {
        "duplicate": diagnosis.duplicates,
        "near_duplicate": diagnosis.near_duplicates,
        "leak": diagnosis.duplicates + diagnosis.near_duplicates,
        "two_classes": diagnosis.duplicates + diagnosis.near_duplicates,
    }
    if finding in kinds:
        marked = [
            [path for path in group if finding in files[path].findings] for group in kinds[finding]
        ]
        return [group for group in marked if len(group) > 1]
    return [[file.path] for file in diagnosis.files if finding in file.findings]


def _shown(diagnosis: Diagnosis, finding: str) -> list[str]:
    """A line for each group of a finding."""
    files = {file.path: file for file in diagnosis.files}
    lines = []
    for group in groups_of(diagnosis, finding):
        line = " = ".join(one_line(path) for path in group[:4])
        if len(group) > 4:
            line += f" and {len(group) - 4} more"
        elif len(group) == 1 and files[group[0]].why:
            line += f" ({files[group[0]].why})"
        lines.append(line)
    return lines
