"""Files that are something else, damaged or hostile: one typed error, nothing runs."""

import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_containers import (
    ARRAYS,
    WRITERS,
    check,
    write_torch,
)
from helpers_weights import add, lod_bytes

from models.errors import WeightsError
from models.weights.containers import read_checkpoint
from models.weights.readers import pickles


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
    torch.save({"model": {"w": torch.tensor([1.0])}, "laughs": laughs, "epoch": 3}, tmp_path / "x.pth")
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
