"""Where products live: whole under their final name, or not there at all.

A product is a folder ``<workspace>/store/<stage>-<key>`` whose ``manifest.json`` was written last. It is made under a
``.part`` name, so whatever carries the final name is complete; the key holds everything it was made from, so whoever
finds it may use it. What travels between stages is a :class:`Product` or a :class:`FileRef`: a path and its hashes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.files import sha256_of, write_bytes

MANIFEST = "manifest.json"


class FileRef(BaseModel):
    """One file and its content: the path may move, the hash is what it means."""

    model_config = ConfigDict(frozen=True)

    path: Path
    sha256: str
    size: int  # bytes

    @model_validator(mode="after")
    def _is_there(self) -> FileRef:
        # A remembered result whose file is gone fails to load here, which Prefect counts as a cache miss.
        if not self.path.is_file() or self.path.stat().st_size != self.size:
            raise ValueError(f"{self.path}: gone, or not the {self.size} bytes it had")
        return self


class Product(BaseModel):
    """A finished product of a stage: a folder with its manifest; loading one checks that it is still whole."""

    model_config = ConfigDict(frozen=True)

    stage: str = Field(description="Stage that made it")
    path: Path = Field(description="Its folder in a workspace's store")
    digest: str = Field(description="SHA-256 over the names and hashes of its files")

    @model_validator(mode="after")
    def _is_whole(self) -> Product:
        with suppress(OSError):
            # Its last use, by which tasks/gc.py goes; before the look, so that one of the two sees the other.
            os.utime(self.path, ns=(time.time_ns(),) * 2)  # the kernel's own clock may be milliseconds behind
        if digest_of(self.path) != self.digest:
            raise ValueError(f"{self.path}: gone or altered since it was made")
        return self

    def file(self, name: str) -> FileRef:
        """The file ``name`` of this product with its hash."""
        entry = _read_manifest(self.path)[name]
        return FileRef(path=self.path / name, sha256=entry["sha256"], size=entry["size"])

    def has(self, name: str) -> bool:
        """Whether the product holds a file ``name``."""
        return name in _read_manifest(self.path)


FULL = {errno.ENOSPC, errno.EDQUOT}


def make_product(
    workspace: Path, stage: str, key: str, make: Callable[[Path], None], *, resume: bool = False
) -> Product:
    """Return the product of ``stage`` under ``key``, making it unless it is there and whole.

    Two processes that want the same product make it once: the second waits on a lock that the kernel drops with its
    holder, then finds the product.

    Args:
        workspace: the folder that holds ``store`` and ``locks``.
        stage: name of the stage.
        key: digest of everything the product depends on.
        make: fills the empty folder it is given.
        resume: keep what a failed or killed ``make`` left behind and give it to the next one.

    Raises:
        OSError: the disk is full or not writable; nothing half-written carries the final name.
    """
    final = workspace / "store" / f"{stage}-{key[:24]}"
    part = final.with_name(f".{final.name}.part")
    lock = workspace / "locks" / f"{final.name}.lock"
    for folder in (final.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        digest = digest_of(final)
        if digest is None:
            if not resume:
                shutil.rmtree(part, ignore_errors=True)
            part.mkdir(exist_ok=True)
            try:
                make(part)
                digest = _write_manifest(part)
            except BaseException as error:
                if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
                    error.filename = str(workspace)  # of several disks this one: what writes into open files cannot say
                if not resume:
                    shutil.rmtree(part, ignore_errors=True)
                raise
            shutil.rmtree(final, ignore_errors=True)  # a damaged one
            part.rename(final)
        return Product(stage=stage, path=final, digest=digest)


def digest_of(folder: Path) -> str | None:
    """Digest of a finished product, or None where it is absent, unfinished or altered.

    Bytes are hashed again only where a file's modification time differs from the manifest's.
    """
    try:
        manifest = _read_manifest(folder)
        whole = all(_unchanged(folder / name, entry) for name, entry in manifest.items())
    except (OSError, ValueError, KeyError):
        return None
    return _digest(manifest) if whole else None


def _unchanged(path: Path, entry: Mapping[str, Any]) -> bool:
    stat = path.stat()
    if stat.st_size != entry["size"]:
        return False
    return bool(stat.st_mtime_ns == entry["mtime_ns"] or sha256_of(path) == entry["sha256"])


def _digest(manifest: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"{entry['sha256']} {name}\n" for name, entry in sorted(manifest.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return dict(orjson.loads((folder / MANIFEST).read_bytes())["files"])


def _write_manifest(folder: Path) -> str:
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            stat = path.stat()
            name = path.relative_to(folder).as_posix()
            files[name] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256_of(path)}
    write_bytes(folder / MANIFEST, orjson.dumps({"files": files}, option=orjson.OPT_INDENT_2))
    return _digest(files)
