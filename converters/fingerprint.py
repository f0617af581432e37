"""A digest of everything a dataset consists of, cheap to take again when little has changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from converters.errors import DatasetError
from converters.files import write_whole
from converters.pictures import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Fingerprint:
    """What a dataset is made of, as two SHA-256 digests over sorted relative names and contents."""

    annotations: str  # hex; of every file that is no image
    images: str  # hex; of the files with an image's suffix
    files: int  # how many there are
    size: int  # bytes


@dataclass(frozen=True)
class _Entry:
    size: int
    mtime_ns: int
    sha256: str


def fingerprint(root: Path, *, index: Path | None = None, leave_out: Path | None = None) -> Fingerprint:
    """Take the fingerprint of a folder, or of a single file.

    Names, contents and nothing else count: not the times of the files nor where the folder lies.

    Args:
        root: the dataset. Linked folders are entered once each, so that loops end; pipes and devices do not count.
        index: a JSON file that remembers the digests, so that bytes are read only where size or mtime changed. It is
            made if absent, replaced as a whole, and ignored where it does not make sense.
        leave_out: a folder that does not count, wherever in the dataset it is: a run must not look at its own products.

    Raises:
        DatasetError: ``root`` does not exist, a file cannot be read, or files keep changing while they are read.
    """
    if not root.exists():
        raise DatasetError(f"{root} does not exist. Give the dataset's folder, or its file (source.root of a recipe)")
    known = _read_index(index) if index else {}
    entries = {name: _entry(path, info, known.get(name)) for name, path, info in _files(root, index, leave_out)}
    found = {name: entry for name, entry in sorted(entries.items()) if entry is not None}
    if index is not None and found != known:
        _write_index(index, found)
    images = {name for name in found if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES}  # noqa: PTH122 (hot)
    return Fingerprint(
        annotations=_digest({name: entry for name, entry in found.items() if name not in images}),
        images=_digest({name: entry for name, entry in found.items() if name in images}),
        files=len(found),
        size=sum(entry.size for entry in found.values()),
    )


def _digest(entries: Mapping[str, _Entry]) -> str:
    digest = hashlib.sha256()
    for name, entry in entries.items():
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + entry.sha256.encode() + b"\n")
    return digest.hexdigest()


def _files(root: Path, index: Path | None, leave_out: Path | None) -> Iterator[tuple[str, str, os.stat_result]]:
    """Regular files as (POSIX name relative to root, path, stat); the index itself does not count."""
    if not root.is_dir():
        yield root.name, str(root), root.stat()
        return
    left_out = os.path.realpath(index) if index else None
    seen: set[tuple[int, int]] = set()
    if leave_out is not None and leave_out.exists():
        seen.add((leave_out.stat().st_dev, leave_out.stat().st_ino))
    pending = [("", str(root))]
    while pending:
        prefix, folder = pending.pop()
        info = Path(folder).stat()
        if (info.st_dev, info.st_ino) in seen:
            continue
        seen.add((info.st_dev, info.st_ino))
        for name, path in _children(folder):
            try:
                info = os.stat(path)  # noqa: PTH116 (hot)
            except OSError:
                continue  # deleted since, or a link to nothing
            if stat.S_ISDIR(info.st_mode):
                pending.append((f"{prefix}{name}/", path))
            elif stat.S_ISREG(info.st_mode) and (left_out is None or os.path.realpath(path) != left_out):
                yield prefix + name, path, info


def _children(folder: str) -> list[tuple[str, str]]:
    try:
        return sorted((entry.name, entry.path) for entry in os.scandir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed: {error.strerror}") from error


def _entry(path: str, info: os.stat_result, known: _Entry | None) -> _Entry | None:
    """The file's entry, from the index where size and time agree; ``None`` for a file that is gone."""
    if known is not None and (known.size, known.mtime_ns) == (info.st_size, info.st_mtime_ns):
        return known
    try:
        for _ in range(3):
            with Path(path).open("rb") as file:
                before = os.fstat(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                after = os.fstat(file.fileno())
            if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
                return _Entry(after.st_size, after.st_mtime_ns, digest)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}. Check its permissions") from error
    raise DatasetError(f"{path}: changes while it is read. Wait until it is written")


def _read_index(index: Path) -> dict[str, _Entry]:
    """What the index remembers; nothing if it is absent or not one of ours."""
    try:
        stored = orjson.loads(index.read_bytes())
        return {name: _Entry(int(size), int(mtime), str(sha)) for name, (size, mtime, sha) in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_index(index: Path, entries: Mapping[str, _Entry]) -> None:
    stored = {
        name: (entry.size, entry.mtime_ns, entry.sha256) for name, entry in entries.items() if _is_text(name)
    }  # a name that is not UTF-8 is hashed again each time
    write_whole(index, lambda file: file.write(orjson.dumps(stored)))


def _is_text(name: str) -> bool:
    return name.isascii() or name == name.encode("utf-8", "replace").decode()
