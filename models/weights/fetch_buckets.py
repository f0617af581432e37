"""One object of a bucket (``s3://``, ``gs://``, ...) into a part file, through fsspec and its plug-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec

from models.weights.fetch_errors import FetchError, NetworkError, NotThereError
from models.weights.fetch_http import Progress, check_room, room_for
from models.weights.fetch_sources import public

_CHUNK = 4 << 20
# Scheme -> what installs its plug-in.
_INSTALLS = {"s3": "annotune[s3]", "gs": "annotune[gs]", "gcs": "annotune[gs]", "az": "adlfs", "abfs": "adlfs"}
# A connection that failed, as botocore, aiohttp and google-auth call it; with them it is no OSError.
_BROKEN = {"ConnectionError", "HTTPClientError", "ClientConnectionError", "ClientPayloadError", "TransportError"}


def download_object(url: str, part: Path, progress: Progress | None = None) -> bool:
    """Make ``part`` the whole object at ``url``, going on from what it holds of the same version of the object.

    Returns:
        Whether the part held bytes already.

    Raises:
        NotThereError: no such object.
        NetworkError: the connection failed; ``part`` is kept.
        FetchError: no plug-in for the scheme, no permission, no room on the disk.
    """
    try:
        return _copy(url, part, progress)
    except (FetchError, KeyboardInterrupt):
        raise
    except ImportError as error:
        plug_in = _INSTALLS.get(url.partition("://")[0], "fsspec's plug-in for it")
        raise FetchError(f"{public(url)}: {error}", f"Install {plug_in}") from error
    except FileNotFoundError as error:
        raise NotThereError(f"{public(url)}: no such object", "Check the address") from error
    except PermissionError as error:
        raise FetchError(f"{public(url)}: not permitted ({error})", "Check the credentials") from error
    except (OSError, TimeoutError) as error:
        raise NetworkError(f"{public(url)}: {type(error).__name__}: {error}") from error
    except Exception as error:  # each plug-in has its own: no credentials, a bad bucket name, ...
        kind = NetworkError if _BROKEN & {base.__name__ for base in type(error).__mro__} else FetchError
        raise kind(f"{public(url)}: {type(error).__name__}: {error}") from error


def _copy(url: str, part: Path, progress: Progress | None) -> bool:
    files, path = fsspec.core.url_to_fs(url)  # type: ignore[no-untyped-call]
    total = int(files.info(path)["size"])
    offset = _kept(part, str(files.ukey(path)), total)
    check_room(part, total - offset)
    with files.open(path, "rb") as remote, room_for(part), part.open("ab") as file:
        _append(remote, file, offset, total, progress)
    size = part.stat().st_size
    if size != total:
        raise NetworkError(f"{public(url)}: {size:,} bytes came of {total:,}")
    return offset > 0


def _append(remote: Any, file: Any, offset: int, total: int, progress: Progress | None) -> None:
    remote.seek(offset)
    while chunk := remote.read(_CHUNK):
        file.write(chunk)
        file.flush()
        offset += len(chunk)
        if progress is not None:
            progress(offset, total)


def _kept(part: Path, version: str, total: int) -> int:
    """How many bytes of this very version are here; a part of another version is removed."""
    note = part.with_name(part.name + ".version")
    if note.exists() and note.read_text() == version and part.exists() and part.stat().st_size <= total:
        return part.stat().st_size
    part.unlink(missing_ok=True)
    note.write_text(version)
    return 0
