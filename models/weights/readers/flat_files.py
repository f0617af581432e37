"""Containers that hold named or unnamed arrays and nothing else: safetensors, NumPy's npz, darknet's weights."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from models.errors import WeightsError
from models.weights.readers.arrays import tensor_from
from models.weights.readers.opened import Opened, filled

# A trained network hardly compresses; what grows more than this is no network.
MOST_GROWTH = 200
_DARKNET_NAME = re.compile(r".*\.(weights|conv\.\d+|backup)$")


def read_safetensors(path: Path) -> Opened:
    """Read a ``.safetensors`` file; its tensors are mapped, not read."""
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = dict(file.metadata() or {})
        return Opened("safetensors", {key: file.get_tensor(key) for key in file.keys()}, metadata)  # noqa: SIM118


def read_npz(path: Path) -> Opened:
    """Read the arrays of an ``.npz`` file; ChainerCV's keys stay as they are (``extractor/conv1_1/W``).

    Arrays of Python objects, which would have to be unpickled (Chainer's ``None``), are listed in
    ``metadata["ignored"]``.
    """
    tensors, ignored = {}, []
    with zipfile.ZipFile(path) as archive:
        refuse_bomb(path, sum(info.file_size for info in archive.infolist()))
        for info in archive.infolist():
            tensor = _npy(archive, info)
            if tensor is None:
                ignored.append(info.filename.removesuffix(".npy"))
            else:
                tensors[info.filename.removesuffix(".npy")] = tensor
    return Opened("npz", dict(tensors), {"ignored": ignored} if ignored else {})


def _npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor | None:
    """One member in NumPy's npy format, or None where it holds no numbers."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            return None
        return tensor_from(filled(file, info.file_size - file.tell()), dtype, shape, fortran)


def refuse_bomb(path: Path, size: int) -> None:
    """Raise for an archive whose content is absurdly larger than itself."""
    if size > MOST_GROWTH * path.stat().st_size + (64 << 20):
        raise WeightsError(f"{path}: unpacks to {size:,} bytes, {MOST_GROWTH} times its size; not read")


def looks_like_darknet(path: Path, head: bytes) -> bool:
    """Whether ``path`` has darknet's header and the size of it plus whole floats.

    Nothing in the file says "darknet": versions 0.1 to 0.5 are taken at their word, others by the file's name.
    """
    if len(head) < 20:
        return False
    major, minor, revision = struct.unpack_from("<3i", head)
    named = _DARKNET_NAME.fullmatch(path.name) is not None
    plausible = major == 0 and 1 <= minor <= 5 and 0 <= revision <= 5
    return (named and 0 <= major < 1000 and 0 <= minor < 1000) or (plausible and path.stat().st_size % 4 == 0)


def read_darknet(path: Path) -> Opened:
    """Read a darknet ``.weights`` file as one flat tensor under the key ``darknet``; the model's order cuts it up.

    Per convolution: the bias, or with batch norm beta, gamma, mean and variance; then the weights
    ``[out, in / groups, k, k]`` (``load_convolutional_weights``). The header is three int32, then ``seen``, the images
    trained on: int64 from version 0.2 on (``load_weights_upto``, both in pjreddie/darknet's ``src/parser.c``).
    """
    with path.open("rb") as file:
        major, minor, revision = struct.unpack("<3i", file.read(12))
        wide = major * 10 + minor >= 2 and major < 1000 and minor < 1000
        (seen,) = struct.unpack("<q" if wide else "<i", file.read(8 if wide else 4))
        offset = file.tell()
    count, odd = divmod(path.stat().st_size - offset, 4)
    if odd or count <= 0:
        raise WeightsError(f"{path}: {path.stat().st_size:,} bytes are not a darknet header and whole floats")
    floats: Any = np.memmap(path, "<f4", mode="c", offset=offset, shape=(count,))
    header = {"major": major, "minor": minor, "revision": revision, "seen": seen}
    return Opened("darknet", {"darknet": torch.from_numpy(floats)}, header)
