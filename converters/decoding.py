"""Bytes to text, for files that come from everywhere."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from converters.errors import AnnotationError

_ENCODING = re.compile(rb"""\s*<\?xml\b[^>]*?encoding\s*=\s*["']([A-Za-z0-9._\-]+)["']""")
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
# Names that Python normalises codecs to. Not every codec of Python is a character set: "zip", "punycode", "idna".
_CHARACTER_SETS = re.compile(r"(utf-?(8|16|32)|ascii|iso8859|cp|koi8|gb|hz|big5|shift_jis|euc|iso2022|johab|mac)")


def decode_text(data: bytes, file: str) -> tuple[str, str]:
    """Return the text of an annotation file by its byte order mark, its XML declaration, or what decodes.

    Returns:
        The text without leading blanks, and a remark if it is not in the encoding it should be in.

    Raises:
        AnnotationError: the file is empty, or declares what is no character set.
    """
    if not data.strip(b" \t\r\n\x00"):
        raise AnnotationError(file, "the file is empty", "Restore it, or delete it together with its image")
    for encoding in _encodings(data, file):
        try:
            return data.decode(encoding).lstrip("\ufeff").lstrip(), ""
        except UnicodeDecodeError:
            continue
    # Nothing that was declared fits. gb18030 first: LabelImg on Chinese Windows; Latin-1 takes any bytes.
    for encoding in ("gb18030", "latin-1"):
        try:
            return data.decode(encoding).lstrip(), f"not in its declared encoding: read as {encoding}"
        except UnicodeDecodeError:
            continue
    raise AssertionError("Latin-1 decodes everything")


def _encodings(data: bytes, file: str) -> Iterator[str]:
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            yield encoding
            return
    if data[:4].find(b"<\x00") == 0 or data[:4].find(b"\x00<") == 0:
        yield "utf-16-le" if data[0] else "utf-16-be"
        return
    declared = _ENCODING.match(data[:1024])
    if declared is None:
        yield "utf-8"
        return
    name = declared[1].decode()
    try:
        normal = codecs.lookup(name).name
    except LookupError:
        normal = ""
    if not _CHARACTER_SETS.match(normal):
        raise AnnotationError(file, f"unknown encoding {name!r}", "Save the file as UTF-8")
    # A superset that real files need; and a UTF-16 declaration in front of single bytes is a copying mistake.
    yield {"gb2312": "gb18030", "gbk": "gb18030", "utf-16": "utf-8", "shift_jis": "cp932"}.get(normal, normal)
