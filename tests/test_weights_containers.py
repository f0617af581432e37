"""Every container gives back its tensors, those of real files and of the frameworks themselves too."""

import os
import pickle
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_containers import (
    ARRAYS,
    STATE,
    WRITERS,
    check,
    write_pdparams,
    write_torch,
)
from helpers_converters import real
from helpers_weights import add, lod_bytes
from safetensors.torch import save_file

from models.checkpoint import CheckpointMeta, save_checkpoint
from models.errors import WeightsError
from models.weights.containers import read_checkpoint


@pytest.mark.parametrize(
    ("name", "container"),
    [
        ("a.pth", "torch-zip"),
        ("b.pth", "torch-legacy"),
        ("d.pdparams", "paddle-pdparams"),
        ("e.pkl", "pickle"),
        ("f.npz", "npz"),
        ("g.tar", "paddle-lod-tar"),
    ],
)
def test_a_container_gives_back_its_tensors_whatever_it_is_called(tmp_path: Path, name: str, container: str) -> None:
    state = dict(sorted(STATE.items())) if name == "g.tar" else STATE
    WRITERS[name](tmp_path / name)
    check(tmp_path / name, container, state)
    (tmp_path / name).rename(tmp_path / "download")
    check(tmp_path / "download", container, state)


def test_safetensors_keep_their_metadata_and_classes(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors", {"epoch": "3", "classes": '["cat", "dog"]'})
    check(tmp_path / "x.safetensors", "safetensors", dict(sorted(STATE.items())) if sorted_keys(tmp_path) else STATE)
    found = read_checkpoint(tmp_path / "x.safetensors")
    assert found.classes == ("cat", "dog")
    assert found.metadata["epoch"] == "3"


def sorted_keys(folder: Path) -> bool:
    """Whether the library lists keys in name order, which is its own affair."""
    return list(read_checkpoint(folder / "x.safetensors").tensors) == sorted(STATE)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_paddle_pickles_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    write_pdparams(tmp_path / "x.pdparams", protocol)
    check(tmp_path / "x.pdparams", "paddle-pdparams")
    names = read_checkpoint(tmp_path / "x.pdparams").metadata["parameter_names"]
    assert names == {"conv.weight": "conv2d_0.w_0"}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_large_arrays_of_all_layouts(tmp_path: Path, protocol: int) -> None:
    values = np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32)
    arrays = {"c": values, "fortran": np.asfortranarray(values), "big": values.astype(">f4"), "b": values > 0}
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(arrays, protocol))
    expected = {
        key: torch.from_numpy(np.ascontiguousarray(a.astype(a.dtype.newbyteorder("=")))) for key, a in arrays.items()
    }
    check(tmp_path / "x.pdparams", "paddle-pdparams", expected)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_large_array_is_in_memory_once(tmp_path: Path, protocol: int) -> None:
    array = np.random.default_rng(0).integers(0, 255, 8 << 20, np.uint8)
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({"w": array}, protocol))
    tracemalloc.start()
    try:
        found = read_checkpoint(tmp_path / "x.pdparams").tensors["w"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(found.numpy(), array)
    # Text of protocol 2 ends at a length that nobody knows before, so its buffer has an eighth of room and a step more.
    assert peak < 1.35 * array.nbytes + (2 << 20)


def test_paddle_tuples_slices_and_lod_tensors(tmp_path: Path) -> None:
    """What Paddle's reduce_varbase, _unpack_saved_dict and reduce_LoDTensor write."""

    class LoDTensor:
        def __reduce__(self) -> object:
            return eval, ("data", {"data": np.float32([5, 6])})

    content = {
        "pair": ("linear_0.w_0", np.float32([1, 2])),
        "lod": LoDTensor(),
        "big@@.0": np.float32([0, 1, 2]),
        "big@@.1": np.float32([3, 4, 5]),
        "bf16": np.uint16([0x3F80, 0xC000]),
        "UnpackBigParamInfor@@": {"big": {"OriginShape": (2, 3), "slices": ["big@@.0", "big@@.1"]}},
    }
    for protocol in (2, 4):
        (tmp_path / "x.pdparams").write_bytes(pickle.dumps(content, protocol))
        tensors = read_checkpoint(tmp_path / "x.pdparams").tensors
        assert set(tensors) == {"pair", "lod", "big", "bf16"}
        assert tensors["pair"].tolist() == [1, 2]
        assert tensors["lod"].tolist() == [5, 6]
        assert tensors["big"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert tensors["bf16"].dtype == torch.bfloat16
        assert tensors["bf16"].tolist() == [1, -2]


def test_python_2_pickles_as_caffe2_wrote_them(tmp_path: Path) -> None:
    """``{"blobs": {"w": array([1., 2.], float32)}, "cfg": "x"}`` by CPython 2.7's cPickle, protocol 2."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\n"
        b"U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08" + np.float32([1, 2]).tobytes() + b"tb"
    )
    (tmp_path / "R-50.pkl").write_bytes(b"\x80\x02}(U\x05blobs}U\x01w" + array + b"sU\x03cfgU\x01xu.")
    found = read_checkpoint(tmp_path / "R-50.pkl")
    assert found.tensors["w"].tolist() == [1, 2]
    assert (found.metadata["entry"], found.metadata["cfg"]) == ("blobs", "x")


def test_paddle_1_variables_in_a_folder_and_in_archives(tmp_path: Path) -> None:
    folder = tmp_path / "faster_rcnn_r50_1x"
    folder.mkdir()
    names = sorted(STATE)
    for number, key in enumerate(names):
        levels = (struct.pack("<2Q", 0, 2),) if number == 0 else ()
        (folder / key).write_bytes(lod_bytes(ARRAYS[key], levels, packed=number % 2 == 0))
    (folder / "__model__").write_bytes(b"\x0a\x80 a program, of which nothing is needed")
    check(folder, "paddle-lod", {key: STATE[key] for key in names})
    assert read_checkpoint(folder).metadata["ignored"] == ["__model__"]
    for mode, suffix in (("w", ""), ("w:gz", ".gz"), ("w:bz2", ".bz2")):
        with tarfile.open(tmp_path / f"x.tar{suffix}", mode) as tar:
            tar.add(folder, folder.name)
            add(tar, "._junk", b"AppleDouble")
        check(tmp_path / f"x.tar{suffix}", "paddle-lod-tar", {key: STATE[key] for key in names})
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for key in names:
            archive.write(folder / key, f"net/{key}")
    check(tmp_path / "x.zip", "paddle-lod-zip", {key: STATE[key] for key in names})


def test_one_checkpoint_inside_an_archive_is_read_with_its_own_reader(tmp_path: Path) -> None:
    for name, writer in WRITERS.items():
        if name in {"g.tar", "h.weights", "c.safetensors"}:
            continue
        writer(tmp_path / name)
        with tarfile.open(tmp_path / f"{name}.tgz", "w:gz") as tar:
            tar.add(tmp_path / name, f"../{name}".removeprefix("../"))
            add(tar, "README.md", b"hello")
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.write(tmp_path / name, f"deep/{name}")
        container = read_checkpoint(tmp_path / name).container
        check(tmp_path / f"{name}.tgz", container)
        check(tmp_path / f"{name}.zip", container)
        assert read_checkpoint(tmp_path / f"{name}.zip").metadata["member"] == f"deep/{name}"


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        (struct.pack("<3iq", 0, 2, 5, 32013312), (0, 2, 5, 32013312)),
        (struct.pack("<4i", 0, 1, 0, 777), (0, 1, 0, 777)),
    ],
)
def test_darknet_gives_one_flat_tensor_and_its_header(tmp_path: Path, header: bytes, fields: tuple[int, ...]) -> None:
    """pjreddie/darknet's src/parser.c, save_weights_upto: ``seen`` is a size_t from version 0.2 on, an int before."""
    floats = np.arange(12, dtype="<f4")
    (tmp_path / "net.weights").write_bytes(header + floats.tobytes())
    check(tmp_path / "net.weights", "darknet", {"darknet": torch.from_numpy(floats)})
    metadata = read_checkpoint(tmp_path / "net.weights").metadata
    assert tuple(metadata[key] for key in ("major", "minor", "revision", "seen")) == fields
    (tmp_path / "net.weights").write_bytes(header + floats.tobytes()[:-1])
    with pytest.raises(WeightsError, match="not a darknet header and whole floats"):
        read_checkpoint(tmp_path / "net.weights")


def test_chainer_none_is_skipped_and_named(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.savez(file, **{"conv1/W": np.float32([[1]]), "bn/avg_mean": np.float64([2]), "nothing": np.array(None)})
    found = read_checkpoint(tmp_path / "x.npz")
    assert list(found.tensors) == ["conv1/W", "bn/avg_mean"]
    assert found.metadata["ignored"] == ["nothing"]


def test_our_own_checkpoint_knows_its_classes(tmp_path: Path) -> None:
    meta = CheckpointMeta("retinanet", ("cat", "dog"), {"size": 320}, {"epoch": 2})
    save_checkpoint(tmp_path / "best.pt", STATE, meta, optimizer={"state": {0: {"exp_avg": torch.ones(3)}}})
    check(tmp_path / "best.pt", "annotune")
    found = read_checkpoint(tmp_path / "best.pt")
    assert found.classes == ("cat", "dog")
    assert found.metadata["meta"]["history"] == {"epoch": 2}
    assert "optimizer" not in found.metadata


def test_tensors_of_a_zip_file_are_mapped_and_ours_to_change(tmp_path: Path) -> None:
    write_torch(tmp_path / "x.pth")
    before = (tmp_path / "x.pth").read_bytes()
    read_checkpoint(tmp_path / "x.pth").tensors["conv.weight"].zero_()
    assert (tmp_path / "x.pth").read_bytes() == before


# Real files.


@pytest.mark.parametrize(
    ("name", "container", "count", "key", "shape"),
    [
        ("resnet20-12fca82f.th", "torch-legacy", 97, "layer1.0.conv1.weight", (16, 16, 3, 3)),
        ("mobilenet0.25_Final.pth", "torch-legacy", 300, "body.stage1.0.0.weight", (8, 3, 3, 3)),
        ("slim_Final.pth", "torch-legacy", 198, "conv1.0.weight", (16, 3, 3, 3)),
        ("squeezenet1_0_deepcomp.pth", "torch-zip", 52, "features.0.weight", (96, 3, 7, 7)),
        ("espnet_best_model.pdparams", "paddle-pdparams", 206, "encoder.level1.bn._mean", (16,)),
        ("chainer_siamese_cifar10.npz", "npz", 10, "conv2/W", (50, 20, 5, 5)),
    ],
)
def test_real_checkpoints(name: str, container: str, count: int, key: str, shape: tuple[int, ...]) -> None:
    found = read_checkpoint(real(f"checkpoints/{name}"))
    assert (found.container, len(found.tensors), found.tensors[key].shape) == (container, count, shape)
    assert all(tensor.isfinite().all() for tensor in found.tensors.values())


def test_real_torch_files_are_what_torch_reads() -> None:
    for name in ("resnet20-12fca82f.th", "squeezenet1_0_deepcomp.pth"):
        content = torch.load(real(f"checkpoints/{name}"), map_location="cpu", weights_only=True)
        state = content.get("state_dict", content)
        ours = read_checkpoint(real(f"checkpoints/{name}")).tensors
        assert set(ours) == {key.removeprefix("module.") for key in state}
        assert all(torch.equal(ours[key.removeprefix("module.")], tensor) for key, tensor in state.items())


def test_the_real_chainer_file_is_what_numpy_reads() -> None:
    with np.load(real("checkpoints/chainer_siamese_cifar10.npz")) as arrays:
        ours = read_checkpoint(real("checkpoints/chainer_siamese_cifar10.npz")).tensors
        assert set(ours) == set(arrays.files)
        assert all(np.array_equal(ours[key].numpy(), arrays[key]) for key in arrays.files)


ORACLE = """
import sys, numpy as np
out = sys.argv[1]
if sys.argv[2] == "chainer":
    import chainer, chainer.links as L
    class Net(chainer.Chain):
        def __init__(self):
            super().__init__()
            with self.init_scope():
                self.conv = L.Convolution2D(3, 4, 3); self.bn = L.BatchNormalization(4); self.fc = L.Linear(5, 2)
    net = Net()
    chainer.serializers.save_npz(out + "/net.npz", net)
    np.savez(out + "/truth.npz", **{k.strip("/"): p.array for k, p in net.namedparams()})
else:
    import paddle
    paddle.seed(0)
    net = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4), paddle.nn.Linear(5, 2))
    state = net.state_dict()
    for protocol in (2, 4):
        paddle.save(state, out + f"/p{protocol}.pdparams", protocol=protocol)
    np.savez(out + "/truth.npz", **{k: v.numpy() for k, v in state.items()})
    paddle.enable_static()
    main, start = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, start):
        paddle.static.nn.fc(paddle.static.data("x", [None, 5]), 2)
    exe = paddle.static.Executor(paddle.CPUPlace()); exe.run(start)
    params = main.all_parameters()
    from paddle.framework import core
    import os
    os.mkdir(out + "/static")
    for p in params:
        block = paddle.static.Program().global_block()
        paddle.static.save_vars(exe, out + "/static", main_program=main, vars=[p])
    np.savez(out + "/static.npz", **{p.name: np.array(paddle.static.global_scope().find_var(p.name).get_tensor())
             for p in params})
"""


def oracle(folder: Path, framework: str) -> dict[str, np.ndarray]:
    python = os.environ.get("ANNOTUNE_ORACLE_PYTHON")
    if python is None:
        pytest.skip(f"ANNOTUNE_ORACLE_PYTHON names no Python that has {framework}")
    subprocess.run([python, "-c", ORACLE, str(folder), framework], check=True, capture_output=True)
    with np.load(folder / "truth.npz") as arrays:
        return dict(arrays)


@pytest.mark.slow
def test_what_chainer_itself_writes(tmp_path: Path) -> None:
    truth = oracle(tmp_path, "chainer")
    tensors = read_checkpoint(tmp_path / "net.npz").tensors
    assert {"conv/W", "bn/gamma", "bn/avg_mean", "bn/avg_var", "fc/W"} <= set(tensors)
    assert all(np.array_equal(tensors[key].numpy(), array) for key, array in truth.items())


@pytest.mark.slow
def test_what_paddle_itself_writes(tmp_path: Path) -> None:
    truth = oracle(tmp_path, "paddle")
    for protocol in (2, 4):
        tensors = read_checkpoint(tmp_path / f"p{protocol}.pdparams").tensors
        assert set(tensors) == set(truth)
        assert all(np.array_equal(tensors[key].numpy(), array) for key, array in truth.items())
    static = read_checkpoint(tmp_path / "static")
    with np.load(tmp_path / "static.npz") as arrays:
        assert static.container == "paddle-lod"
        assert set(static.tensors) == set(arrays.files)
        assert all(np.array_equal(static.tensors[key].numpy(), arrays[key]) for key in arrays.files)
