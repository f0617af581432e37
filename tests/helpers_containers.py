"""A checkpoint in every container, by the formats' published definitions; no line is shared with the readers."""

import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from helpers_weights import add, lod_bytes
from safetensors.torch import save_file
from torch import Tensor

from models.weights.containers import read_checkpoint

STATE = {
    "conv.weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2),
    "bn.running_mean": torch.tensor([0.5, -1.5], dtype=torch.float64),
    "bn.num_batches_tracked": torch.tensor(7),
    "half": torch.tensor([1.0, 2.0], dtype=torch.float16),
    "empty": torch.zeros(0, 4),
}
ARRAYS = {key: tensor.numpy() for key, tensor in STATE.items()}


def check(path: Path, container: str, state: dict[str, Tensor] = STATE) -> None:
    found = read_checkpoint(path)
    assert found.container == container
    assert list(found.tensors) == list(state)
    for key, tensor in state.items():
        assert found.tensors[key].dtype == tensor.dtype, key
        assert torch.equal(found.tensors[key], tensor), key
        assert found.tensors[key].device.type == "cpu"


def write_torch(path: Path) -> None:
    torch.save(STATE, path)


def write_legacy(path: Path) -> None:
    torch.save(STATE, path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path) -> None:
    save_file(STATE, path)


def write_pdparams(path: Path, protocol: int = 4) -> None:
    path.write_bytes(pickle.dumps({**ARRAYS, "StructuredToParameterName@@": {"conv.weight": "conv2d_0.w_0"}}, protocol))


def write_detectron2(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": ARRAYS, "__author__": "me", "matching_heuristics": True}))


def write_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **ARRAYS)


def write_lod_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for key, array in ARRAYS.items():
            add(tar, f"faster_rcnn_r50_1x/{key}", lod_bytes(array))


def write_darknet(path: Path) -> None:
    path.write_bytes(struct.pack("<3iq", 0, 2, 5, 32013312) + np.arange(10, dtype="<f4").tobytes())


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.pth": write_torch,
    "b.pth": write_legacy,
    "c.safetensors": write_safetensors,
    "d.pdparams": write_pdparams,
    "e.pkl": write_detectron2,
    "f.npz": write_npz,
    "g.tar": write_lod_tar,
    "h.weights": write_darknet,
}
