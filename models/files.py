"""Files that are whole or not there, and the hash of one."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

UNFINISHED = ".*.part"  # what a killed process leaves of a file it was writing


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The name to write a file under; when the block ends, it is flushed to the disk and renamed to ``path``.

    If the block or the disk fails, the error passes through, nothing stays behind, and a file that was there before is
    untouched. A link stays one and gets a new file behind it; a pipe or a device is given the bytes once all are there.

    Raises:
        OSError: ``path`` is a folder, or lies in none.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file in it", str(path))
    if path.exists() and not path.is_file():
        with tempfile.TemporaryDirectory(prefix="annotune-") as scratch:
            part = Path(scratch) / path.name
            yield part
            with part.open("rb") as content, path.open("wb") as device:
                shutil.copyfileobj(content, device)
        return
    path = path.resolve() if path.is_symlink() else path
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = str(path) if error.filename == str(part) else error.filename
        raise
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as :func:`whole_file` does."""
    with whole_file(path) as part:
        part.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, keys in the order given, one line."""
    write_bytes(path, orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE))


def write_readable_json(path: Path, content: Any) -> None:
    """Write JSON that people read: sorted, indented."""
    write_bytes(
        path, orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
