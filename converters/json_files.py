"""Reading a JSON file that somebody else wrote: a regular file, in whatever encoding, with one kind of error."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from converters.errors import AnnotationError

MAX_BYTES = 512 * 2**20
"""The image may lie in the JSON, but a file beyond this is no annotation of one image."""

_NOT_JSON_NUMBER = re.compile(rb"[\[:,]\s*(-?(?:NaN|Infinity))\b")


def read_json(path: str) -> Any:
    """Return what a JSON file holds.

    UTF-8 with or without byte order mark, UTF-16 with one, and GB 18030, in which labelme wrote on Chinese Windows
    until 2020-06.

    Raises:
        AnnotationError: not a regular file, too large, or no JSON; NaN and Infinity are no JSON.
    """
    data = read_bytes(path)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        problem = error
    for decode in (_without_bom, _from_gb18030):
        try:
            return orjson.loads(decode(data))
        except UnicodeError:
            continue
        except orjson.JSONDecodeError as error:
            problem = error
            break  # the text is readable: what is wrong is the JSON
    raise _not_json(path, data, problem)


def _without_bom(data: bytes) -> str:
    return data.decode("utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig")


def _from_gb18030(data: bytes) -> str:
    return data.decode("gb18030")


def _not_json(path: str, data: bytes, problem: orjson.JSONDecodeError) -> AnnotationError:
    if not data.strip():
        return AnnotationError(path, "the file is empty", "Remove it, or label the image again")
    number = _NOT_JSON_NUMBER.search(data)
    if number:
        line = data.count(b"\n", 0, number.start(1)) + 1
        return AnnotationError(path, f"{number[1].decode()} is not a number", "Correct the coordinate", line)
    return AnnotationError(path, f"not JSON: {problem.msg}", "Restore the file, or remove it", problem.lineno)


def read_bytes(path: str) -> bytes:
    """Return the content of a regular file; a folder, a pipe or a device is an error and never blocks.

    Raises:
        AnnotationError: it cannot be read, is no regular file or larger than :data:`MAX_BYTES`.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb", buffering=0) as file:
            info = os.fstat(handle)
            if not stat.S_ISREG(info.st_mode):
                raise AnnotationError(path, "not a file", "Remove it from the folder of annotations")
            if info.st_size > MAX_BYTES:
                raise AnnotationError(path, f"{info.st_size} bytes are no annotation of one image", "Remove the file")
            return file.read()
    except OSError as error:
        raise AnnotationError(path, f"cannot be read: {error.strerror}") from error


def walk_files(folder: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield the paths of wanted files under a folder in order; linked folders are not entered, so loops end.

    Args:
        folder: where to look; a folder that does not exist holds nothing.
        wanted: tells by the file's name.
    """
    found = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        found += [f"{parent}/{name}" for name in files if wanted(name)]
    yield from sorted(found)
