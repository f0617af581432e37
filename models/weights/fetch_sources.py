"""Where a checkpoint comes from: every way to name one, resolved to a file here or to one URL.

=====================================  ================================================================
``weights/x.pth``, ``file:///x.pth``   a file, or a folder of Paddle 1.x variables
``https://host/x.pth``                 as it is
``torchvision://Enum.NAME``            torchvision's weights enum; the bare ``Enum.NAME`` too
``timm://model.tag``                   timm's pretrained configuration: its hashed URL, else the Hub's file
``hf://owner/repo/path@revision``      the Hugging Face Hub, revision ``main`` where none is given
``s3://``, ``gs://``, ...              buckets, through fsspec and its plug-in
=====================================  ================================================================

Resolving asks nothing of the network: torchvision and timm carry their tables with them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from models.weights.fetch_errors import FetchError

# The memory file system is fsspec's own, for tests.
BUCKETS = frozenset({"s3", "gs", "gcs", "az", "abfs", "hdfs", "oss", "memory"})
_ENUM = re.compile(r"\w+_Weights\.\w+")
_HASH = re.compile(r"-([0-9a-f]{8,64})(?:\.[0-9A-Za-z]+){1,2}$")
_DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_UNSAFE = re.compile(r"[^0-9A-Za-z._+=@-]+")
_KNOWN = "Sources are a path, file://, http(s)://, torchvision://, timm://, hf://, s3:// and gs://"


@dataclass(frozen=True)
class Source:
    """A resolved source: ``path`` for a file or folder on this machine, else ``url``.

    Attributes:
        given: what the user wrote, without a password.
        path: the file or folder here, or None.
        url: ``http(s)://`` or a bucket's URL; empty for a local file.
        name: the file name it is kept under, safe to join to a folder.
        hash_prefix: sha256 prefix that the name promises, or None.
    """

    given: str
    path: Path | None
    url: str
    name: str
    hash_prefix: str | None


def resolve(source: str) -> Source:
    """Say where ``source`` is (see the table above).

    Raises:
        FetchError: an unknown scheme, an unknown torchvision or timm name, a malformed ``hf://`` or URL.
    """
    scheme, separator, rest = source.partition("://")
    if not separator:
        if _ENUM.fullmatch(source) and not Path(source).exists():
            return _remote(source, _torchvision_url(source))
        return _local(source, Path(source).expanduser())
    scheme = scheme.lower()
    if scheme == "file":
        return _local(source, _file_path(source))
    if scheme in {"http", "https"} or scheme in BUCKETS:
        return _remote(source, f"{scheme}://{rest}")
    resolvers: dict[str, Callable[[str], str]] = {"torchvision": _torchvision_url, "timm": _timm_url, "hf": _hub_url}
    if scheme not in resolvers:
        raise FetchError(f"{public(source)}: unknown scheme {scheme!r}", _KNOWN)
    return _remote(source, resolvers[scheme](rest))


def hash_in_name(name: str) -> str | None:
    """The sha256 prefix a file name promises: the last ``-[0-9a-f]{8,64}`` before its suffix.

    torch.hub's own rule takes the first hyphen and reads ``0`` from MMDetection's ``..mAP-0.408__..-42aa3d00.pth``.
    Eight digits that are a calendar date are a date.
    """
    found = _HASH.search(name)
    return None if found is None or _DATE.fullmatch(found[1]) else found[1]


def public(url: str) -> str:
    """``url`` without user name, password and query, for messages and logs."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def hub_endpoint() -> str:
    """The Hugging Face Hub or the mirror of it that ``HF_ENDPOINT`` names, without a trailing slash."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _local(given: str, path: Path) -> Source:
    return Source(given, path, "", safe_name(path.resolve().name), None)


def _remote(given: str, url: str) -> Source:
    try:
        parts = urlsplit(url.replace(" ", "%20"))
        _ = parts.port  # raises where it is no number
    except ValueError as error:
        raise FetchError(f"{public(given)}: not a URL ({error})", _KNOWN) from None
    if not parts.netloc and parts.scheme != "memory":
        raise FetchError(f"{public(given)}: the URL names no host", _KNOWN)
    name = safe_name(unquote(parts.path).rstrip("/").rpartition("/")[2])
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, parts.query, ""))
    return Source(public(given), None, url, name, hash_in_name(name))


def safe_name(name: str) -> str:
    """``name`` as one plain path component: no separators, no leading dot, not too long, never empty."""
    return _UNSAFE.sub("_", name).lstrip(".")[-120:] or "checkpoint"


def _file_path(source: str) -> Path:
    parts = urlsplit(source)
    if parts.netloc not in {"", "localhost"}:
        raise FetchError(f"{source}: file:// with the host {parts.netloc!r}", "Write file:///absolute/path")
    return Path(unquote(parts.path))


def _torchvision_url(name: str) -> str:
    # Here, since importing it takes seconds that most sources need not wait for.
    from torchvision.models._api import get_model_weights, get_weight, list_models  # noqa: PLC0415

    if name in list_models():
        choices = ", ".join(f"torchvision://{entry}" for entry in get_model_weights(name))
        raise FetchError(f"torchvision://{name} is a model, and has several weights", f"Say which: {choices}")
    try:
        return str(get_weight(name).url)
    except (ValueError, AttributeError, KeyError) as error:
        raise FetchError(
            f"torchvision has no weights {name!r} ({error})",
            "Names look like FasterRCNN_ResNet50_FPN_Weights.COCO_V1",
        ) from None


def _timm_url(name: str) -> str:
    """The URL of timm's own table where it carries a hash, else the file on the Hub."""
    from timm.models import get_pretrained_cfg  # noqa: PLC0415 - seconds, as above

    try:
        config = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise FetchError(f"timm://{name}: {error}", "`timm.list_models(pretrained=True)` lists the names") from None
    url, hub = str(getattr(config, "url", "") or ""), str(getattr(config, "hf_hub_id", "") or "")
    if url and (hash_in_name(url) or not hub):
        return url
    if not hub:
        raise FetchError(f"timm://{name}: timm publishes no weights for it", "Choose another tag")
    repository, _, revision = hub.partition("@")
    file = getattr(config, "hf_hub_filename", None) or "model.safetensors"
    return _hub_file(repository, file, revision or "main")


def _hub_url(rest: str) -> str:
    """``owner/repo/path@revision`` or, as huggingface_hub writes it, ``owner/repo@revision/path``."""
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@(refs/[\w.-]+/[\w.-]+|[\w.-]+))?/([^@]+?)(?:@([\w./-]+))?", rest)
    if match is None or (match[2] and match[4]):
        raise FetchError(f"hf://{rest}: not of the form hf://owner/repo/file[@revision]")
    return _hub_file(match[1], match[3], match[4] or match[2] or "main")


def _hub_file(repository: str, path: str, revision: str) -> str:
    return f"{hub_endpoint()}/{repository}/resolve/{quote(revision, safe='')}/{quote(path)}"
