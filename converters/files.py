"""Reading files that may be anything, and writing a file as a whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from converters.errors import AnnotationError

MAX_BYTES = 64 * 2**20
"""No annotation of one image is as large; a file that is, is something else."""

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_file(path: str, most: int = MAX_BYTES) -> bytes:
    """Return the bytes of an annotation file; a folder, a pipe or a device is an error and never blocks.

    Raises:
        AnnotationError: the file cannot be read, is no regular file, or has more than ``most`` bytes.
    """
    try:
        handle = os.open(path, _READ)
        try:
            info = os.fstat(handle)
            if not stat.S_ISREG(info.st_mode):
                raise AnnotationError(path, "not a file", "Remove it from the folder of annotations")
            if info.st_size > most:
                raise AnnotationError(path, f"{info.st_size} bytes are no annotation of one image", "Remove the file")
            return os.read(handle, info.st_size + 1)
        finally:
            os.close(handle)
    except OSError as error:
        raise AnnotationError(path, f"cannot be read: {error.strerror}") from error


def check_name(name: str, path: str) -> None:
    """Raise AnnotationError, for the annotation file ``path``, where an image's name cannot be written as UTF-8."""
    if name.isascii():
        return
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = path.encode("utf-8", "replace").decode()
        raise AnnotationError(shown, "the image's name is not UTF-8", "Rename the file") from error


def walk_files(folder: str, wanted: Callable[[str], bool], *, folders: bool = False) -> list[str]:
    """Return the sorted paths of the wanted files under a folder; linked folders are not entered, so loops end.

    Args:
        folder: where to look; a folder that does not exist holds nothing.
        wanted: tells by the name.
        folders: a folder of a wanted name is among them: whoever tries to read it tells of it.
    """
    found: list[str] = []
    for parent, below, files in os.walk(folder):
        found += [f"{parent}/{name}" for name in files if wanted(name)]
        if folders:
            found += [f"{parent}/{name}" for name in below if wanted(name)]
    return sorted(found)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let ``write`` fill a file that takes the name ``path`` only when it is complete and on disk.

    Missing folders are made. If ``write`` or the disk fails, the error passes through and nothing stays behind; a
    file that was there before is untouched. A link stays one, and gets a new file behind it; what is neither file nor
    link, such as a pipe or /dev/stdout, is written to as it comes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file in it", str(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            write(file)
        return
    path = path.resolve() if path.is_symlink() else path
    part = path.with_name(f".{path.name[:200]}.{os.urandom(4).hex()}.part")
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = str(path) if error.filename == str(part) else error.filename
        raise
    finally:
        part.unlink(missing_ok=True)
