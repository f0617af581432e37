from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.errors import WeightsError
from models.weights.apply import apply_plan
from models.weights.containers import Checkpoint
from models.weights.plan import LoadPlan
from models.weights.planning import plan_load
from models.weights.rules import LoadRules
from models.zoo.detector import ClassRows, Detector


def opened(tensors: dict[str, Tensor], classes: tuple[str, ...] | None = None, **metadata: Any) -> Checkpoint:
    return Checkpoint(Path("folder/some.pth"), "torch-zip", tensors, classes, metadata)


class Toy(nn.Module):
    """A detector of four tensors' worth: backbone, batch norm, proposals, class scores and boxes."""

    def __init__(self, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4))
        self.rpn = nn.ModuleDict({"bbox_pred": nn.Linear(4, 4)})
        self.cls_score = nn.Linear(4, num_classes)
        self.bbox_pred = nn.Linear(4, 4 * num_classes)


TOY = Detector(
    name="toy",
    title="Toy",
    build=lambda num_classes, options: Toy(num_classes),
    class_rows=(ClassRows(r"cls_score\.(weight|bias)"), ClassRows(r"bbox_pred\.(weight|bias)", per_class=4)),
    fields={"cls_score": r"cls_score\.(weight|bias)", "bbox_pred": r"bbox_pred\.(weight|bias)"},
    parts=((r"backbone\.", "backbone"),),
)


def toy(classes: int, seed: int = 0, channels: int = 3) -> Toy:
    torch.manual_seed(seed)
    return Toy(classes + 1, channels)


def plan(model: Toy, classes: str, file: Checkpoint, **rules: Any) -> LoadPlan:
    return plan_load(model, TOY, classes.split(), file, LoadRules(**rules))


def test_the_state_is_complete_and_loads_strictly() -> None:
    model, source = toy(2), toy(2, seed=1)
    file = opened(source.state_dict(), ("cat", "dog"))

    result = plan(model, "cat dog", file)
    state = apply_plan(result, model.state_dict(), file)

    assert list(state) == list(model.state_dict())
    model.load_state_dict(state, strict=True)
    assert all(torch.equal(state[key], tensor) for key, tensor in file.tensors.items())
    assert {tensor.action for tensor in result.tensors} == {"copied"}
    assert result.coverage.elements == result.coverage.tensors == 1.0


def test_rows_of_shared_classes_move_by_name() -> None:
    model, source = toy(3), toy(2, seed=1)
    file = opened(source.state_dict(), ("dog", "aeroplane"))

    result = plan(model, "airplane fish dog", file)
    state = apply_plan(result, model.state_dict(), file)

    by_key = {tensor.key: tensor for tensor in result.tensors}
    assert by_key["cls_score.weight"].rows == (3, 4)  # the background, airplane and dog
    assert by_key["bbox_pred.bias"].rows == (12, 16)
    assert result.classes.shared == ("airplane", "dog")
    mine, theirs = state["cls_score.weight"], source.cls_score.weight
    assert torch.equal(mine[[0, 1, 3]], theirs[[0, 2, 1]])
    assert torch.equal(mine[2], model.cls_score.weight[2])
    assert torch.equal(state["bbox_pred.bias"][4:8], source.bbox_pred.bias[8:12])


def test_a_plan_needs_no_memory_and_survives_json() -> None:
    with torch.device("meta"):
        model = Toy(4)
    file = opened(toy(2, seed=1).state_dict(), ("dog", "cat"))

    result = plan(model, "cat fish dog", file)

    content = json.loads(json.dumps(result.to_json()))
    assert LoadPlan.from_json(content) == result
    assert content["classes"] == {
        "model": ["cat", "fish", "dog"],
        "checkpoint": ["dog", "cat"],
        "shared": ["cat", "dog"],
    }
    assert set(content["coverage"]) == {"tensors", "elements", "backbone", "neck", "head"}
    assert content["checkpoint"] == "some.pth"


def test_other_class_counts_without_names_are_skipped_and_the_rest_moves() -> None:
    model, file = toy(3), opened(toy(5, seed=1).state_dict())

    result = plan(model, "a b c", file)

    skipped = {tensor.key: tensor.reason for tensor in result.tensors if tensor.action == "skipped"}
    assert set(skipped) == {"cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias"}
    assert skipped["cls_score.weight"] == "shape: 4x4 here, 6x4 in the checkpoint, and it does not name its classes"
    assert {tensor.key for tensor in result.unused} == set(skipped)


def test_a_field_never_reaches_the_proposals() -> None:
    file = opened(toy(2, seed=1).state_dict(), ("a", "b"))

    result = plan(toy(2), "a b", file, exclude=["bbox_pred"])

    held = [tensor.key for tensor in result.tensors if tensor.action == "skipped"]
    assert held == ["bbox_pred.weight", "bbox_pred.bias"]
    assert {t.reason for t in result.tensors if t.action == "skipped"} == {"excluded by 'bbox_pred'"}


@pytest.mark.parametrize("rule", ["box_pred", "re:^bbox_prod", "glob:*.bbox_pred", "mask_fcn_logits"])
def test_a_rule_that_matches_nothing_is_an_error(rule: str) -> None:
    with pytest.raises(WeightsError, match="matches no tensor of toy") as caught:
        plan(toy(2), "a b", opened(toy(2).state_dict()), exclude=[rule])
    assert "its fields are bbox_pred, cls_score" in str(caught.value)


def test_nothing_in_common_is_refused_unless_forced() -> None:
    file = opened({"other.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="nothing in it matches"):
        plan(toy(2), "a b", file)
    assert "forced: nothing in it matches" in plan(toy(2), "a b", file, force=True).notes[-1]


def test_two_sources_for_one_place_are_an_error() -> None:
    file = opened({**toy(2).state_dict(), "old_score.weight": torch.zeros(3, 4)})
    with pytest.raises(WeightsError, match=r"give cls_score.weight and old_score.weight one name"):
        plan(toy(2), "a b", file, rename=[("^old_score", "cls_score")])
