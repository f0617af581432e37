"""The registry of models: immutable versions, one champion, and the history of how it came to that.

A registry is a folder or any fsspec URL::

    champion.json            which version is champion, and the history; written whole, in one step
    versions/0001/model.pt   never written again
    versions/0001/report.html
    versions/0001/manifest.json   written last: a version without it does not exist

Knows nothing of Prefect, torch or datasets.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict

MODEL, MANIFEST, STATE = "model.pt", "manifest.json", "champion.json"


class RegistryError(ValueError):
    """There is no such version, or the registry is not as its manifests say."""


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


class _State(BaseModel):
    champion: str | None = None
    history: tuple[Entry, ...] = ()


class Registry:
    """A registry at a folder or an fsspec URL; it need not be there yet.

    Args:
        url: ``/models/bccd``, ``s3://bucket/models``, ...
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, self.root = fsspec.url_to_fs(url)  # type: ignore[no-untyped-call]

    def champion(self) -> Version | None:
        """The version that is champion now; None before the first promotion."""
        number = self._state().champion
        return None if number is None else self.version(number)

    def history(self) -> tuple[Entry, ...]:
        """What happened, oldest first."""
        return self._state().history

    def versions(self) -> tuple[str, ...]:
        """Numbers of all whole versions, oldest first."""
        return tuple(number for number in self._numbers() if self.fs.exists(self._path(number, MANIFEST)))

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
                part = local.with_name(f".{MODEL}.{os.getpid()}.part")
                self.fs.get_file(source, str(part))
                part.replace(local)
        if not local.is_file() or _sha256(local) != version.sha256:
            raise RegistryError(f"{local}: gone or altered since it was promoted; roll back to another version")
        return local

    def promote(self, model: Path, version: Version, entry: Entry, files: Mapping[str, Path]) -> Version:
        """Add a version and make it champion in one step; a killed call leaves the champion as it was.

        Args:
            model: the checkpoint.
            version: what is known of it; number, hash and size are filled in.
            entry: the line of the history; its champion and date are filled in.
            files: further files to keep with it, by name.
        """
        with self._changing() as state:
            whole = version.model_copy(update={"sha256": _sha256(model), "size": model.stat().st_size})
            kept = self._add(whole, {MODEL: model, **files}, state)
            self._write_state(state, entry.model_copy(update={"champion": kept.number}))
        return kept

    def keep(self, entry: Entry) -> None:
        """Note that the champion stays, and why.

        Raises:
            RegistryError: another run has changed the champion meanwhile.
        """
        with self._changing() as state:
            if state.champion != entry.champion:
                raise RegistryError(f"{self.url}: the champion changed from {entry.champion} to {state.champion}")
            self._write_state(state, entry)

    def rollback(self, number: str | None = None, reason: str = "rolled back by hand") -> Version:
        """Make an earlier version champion again: the one before, or the one named.

        Raises:
            RegistryError: no such version, or none before.
        """
        with self._changing() as state:
            earlier = [entry.champion for entry in state.history if entry.champion != state.champion]
            if number is None and not earlier:
                raise RegistryError(f"{self.url}: there was no other champion to go back to")
            version = self.version(number or earlier[-1])
            data = state.history[-1].data  # the data that brought this about is not tried again by itself
            problems = state.history[-1].problems
            entry = Entry(event="rolled back", champion=version.number, data=data, reasons=(reason,), problems=problems)
            self._write_state(state, entry)
        return version

    def _add(self, version: Version, files: Mapping[str, Path], state: _State) -> Version:
        whole = self.versions()
        if whole and whole[-1] not in {entry.champion for entry in state.history}:
            last = self.version(whole[-1])  # a run was killed between adding it and making it champion
            if last == version.model_copy(update={"number": last.number}):
                return last
        number = f"{int(whole[-1]) + 1 if whole else 1:04d}"
        kept = version.model_copy(update={"number": number})
        self.fs.makedirs(self._path(number), exist_ok=True)
        for name, path in files.items():
            self._put(self._path(number, name), path)
        self._write(self._path(number, MANIFEST), kept.model_dump_json(indent=2).encode())
        return kept

    def _numbers(self) -> list[str]:
        folder = self._path()
        names = self.fs.ls(folder, detail=False) if self.fs.exists(folder) else []
        return sorted(Path(name).name for name in names)

    def _path(self, *parts: str) -> str:
        return "/".join((self.root, "versions", *parts))

    def _state(self) -> _State:
        try:
            return _State.model_validate_json(self.fs.cat_file(f"{self.root}/{STATE}"))
        except FileNotFoundError:
            return _State()

    @contextmanager
    def _changing(self) -> Iterator[_State]:
        """Read the state to change it. On a disk nobody else can meanwhile; elsewhere the deployment's limit holds."""
        self.fs.makedirs(self.root, exist_ok=True)
        local = isinstance(self.fs, LocalFileSystem)
        with FileLock(f"{self.root}/.lock") if local else nullcontext():
            yield self._state()

    def _write_state(self, before: _State, entry: Entry) -> None:
        dated = entry.model_copy(update={"at": datetime.now(UTC).isoformat(timespec="seconds")})
        state = _State(champion=entry.champion, history=(*before.history, dated))
        self._write(f"{self.root}/{STATE}", state.model_dump_json(indent=2).encode())

    def _write(self, path: str, content: bytes) -> None:
        if not isinstance(self.fs, LocalFileSystem):
            self.fs.pipe_file(path, content)  # object stores show an object when it is whole
            return
        part = Path(f"{path}.{os.getpid()}.part")
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def _put(self, path: str, source: Path) -> None:
        self.fs.put_file(str(source), path)
        if isinstance(self.fs, LocalFileSystem):
            with Path(path).open("rb") as file:
                os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
