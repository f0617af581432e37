"""The registry of models: immutable versions, one champion, and the history of how it came to that.

A registry is a folder or any fsspec URL::

    history/000001.json      what happened first, and who was champion afterwards; the last of them names the champion
    versions/0001/model.pt   never written again
    versions/0001/report.html
    versions/0001/manifest.json   written last: a version without it does not exist

Nothing is ever written twice. A model, a manifest and a line of the history are created in one step that fails where
the name is taken (on a disk under a lock, on S3 and Google Storage by the store's own precondition), and whoever comes
second looks again: two runs at once are one after the other. Knows nothing of Prefect, torch or datasets.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict

from models.files import sha256_of, whole_file

MODEL, MANIFEST = "model.pt", "manifest.json"


class RegistryError(ValueError):
    """There is no such version, or the registry is not as its manifests say."""


class ChampionChangedError(RegistryError):
    """Another run has changed the champion since this one looked; what it decided is about the champion before."""


class Version(BaseModel):
    """One model that was champion once, and what it was judged by."""

    model_config = ConfigDict(frozen=True)

    number: str = ""  # "0001"; given by the registry
    sha256: str = ""  # of model.pt; likewise
    size: int = 0  # bytes of model.pt; likewise
    detector: str
    classes: tuple[str, ...]  # label order
    scores: dict[str, float]  # COCO box metrics on the validation split, 0..1
    validation: tuple[str, ...]  # file names of the frozen validation split
    data: str  # digest of the source and the configuration


class Entry(BaseModel):
    """One line of the history: what happened, and why."""

    model_config = ConfigDict(frozen=True)

    event: Literal["promoted", "kept", "rolled back"]
    champion: str  # number of the version that is champion afterwards
    data: str  # digest of the source and the configuration that was looked at
    reasons: tuple[str, ...]
    problems: dict[str, int] = {}  # findings of the dataset check by rule
    at: str = ""  # UTC, ISO 8601; given by the registry


class Registry:
    """A registry at a folder or an fsspec URL; it need not be there yet.

    Args:
        url: ``/models/bccd``, ``s3://bucket/models``, ...
    """

    def __init__(self, url: str) -> None:
        if not url:  # a deployment whose variable was not set; it would mean whatever folder the worker is in
            raise RegistryError("registry: empty. Give a folder or URL; the deployments take it from ANNOTUNE_REGISTRY")
        self.url = url
        try:
            self.fs, self.root = fsspec.url_to_fs(url)  # type: ignore[no-untyped-call]
        except (ImportError, ValueError) as error:  # no plug-in, or no such scheme
            remedy = "annotune[s3] and annotune[gs] bring the plug-ins for S3 and Google Storage"
            raise RegistryError(f"{url}: {error}. {remedy}") from error

    def champion(self) -> Version | None:
        """The version that is champion now; None before the first promotion."""
        lines = self._lines()
        return self.version(self._read(lines[-1:])[0].champion) if lines else None

    def history(self) -> tuple[Entry, ...]:
        """What happened, oldest first."""
        return self._read(self._lines())

    def versions(self) -> tuple[str, ...]:
        """Numbers of all whole versions, oldest first."""
        numbers = self._names("versions")
        return tuple(number for number in numbers if self.fs.exists(self._path(number, MANIFEST)))

    def version(self, number: str) -> Version:
        """What is known of a version.

        Raises:
            RegistryError: no such version.
        """
        try:
            return Version.model_validate_json(self.fs.cat_file(self._path(number, MANIFEST)))
        except FileNotFoundError:
            there = ", ".join(self.versions()) or "none"
            raise RegistryError(f"{self.url}: no version {number}; there are: {there}") from None

    def checkpoint(self, version: Version, folder: Path) -> Path:
        """The model file of a version on this machine, verified; copied into ``folder`` from a remote registry.

        Raises:
            RegistryError: the file is not the one that was promoted.
        """
        source = self._path(version.number, MODEL)
        local = Path(source)
        if not isinstance(self.fs, LocalFileSystem):
            local = folder / version.sha256 / MODEL
            if not local.exists():
                local.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(local) as part:
                    self.fs.get_file(source, str(part))
        if not local.is_file() or sha256_of(local) != version.sha256:
            raise RegistryError(f"{local}: gone or altered since it was promoted; roll back to another version")
        return local

    def promote(self, model: Path, version: Version, entry: Entry, files: Mapping[str, Path]) -> Version:
        """Add a version and make it champion in one step; a killed call leaves the champion as it was.

        Args:
            model: the checkpoint.
            version: what is known of it; number, hash and size are filled in.
            entry: the line of the history; its champion is the one that was beaten, "" for none, and becomes the new
                one; its date is filled in.
            files: further files to keep with it, by name.

        Raises:
            ChampionChangedError: another run has changed the champion meanwhile. Where that was during an upload to an
                object store, the version stays there and was never champion.
        """

        def promoted(history: tuple[Entry, ...]) -> Entry:
            self._refuse_change(history, entry)
            return entry.model_copy(update={"champion": kept.number})

        whole = version.model_copy(update={"sha256": sha256_of(model), "size": model.stat().st_size})
        with self._alone():
            self._refuse_change(self.history(), entry)
            kept = self._add(whole, {MODEL: model, **files})
            self._append(promoted)
        return kept

    def keep(self, entry: Entry) -> None:
        """Note that the champion stays, and why.

        Raises:
            ChampionChangedError: another run has changed the champion meanwhile.
        """

        def kept(history: tuple[Entry, ...]) -> Entry:
            self._refuse_change(history, entry)
            return entry

        with self._alone():
            self._append(kept)

    def rollback(self, number: str | None = None, reason: str = "rolled back by hand") -> Version:
        """Make an earlier version champion again: the one before, or the one named.

        Raises:
            RegistryError: no such version, or none before.
        """

        def back(history: tuple[Entry, ...]) -> Entry:
            earlier = [entry.champion for entry in history if entry.champion != history[-1].champion]
            if not history or (number is None and not earlier):
                raise RegistryError(f"{self.url}: there was no other champion to go back to")
            version, last = self.version(number or earlier[-1]), history[-1]
            # The data that brought this about is not tried again by itself.
            return last.model_copy(update={"event": "rolled back", "champion": version.number, "reasons": (reason,)})

        with self._alone():
            return self.version(self._append(back).champion)

    def _refuse_change(self, history: tuple[Entry, ...], entry: Entry) -> None:
        champion = history[-1].champion if history else ""
        if champion != entry.champion:
            was, now = entry.champion or "none", champion or "none"
            raise ChampionChangedError(f"{self.url}: the champion changed from {was} to {now} meanwhile")

    def _add(self, version: Version, files: Mapping[str, Path]) -> Version:
        """Write a version under the next number that is free: its model's name is what two runs cannot both have."""
        whole = self.versions()
        if whole and whole[-1] not in {entry.champion for entry in self.history()}:
            last = self.version(whole[-1])  # a run was killed between adding it and making it champion
            if last == version.model_copy(update={"number": last.number}):
                return last
        number = int(whole[-1]) + 1 if whole else 1
        while not self._put(self._path(f"{number:04d}", MODEL), files[MODEL]):
            number += 1
        kept = version.model_copy(update={"number": f"{number:04d}"})
        for name, path in files.items():
            if name != MODEL:
                self._put(self._path(kept.number, name), path)
        self._write(self._path(kept.number, MANIFEST), kept.model_dump_json(indent=2).encode())
        return kept

    def _append(self, decide: Callable[[tuple[Entry, ...]], Entry]) -> Entry:
        """Add what ``decide`` makes of the history; where another run was faster, of the longer history."""
        while True:
            lines = self._lines()
            dated = decide(self._read(lines)).model_copy(update={"at": datetime.now(UTC).isoformat(timespec="seconds")})
            number = int(Path(lines[-1]).stem) + 1 if lines else 1
            if self._write(f"{self.root}/history/{number:06d}.json", dated.model_dump_json(indent=2).encode()):
                return dated

    def _lines(self) -> list[str]:
        """The files of the history, oldest first."""
        return [f"{self.root}/history/{name}" for name in self._names("history") if name.endswith(".json")]

    def _read(self, lines: list[str]) -> tuple[Entry, ...]:
        content = self.fs.cat(lines) if lines else {}
        return tuple(Entry.model_validate_json(content[line]) for line in lines)

    def _names(self, folder: str) -> list[str]:
        """What is in a folder now: object stores' clients remember listings."""
        self.fs.invalidate_cache()
        path = f"{self.root}/{folder}"
        names = self.fs.ls(path, detail=False) if self.fs.exists(path) else []
        return sorted(Path(name).name for name in names)

    def _path(self, *parts: str) -> str:
        return "/".join((self.root, "versions", *parts))

    def _alone(self) -> AbstractContextManager[object]:
        """On a disk nobody else writes meanwhile; elsewhere the store refuses a name that is taken."""
        if not isinstance(self.fs, LocalFileSystem):
            return nullcontext()
        Path(self.root).mkdir(parents=True, exist_ok=True)
        return FileLock(f"{self.root}/.lock")

    def _write(self, path: str, content: bytes) -> bool:
        """Create a file whole, in one step; False where there is one."""
        if not isinstance(self.fs, LocalFileSystem):
            return _created(lambda: self.fs.pipe_file(path, content, mode="create"))
        return _created_here(Path(path), lambda part: part.write_bytes(content))

    def _put(self, path: str, source: Path) -> bool:
        """The same with the content of a file here. What a killed run left of an unfinished version is replaced."""
        if not isinstance(self.fs, LocalFileSystem):
            return _created(lambda: self.fs.put_file(str(source), path, mode="create"))
        Path(path).unlink(missing_ok=True)
        return _created_here(Path(path), lambda part: shutil.copyfile(source, part))


def _created(create: Callable[[], object]) -> bool:
    try:
        create()
    except FileExistsError:
        return False
    return True


def _created_here(path: Path, fill: Callable[[Path], object]) -> bool:
    """Fill a file beside ``path`` and rename it, unless there is one; the registry's lock is held."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        fill(part)
    return True
