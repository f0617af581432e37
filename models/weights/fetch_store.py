"""The folder of fetched checkpoints: whole files under their hash, a stamp beside each, one lock line per source.

::

    weights.lock                 "<sha256>  <bytes>  <url>" per source: what its first use brought, checked ever after
    <sha256>/<name>              the file, moved here only once it is whole and verified
    <sha256>/.verified           size and mtime as they were when the hash was last computed
    .parts/                      what is still coming, and the locks
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from models.files import sha256_of, write_bytes, write_json
from models.weights.fetch_errors import FetchError

log = logging.getLogger(__name__)
_STAMP = ".verified"
_LINE = re.compile(r"([0-9a-f]{64})  (\d+)  (\S+)")


@dataclass(frozen=True)
class Store:
    """A store in ``folder``, which is made when it is first used."""

    folder: Path

    @property
    def parts(self) -> Path:
        """Where unfinished files lie: on the same file system, so that finishing is a rename."""
        folder = self.folder / ".parts"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold ``name`` alone among all processes: the kernel's lock on an open file, gone with its holder."""
        with FileLock(self.parts / f"{name}.lock"):
            yield

    def part(self, url: str, name: str) -> Path:
        """The part file of ``url``: the same in every run, so that the next one goes on from it."""
        return self.parts / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"

    def find(self, hash_prefix: str) -> Path | None:
        """The verified file whose sha256 begins with ``hash_prefix``; one that changed since is hashed again.

        A file that no longer has its hash is removed.
        """
        for folder in sorted(self.folder.glob(f"{hash_prefix}*")):
            if not re.fullmatch(r"[0-9a-f]{64}", folder.name):
                continue
            for path in sorted(folder.glob("[!.]*")):
                if _still(path):
                    return path
        return None

    def publish(self, part: Path, digest: str, name: str) -> Path:
        """Move a whole ``part``, whose sha256 is ``digest``, to its final name."""
        with part.open("rb") as file:
            os.fsync(file.fileno())
        folder = self.folder / digest
        folder.mkdir(exist_ok=True)
        path = folder / name
        part.replace(path)
        _stamp(path)
        return path

    def locked_hash(self, url: str) -> str | None:
        """The sha256 that the first use of ``url`` recorded."""
        return self._lines().get(_one_word(url), (None, 0))[0]

    def record(self, url: str, digest: str, size: int) -> None:
        """Write the lock line of ``url`` if it is not there yet or says something else."""
        entry, url = (digest, size), _one_word(url)
        if self._lines().get(url) == entry:
            return
        with self.lock("weights"):
            lines = {**self._lines(), url: entry}
            text = "".join(f"{digest}  {size}  {url}\n" for url, (digest, size) in sorted(lines.items()))
            write_bytes(self.folder / "weights.lock", text.encode())

    def _lines(self) -> dict[str, tuple[str, int]]:
        path = self.folder / "weights.lock"
        if not path.exists():
            return {}
        lines = {}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = _LINE.fullmatch(line)
            if found is None:
                raise FetchError(f"{path}:{number}: not '<sha256>  <bytes>  <url>': {line!r}", "Remove that line")
            lines[found[3]] = (found[1], int(found[2]))
        return lines


def _one_word(url: str) -> str:
    """``url`` as the lock line writes it: without a login, without white space."""
    return re.sub(r"\s", "%20", re.sub(r"(?<=://)[^/@]*@", "", url))


def _still(path: Path) -> bool:
    """Whether ``path`` has the hash its folder is named by: from the stamp, or hashed anew where that does not fit."""
    stamp = path.with_name(_STAMP)
    try:
        recorded = json.loads(stamp.read_text()) if stamp.exists() else {}
    except ValueError:
        recorded = {}
    try:
        status = path.stat()
    except FileNotFoundError:
        return False  # another process has just removed it
    if recorded == {"name": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}:
        return True
    if sha256_of(path) == path.parent.name:
        _stamp(path)
        return True
    log.warning("%s no longer has the content it was fetched with; removing it", path)
    path.unlink(missing_ok=True)
    return False


def _stamp(path: Path) -> None:
    status = path.stat()
    content = {"name": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    write_json(path.with_name(_STAMP), content)
