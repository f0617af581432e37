"""Files that stand where a checkpoint should be: named as what they are, not as "invalid load key"."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

HEAD = 4096  # bytes that tell
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/|version https://git-lfs")
_PAGE = re.compile(
    rb"\s*(?:\xef\xbb\xbf)?\s*(?:<!--.{0,1000}?-->\s*)?<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)
_TITLE = re.compile(rb"<title[^>]*>\s*(.{1,200}?)\s*</title>", re.I | re.S)


def what_it_is_instead(path: Path) -> str | None:
    """Name the file at ``path`` where it is plainly no checkpoint.

    Returns:
        None, or "an empty file", "a web page", "a git-LFS pointer ...", "a truncated zip file ...", to follow "is ".
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "an empty file"
    return impostor_in(head) or (_truncated_zip(path) if head.startswith(b"PK\x03\x04") else None)


def impostor_in(head: bytes) -> str | None:
    """The same for the first bytes of a file: web pages, git-LFS pointers, XML and JSON error messages."""
    if _POINTER.match(head):
        size = re.search(rb"^size (\d{1,20})$", head, re.M)
        of = f" to a file of {int(size[1]):,} bytes" if size else ""
        return f"a git-LFS pointer{of} and not the file itself (`git lfs pull`, or the host's media URL, gets that)"
    if _PAGE.match(head):
        title = _TITLE.search(head)
        text = " ".join(title[1].decode("utf-8", "replace").split()) if title else ""
        return f'a web page ("{text}")' if text else "a web page"
    if head.lstrip().startswith(b"<?xml"):
        return f"an XML message ({_words(head)})"
    if head.lstrip().startswith((b'{"error', b'{"message', b'{"errors')):
        return f"an error message ({_words(head)})"
    return None


def _words(head: bytes) -> str:
    return " ".join(head[:200].decode("utf-8", "replace").split())[:120]


def _truncated_zip(path: Path) -> str | None:
    """A zip has its directory at the end: without one it is cut off."""
    try:
        with zipfile.ZipFile(path):
            return None
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        return f"a truncated or damaged zip file ({path.stat().st_size:,} bytes; {error})"
