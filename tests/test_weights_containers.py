import os
import pickle
import random
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_weights import add, lod_bytes
from safetensors.torch import save_file
from torch import Tensor

from models.checkpoint import CheckpointMeta, save_checkpoint
from models.errors import WeightsError
from models.weights.containers import describe_checkpoint, published_classes, read_checkpoint
from models.weights.readers import pickles

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


def data(name: str) -> Path:
    folder = os.environ.get("ANNOTUNE_DATA")
    if folder is None:
        pytest.skip("ANNOTUNE_DATA is not set: real checkpoints are not in the repository")
    return Path(folder) / "checkpoints" / name


# Writers by the formats' published definitions. None of them shares a line with the readers.


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


# Every container, whole.


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


# Which entry, which prefix, which classes.

ONE, TWO = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}


@pytest.mark.parametrize(
    ("content", "entry", "value"),
    [
        (ONE, "", 1),
        ({"state_dict": ONE, "epoch": 3}, "state_dict", 1),
        ({"model": TWO, "state_dict": ONE}, "state_dict", 1),
        ({"model_state": ONE, "optimizer_state": {"state": {}}}, "model_state", 1),
        ({"state_dict": TWO, "state_dict_ema": ONE}, "state_dict_ema", 1),
        ({"model": TWO, "model_ema": ONE}, "model_ema", 1),
        ({"model": TWO, "ema": {"module": ONE, "updates": 5}}, "ema.module", 1),
        ({"ema": {"decay": 0.9}, "model": ONE}, "model", 1),
        ({"state_dict": ONE, "ema_state_dict": TWO}, "state_dict", 1),  # mmengine: the average is in state_dict
        ({"something": ONE, "optimizer": {"state": TWO}}, "something", 1),
        ({"params": TWO, "params_ema": ONE}, "params_ema", 1),
    ],
)
def test_the_entry_by_order_of_preference(tmp_path: Path, content: dict[str, object], entry: str, value: float) -> None:
    torch.save(content, tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth")
    assert found.metadata["entry"] == entry
    assert found.tensors["w"].tolist() == [value]


def test_an_entry_can_be_named_and_must_be_where_several_are_possible(tmp_path: Path) -> None:
    torch.save({"student": TWO, "teacher": {"backbone": ONE}}, tmp_path / "x.pth")
    torch.save({"student": TWO, "teacher": ONE}, tmp_path / "y.pth")
    assert read_checkpoint(tmp_path / "x.pth", entry="teacher.backbone").tensors["w"].tolist() == [1]
    with pytest.raises(WeightsError, match=r"several entries hold tensors: student, teacher. Name one"):
        read_checkpoint(tmp_path / "y.pth")
    with pytest.raises(WeightsError, match=r"no state dict under 'pupil'. It has student, teacher"):
        read_checkpoint(tmp_path / "y.pth", entry="pupil")
    torch.save({"epoch": 3}, tmp_path / "z.pth")
    with pytest.raises(WeightsError, match=r"no tensors by name in it. It has epoch"):
        read_checkpoint(tmp_path / "z.pth")


@pytest.mark.parametrize(
    ("keys", "plain", "stripped"),
    [
        (["module.a", "module.b"], ["a", "b"], ["module."]),
        (["module._orig_mod.model.a"], ["a"], ["module.", "_orig_mod.", "model."]),
        (["_orig_mod.module.a"], ["a"], ["_orig_mod.", "module."]),
        (["model.a", "criterion.b"], ["model.a", "criterion.b"], []),
        (["body._orig_mod.a", "head.b"], ["body.a", "head.b"], ["_orig_mod."]),
        (["module.a", "n_averaged"], ["a"], ["module."]),
        (["modules.a"], ["modules.a"], []),
    ],
)
def test_prefixes_are_taken_off_where_every_key_has_them(
    tmp_path: Path, keys: list[str], plain: list[str], stripped: list[str]
) -> None:
    torch.save({key: torch.zeros(1) for key in keys}, tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth")
    assert (list(found.tensors), found.metadata["stripped"]) == (plain, stripped)


def test_two_keys_that_would_become_one_are_an_error(tmp_path: Path) -> None:
    torch.save({"a._orig_mod.w": torch.zeros(1), "a.w": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="two tensors have one name"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "rest",
    [
        {"meta": {"CLASSES": ("cat", "dog")}},
        {"meta": {"dataset_meta": {"classes": ("cat", "dog"), "palette": [(0, 0, 0)]}}},
        {"classes": ["cat", "dog"]},
        {"classes": ["__background__", "cat", "dog"]},
        {"names": {1: "dog", 0: "cat"}},
        {"class_names": ["cat", "dog", "background"]},
    ],
)
def test_classes_from_the_places_where_projects_keep_them(tmp_path: Path, rest: dict[str, object]) -> None:
    torch.save({"state_dict": ONE, **rest}, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth").classes == ("cat", "dog")


def test_torchvision_files_have_the_classes_of_their_enum(tmp_path: Path) -> None:
    torch.save(ONE, tmp_path / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
    classes = read_checkpoint(tmp_path / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth").classes
    assert classes is not None
    assert (len(classes), classes[:2], classes[11], classes[-1]) == (90, ("person", "bicycle"), "N/A", "toothbrush")
    assert published_classes("fasterrcnn_resnet50_fpn_coco.pth") is None
    assert published_classes("other-258fb6c6.pth") is None


def test_metadata_is_json_and_small(tmp_path: Path) -> None:
    rest = {
        "epoch": 3,
        "best": np.float64(0.5),
        "ap": torch.tensor(0.25),
        "nan": float("nan"),
        "optimizer": {"state": {0: torch.ones(5)}},
        "log": "x" * 100_000,
        "meta": {"env": [1, (2, "ö")], "np": np.int64(4)},
    }
    torch.save({"state_dict": ONE, **rest}, tmp_path / "x.pth")
    metadata = read_checkpoint(tmp_path / "x.pth").metadata
    for key in ("entry", "stripped"):
        del metadata[key]
    assert metadata == {
        "epoch": 3, "best": 0.5, "ap": 0.25, "nan": "nan", "meta": {"env": [1, [2, "ö"]], "np": 4},
    }  # fmt: skip


def test_classes_that_known_projects_leave_beside_their_tensors_do_not_matter(tmp_path: Path) -> None:
    rest = {"args": Namespace(lr=0.1, out=Path("x/y")), "counts": defaultdict(int, a=1), "history": np.arange(3.0)}
    for name, zipped in (("x.pth", True), ("y.pth", False)):
        torch.save({"model": ONE, **rest}, tmp_path / name, _use_new_zipfile_serialization=zipped)
        found = read_checkpoint(tmp_path / name)
        assert found.tensors["w"].tolist() == [1]
        assert found.metadata["counts"] == {"a": 1}


def test_the_description_lists_everything(tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{key}": value for key, value in STATE.items()}, "epoch": 3}, tmp_path / "x.pth")
    text = describe_checkpoint(tmp_path / "x.pth")
    assert text.startswith("x.pth: torch-zip, 5 tensors, 29 numbers\n")
    for line in ("epoch: 3", "entry: state_dict", "stripped: ['module.']"):
        assert f"\n{line}\n" in text
    assert [line.split() for line in text.splitlines()[-5:]] == [
        ["conv.weight", "2x3x2x2", "float32"],
        ["bn.running_mean", "2", "float64"],
        ["bn.num_batches_tracked", "scalar", "int64"],
        ["half", "2", "float16"],
        ["empty", "0x4", "float32"],
    ]


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
    found = read_checkpoint(data(name))
    assert (found.container, len(found.tensors), found.tensors[key].shape) == (container, count, shape)
    assert all(tensor.isfinite().all() for tensor in found.tensors.values())


def test_real_torch_files_are_what_torch_reads() -> None:
    for name in ("resnet20-12fca82f.th", "squeezenet1_0_deepcomp.pth"):
        content = torch.load(data(name), map_location="cpu", weights_only=True)
        state = content.get("state_dict", content)
        ours = read_checkpoint(data(name)).tensors
        assert set(ours) == {key.removeprefix("module.") for key in state}
        assert all(torch.equal(ours[key.removeprefix("module.")], tensor) for key, tensor in state.items())


def test_the_real_chainer_file_is_what_numpy_reads() -> None:
    with np.load(data("chainer_siamese_cifar10.npz")) as arrays:
        ours = read_checkpoint(data("chainer_siamese_cifar10.npz")).tensors
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


# Files that are something else, damaged or hostile: one typed error, nothing runs.


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 68580485\n",
            "git-LFS pointer to a file of 68,",
        ),
        (b"\n <!DOCTYPE html><title>404</title>", r'a web page \("404"\)'),
        (b"PK\x03\x04" + b"\0" * 100, "a truncated or damaged zip"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "HDF5"),
        (b"hello, this is text and no checkpoint", "an unknown kind of file"),
        (b"\x80", "an unknown kind of file"),
        (b"\x1f\x8b" + b"\0" * 100, "damaged or not a tar"),
        (struct.pack("<Q", 50) + b"{" * 60, "damaged or not a safetensors"),
        (pickle.dumps([1, 2]), "a pickled list"),
        (pickle.dumps({1: 2}), "no tensors by name"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        read_checkpoint(tmp_path / "net.pth")


def test_missing_files_empty_folders_and_programs_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match=r"without a Paddle 1.x variable"):
        read_checkpoint(tmp_path)
    (tmp_path / "__params__").write_bytes(lod_bytes(ARRAYS["conv.weight"]) * 2)
    with pytest.raises(WeightsError, match="damaged or not a Paddle variable"):
        read_checkpoint(tmp_path)


class Runs:
    """Unpickling it with an open unpickler runs a shell command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.system, (f"touch {self.mark}",)


class Evaluates(Runs):
    def __reduce__(self) -> object:
        return eval, (f"open({str(self.mark)!r}, 'w')", {"data": 1})


class Builds(Runs):
    def __reduce__(self) -> object:
        return OrderedDict, (), None, None, iter([("w", Runs(self.mark))])


class Gets(Runs):
    """The way round an allow-list that has getattr in it."""

    def __reduce__(self) -> object:
        return getattr, (Runs(self.mark), "mark")


HOSTILE: dict[str, Callable[[Path, object], object]] = {
    "x.pdparams": lambda path, thing: path.write_bytes(pickle.dumps({"w": np.ones(2), "x": thing}, 2)),
    "y.pdparams": lambda path, thing: path.write_bytes(pickle.dumps({"w": np.ones(2), "x": thing}, 4)),
    "x.pkl": lambda path, thing: path.write_bytes(pickle.dumps({"model": {"w": np.ones(2)}, "x": thing})),
    "x.pth": lambda path, thing: torch.save({"w": torch.ones(2), "x": thing}, path),
    "y.pth": lambda path, thing: torch.save(
        {"w": torch.ones(2), "x": thing}, path, _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", [Runs, Evaluates, Builds, Gets])
def test_nothing_in_a_pickle_runs(tmp_path: Path, name: str, kind: type[Runs]) -> None:
    mark = tmp_path / "ran"
    HOSTILE[name](tmp_path / name, kind(mark))
    with pytest.raises(
        WeightsError, match=r"its pickle asks for \S*(system|eval|getattr)\S*,? .*nothing of it was run"
    ):
        read_checkpoint(tmp_path / name)
    assert not mark.exists()


def test_nothing_in_an_object_array_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    objects = np.array([Runs(mark), 1], dtype=object)
    with (tmp_path / "x.npz").open("wb") as file:
        np.savez(file, w=np.ones(2), x=objects)
    assert list(read_checkpoint(tmp_path / "x.npz").tensors) == ["w"]
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({"w": np.ones(2), "x": objects}))
    with pytest.raises(WeightsError, match="system"):
        read_checkpoint(tmp_path / "x.pdparams")
    assert not mark.exists()


def nested(depth: int, opener: bytes, closer: bytes) -> bytes:
    return opener * depth + closer * depth


BOMBS = {
    "opcodes": pickle.dumps({"w": np.ones(2)}, 2).replace(b"\x80\x02", b"\x80\x02" + b"N0" * 3000, 1),
    "a nest as a key": b"\x80\x02})" + b"\x85" * 1000 + b"K\x01s.",
    "a key that doubles": b"\x80\x02})" + b"q\x00h\x00\x86" * 64 + b"K\x01s.",
    "a memo of 4 billion": b"\x80\x02}r\xff\xff\xff\xff.",
    "bytes that are not there": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"abc.",
    "text that is not there": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "an empty stack": b"\x80\x02s.",
    "a mark that is not there": b"\x80\x02t.",
    "a memo that is not there": b"\x80\x02h\x05.",
    "no end": b"\x80\x02}",
    "an unknown opcode": b"\x80\x02\xff.",
    "persistent id": b"\x80\x02K\x01Q.",
    "an extension": b"\x80\x02\x82\x01.",
    "an old-style instance": b"\x80\x02(ios\nsystem\n.",
    "a stack global of numbers": b"\x80\x04K\x01K\x02\x93.",
    "a call without a function": b"\x80\x02K\x01)R.",
    "an array of 16 GB without a byte": pickle.dumps({"w": np.ones(0)}, 4).replace(
        b"K\x00\x85", b"J\xff\xff\xff\x7f\x85"
    ),
    "an array with too few bytes": pickle.dumps({"w": np.ones(4)}, 4).replace(b"K\x04", b"K\x7f"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_and_broken_pickles_are_typed_errors(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MOST_OPCODES", 5000)
    (tmp_path / "x.pdparams").write_bytes(BOMBS[kind])
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "x.pdparams")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", BOMBS[kind])
        archive.writestr("x/version", "3\n")
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "x.pth")


def test_a_list_that_unfolds_without_end_is_left_out(tmp_path: Path) -> None:
    laughs: list[object] = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": {"w": np.ones(2)}, "laughs": laughs, "epoch": 3}))
    torch.save({"model": ONE, "laughs": laughs, "epoch": 3}, tmp_path / "x.pth")
    for name in ("x.pkl", "x.pth"):
        metadata = read_checkpoint(tmp_path / name).metadata
        assert metadata["epoch"] == 3
        assert "laughs" not in metadata


def test_a_record_dtype_that_hides_objects_makes_no_array(tmp_path: Path) -> None:
    """Flags 0 with a field of objects: NumPy would read pointers from the file's bytes."""
    lying = pickle.dumps({"w": np.ones(2), "x": np.zeros(1, [("p", "O")])}, 2)
    (tmp_path / "x.pdparams").write_bytes(lying)
    assert list(read_checkpoint(tmp_path / "x.pdparams").tensors) == ["w"]


@pytest.mark.parametrize("name", ["../../w", "/w", "a/../../w", "..\\w"])
def test_archive_members_never_leave_their_place(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    for suffix in ("", ".pdparams"):
        with tarfile.open(folder / "x.tar", "w") as tar:
            add(tar, name + suffix, lod_bytes(ARRAYS["conv.weight"]))
        with zipfile.ZipFile(folder / "x.zip", "w") as archive:
            archive.writestr(name + suffix, lod_bytes(ARRAYS["conv.weight"]))
        for archive_name in ("x.tar", "x.zip"):
            with pytest.raises(WeightsError, match="would be written outside"):
                read_checkpoint(folder / archive_name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["here", "in", "x.tar", "x.zip"]


def test_links_twins_and_bombs_in_archives_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        member = tarfile.TarInfo("w")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with tarfile.open(tmp_path / "twins.tar", "w") as tar:
        for folder in ("a", "b"):
            add(tar, f"{folder}/w", lod_bytes(ARRAYS["conv.weight"]))
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        for name in ("a.pth", "b.pth"):
            add(tar, name, b"x")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net.pth", b"\0" * (80 << 20))
    with (tmp_path / "bomb.npz").open("wb") as file:
        np.savez_compressed(file, w=np.zeros(10 << 20))
    with tarfile.open(tmp_path / "bomb.tgz", "w:gz") as tar:
        add(tar, "net.pth", b"\0" * (80 << 20))
    for name, words in {
        "bomb.tgz": "200 times its size",
        "link.tar": "'w' is a link",
        "twins.tar": "two variables are called 'w'",
        "two.tar": "several checkpoints: a.pth, b.pth",
        "bomb.zip": "200 times its size",
        "bomb.npz": "200 times its size",
    }.items():
        with pytest.raises(WeightsError, match=words):
            read_checkpoint(tmp_path / name)


def test_torchscript_is_a_program(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        archive.writestr("x/constants.pkl", b"\x80\x02).")
    with pytest.raises(WeightsError, match="TorchScript"):
        read_checkpoint(tmp_path / "x.pt")


def touch(path: Path) -> None:
    """Read the checkpoint and every number in it; damage may go unseen or be a WeightsError, nothing else."""
    try:
        found = read_checkpoint(path)
    except WeightsError as error:
        assert str(path) in str(error)  # noqa: PT017 - both ends are right
        return
    for tensor in found.tensors.values():
        tensor.contiguous().view(-1).sum() if tensor.numel() < 10_000 else None


@pytest.mark.parametrize("name", WRITERS)
def test_flipped_bits_give_a_checkpoint_or_a_typed_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    dice = random.Random(name)
    for _ in range(150):
        position, bit = dice.randrange(len(whole)), dice.randrange(8)
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
        touch(path)


def test_a_flipped_bit_in_a_tensor_of_a_zip_file_is_seen_though_torch_does_not(tmp_path: Path) -> None:
    write_torch(tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    position = whole.index(ARRAYS["conv.weight"].tobytes())
    (tmp_path / "x.pth").write_bytes(whole[:position] + b"\1" + whole[position + 1 :])
    assert torch.load(tmp_path / "x.pth")["conv.weight"].flatten()[0] != 0
    with pytest.raises(WeightsError, match="has not the checksum"):
        read_checkpoint(tmp_path / "x.pth")


def test_files_saved_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        write_torch(tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    check(tmp_path / "x.pth", "torch-zip")


@pytest.mark.parametrize("name", WRITERS)
def test_a_truncated_file_is_an_error_wherever_it_is_cut(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    # A tar file ends in padding, and darknet's floats have no end mark.
    end = {"g.tar": len(whole) - 10240, "h.weights": 20}.get(name, len(whole) - 1)
    for length in {*range(1, end, max(1, end // 40)), end}:
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=name):
            read_checkpoint(path)
