"""The opcodes of a pickle with their arguments; a large one is read once, into the buffer that tensors then use.

Small ones are decoded by :mod:`pickletools`. It would read a large one several times over and keep it as text where
protocol 2 writes bytes as text, and it believes every length: here no length goes beyond the file.
"""

from __future__ import annotations

import codecs
import os
import pickletools
from collections.abc import Iterator
from typing import Any, BinaryIO

from models.weights.readers.opened import filled

_LARGE = 1 << 16
_STEP = 1 << 20
_BY_CODE = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
# Opcodes with a length before their argument -> its width in bytes; others have at most 255 bytes or end with the line.
_WIDTHS = {
    "BINSTRING": 4,
    "BINBYTES": 4,
    "BINBYTES8": 8,
    "BYTEARRAY8": 8,
    "BINUNICODE": 4,
    "BINUNICODE8": 8,
    "LONG4": 4,
}


def opcodes(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Name and argument of every opcode from the current position up to STOP.

    Arguments of more than 64 kB are buffers that can be written to, text of theirs as latin-1 where it can be.

    Raises:
        ValueError: no opcode, or an argument that is cut off.
    """
    start = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(start)
    name = ""
    while name != "STOP":
        code = file.read(1)
        opcode = _BY_CODE.get(code)
        if opcode is None:
            raise ValueError(f"{code!r} is no opcode" if code else "cut off")
        name = opcode.name
        yield name, None if opcode.arg is None else _argument(opcode, file, end)


def _argument(opcode: pickletools.OpcodeInfo, file: BinaryIO, end: int) -> Any:
    assert opcode.arg is not None
    if (width := _WIDTHS.get(opcode.name)) is not None:
        start = file.tell()
        length = int.from_bytes(file.read(width), "little")
        if length > end - start - width:
            raise ValueError(f"{opcode.name} of {length:,} bytes: cut off")
        if length > _LARGE and opcode.name != "LONG4":
            return _text(file, length) if "UNICODE" in opcode.name else filled(file, length)
        file.seek(start)
    return opcode.arg.reader(file)


def _text(file: BinaryIO, length: int) -> bytearray | str:
    """Text of ``length`` bytes: as the bytes that protocol 2 writes so, a step at a time, or as what it is."""
    start, found = file.tell(), bytearray()
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for done in range(0, length, _STEP):
            found += decoder.decode(file.read(min(_STEP, length - done))).encode("latin-1")
    except UnicodeError:
        file.seek(start)
        return file.read(length).decode("utf-8", "surrogatepass")
    return found
