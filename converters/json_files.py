"""Reading a JSON file that somebody else wrote: a regular file, in whatever encoding, with one kind of error."""

from __future__ import annotations

import re
from typing import Any

import orjson

from converters.errors import AnnotationError
from converters.files import read_file

_MAX_BYTES = 512 * 2**20  # the image may lie in the JSON, but a file beyond this is no annotation of one image

_NOT_JSON_NUMBER = re.compile(rb"[\[:,]\s*(-?(?:NaN|Infinity))\b")


def read_json(path: str) -> Any:
    """Return what a JSON file holds.

    UTF-8 with or without byte order mark, UTF-16 with one, and GB 18030, in which labelme wrote on Chinese Windows
    until 2020-06.

    Raises:
        AnnotationError: not a regular file, too large, or no JSON; NaN and Infinity are no JSON.
    """
    data = read_file(path, _MAX_BYTES)
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
