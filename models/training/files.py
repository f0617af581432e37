"""Small files of a run: whole or not there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import orjson


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, rename it; to a pipe or device as it comes."""
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(content)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, keys in the order given, one line."""
    write_bytes(path, orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE))


def write_readable_json(path: Path, content: Any) -> None:
    """Write JSON that people read: sorted, indented."""
    write_bytes(
        path, orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
