from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_converters import real
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torchvision.models import squeezenet1_0

from models.checkpoint import CheckpointMeta, save_checkpoint
from models.errors import WeightsError
from models.weights.apply import apply_plan
from models.weights.containers import Checkpoint, read_checkpoint
from models.weights.plan import LoadPlan
from models.weights.planning import plan_load
from models.weights.preview import plan_for
from models.weights.rules import LoadRules
from models.zoo import DetectorOptions, build_detector, resolve_options
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


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_the_first_convolution_adapts_to_the_channels_as_timms_does(channels: int) -> None:
    model, source = toy(2, channels=channels), toy(2, seed=1)
    file = opened(source.state_dict(), ("a", "b"))

    result = plan(model, "a b", file)
    state = apply_plan(result, model.state_dict(), file)

    first = next(tensor for tensor in result.tensors if tensor.key == "backbone.0.weight")
    assert (first.action, first.reason) == ("copied", f"first convolution: adapted from 3 to {channels} channels")
    oracle = adapt_input_conv(channels, source.state_dict()["backbone.0.weight"])
    torch.testing.assert_close(state["backbone.0.weight"], oracle)
    model.load_state_dict(state, strict=True)


def test_statistics_of_batch_norm_move_and_counters_do_not_count() -> None:
    source = toy(2, seed=1)
    source.backbone[1].running_mean.fill_(7)
    tensors = {key: tensor for key, tensor in source.state_dict().items() if "num_batches" not in key}
    file = opened(tensors, ("a", "b"))
    model = toy(2)

    result = plan(model, "a b", file)

    assert result.coverage.tensors == result.coverage.backbone == 1.0
    assert torch.equal(apply_plan(result, model.state_dict(), file)["backbone.1.running_mean"], torch.full((4,), 7.0))


def test_dtypes_are_the_models() -> None:
    half = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in toy(2).state_dict().items()}
    model, file = toy(2, seed=1), opened(half, ("b", "c"))
    state = apply_plan(plan(model, "a b", file), model.state_dict(), file)
    assert {key: tensor.dtype for key, tensor in state.items()} == {
        key: tensor.dtype for key, tensor in model.state_dict().items()
    }


def test_neither_the_state_nor_the_checkpoint_changes() -> None:
    model, file = toy(2), opened(toy(3, seed=1).state_dict(), ("b", "c", "d"))
    before = [tensor.clone() for tensor in (*model.state_dict().values(), *file.tensors.values())]
    apply_plan(plan(model, "a b", file), model.state_dict(), file)
    assert all(
        torch.equal(a, b) for a, b in zip(before, (*model.state_dict().values(), *file.tensors.values()), strict=True)
    )


def test_include_loads_only_what_it_names() -> None:
    file = opened(toy(2, seed=1).state_dict(), ("a", "b"))
    result = plan(toy(2), "a b", file, include=["glob:backbone.*", "re:rpn"], exclude=["re:running"])
    copied = [tensor.key for tensor in result.tensors if tensor.action == "copied"]
    assert copied == [
        "backbone.0.weight",
        "backbone.0.bias",
        "backbone.1.weight",
        "backbone.1.bias",
        "backbone.1.num_batches_tracked",
        "rpn.bbox_pred.weight",
        "rpn.bbox_pred.bias",
    ]
    reasons = {tensor.key: tensor.reason for tensor in result.tensors}
    assert reasons["cls_score.bias"] == "not included by any rule"
    assert reasons["backbone.1.running_var"] == "excluded by 're:running'"


def test_half_a_backbone_is_not_enough_unless_the_rules_say_so() -> None:
    tensors = {key: tensor for key, tensor in toy(2, seed=1).state_dict().items() if not key.startswith("backbone.0")}
    file = opened(tensors, ("a", "b"))
    with pytest.raises(WeightsError, match=r"supplies 12\.5% of the backbone, less than min_coverage 50%"):
        plan(toy(2), "a b", file)
    assert plan(toy(2), "a b", file, min_coverage=0.1).coverage.backbone == 0.125
    assert plan(toy(2), "a b", file, exclude=["glob:backbone.0.*"]).coverage.backbone == 0.125


def test_classes_of_the_same_number_without_names_are_taken_in_order_and_said_so() -> None:
    result = plan(toy(2), "a b", opened(toy(2, seed=1).state_dict()))
    assert result.coverage.head == 1.0
    assert result.notes == ("the checkpoint does not name its 2 classes: their rows are taken in order",)


def test_names_that_do_not_fit_the_rows_are_not_used() -> None:
    result = plan(toy(2), "a b", opened(toy(5, seed=1).state_dict(), ("a", "b")))
    assert result.classes.checkpoint is None
    assert result.notes == ("the checkpoint names 2 classes but has rows for 5: its names are not used",)


def test_ninety_rows_are_cocos_by_id() -> None:
    result = plan(toy(2), "tvmonitor RBC", opened(toy(90, seed=1).state_dict()))
    assert result.classes.shared == ("tvmonitor",)
    runs = next(tensor.runs for tensor in result.tensors if tensor.key == "cls_score.bias")
    assert runs == ((0, 0, 1), (1, 72, 1))  # the background, and id 72


def test_no_shared_class_starts_the_head_anew() -> None:
    result = plan(toy(1), "RBC", opened(toy(2, seed=1).state_dict(), ("cat", "dog")))
    assert {t.reason for t in result.tensors if t.action == "skipped"} == {"no shared class"}


def test_a_bias_goes_with_its_weight() -> None:
    tensors = toy(2, seed=1).state_dict()
    tensors["cls_score.weight"] = torch.zeros(3, 7)  # another width, as of another head
    result = plan(toy(2), "a b", opened(tensors, ("a", "b")))
    reasons = {tensor.key: tensor.reason for tensor in result.tensors if tensor.action == "skipped"}
    assert reasons == {
        "cls_score.weight": "shape: 3x4 here, 3x7 in the checkpoint",
        "cls_score.bias": "goes with its weight, which has another shape",
    }


def test_a_renamed_checkpoint_loads() -> None:
    tensors = {f"student.{key}": tensor for key, tensor in toy(2, seed=1).state_dict().items()}
    result = plan(toy(2), "a b", opened(tensors, ("a", "b")), rename=[(r"^student\.", "")])
    assert (result.coverage.elements, result.renamed) == (1.0, len(tensors))
    with pytest.raises(WeightsError, match=r"changes no key of the checkpoint\. Its keys look like student\.backbone"):
        plan(toy(2), "a b", opened(tensors), rename=[(r"^teacher\.", "")])


def test_a_plan_fits_its_model_and_its_checkpoint_alone() -> None:
    file = opened(toy(2, seed=1).state_dict(), ("a", "b"))
    result = plan(toy(2), "a b", file)
    with pytest.raises(WeightsError, match=r"made for another model: cls_score\.weight is 4x4 and not 3x4"):
        apply_plan(result, toy(3).state_dict(), file)
    with pytest.raises(WeightsError, match="made for another model: they differ in"):
        apply_plan(result, nn.Linear(1, 1).state_dict(), file)
    with pytest.raises(WeightsError, match=r"made for another checkpoint: some\.pth has no backbone\.0\.weight"):
        apply_plan(result, toy(2).state_dict(), opened({}))


def test_the_table_and_the_summary_account_for_everything() -> None:
    file = opened({**toy(5, seed=1).state_dict(), "ema.decay": torch.zeros(())})
    result = plan(toy(3), "a b c", file)
    rows = result.to_rows()
    assert len(rows) == len(toy(3).state_dict()) + 5
    assert rows[-1] == {
        "tensor": "",
        "shape": "scalar",
        "part": "",
        "action": "unused",
        "from": "ema.decay",
        "reason": "the model has no ema.decay",
    }
    assert "skipped, shape: 4" in result.summary()
    assert result.summary()[0] == "some.pth (torch-zip, names: name) -> toy"


@pytest.mark.parametrize(
    "field",
    [
        {"exclude": ["re:("]},
        {"rename": [["(", "x"]]},
        {"rename": [["(a)", r"\2"]]},
        {"key_map": "caffe"},
        {"exlude": []},
    ],
)
def test_rules_that_cannot_be_meant_fail_where_they_are_read(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"regular expression|key_map|exlude"):
        LoadRules.model_validate(field)


def test_the_command_plans_without_a_dataset_and_without_weights(tmp_path: Path) -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    options = DetectorOptions(name=name)
    meta = CheckpointMeta(name, ("cat", "tv"), resolve_options(options).model_dump(mode="json"))
    save_checkpoint(tmp_path / "own.pt", build_detector(options, 3).state_dict(), meta)

    result = plan_for(name, ("tvmonitor", "fish", "cat"), tmp_path / "own.pt")

    assert (result.container, result.key_map, result.classes.shared) == ("annotune", "name", ("tvmonitor", "cat"))
    assert result.coverage.backbone == 1.0
    assert plan_for(name, ("tvmonitor", "fish", "cat"), tmp_path / "own.pt") == result
    with pytest.raises(WeightsError, match="no such checkpoint"):
        plan_for(name, ("a",), tmp_path / "none.pt")


SQUEEZENET = Detector(
    name="squeezenet1_0",
    title="",
    build=lambda num_classes, options: squeezenet1_0(num_classes=num_classes),
    class_rows=(ClassRows(r"classifier\.1\.(weight|bias)", background=False),),
    fields={"fc": r"classifier\.1\..+"},
    parts=((r"features\.", "backbone"),),
)


def test_a_real_pretrained_classifier_moves_but_for_its_classes() -> None:
    file = read_checkpoint(real("checkpoints/squeezenet1_0_deepcomp.pth"))
    model = squeezenet1_0(num_classes=3)

    result = plan_load(model, SQUEEZENET, ("a", "b", "c"), file)
    model.load_state_dict(apply_plan(result, model.state_dict(), file), strict=True)

    assert (len(file.tensors), result.coverage.backbone, result.coverage.head) == (52, 1.0, 0.0)
    assert [tensor.key for tensor in result.tensors if tensor.action == "skipped"] == [
        "classifier.1.weight",
        "classifier.1.bias",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "resnet20-12fca82f.th",
        "mobilenet0.25_Final.pth",
        "slim_Final.pth",
        "espnet_best_model.pdparams",
        "chainer_siamese_cifar10.npz",
    ],
)
def test_a_real_checkpoint_of_something_else_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=r"does not fit squeezenet1_0: (nothing in it matches|it supplies 0\.)"):
        plan_load(
            squeezenet1_0(num_classes=3), SQUEEZENET, ("a", "b", "c"), read_checkpoint(real(f"checkpoints/{name}"))
        )
