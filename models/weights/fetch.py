"""Fetch a checkpoint from anywhere into a folder of verified files.

A file under its final name is whole and has the hash its folder is named by. What is expected of it is, in this order:
the ``sha256`` given, the hash in its name, or what the first fetch of the same URL brought (``weights.lock``).

Environment: ``ANNOTUNE_OFFLINE=1`` asks the network for nothing; ``ANNOTUNE_WEIGHTS_MIRROR`` is a URL or a folder in
which ``https://host/path`` is looked for as ``host/path`` before the host itself is asked.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from models.files import sha256_of
from models.weights.fetch_buckets import download_object
from models.weights.fetch_errors import FetchError, NetworkError, NotThereError
from models.weights.fetch_http import Patience, Progress, download, forget, room_for
from models.weights.fetch_sources import Source, hub_endpoint, resolve
from models.weights.fetch_store import Store
from models.weights.impostors import what_it_is_instead

__all__ = ["FetchError", "Fetched", "NetworkError", "Patience", "Progress", "fetch"]


@dataclass(frozen=True)
class Fetched:
    """A whole and verified checkpoint.

    Attributes:
        path: ``<folder>/<sha256>/<name>``.
        sha256: of the file's content, 64 hexadecimal digits.
        size: in bytes.
        source: what was asked for, without passwords.
    """

    path: Path
    sha256: str
    size: int
    source: str


def fetch(
    source: str,
    folder: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> Fetched:
    """Bring ``source`` into ``folder``, or find it there without asking anybody.

    Args:
        source: see :mod:`models.weights.fetch_sources`. A folder of Paddle 1.x variables becomes one tar file.
        folder: the store; made if it is not there. Several processes may share it.
        sha256: the whole hash where it is known; it overrides the hash in the name and the lock line.
        progress: called with (bytes so far, bytes in all or None).
        patience: timeout and retries for HTTP.

    Raises:
        NetworkError: (an OSError too) the network failed; calling again goes on from what has arrived.
        FetchError: trying again does not help: no such source, another content than expected, no room.
    """
    found = resolve(source)
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256 := sha256.lower()):
        raise FetchError(f"sha256 {sha256!r} is not 64 hexadecimal digits")
    store = Store(Path(folder))
    if found.path is not None:
        path = _take_local(found.path, found, store, sha256, progress)
    else:
        # One process at a time per URL; who waited finds the file and its lock line.
        with store.lock(store.part(found.url, found.name).name):
            path = _take_remote(found, store, sha256, progress, patience)
            store.record(found.url, path.parent.name, path.stat().st_size)
    return Fetched(path, path.parent.name, path.stat().st_size, found.given)


def _take_remote(
    source: Source, store: Store, sha256: str | None, progress: Progress | None, patience: Patience
) -> Path:
    expected = sha256 or store.locked_hash(source.url) or source.hash_prefix
    if expected and (path := store.find(expected)):
        return path
    for url in _places(source.url):
        try:
            return _take_from(url, source, store, expected, progress, patience)
        except NotThereError:
            if url == source.url:
                raise
    raise FetchError(
        f"{source.given} is not in {store.folder}, and ANNOTUNE_OFFLINE forbids to ask for it",
        "Fetch it once where there is a network, or unset ANNOTUNE_OFFLINE",
    )


def _take_from(
    url: str, source: Source, store: Store, expected: str | None, progress: Progress | None, patience: Patience
) -> Path:
    """Download from one place; a part that was resumed and has the wrong hash is downloaded once more, whole."""
    if "://" not in url:
        return _take_local(Path(url), source, store, expected, progress)
    part = store.part(url, source.name)
    resumed = _download(url, part, progress, patience)
    try:
        return _finish(part, source, store, expected)
    except FetchError:
        forget(part)
        if not resumed:
            raise
    _download(url, part, progress, patience)
    try:
        return _finish(part, source, store, expected)
    except FetchError:
        forget(part)
        raise


def _download(url: str, part: Path, progress: Progress | None, patience: Patience) -> bool:
    if not url.startswith(("http://", "https://")):
        return download_object(url, part, progress)
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token and url.startswith(f"{hub_endpoint()}/") else {}
    return download(url, part, headers=headers, patience=patience, progress=progress)


def _finish(part: Path, source: Source, store: Store, expected: str | None) -> Path:
    """Verify a part and give it its final name."""
    if instead := what_it_is_instead(part):
        raise FetchError(f"{source.given} is {instead}")
    digest = sha256_of(part)
    if expected and not digest.startswith(expected):
        raise FetchError(
            f"{source.given} has the sha256 {digest}, expected {expected} ({_origin(source, expected)})",
            "If the new content is right, give its sha256 or remove the line from weights.lock",
        )
    path = store.find(digest) or store.publish(part, digest, source.name)
    forget(part)
    return path


def _origin(source: Source, expected: str) -> str:
    return "as its name says" if expected == source.hash_prefix else "as given or as first fetched"


def _take_local(path: Path, source: Source, store: Store, expected: str | None, progress: Progress | None) -> Path:
    """Copy a file of this machine into the store, unless its content is there; a folder becomes a tar file."""
    if not path.exists():
        raise NotThereError(f"{path}: no such file", "Check the path")
    if path.is_dir():
        source = replace(source, name=f"{source.name}.tar")
    part = store.parts / f"{os.getpid()}-{source.name}"
    try:
        with room_for(part):
            if path.is_dir():
                _pack(path, part)
            else:
                shutil.copyfile(path, part)
        size = part.stat().st_size
        if progress is not None:
            progress(size, size)
        return _finish(part, source, store, expected)
    finally:
        forget(part)


def _pack(folder: Path, part: Path) -> None:
    """Write the regular files in ``folder`` as a tar file: sorted, no owners, no times, so equal for equal files."""
    with tarfile.open(part, "w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            member = tarfile.TarInfo(f"{folder.resolve().name}/{path.relative_to(folder).as_posix()}")
            member.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(member, file)


def _places(url: str) -> list[str]:
    """The URLs, or paths in a mirror folder, to try in this order; none where only the network has it and is off."""
    offline = os.environ.get("ANNOTUNE_OFFLINE", "").lower() not in {"", "0", "false", "no"}
    places = [] if offline else [url]
    mirror = os.environ.get("ANNOTUNE_WEIGHTS_MIRROR", "").rstrip("/").removeprefix("file://")
    parts = urlsplit(url)
    if not mirror or parts.scheme not in {"http", "https"}:
        return places
    if "://" not in mirror:
        return [str(Path(mirror) / parts.netloc.rpartition("@")[2] / parts.path.lstrip("/")), *places]
    if offline:
        return []
    query = f"?{parts.query}" if parts.query else ""
    return [f"{mirror}/{parts.netloc.rpartition('@')[2]}{parts.path}{query}", *places]
