from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.checkpoint import CheckpointMeta, save_checkpoint
from models.errors import WeightsError
from models.weights.containers import Checkpoint, read_checkpoint
from models.weights.contracts import contract_problems
from models.weights.keymaps import KEY_MAPS
from models.weights.plan import LoadPlan
from models.weights.planning import plan_load
from models.weights.rules import LoadRules
from models.zoo import DETECTORS, DetectorOptions, build_detector, resolve_options

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"
NAME_MAP = KEY_MAPS["name"]


@cache
def model() -> nn.Module:
    return build_detector(DetectorOptions(name=NAME), 3)


def plan(file: Checkpoint, **rules: Any) -> LoadPlan:
    return plan_load(model(), DETECTORS[NAME], ("a", "b"), file, LoadRules(**rules))


def opened(metadata: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> Checkpoint:
    return Checkpoint(Path("it.pth"), "torch-zip", tensors or model().state_dict(), ("a", "b"), metadata)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"meta": {"cfg": "backbone=dict(type='ResNet', style='caffe')"}}, "strides in the 1x1"),
        ({"meta": {"cfg": {"model": {"backbone": {"style": "caffe"}}}}}, "strides in the 1x1"),
        ({"message_hub": "data_preprocessor=dict(bgr_to_rgb=False, std=[1.0, 1.0, 1.0])"}, "BGR"),
        ({"meta": {"config": "img_norm_cfg = dict(mean=[103.53], to_rgb=False)"}}, "BGR"),
    ],
)
def test_another_architecture_is_refused_unless_forced(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        plan(opened(metadata))
    assert "force: true" in str(caught.value)
    assert message in plan(opened(metadata), force=True).notes[-1]


@pytest.mark.parametrize(
    "metadata", [{}, {"meta": {"cfg": "style='pytorch', to_rgb=True, bgr_to_rgb=True", "epoch": 12, "options": None}}]
)
def test_an_ordinary_checkpoint_passes(metadata: dict[str, Any]) -> None:
    assert plan(opened(metadata)).coverage.elements == 1.0


def test_our_own_checkpoint_keeps_its_anchors(tmp_path: Path) -> None:
    for anchors, fits in ((None, True), (((16.0, 32.0, 64.0, 128.0, 256.0),) * 3, False)):
        options = resolve_options(DetectorOptions(name=NAME, anchors=anchors))
        meta = CheckpointMeta(NAME, ("a", "b"), options.model_dump(mode="json"))
        save_checkpoint(tmp_path / "own.pt", model().state_dict(), meta)
        file = read_checkpoint(tmp_path / "own.pt")
        if fits:
            assert plan(file).coverage.elements == 1.0
            assert plan(file).classes.shared == ("a", "b")
        else:
            with pytest.raises(WeightsError, match=r"its anchors are \[\[16.0, .* ours \[\[32.0"):
                plan(file)


@pytest.mark.parametrize(("deviation", "refused"), [([1.0, 1.0, 1.0], True), ([58.395, 57.12, 57.375], False)])
def test_detectron2s_pixel_statistics_tell_whose_resnet_it_is(deviation: list[float], refused: bool) -> None:
    name = "fasterrcnn_resnet50_fpn"
    tensors = {
        "backbone.bottom_up.stem.conv1.weight": torch.zeros(64, 3, 7, 7),
        "pixel_std": torch.tensor(deviation).view(3, 1, 1),
    }
    with torch.device("meta"):
        faster = build_detector(DetectorOptions(name=name), 3)
    file = Checkpoint(Path("it.pkl"), "pickle", tensors)
    rules = LoadRules(min_coverage=0.0)
    if refused:
        with pytest.raises(WeightsError, match="BGR"):
            plan_load(faster, DETECTORS[name], ("a", "b"), file, rules)
    else:
        assert plan_load(faster, DETECTORS[name], ("a", "b"), file, rules).renamed == 1


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_every_detector_knows_its_own_anchors_again(name: str) -> None:
    options = resolve_options(DetectorOptions(name=name))
    with torch.device("meta"):
        built = build_detector(options, 3)
    content = options.model_dump(mode="json")
    own = Checkpoint(Path("own.pt"), "annotune", {}, ("a", "b"), {"meta": {"options": content}})
    assert contract_problems(built, own, NAME_MAP) == []
    if not content.get("anchors"):
        return
    content["anchors"][0][0] += 1
    assert contract_problems(built, own, NAME_MAP)[0].startswith(f"its anchors are [[{content['anchors'][0][0]}")
