"""Which entry of a checkpoint is meant, which prefix goes, which classes it knows, and how it is described."""

from argparse import Namespace
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_containers import STATE

from models.errors import WeightsError
from models.weights.containers import describe_checkpoint, published_classes, read_checkpoint

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
