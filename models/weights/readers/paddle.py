"""Paddle's files without Paddle: ``.pdparams`` pickles, and variables of Paddle 1.x (LoDTensor streams).

Formats: ``python/paddle/framework/io.py`` (``_build_saved_state_dict``), ``io_utils.py`` (``_pack_loaded_dict``) and
``paddle/fluid/framework/{lod_tensor.cc,tensor_util.cc,framework.proto}`` of PaddlePaddle.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from models.errors import WeightsError
from models.weights.readers.arrays import Array
from models.weights.readers.opened import Opened, damage_named, filled

_NAMES = "StructuredToParameterName@@"
_SLICES = "UnpackBigParamInfor@@"
# VarType.Type of framework.proto.
_DTYPES = {
    0: torch.bool,
    1: torch.int16,
    2: torch.int32,
    3: torch.int64,
    4: torch.float16,
    5: torch.float32,
    6: torch.float64,
    20: torch.uint8,
    21: torch.int8,
    22: torch.bfloat16,
}


def unpack_pdparams(content: Mapping[str, Any]) -> Opened:
    """A ``.pdparams`` dictionary with its own bookkeeping undone.

    ``(name, array)`` tuples become arrays, slices of a large parameter are joined again, bfloat16 comes back from the
    uint16 that NumPy holds it in. The table from structured to static names goes to ``metadata["parameter_names"]``.
    """
    state = {key: _array_of(value) for key, value in content.items() if key not in {_NAMES, _SLICES}}
    for key, info in (content.get(_SLICES) or {}).items():
        state[key] = _joined([state.pop(part) for part in info["slices"]], info["OriginShape"])
    state = {key: _bfloat(value) for key, value in state.items()}
    names = content.get(_NAMES)
    metadata = {"parameter_names": dict(names)} if isinstance(names, dict) else {}
    return Opened("paddle-pdparams", state, metadata)


def read_lod_files(folder: Path) -> Opened:
    """A folder of Paddle 1.x variables: one LoDTensor stream per file, named by its path in the folder.

    Files that do not begin like a stream (``__model__``, notes) are listed in ``metadata["ignored"]``.
    """
    tensors, ignored = {}, []
    for path in sorted(folder.rglob("[!.]*")):
        if path.is_symlink() or not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        with path.open("rb") as file, damage_named(path, "Paddle variable"):
            if looks_like_lod(file.read(20)):
                file.seek(0)
                tensors[name] = read_lod(file, path.stat().st_size)
            else:
                ignored.append(name)
    if not tensors:
        raise WeightsError(f"{folder}: a folder without a Paddle 1.x variable in it", "Name the checkpoint file itself")
    return Opened("paddle-lod", dict(tensors), {"ignored": ignored} if ignored else {})


def looks_like_lod(head: bytes) -> bool:
    """Whether a file begins as a LoDTensor stream: version 0, a few levels, and where there are none version 0."""
    if len(head) < 20:
        return False
    version, levels, then = struct.unpack_from("<IQI", head)
    return bool(version == 0 and levels <= 8 and (levels > 0 or then == 0))


def read_lod(file: BinaryIO, size: int) -> Tensor:
    """Read one LoDTensor stream of ``size`` bytes: straight into the tensor, which is the only copy.

    Raises:
        ValueError, struct.error: the stream is cut off, too long, or of an unknown type.
    """
    start = file.tell()
    version, levels = struct.unpack("<IQ", _exactly(file, 12))
    if version or levels > 8:
        raise ValueError(f"LoDTensor version {version} with {levels} levels")
    for _ in range(levels):
        (length,) = struct.unpack("<Q", _exactly(file, 8))
        _exactly(file, min(length, size))
    version, described = struct.unpack("<Ii", _exactly(file, 8))
    if version or not 0 <= described <= 4096:
        raise ValueError(f"tensor version {version} with a description of {described} bytes")
    code, shape = _description(_exactly(file, described))
    if code not in _DTYPES or len(shape) > 32 or any(length < 0 for length in shape):
        raise ValueError(f"a tensor of type {code} and shape {shape[:8]}")
    rest, dtype = size - (file.tell() - start), _DTYPES[code]
    if math.prod(shape) * dtype.itemsize != rest:
        raise ValueError(f"a tensor of shape {shape} and {dtype} with {rest:,} bytes")
    if not rest:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(filled(file, rest), dtype=dtype).reshape(shape)


def _description(data: bytes) -> tuple[int, list[int]]:
    """``VarType.TensorDesc``: field 1 is the type, field 2 the dimensions, packed or not."""
    code = -1
    shape: list[int] = []
    for field, value in _fields(data):
        if field == 1 and isinstance(value, int):
            code = value
        elif field == 2:
            values = [value] if isinstance(value, int) else list(_varints(value))
            shape.extend(number - (1 << 64) if number >> 63 else number for number in values)
    return code, shape


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The varint and length-delimited fields of a protobuf message."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        value, position = _varint(data, position)
        if tag & 7 == 0:
            yield tag >> 3, value
        elif tag & 7 == 2:
            yield tag >> 3, data[position : position + value]
            position += value
        else:
            raise ValueError(f"wire type {tag & 7} in a tensor's description")


def _varints(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[position]
        value, position, shift = value | (byte & 127) << shift, position + 1, shift + 7
        if byte < 128:
            return value, position
    raise ValueError("a number of more than 64 bits")


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ValueError("cut off")
    return data


def _array_of(value: Any) -> Any:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    return value.tensor if isinstance(value, Array) else value


def _joined(parts: list[Any], shape: Any) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts]).reshape([int(length) for length in shape])


def _bfloat(value: Any) -> Any:
    return value.view(torch.bfloat16) if isinstance(value, Tensor) and value.dtype == torch.uint16 else value
