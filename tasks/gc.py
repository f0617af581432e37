"""Give disk back: products that no recent run has used, while other runs go on.

Every product carries the time it was last used, and every run leaves a mark with the time it began, locked as long as
its process lives. What was last used before the oldest run that counts is removed: by rename, under the product's own
lock, after a second look. A run that comes for it a moment later finds nothing and makes it again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout


@dataclass(frozen=True)
class Collected:
    """What a collection removed and what it left."""

    removed: tuple[str, ...]  # names of products and of unfinished ones
    freed: int  # bytes
    kept: int  # products
    active: int  # runs that were under way


@contextmanager
def under_way(workspace: Path) -> Iterator[None]:
    """Mark a run, which counts as under way until the block or its process ends."""
    folder = _marks(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "gate"):  # no collection may begin between the mark and its lock
        lock = FileLock(folder / f"{time.time_ns():020d}-{os.getpid()}.run")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def collect(workspace: Path, keep_runs: int, *, dry: bool = False) -> Collected:
    """Remove products that neither the last ``keep_runs`` runs nor a run under way have used.

    Published runs, weights and the registry are not touched.

    Args:
        workspace: holds ``store`` and ``locks``.
        keep_runs: how many runs count, at least 1; runs under way always do.
        dry: only tell.

    Raises:
        ValueError: ``keep_runs`` is less than 1, or there is no store.
    """
    if keep_runs < 1:
        raise ValueError(f"keep-runs is at least 1, not {keep_runs}")
    if not (workspace / "store").is_dir():
        raise ValueError(f"{workspace}: no store there. Give the workspace of your recipe")
    with _active_marks(workspace) as (marks, active):
        since = _cutoff(marks, active, keep_runs)
        found = sorted(path for path in (workspace / "store").iterdir() if path.is_dir())
        old = [path for path in found if _last_use(path) < since]
        freed, removed = 0, []
        for path in old:
            size = size_of(path)
            if dry or _remove(workspace, path, since):
                removed.append(path.name)
                freed += size
        for mark in marks[:-keep_runs]:
            if not dry and mark not in active:
                mark.unlink(missing_ok=True)
    return Collected(tuple(removed), freed, len(found) - len(removed), len(active))


def size_of(path: Path) -> int:
    """Bytes of all files in a folder; of files with several names, each name."""
    return sum(entry.lstat().st_size for entry in path.rglob("*") if entry.is_file())


def sizes(workspace: Path) -> dict[str, tuple[int, int]]:
    """Number and bytes of the products by stage, and of the workspace's other folders."""
    found: dict[str, tuple[int, int]] = {}
    store = sorted((workspace / "store").glob("*")) if (workspace / "store").is_dir() else []
    for path in store:
        name = "unfinished" if path.name.startswith(".") else path.name.rpartition("-")[0]
        count, size = found.get(name, (0, 0))
        found[name] = (count + 1, size + size_of(path))
    for name in ("weights", "champions", "runs"):
        if (workspace / name).is_dir():
            found[name] = (sum(1 for _ in (workspace / name).iterdir()), size_of(workspace / name))
    return found


def _marks(workspace: Path) -> Path:
    return workspace / "locks" / "runs"


@contextmanager
def _active_marks(workspace: Path) -> Iterator[tuple[list[Path], set[Path]]]:
    """All marks, oldest first, and those whose run is under way."""
    folder = _marks(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "gate"):
        marks = sorted(folder.glob("*.run"))
        active = set()
        for mark in marks:
            try:
                with FileLock(mark, timeout=0):
                    pass
            except Timeout:
                active.add(mark)
        yield marks, active


def _cutoff(marks: list[Path], active: set[Path], keep_runs: int) -> int:
    """When the oldest run that counts began, in nanoseconds; without so many runs nothing is old."""
    if len(marks) < keep_runs:
        return 0
    return min(int(mark.name.partition("-")[0]) for mark in {*marks[-keep_runs:], *active})


def _last_use(path: Path) -> int:
    newest = path.stat().st_mtime_ns
    if path.name.startswith("."):  # unfinished: its files are younger than the folder
        newest = max([newest, *(file.stat().st_mtime_ns for file in path.rglob("*"))])
    return newest


def _remove(workspace: Path, path: Path, since: int) -> bool:
    """Remove one product unless somebody is at it."""
    name = path.name.removeprefix(".").removesuffix(".part")
    try:
        with FileLock(workspace / "locks" / f"{name}.lock", timeout=0):
            trash = path.with_name(f".{name}.trash")
            shutil.rmtree(trash, ignore_errors=True)
            path.rename(trash)
            if trash.stat().st_mtime_ns >= since and not path.name.startswith("."):
                trash.rename(path)
                return False
            shutil.rmtree(trash)
            return True
    except (Timeout, FileNotFoundError):  # being made, or gone already
        return False
