"""Read any checkpoint, whatever framework wrote it, without that framework and without running what is in it.

============================  ================================================================================
``annotune``                  our own (:mod:`models.checkpoint`)
``torch-zip, torch-legacy``   ``torch.save``: plain state dicts or training checkpoints
``safetensors``               with its text metadata
``paddle-pdparams``           Paddle 2.x pickles
``paddle-lod``                a folder of Paddle 1.x variables; ``-tar`` and ``-zip``: in an archive
``pickle``                    detectron2's and Caffe2's ``.pkl``
``npz``                       Chainer's and ChainerCV's
``darknet``                   one flat tensor under the key ``darknet``
============================  ================================================================================

The kind is told by the content; the name counts for darknet alone, which has no mark of its own.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from models.errors import WeightsError
from models.weights.classes import without_background
from models.weights.impostors import what_it_is_instead
from models.weights.readers.archives import read_tar, read_zip
from models.weights.readers.flat_files import looks_like_darknet, read_darknet, read_npz, read_safetensors
from models.weights.readers.opened import Opened, damage_named
from models.weights.readers.paddle import read_lod_files, unpack_pdparams
from models.weights.readers.pickles import read_pickle
from models.weights.readers.state_dicts import choose_state, classes_in, json_of
from models.weights.readers.torch_files import LEGACY, read_torch

_KINDS = "torch, safetensors, Paddle, detectron2, Chainer and darknet files are read"
_FOREIGN = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras)",
    b"GGUF": "a GGUF file",
    b"%PDF": "a PDF",
    b"\x1aE\xdf\xa3": "a video",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as named tensors.

    Attributes:
        path: the file or folder it was read from.
        container: the kind of file, see the table above.
        tensors: by key, on the CPU; of torch-zip, safetensors and darknet mapped from the file until they are touched.
            A wrapper's prefix (``module.``, ``_orig_mod.``, ``model.``) is taken off where every key has it.
        classes: class names in label order without the background, or None where the file does not say.
        metadata: JSON: ``entry`` (where the state dict was), ``stripped`` (prefixes), ``ignored`` (keys without
            numbers), and what else the file says: epoch, metrics, ``meta``, ...
    """

    path: Path
    container: str
    tensors: dict[str, Tensor]
    classes: tuple[str, ...] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path, *, entry: str | None = None) -> Checkpoint:
    """Read a checkpoint of any kind.

    Args:
        path: the file, or the folder of Paddle 1.x variables.
        entry: which state dict, where the file holds several: ``"teacher"``, ``"ema.module"``.

    Raises:
        WeightsError: no such file; no checkpoint, and what it is instead; damaged; asks for more than data.
    """
    path = Path(path)
    try:
        opened = _open(path)
        state = choose_state(path, opened.content, entry)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such checkpoint", "Check the path") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    metadata = {**json_of(opened.metadata), **state.rest, "entry": state.entry, "stripped": list(state.stripped)}
    if state.ignored:
        metadata["ignored"] = sorted({*metadata.get("ignored", ()), *state.ignored})
    own = opened.container.startswith("torch") and state.entry == "model" and _is_own(metadata.get("meta"))
    classes = classes_in(metadata) or published_classes(path.name)
    return Checkpoint(
        path=path,
        container="annotune" if own else opened.container,
        tensors=state.tensors,
        classes=without_background(classes) if classes else None,
        metadata=metadata,
    )


def describe_checkpoint(path: Path) -> str:
    """What a checkpoint holds, as text: its kind, classes, what it says about itself, and every key with its shape."""
    checkpoint = read_checkpoint(path)
    tensors = checkpoint.tensors
    width = max((len(key) for key in tensors), default=0)
    total = sum(tensor.numel() for tensor in tensors.values())
    lines = [f"{checkpoint.path.name}: {checkpoint.container}, {len(tensors)} tensors, {total:,} numbers"]
    if checkpoint.classes:
        lines.append(f"classes ({len(checkpoint.classes)}): {', '.join(checkpoint.classes)}")
    lines += [f"{key}: {_short(value)}" for key, value in sorted(checkpoint.metadata.items()) if value not in ("", [])]
    lines += [
        f"  {key:<{width}}  {'x'.join(map(str, tensor.shape)) or 'scalar'}  {str(tensor.dtype).removeprefix('torch.')}"
        for key, tensor in tensors.items()
    ]
    return "\n".join(lines)


def published_classes(name: str) -> tuple[str, ...] | None:
    """The classes of a checkpoint that torchvision publishes under this file name, which carries its hash.

    torchvision keeps them in its enum, not in the file. COCO's list has "N/A" at the ids that were never used.
    """
    if not re.fullmatch(r"[\w.-]+-[0-9a-f]{8}\.pth", name):
        return None
    from torchvision.models._api import get_model_weights, list_models  # noqa: PLC0415 - seconds, for few files

    for model in list_models():
        for weights in get_model_weights(model):
            if weights.url.rpartition("/")[2] == name:
                return tuple(weights.meta.get("categories", ())) or None
    return None


def _open(path: Path) -> Opened:
    if path.is_dir():
        return read_lod_files(path)
    if instead := what_it_is_instead(path):
        raise WeightsError(f"{path}: {instead}, not a checkpoint", "Fetch the file itself")
    with path.open("rb") as file:
        head = file.read(64)
    kind, reader = _kind(path, head)
    if reader is None:
        raise WeightsError(f"{path}: {kind}, not a checkpoint", _KINDS)
    with damage_named(path, kind):
        return reader(path)


def _kind(path: Path, head: bytes) -> tuple[str, Callable[[Path], Opened] | None]:
    """The kind of file that ``path`` is by its first bytes, and what reads it."""
    kinds: list[tuple[bool, str, Callable[[Path], Opened]]] = [
        (head.startswith(b"PK\x03\x04"), "zip", _open_zip),
        (LEGACY in head, "torch", read_torch),
        (
            head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size,
            "safetensors",
            read_safetensors,
        ),
        (_is_tar(path, head), "tar", lambda path: read_tar(path, _open)),
        (head[:1] == b"\x80" and head[1:2] in {b"\2", b"\3", b"\4", b"\5"}, "pickle", _open_pickle),
        (looks_like_darknet(path, head), "darknet", read_darknet),
    ]
    unknown = next((kind for mark, kind in _FOREIGN.items() if head.startswith(mark)), None)
    unknown = unknown or f"an unknown kind of file (it begins with {head[:8].hex(' ')})"
    return next(((kind, reader) for is_it, kind, reader in kinds if is_it), (unknown, None))


def _open_zip(path: Path) -> Opened:
    with zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return read_torch(path)
    if names and all(name.endswith(".npy") for name in names):
        return read_npz(path)
    return read_zip(path, _open)


def _open_pickle(path: Path) -> Opened:
    """Paddle's and detectron2's pickles differ in what they hold: Paddle's maps names to arrays at the top."""
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: a pickled {type(content).__name__}, not a state dict", _KINDS)
    if any(key in content for key in ("model", "blobs")) and "StructuredToParameterName@@" not in content:
        return Opened("pickle", content)
    return unpack_pdparams(content)


def _is_tar(path: Path, head: bytes) -> bool:
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return True
    with path.open("rb") as file:
        file.seek(257)
        if file.read(5) == b"ustar":
            return True
    return path.suffix == ".tar" and tarfile.is_tarfile(path)


def _is_own(meta: Any) -> bool:
    return isinstance(meta, dict) and {"detector", "classes", "options"} <= meta.keys()


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else text[:200] + "..."
