"""Classifiers' checkpoints: what depends on the classes is found by building twice, as for detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from helpers_converters import real
from helpers_weights import FRAMEWORK_KEYS
from helpers_zoo import class_dependent, state
from torch import Tensor, nn
from torch.nn import functional

from models.errors import WeightsError
from models.weights.apply import apply_plan
from models.weights.containers import Checkpoint, published_classes, read_checkpoint
from models.weights.plan import LoadPlan
from models.weights.planning import plan_load
from models.weights.rules import LoadRules
from models.zoo import DetectorOptions, build_detector, get_detector
from models.zoo.classifier import LISTED

NAMES = sorted(LISTED)
OURS = ("cat", "RBC", "tvmonitor")
THEIRS = ("dog", "tv", "person", "Cat", "kite", "bus", "car")


def plan_of(
    name: str, own: tuple[str, ...], tensors: dict[str, Tensor], known: tuple[str, ...] | None = None, **rules: Any
) -> LoadPlan:
    file = Checkpoint(Path("foreign.pth"), "torch-zip", tensors, known)
    return plan_load(state(name, len(own)), get_detector(name), own, file, LoadRules(**rules))


def not_copied(plan: LoadPlan) -> dict[str, str]:
    return {tensor.key: tensor.action for tensor in plan.tensors if tensor.action != "copied"}


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_class_count_skips_exactly_what_depends_on_the_classes(name: str) -> None:
    plan = plan_of(name, OURS, state(name, 7))

    assert not_copied(plan) == dict.fromkeys(class_dependent(name), "skipped")
    assert {tensor.key for tensor in plan.unused} == class_dependent(name)
    assert plan.coverage.backbone == 1.0
    assert plan.summary()[3].endswith("100.0% of backbone, 0.0% of head")  # and no neck


@pytest.mark.parametrize("name", NAMES)
def test_shared_classes_move_by_name_unless_reset(name: str) -> None:
    plan = plan_of(name, OURS, state(name, 7), THEIRS)

    assert not_copied(plan) == dict.fromkeys(class_dependent(name), "rows")
    assert plan.classes.shared == ("cat", "tvmonitor")
    reset = plan_of(name, OURS, state(name, 7), THEIRS, classes="reset")
    assert not_copied(reset) == dict.fromkeys(class_dependent(name), "skipped")


@pytest.mark.parametrize("name", NAMES)
def test_the_librarys_own_file_is_used_whole(name: str) -> None:
    """Under the library's names, with ImageNet's 1000 classes in order."""
    library, _, model = name.partition("://")
    with torch.device("meta"):
        theirs = timm.create_model(model) if library == "timm" else torchvision.models.get_model(model, weights=None)
    plan = plan_of(name, tuple(f"n{number}" for number in range(1000)), theirs.state_dict())

    assert (not_copied(plan), plan.unused, plan.key_map, plan.renamed) == ({}, (), "name", 0)


@pytest.mark.parametrize(("name", "key_map"), [("paddleclas", "paddle"), ("paddleclas-static", "paddle-static")])
@pytest.mark.parametrize("classes", [1000, 3])
def test_paddleclas_resnet50_vd_is_resnet50d(name: str, key_map: str, classes: int) -> None:
    shapes = FRAMEWORK_KEYS[f"{name}/resnet50_vd"]
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    plan = plan_of("timm://resnet50d", tuple(f"n{number}" for number in range(classes)), tensors)

    missing = {key: action for key, action in not_copied(plan).items() if "num_batches_tracked" not in key}
    assert missing == ({} if classes == 1000 else {"fc.weight": "skipped", "fc.bias": "skipped"})
    assert {tensor.key for tensor in plan.unused} == {key for key in tensors if classes == 3 and key.startswith("fc")}
    assert plan.key_map == key_map
    assert [tensor.key for tensor in plan.tensors if tensor.transpose] == (["fc.weight"] if classes == 1000 else [])


@pytest.mark.parametrize(
    ("name", "paddle"),
    [("timm://resnet50d", False), ("timm://resnet50d", True), ("torchvision://squeezenet1_0", False)],
)
def test_logits_of_shared_classes_are_the_checkpoints_to_the_bit(name: str, paddle: bool) -> None:
    """Whole numbers as features and rows: exact whatever the order of the sums; a linear head and a convolution."""
    draw = torch.Generator().manual_seed(0)
    weight, bias = sorted(class_dependent(name), reverse=True)
    head = {
        key: torch.randint(-9, 9, shape.shape, generator=draw).float()
        for key, shape in state(name, 7).items()
        if key in {weight, bias}
    }
    tensors = {**{key: torch.zeros(tensor.shape) for key, tensor in state(name, 7).items()}, **head}
    if paddle:
        tensors = as_paddle(head)
    mine = {
        key: torch.randint(-9, 9, tensor.shape, generator=draw).to(tensor.dtype)
        for key, tensor in state(name, 3).items()
    }
    file = Checkpoint(Path("seven.pth"), "torch-zip", tensors, THEIRS)
    plan = plan_load(mine, get_detector(name), OURS, file)
    filled = apply_plan(plan, mine, file)

    features = torch.randint(-9, 9, (5, head[weight].shape[1]), generator=draw).float()

    def logits(of: dict[str, Tensor]) -> Tensor:
        return functional.linear(features, of[weight].flatten(1), of[bias])

    after, before, untouched = logits(filled), logits(head), logits(mine)
    assert torch.equal(after[:, 0], before[:, 3])  # cat
    assert torch.equal(after[:, 1], untouched[:, 1])  # RBC is new
    assert torch.equal(after[:, 2], before[:, 1])  # tvmonitor


def as_paddle(head: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet50_vd of seven classes as PaddleClas writes it."""
    shapes = FRAMEWORK_KEYS["paddleclas/resnet50_vd"]
    tensors = {key: torch.zeros(shape) for key, shape in shapes.items() if not key.startswith("fc.")}
    return {**tensors, "fc.weight": head["fc.weight"].t().contiguous(), "fc.bias": head["fc.bias"]}


def test_torchvisions_published_file_knows_imagenets_classes() -> None:
    name, classes = "torchvision://resnet50", ("tabby", "golden retriever", "fridge")
    known = published_classes("resnet50-11ad3fa6.pth")
    assert known is not None
    file = Checkpoint(Path("resnet50-11ad3fa6.pth"), "torch-zip", state(name, 1000), known)
    plan = plan_load(state(name, 3), get_detector(name), classes, file)

    assert plan.classes.shared == classes[:2]
    rows = {tensor.key: tensor.runs for tensor in plan.tensors if tensor.action == "rows"}
    assert set(rows) == {"fc.weight", "fc.bias"}
    assert set(rows.values()) == {((0, known.index("tabby"), 1), (1, known.index("golden retriever"), 1))}


@pytest.mark.parametrize("classes", [1000, 3])
def test_a_real_file_of_a_torchvision_classifier(classes: int) -> None:
    name = "torchvision://squeezenet1_0"
    file = read_checkpoint(real("checkpoints/squeezenet1_0_deepcomp.pth"))
    model = build_detector(DetectorOptions(name=name), classes + 1)
    plan = plan_load(model, get_detector(name), tuple(f"n{number}" for number in range(classes)), file)

    assert not_copied(plan) == ({} if classes == 1000 else dict.fromkeys(class_dependent(name), "skipped"))
    model.load_state_dict(apply_plan(plan, model.state_dict(), file), strict=True)


@pytest.mark.parametrize("field", ["fc", "re:^fc"])
def test_the_head_can_be_left_out_by_its_field(field: str) -> None:
    plan = plan_of("timm://resnet50d", OURS, state("timm://resnet50d", 3), OURS, exclude=(field,))
    assert not_copied(plan) == dict.fromkeys(("fc.weight", "fc.bias"), "skipped")


def test_another_network_is_refused() -> None:
    other: nn.Module = torchvision.models.get_model("squeezenet1_0", weights=None)
    with pytest.raises(WeightsError, match="nothing in it matches"):
        plan_of("timm://resnet50d", OURS, other.state_dict())
