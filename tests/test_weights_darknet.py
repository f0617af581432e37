from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import WeightsError
from models.weights.apply import apply_plan
from models.weights.containers import read_checkpoint
from models.weights.darknet import network, with_names
from models.weights.preview import plan_for
from models.zoo import DETECTORS, DetectorOptions, build_detector


def write(path: Path, count: int) -> Path:
    """A darknet file whose numbers count up: header of version 0.2, then little-endian float32."""
    header = struct.pack("<3iq", 0, 2, 0, 32013312)
    path.write_bytes(header + np.arange(count, dtype="<f4").tobytes())
    return path


def test_the_networks_are_told_by_the_count() -> None:
    """75 convolutions and 62,001,757 numbers for 80 classes (yolov3.cfg), 52 and 40,620,640 for the backbone."""
    assert [len(network(count) or ()) for count in (62_001_757, 40_620_640, 62_001_757 - 60 * 5385)] == [75, 52, 75]
    assert network(62_001_758) is None
    assert network(100) is None


def test_the_backbone_is_cut_in_darknets_order(tmp_path: Path) -> None:
    path = write(tmp_path / "darknet53.conv.74", 40_620_640)
    assert path.stat().st_size == 162_482_580  # the published file's size

    tensors = with_names(read_checkpoint(path)).tensors

    names = list(tensors)
    assert names[:6] == [
        "darknet.backbone.conv1.bn.bias",
        "darknet.backbone.conv1.bn.weight",
        "darknet.backbone.conv1.bn.running_mean",
        "darknet.backbone.conv1.bn.running_var",
        "darknet.backbone.conv1.conv.weight",
        "darknet.backbone.conv_res_block1.conv.bn.bias",
    ]
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
    assert torch.equal(flat, torch.arange(40_620_640, dtype=torch.float32))
    assert tensors[names[4]].shape == (32, 3, 3, 3)


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "yolov3-tiny.weights", 1000)
    with pytest.raises(WeightsError, match="1,000 numbers are neither YOLOv3 nor darknet53"):
        plan_for("ssd300_vgg16", ("a",), path)


@pytest.mark.skipif("yolov3_darknet53" not in DETECTORS, reason="YOLOv3 is not in the zoo")
def test_yolov3_takes_all_of_a_voc_file_and_keeps_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "yolov3-voc.weights", 62_001_757 - 60 * 5385)
    plan = plan_for("yolov3_darknet53", ("tv", "RBC"), path)
    skipped = {tensor.key for tensor in plan.tensors if tensor.action == "skipped"}

    assert {key for key in skipped if "num_batches_tracked" not in key} == set()
    assert (plan.key_map, plan.unused, plan.classes.shared) == ("darknet", (), ("tv",))
    state = build_detector(DetectorOptions(name="yolov3_darknet53"), 3).state_dict()
    filled = apply_plan(plan, state, read_checkpoint(path))
    source = with_names(read_checkpoint(path)).tensors["darknet.yolo_output.0.bias"].view(3, 25)
    rows = filled["yolo_output.0.bias"].view(3, 7)
    assert torch.equal(rows[:, :6], source[:, [0, 1, 2, 3, 4, 24]])  # x, y, w, h, objectness, tvmonitor
    assert torch.equal(rows[:, 6], state["yolo_output.0.bias"].view(3, 7)[:, 6])
