"""Checkpoints inside tar and zip archives: members are read as streams or copied to a name of ours, never to theirs."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from models.errors import WeightsError
from models.weights.readers.flat_files import refuse_bomb
from models.weights.readers.opened import Opened, damage_named
from models.weights.readers.paddle import looks_like_lod, read_lod

_CHECKPOINTS = (".pdparams", ".pth", ".pt", ".th", ".bin", ".safetensors", ".pkl", ".npz", ".weights")
_BOOKKEEPING = "__MACOSX"

Member = tuple[str, int, Callable[[], IO[bytes]]]  # name, size, opener


def read_tar(path: Path, read: Callable[[Path], Opened]) -> Opened:
    """Read a tar file: of one checkpoint, which ``read`` reads, or of Paddle 1.x variables."""
    with tarfile.open(path, "r:*") as tar:
        members: list[Member] = []
        unpacked = 0
        for info in tar:
            # Before the member itself is unpacked, which going on to the next one does.
            refuse_bomb(path, unpacked := unpacked + info.size)
            if info.isdir():
                continue
            if not info.isreg():
                raise WeightsError(f"{path}: its member {info.name!r} is a link or a device", "Pack plain files")
            members.append((info.name, info.size, lambda info=info: _stream(tar.extractfile(info))))  # type: ignore[misc]
        return _read_members(path, members, read, "paddle-lod-tar")


def read_zip(path: Path, read: Callable[[Path], Opened]) -> Opened:
    """Read a zip file of one checkpoint or of Paddle 1.x variables."""
    with zipfile.ZipFile(path) as archive:
        members: list[Member] = [
            (info.filename, info.file_size, lambda info=info: archive.open(info))  # type: ignore[misc]
            for info in archive.infolist()
            if not info.is_dir()
        ]
        refuse_bomb(path, sum(size for _, size, _ in members))
        return _read_members(path, members, read, "paddle-lod-zip")


def _read_members(path: Path, members: list[Member], read: Callable[[Path], Opened], container: str) -> Opened:
    for name, _, _ in members:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or "\0" in name:
            raise WeightsError(f"{path}: its member {name!r} would be written outside of the folder", "Do not use it")
    plain = [member for member in members if not PurePosixPath(member[0]).name.startswith((".", _BOOKKEEPING))]
    checkpoints = [member for member in plain if member[0].lower().endswith(_CHECKPOINTS)]
    if len(checkpoints) > 1:
        names = ", ".join(sorted(name for name, _, _ in checkpoints)[:8])
        raise WeightsError(f"{path}: holds several checkpoints: {names}", "Unpack it and name one")
    if checkpoints:
        return _unpacked(path, checkpoints[0], read)
    return _variables(path, plain, container)


def _variables(path: Path, members: list[Member], container: str) -> Opened:
    tensors: dict[str, Any] = {}
    ignored: list[str] = []
    for name, size, opener in members:
        key = PurePosixPath(name).name
        # In the archive's order and without going back: a compressed archive would be unpacked anew each time.
        with opener() as file, damage_named(path, f"Paddle archive (its member {name})"):
            if not looks_like_lod(file.peek(20)[:20]):  # type: ignore[attr-defined]
                ignored.append(name)
            elif key in tensors:
                raise WeightsError(f"{path}: two variables are called {key!r}", "Unpack it, name one model's folder")
            else:
                tensors[key] = read_lod(file, size)  # type: ignore[arg-type]
    if not tensors:
        raise WeightsError(f"{path}: an archive without a checkpoint or Paddle 1.x variables in it")
    return Opened(container, dict(sorted(tensors.items())), {"ignored": sorted(ignored)} if ignored else {})


def _unpacked(path: Path, member: Member, read: Callable[[Path], Opened]) -> Opened:
    """Read one member from a temporary copy; what is mapped from it outlives its name."""
    name, size, opener = member
    with _temporary(path) as folder:
        copy = folder / f"checkpoint{PurePosixPath(name).suffix.lower()}"
        with opener() as source, copy.open("xb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        if copy.stat().st_size != size:
            raise WeightsError(f"{path}: its member {name!r} is cut off", "Fetch it again")
        try:
            opened = read(copy)
        except WeightsError as error:
            raise WeightsError(error.problem.replace(str(copy), f"{path}:{name}"), error.remedy) from error
    return Opened(opened.container, opened.content, {**opened.metadata, "member": name})


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f"{path.stem[:20]}-") as folder:
        yield Path(folder)


def _stream(file: IO[bytes] | None) -> IO[bytes]:
    assert file is not None  # only regular members are opened
    return file
