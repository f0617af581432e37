"""Lists of pictures with their classes: PaddleClas's ``path label`` lines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from converters.errors import AnnotationError, DatasetError
from converters.imagefolder import whole_picture
from converters.records import ConversionLog, ImageRecord, read_each
from converters.splits import take_shard

_NUMBERED = re.compile(r"(\d+)\s+(\S.*)")


@dataclass(frozen=True)
class _Line:
    """A line of a list: the picture as it is written there, and its label."""

    file: Path
    number: int
    name: str
    label: str


def read_imagelist(
    root: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    label_map: Path | None = None,
    delimiter: str = "",
    shard: tuple[int, int] | None = None,
    log: ConversionLog | None = None,
) -> Iterator[ImageRecord]:
    """Yield one record per picture, in the order of their names.

    A line is a path, a delimiter, and a label: a number or a name. Blanks within the path are part of it.

    Args:
        root: the folder that the paths are relative to, or a list file in it.
        split: a list file: its path, its name in ``root``, or what stands before ``_list.txt`` or ``.txt`` there;
            ``None`` takes all ``*_list.txt`` of the folder, or all ``*.txt``.
        images: the folder that the paths are relative to, if it is not that of the lists.
        label_map: names of the numbers: lines of ``number name``, or a name per line, the first of number 0.
        delimiter: what stands between path and label; empty: a tab where there is one, else the last blank.
        shard: ``(i, n)``: only the i-th of n slices of the pictures, counted from 0.
        log: what was passed over; with ``skip_bad`` set, lines and pictures that cannot be read too.

    Raises:
        AnnotationError: a line or a picture cannot be read, unless ``log.skip_bad``.
        DatasetError: no such folder or list, or a label map that is none.
    """
    log = log if log is not None else ConversionLog()
    names = _label_names(_beside(root, label_map))
    base = imagelist_images(root, images)
    chosen: dict[str, tuple[_Line, str]] = {}
    for path in _lists(root, split, _beside(root, label_map)):
        for line in _lines(path, delimiter, log):
            try:
                name, label = _inside(line, base), _label(line, names)
                if name in chosen and chosen[name][1] != label:
                    raise _bad(line, f"{name} is {label!r} here and {chosen[name][1]!r} before", "Decide which it is")
            except AnnotationError as error:
                log.bad(error)
                continue
            if name in chosen:
                log.note("a picture that is listed twice was taken once", f"{line.file}:{line.number}")
            chosen.setdefault(name, (line, label))
    yield from read_each(take_shard(sorted(chosen), shard), lambda name: _picture(base, name, *chosen[name]), log)


def _picture(base: Path, name: str, line: _Line, label: str) -> ImageRecord:
    try:
        return whole_picture(base, name, label, f"{line.file}:{line.number}")
    except AnnotationError as error:
        raise _bad(line, f"{error.file}: {error.problem}", error.remedy) from error


def imagelist_images(root: Path, images: Path | None) -> Path:
    """What the paths of a list are relative to."""
    return images or (root.parent if root.is_file() else root)


def imagelist_categories(root: Path, label_map: Path | None = None, delimiter: str = "") -> list[str]:
    """The names of the label map in the order of their numbers; without one, labels that are numbers in theirs."""
    names = _label_names(_beside(root, label_map))
    if names:
        return [names[number] for number in sorted(names)]
    skipping = ConversionLog(skip_bad=True)
    labels = {
        line.label for path in _lists(root, None, None, strict=False) for line in _lines(path, delimiter, skipping)
    }
    return sorted(labels, key=int) if all(label.isdecimal() for label in labels) else []


def _bad(line: _Line, problem: str, remedy: str) -> AnnotationError:
    return AnnotationError(line.file, problem, remedy, line.number)


def _beside(root: Path, path: Path | None) -> Path | None:
    """A file that was named relative to the dataset, or as it is."""
    folder = root.parent if root.is_file() else root
    return folder / path if path is not None and (folder / path).is_file() else path


def _lists(root: Path, split: str | None, label_map: Path | None, *, strict: bool = True) -> list[Path]:
    """The list files to read."""
    if split is not None:
        candidates = (root / split, root / f"{split}_list.txt", root / f"{split}.txt", Path(split))
        found = [path for path in candidates if path.is_file()][:1]
    elif root.is_file():
        found = [root]
    else:
        plain = [path for path in sorted(root.glob("*.txt")) if path != label_map]
        found = [path for path in plain if path.name.endswith("_list.txt")] or plain
    if not found and strict:
        what = f"list for split {split!r}: neither {split} nor {split}_list.txt" if split else "list, no *.txt"
        raise DatasetError(f"{root} has no {what}")
    return found


def _text(path: Path) -> str:
    """A text file in UTF-8, or in what Chinese Windows writes.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot read the list: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("gb18030", "replace")


def _lines(path: Path, delimiter: str, log: ConversionLog) -> Iterator[_Line]:
    """The lines of a list; blank ones are passed over, what is no line goes to the log."""
    for number, text in enumerate(_text(path).split("\n"), 1):
        line = text.strip(" \r") if delimiter == "\t" else text.strip()
        if not line:
            continue
        parts = line.rsplit(delimiter or ("\t" if "\t" in line else None), 1)
        name, label = (part.strip() for part in parts) if len(parts) == 2 else ("", "")
        if name and label:
            yield _Line(path, number, name, label)
        else:
            log.bad(AnnotationError(path, f"{line[:80]!r} is not a path and a label", "Check the delimiter", number))


def _inside(line: _Line, base: Path) -> str:
    """The path below the image folder, with forward slashes.

    Raises:
        AnnotationError: it leads elsewhere.
    """
    name = line.name.replace("\\", "/")
    if name.startswith("/"):
        name = Path(os.path.relpath(name, base.absolute())).as_posix()
    path = PurePosixPath(name)
    if ".." in path.parts or "\0" in name or PureWindowsPath(line.name).drive:
        raise _bad(line, f"{line.name[:80]!r} leads out of {base}", "Paths are relative to the folder of the images")
    return path.as_posix()


def _label(line: _Line, names: dict[int, str]) -> str:
    """The class of a line.

    Raises:
        AnnotationError: its label is not in the map.
    """
    if not names or line.label in names.values():
        return line.label
    if line.label.isdecimal() and int(line.label) in names:
        return names[int(line.label)]
    raise _bad(line, f"the label {line.label[:40]!r} is not in the label map", f"It has {len(names)} classes")


def _label_names(path: Path | None) -> dict[int, str]:
    """The names by number; empty without a file.

    Raises:
        DatasetError: the file cannot be read, or gives a number or a name twice.
    """
    if path is None:
        return {}
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    numbered = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    pairs = [(int(m[1]), m[2]) for m in numbered] if len(numbered) == len(lines) else list(enumerate(lines))
    names = dict(pairs)
    if not names or len(names) < len(lines) or len(set(names.values())) < len(lines):
        raise DatasetError(f"{path}: not a label map: a number and a name on each line, none of them twice")
    return names
