"""NumPy's pickled arrays and scalars as plain data: stand-ins that hold bytes, and become tensors once checked.

NumPy's own ``dtype.__setstate__`` and ``_reconstruct`` are not called on a stranger's bytes: a dtype whose flags deny
that it holds objects would make an array read pointers from the file. The forms are those of ``ndarray.__reduce__``
and ``__reduce_ex__``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_CODES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


class Opaque:
    """An object of a class that is not needed: its name is kept, its state is dropped, nothing of it runs."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Drop it."""


class Dtype:
    """A stand-in for ``numpy.dtype``: the type code and the byte order."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = code.decode("ascii", "replace") if isinstance(code, bytes) else str(code)
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        """Take the byte order of ``(version, order, subdtype, names, fields, ...)``; records stay unsupported."""
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.order = ">" if order == ">" else "<"
        if any(part is not None for part in state[2:5]):
            self.code = "record"

    def plain(self) -> np.dtype[Any] | None:
        """NumPy's dtype, or None where it is no number or truth value."""
        code = {"bool": "b1", "?": "b1"}.get(self.code, self.code)
        return np.dtype(self.order + code) if code in _CODES else None


class Array:
    """A stand-in for ``numpy.ndarray``, filled by the pickle's BUILD."""

    tensor: Tensor | None = None

    def __setstate__(self, state: Any) -> None:
        """Take ``(version, shape, dtype, fortran order, bytes)``."""
        shape, dtype, fortran, data = state[-4:]
        plain = dtype.plain() if isinstance(dtype, Dtype) else None
        if plain is not None:
            self.tensor = tensor_from(data, plain, shape, bool(fortran))


def reconstruct(*_: Any) -> Array:
    """``numpy._core.multiarray._reconstruct``: an empty array, whose state follows."""
    return Array()


def frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Array:
    """``numpy._core.numeric._frombuffer``: protocol 5's way to write an array."""
    array = Array()
    array.__setstate__((shape, dtype, order in {"F", b"F"}, data))
    return array


def scalar(dtype: Any, data: Any = None) -> Any:
    """``numpy._core.multiarray.scalar``: a Python number, or an Opaque for anything else."""
    plain = dtype.plain() if isinstance(dtype, Dtype) else None
    return Opaque() if plain is None else tensor_from(data, plain, (), fortran=False).item()


def tensor_from(data: Any, dtype: np.dtype[Any], shape: Any, fortran: bool) -> Tensor:
    """``data`` as a tensor of ``shape``: no copy where it can be written to and is in this machine's byte order.

    Raises:
        ValueError: the bytes are not as many as shape and dtype say.
    """
    data = as_bytes(data)
    sizes = tuple(int(size) for size in shape)
    if any(size < 0 for size in sizes) or len(sizes) > 32 or math.prod(sizes) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {sizes[:8]} and {dtype} with {len(data):,} bytes")
    if not len(data):
        return torch.from_numpy(np.empty(sizes, dtype.newbyteorder("=")))
    array = np.frombuffer(bytearray(data) if isinstance(data, bytes) else data, dtype)
    array = array.astype(dtype.newbyteorder("="), copy=False)
    if fortran:
        return torch.from_numpy(array).reshape(sizes[::-1]).permute(*reversed(range(len(sizes)))).contiguous()
    return torch.from_numpy(array.reshape(sizes))


def as_bytes(data: Any) -> bytes | bytearray | memoryview:
    """Bytes, or the text that protocol 2 and Python 2 write them as."""
    if isinstance(data, str):
        return data.encode("latin-1")
    if isinstance(data, bytes | bytearray | memoryview):
        return data
    raise ValueError(f"array data of type {type(data).__name__}")
