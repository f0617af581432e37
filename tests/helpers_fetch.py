"""What the tests of fetching serve, and what must be left of it."""

import hashlib
import random
from pathlib import Path

from helpers_server import Request

from models.weights.fetch import Fetched, Patience

BODY = random.Random(3).randbytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2
QUICK = Patience(timeout=5, attempts=3, backoff=0)
IMPATIENT = Patience(timeout=0.2, attempts=3, backoff=0)


def good(request: Request, number: int) -> None:
    request.serve(BODY)


def first(odd: object, then: object = good) -> object:
    """``odd`` answers the first request, ``then`` every other."""
    return lambda request, number: (odd if number == 0 else then)(request, number)  # type: ignore[operator]


def drops(request: Request, number: int) -> None:
    request.serve(BODY, only=HALF)


def finals(folder: Path) -> list[Path]:
    """Everything that has a final name."""
    return sorted(path for path in folder.glob("*/*") if len(path.parent.name) == 64 and path.name[0] != ".")


def check_whole(fetched: Fetched, folder: Path, name: str = "net.pth") -> None:
    assert fetched.path == folder / SHA / name
    assert fetched.path.read_bytes() == BODY
    assert (fetched.sha256, fetched.size) == (SHA, len(BODY))
    assert [path for path in (folder / ".parts").iterdir() if path.suffix != ".lock"] == []


def part_of(folder: Path, url: str, content: bytes) -> Path:
    """What an earlier run left of ``url``."""
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{url.rpartition('/')[2]}"
    part = folder / ".parts" / name
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    part.with_name(f"{name}.version").write_text('"v1"')
    return part
