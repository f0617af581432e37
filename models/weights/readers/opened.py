"""What every reader hands over, and the errors they share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from models.errors import WeightsError

_STEP = 1 << 20


@dataclass(frozen=True)
class Opened:
    """A container's content before the state dict in it is chosen.

    Attributes:
        container: the kind of file.
        content: names to tensors, or to whatever else the file holds.
        metadata: what the container itself says: header fields, name tables.
    """

    container: str
    content: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)


@contextmanager
def damage_named(path: Path, container: str) -> Iterator[None]:
    """Turn whatever a damaged or hostile file makes a parser raise into one line that names file and kind.

    A missing file, a read error and an error that is already ours pass as they are.
    """
    try:
        yield
    except (WeightsError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path}: damaged or not a {container} file ({type(error).__name__}: {words})", "Fetch it again"
        ) from error


def filled(file: IO[bytes], size: int) -> memoryview:
    """The next ``size`` bytes of ``file``, a step at a time where they are unpacked: no second copy of them.

    Raises:
        ValueError: there are not as many.
    """
    # A bytearray is set to zero first, and NumPy asks for huge pages, which can cost more than the reading.
    data: memoryview = torch.empty(size, dtype=torch.uint8).numpy().data
    done = 0
    while done < size:
        count = file.readinto(data[done : done + _STEP])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("cut off")
        done += count
    return data
