"""What a YOLO dataset says about itself: ``data.yaml``, or a list of class names.

Of YAML only what such files hold is read: scalars, lists and one level of mappings. The base installation has no YAML
parser, and a full one is more than three keys need; whatever else stands in the file is skipped, and what cannot be
read under a key that matters is an error, never a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from converters.errors import DatasetError
from converters.splits import read_list


@dataclass(frozen=True)
class YoloConfig:
    """Class names by index, and where the splits lie."""

    names: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]  # split to folders or list files, as written
    keypoints: bool  # rows go on behind the box with key points


def read_config(root: Path, names: Path | None = None) -> YoloConfig:
    """Read ``data.yaml`` or another ``*.yaml`` in ``root``, or ``classes.txt`` and the like.

    Args:
        root: the dataset.
        names: a file to take the names from: YAML, or one name a line.

    Raises:
        DatasetError: there is no such file, or it holds no class names that can be read.
    """
    if names is None:
        candidates = [root / "data.yaml", root / "dataset.yaml", *sorted(root.glob("*.y*ml"))]
        lists = [root / name for name in ("classes.txt", "obj.names", "labels/classes.txt")]
        names = next((path for path in (*candidates, *lists) if path.is_file()), None)
        if names is None:
            raise DatasetError(f"neither data.yaml nor classes.txt in {root}. Give the class names with names=FILE")
    if names.suffix.lower() not in {".yaml", ".yml"}:
        return YoloConfig(tuple(read_list(names)), {}, False)
    values = _values(names)
    if "names" not in values:
        raise DatasetError(f"{names}: there is no key 'names'")
    splits = {key: tuple(_items(values[key], names, key)) for key in ("train", "val", "test") if values.get(key)}
    return YoloConfig(tuple(_names(values["names"], names)), splits, "kpt_shape" in values)


_KEY = re.compile(r"([A-Za-z_]\w*)\s*:(?:\s+(.*))?")
_WANTED = {"names", "train", "val", "test", "kpt_shape"}


def _values(path: Path) -> dict[str, list[str]]:
    """Lines of text under each top-level key that matters, without comments; the first is beside the key."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    found: dict[str, list[str]] = {}
    current = ""
    for line in lines:
        text = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        match = _KEY.fullmatch(text)
        if match:
            current = match[1]
            if current in found and current in _WANTED:
                raise DatasetError(f"{path}: the key {current!r} is there twice")
            found[current] = [match[2].strip()] if match[2] else []
        elif text.strip() and current:
            found[current].append(text.strip())
    return {key: lines for key, lines in found.items() if key in _WANTED}


def _names(lines: list[str], path: Path) -> list[str]:
    """Names from a list, or from a mapping of 0, 1, 2, ..."""
    joined = " ".join(lines)
    entries = _flow(joined[1:-1], path) if joined[:1] == "{" and joined[-1:] == "}" else lines
    pairs = [re.fullmatch(r"(\d+)\s*:\s+(.+)", entry) for entry in entries]
    if entries and all(pairs):
        numbered = {int(pair[1]): _scalar(pair[2], path, "names") for pair in pairs if pair}
        if sorted(numbered) != list(range(len(entries))):
            raise DatasetError(f"{path}: names are numbered {sorted(numbered)[:5]}..., not 0, 1, 2, ...")
        return [numbered[index] for index in range(len(numbered))]
    names = _items(lines, path, "names")
    if not names:
        raise DatasetError(f"{path}: names is empty")
    return names


def _items(lines: list[str], path: Path, key: str) -> list[str]:
    """A scalar, a flow list over any number of lines, or a block list."""
    joined = " ".join(lines)
    if joined.startswith("["):
        if not joined.endswith("]"):
            raise DatasetError(f"{path}: the list {key!r} does not end with ]")
        return [_scalar(entry, path, key) for entry in _flow(joined[1:-1], path)]
    if lines and all(line.startswith("- ") for line in lines):
        return [_scalar(line[2:].strip(), path, key) for line in lines]
    if len(lines) == 1:
        return [_scalar(lines[0], path, key)]
    raise DatasetError(f"{path}: {key!r} is neither a list nor a mapping that can be read. Give names=FILE, one a line")


_ENTRY = re.compile(r"""\s*((?:\d+\s*:\s+)?(?:'(?:[^']|'')*'|"(?:[^"\\]|\\.)*"|[^,'"\[\]{}]+))\s*(?:,|$)""")


def _flow(text: str, path: Path) -> list[str]:
    """Entries between the brackets, still quoted."""
    entries, position = [], 0
    while text[position:].strip():
        match = _ENTRY.match(text, position)
        if match is None:
            raise DatasetError(f"{path}: cannot read the list at {text[position : position + 30]!r}")
        entries.append(match[1].strip())
        position = match.end()
    return entries


def _scalar(text: str, path: Path, key: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        inner = text[1:-1]
        return inner.replace("''", "'") if text[0] == "'" else re.sub(r"\\(.)", r"\1", inner)
    if not text or text[0] in "&*!|>%@`'\"[{":
        raise DatasetError(f"{path}: cannot read {text!r} under {key!r}. Give names=FILE, one a line")
    return text
