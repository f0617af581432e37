"""Checkpoints as other frameworks write them, from the formats' definitions: no line is shared with the readers."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import torch

from models.weights.classes import COCO

FRAMEWORK_KEYS: dict[str, dict[str, list[int]]] = json.loads(
    gzip.decompress((Path(__file__).parent / "framework_keys.json.gz").read_bytes())
)
"""Names and shapes of real models; see ``test_weights_keymaps``."""


def lod_bytes(array: np.ndarray, levels: tuple[bytes, ...] = (), packed: bool = False) -> bytes:
    """LoDTensor::SerializeToStream and TensorToStream of Paddle 1.x (lod_tensor.cc, tensor_util.cc)."""
    code = {"bool": 0, "int64": 3, "float16": 4, "float32": 5, "float64": 6, "uint8": 20}[array.dtype.name]
    sizes = b"".join(varint(size) for size in array.shape)
    dims = b"\x12" + varint(len(sizes)) + sizes if packed else b"".join(b"\x10" + varint(size) for size in array.shape)
    description = b"\x08" + varint(code) + dims
    stream = struct.pack("<IQ", 0, len(levels)) + b"".join(struct.pack("<Q", len(level)) + level for level in levels)
    return stream + struct.pack("<Ii", 0, len(description)) + description + array.tobytes()


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def random_arrays(model: str) -> dict[str, np.ndarray]:
    """Numbers that a network bears, for a model of :data:`FRAMEWORK_KEYS`: small weights, variances of one."""
    draw = np.random.default_rng(0)
    ones = ("variance", "running_var", "scale", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")
    return {
        key: np.ones(shape, np.float32)
        if key.endswith(ones)
        else draw.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        for key, shape in FRAMEWORK_KEYS[model].items()
        if "num_batches_tracked" not in key
    }


def write_paddle_1x(path: Path, model: str) -> Path:
    """As PaddlePaddle 1.x publishes one: a tar file of a folder with a file per variable."""
    with tarfile.open(path, "w") as tar:
        for key, array in random_arrays(model).items():
            add(tar, f"{path.stem}/{key}", lod_bytes(array))
    return path


def write_chainer(path: Path, model: str) -> Path:
    """As Chainer's ``save_npz`` writes one."""
    np.savez(path, **random_arrays(model))
    return path


def write_mmdetection(path: Path, model: str) -> Path:
    """As mmdetection 2 writes one, with the classes in its meta data."""
    state = {key: torch.from_numpy(array) for key, array in random_arrays(model).items()}
    torch.save({"meta": {"mmdet_version": "2.0.0", "CLASSES": COCO}, "state_dict": state}, path)
    return path
