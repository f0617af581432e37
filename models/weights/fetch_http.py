"""One file over HTTP into a part file: resumed, retried, and said plainly when it cannot be.

A part file grows only by bytes of one version of the remote file: its validator (a strong ETag or Last-Modified)
lies in a note beside it before its first byte does, and goes out as ``If-Range`` (RFC 9110, 13.1.5 and 14.2).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NoReturn

import httpx

from models.weights.fetch_errors import FetchError, NetworkError, NotThereError
from models.weights.fetch_sources import public
from models.weights.impostors import impostor_in

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where known
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


@dataclass(frozen=True)
class Patience:
    """How long to put up with a server.

    Attributes:
        timeout: seconds without a connection or without a byte.
        attempts: how many in a row may bring less than ``least_rate``.
        backoff: seconds before the second of them, doubled for each further one.
        least_rate: bytes per second; what stays below it for ``window`` seconds drips and is broken off.
        window: seconds.
    """

    timeout: float = 30.0
    attempts: int = 5
    backoff: float = 1.0
    least_rate: float = 1000.0
    window: float = 60.0

    def pause(self, idle: int, asked: float | None) -> float:
        """Seconds to wait after ``idle`` attempts without a new byte; a server may ask for up to two minutes."""
        return min(max(self.backoff * 2.0 ** max(idle - 1, 0), asked or 0.0), 120.0)


def download(
    url: str,
    part: Path,
    *,
    headers: Mapping[str, str] | None = None,
    patience: Patience = Patience(),
    progress: Progress | None = None,
) -> bool:
    """Make ``part`` the whole file at ``url``, going on from what it already holds.

    Returns:
        Whether the part holds bytes of several answers: a wrong hash then earns one whole download more.

    Raises:
        NetworkError: as many attempts in a row as ``patience`` has brought next to nothing; ``part`` is kept.
        NotThereError: 404 or 410.
        FetchError: any other refusal, a web page instead of the file, no room on the disk.
    """
    reached, idle, resumed = _size(part), 0, False
    while True:
        start = time.monotonic()
        try:
            with _client(url, headers, patience) as client:
                return _attempt(client, url, part, patience, progress) or resumed
        except NetworkError as error:
            # A byte per connection is a drip too, so an attempt counts as a second at least.
            enough = patience.least_rate * max(time.monotonic() - start, 1.0)
            idle = 0 if _size(part) - reached >= enough else idle + 1
            reached, resumed = max(reached, _size(part)), True
            if idle >= patience.attempts:
                raise
            time.sleep(patience.pause(idle, error.retry_after))


def forget(part: Path) -> None:
    """Remove a part file and its note."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


@contextmanager
def room_for(part: Path) -> Iterator[None]:
    """Turn a full disk, an exhausted quota and a file-size limit into one line that says so; the part stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL or isinstance(error, FetchError):
            raise
        raise FetchError(
            f"{part.parent}: no room for the file ({error.strerror}); {_size(part):,} bytes of it are there",
            "Make room and run again: it goes on from there",
        ) from error


def check_room(part: Path, missing: int) -> None:
    """Raise before the first byte where the file system says that ``missing`` bytes do not fit."""
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise FetchError(f"{part.parent}: {missing:,} bytes to come and {free:,} free", "Make room and run again")


def _attempt(client: httpx.Client, url: str, part: Path, patience: Patience, progress: Progress | None) -> bool:
    """One request; returns whether it went on from earlier bytes."""
    validator = _note(part).read_text() if _note(part).exists() else ""
    offset = _size(part) if validator else 0
    ask = {"Range": f"bytes={offset}-", "If-Range": validator} if offset else {}
    with _named(url), client.stream("GET", url, headers=ask) as response:
        if response.status_code == 416:
            return _beyond_the_end(response, url, part, offset)
        _refuse(response, url)
        offset, total = _where(response, url, part, offset)
        check_room(part, (total or 0) - offset)
        chunks = _lively(response.iter_raw(), url, patience)
        _receive(response, chunks, url, part, offset, total, progress)
    _check_length(url, part, total)
    return offset > 0


def _beyond_the_end(response: httpx.Response, url: str, part: Path, offset: int) -> bool:
    """416: the part is already the whole file, or has nothing to do with it."""
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found and found[2] == str(offset):
        return True
    forget(part)
    raise NetworkError(f"{public(url)}: the server has no bytes from {offset:,} on; starting over")


def _where(response: httpx.Response, url: str, part: Path, offset: int) -> tuple[int, int | None]:
    """Where this answer's bytes go, and how long the whole file is if the server says."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise FetchError(f"{public(url)}: the server compresses what was asked for as it is")
    if response.status_code == 206:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or found[1] != str(offset):
            forget(part)
            raise NetworkError(f"{public(url)}: asked from byte {offset:,}, the server sent another range")
        if (now := _validator(response)) and now != _note(part).read_text():
            forget(part)
            raise NetworkError(f"{public(url)}: the file has changed on the server; starting over")
        return offset, None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _receive(
    response: httpx.Response,
    chunks: Iterator[bytes],
    url: str,
    part: Path,
    offset: int,
    total: int | None,
    progress: Progress | None,
) -> None:
    first = next(chunks, b"")
    # Before a page of a captive portal replaces gigabytes that are already here.
    if offset == 0 and (instead := impostor_in(first)):
        raise FetchError(f"{public(url)}: the server answered with {instead}")
    if offset == 0:
        forget(part)
        _note(part).write_text(_validator(response))
    done = offset
    with room_for(part), part.open("ab") as file:
        for chunk in chain((first,), chunks):
            file.write(chunk)
            # To the file at once: what has arrived outlives a kill.
            file.flush()
            done += len(chunk)
            if progress is not None:
                progress(done, total)


def _lively(chunks: Iterator[bytes], url: str, patience: Patience) -> Iterator[bytes]:
    """The chunks, as long as they bring ``patience.least_rate`` in every window: a byte a second never times out."""
    since, came = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        came += len(chunk)
        seconds = time.monotonic() - since
        if seconds < patience.window:
            continue
        if came < patience.least_rate * seconds:
            raise NetworkError(f"{public(url)}: the server drips, {came:,} bytes came in {seconds:.0f} s")
        since, came = time.monotonic(), 0


def _check_length(url: str, part: Path, total: int | None) -> None:
    size = _size(part)
    if total is not None and size != total:
        if size > total:
            forget(part)
        raise NetworkError(f"{public(url)}: {size:,} bytes came of {total:,}")


def _validator(response: httpx.Response) -> str:
    """What pins this version of the file: a weak ETag does not, and must not go into If-Range."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else str(response.headers.get("Last-Modified", ""))


def _refuse(response: httpx.Response, url: str) -> None:
    """Raise for every answer that is not 200 or 206."""
    status, where = response.status_code, public(url)
    if status in {200, 206}:
        return
    said = f"{where}: HTTP {status} {response.reason_phrase}".rstrip()
    if status in _BUSY:
        after = response.headers.get("Retry-After", "")
        raise NetworkError(said, "", float(after) if after.isdigit() else None)
    if status in {404, 410}:
        raise NotThereError(said, "Check the address")
    if status in {401, 403}:
        raise FetchError(said, "The file needs a login (HF_TOKEN for the Hugging Face Hub) or another address")
    raise FetchError(said)


def _client(url: str, headers: Mapping[str, str] | None, patience: Patience) -> httpx.Client:
    """A client that asks for the bytes as they are and never leaves https once it is there."""

    def stay_encrypted(request: httpx.Request) -> None:
        if url.startswith("https:") and request.url.scheme != "https":
            raise FetchError(f"{public(url)}: redirected from https to {request.url.scheme}, which anyone can change")

    return httpx.Client(
        follow_redirects=True,
        timeout=patience.timeout,
        headers={"Accept-Encoding": "identity", "User-Agent": "annotune", **(headers or {})},
        event_hooks={"request": [stay_encrypted]},
    )


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Raise httpx's errors as ours: what a second try may heal is a NetworkError."""
    try:
        yield
    except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL, httpx.LocalProtocolError) as error:
        raise FetchError(f"{public(url)}: {error}") from error
    except httpx.TransportError as error:
        _transport(url, error)


def _transport(url: str, error: httpx.TransportError) -> NoReturn:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise FetchError(f"{public(url)}: the server's certificate is not trusted ({cause})") from error
        cause = cause.__cause__ or cause.__context__
    raise NetworkError(f"{public(url)}: {type(error).__name__}: {error}") from error


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _size(part: Path) -> int:
    try:
        return os.stat(part).st_size  # noqa: PTH116 - one call, and no file is an answer
    except FileNotFoundError:
        return 0
