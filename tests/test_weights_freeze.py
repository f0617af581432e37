from __future__ import annotations

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn

from models.errors import WeightsError
from models.weights.freeze import apply_freeze, choose_strategy, param_groups
from models.zoo import DETECTORS, DetectorOptions, build_detector, resolve_options
from models.zoo.detector import Detector


class Toy(nn.Module):
    """Two stages with batch norms, a neck and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
        )
        self.neck = nn.Conv2d(4, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.neck(self.backbone(images)))
        return result


TOY = Detector(
    name="toy",
    title="Toy",
    build=lambda num_classes, options: Toy(),
    class_rows=(),
    fields={},
    parts=((r"backbone\.", "backbone"), (r"neck\.", "neck")),
    stages=(r"backbone\.0\.", r"backbone\.1\."),
)


def toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    """One training step; the names of the tensors that it changed, statistics included."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.train()
    optimizer.zero_grad()
    torch.manual_seed(1)
    model(torch.randn(4, 3, 5, 5)).square().sum().backward()
    optimizer.step()
    return {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}


def starts(names: set[str]) -> set[str]:
    return {".".join(name.split(".")[:2]) if name.startswith("backbone") else name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    ("spec", "trains"),
    [
        ("none", {"backbone.0", "backbone.1", "neck", "head"}),
        ("stem", {"backbone.1", "neck", "head"}),
        ("stages:1", {"neck", "head"}),
        ("backbone", {"neck", "head"}),
        ("all-but-head", {"head"}),
        ("re:^neck", {"backbone.0", "backbone.1", "head"}),
    ],
)
def test_a_step_changes_what_trains_and_nothing_else(spec: str, trains: set[str]) -> None:
    model = toy()
    report = apply_freeze(model, TOY, spec)
    optimizer = torch.optim.SGD(param_groups(model, TOY, 0.1, 1e-2))

    changed = step(model, optimizer)

    assert starts(changed) == trains
    assert not changed & set(report.frozen)
    assert not {name for name in changed if any(name.startswith(norm + ".") for norm in report.still)}


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW])
def test_what_is_unfrozen_later_is_really_trained(optimizer_class: type[torch.optim.Optimizer]) -> None:
    model = toy()
    apply_freeze(model, TOY, "backbone")
    optimizer = optimizer_class(param_groups(model, TOY, 0.1, 1e-2))  # type: ignore[call-arg]
    assert not any(name.startswith("backbone") for name in step(model, optimizer))

    apply_freeze(model, TOY, "none")  # both biases of the batch norms are all zeros still

    changed = step(model, optimizer)
    assert set(dict(model.named_parameters())) - {"backbone.0.0.bias", "backbone.1.0.bias"} <= changed
    assert {"backbone.0.1.running_mean", "backbone.1.1.running_var"} <= changed


def test_frozen_batch_norms_stay_in_eval_through_train_copy_and_pickle() -> None:
    model = toy()
    report = apply_freeze(model, TOY, "stem")
    assert report.still == ("backbone.0.1",)

    for one in (model, deepcopy(model), pickle.loads(pickle.dumps(model))):
        one.train()
        norms = [module.training for module in one.modules() if isinstance(module, nn.BatchNorm2d)]
        assert norms == [False, True]
        assert one.backbone[0][1].train() is one.backbone[0][1]


def test_stages_are_those_of_the_backbone_that_the_recipe_chose() -> None:
    name = "fasterrcnn_resnet50_fpn"
    with torch.device("meta"):
        model = build_detector(DetectorOptions(name=name, backbone="timm://convnext_atto"), 3)
    report = apply_freeze(model, DETECTORS[name], "stages:1")
    assert {name.split(".")[2] for name in report.frozen} == {"stem_0", "stem_1", "stages_0"}
    groups = param_groups(model, DETECTORS[name], 1.0, 0.0, {"stem": 0.1}, norm_decay=True, bias_decay=True)
    assert [group["lr"] for group in groups] == [0.1, 1.0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "11 parameters (0.5%) and 53 batch norms stay"),
        ({"backbone": "timm://resnet18d"}, "22 batch norms stay"),
        ({"norm": "batch"}, "33 parameters (0.5%) and 11 batch norms stay"),
    ],
)
def test_what_is_held_unasked_is_told_with_the_remedy(changes: dict[str, str], says: str) -> None:
    detector, options = DETECTORS["fasterrcnn_resnet50_fpn"], DetectorOptions(**changes)  # type: ignore[arg-type]
    with torch.device("meta"):
        model, fresh = (build_detector(resolve_options(options, pretrained=told), 3) for told in (True, False))

    told = apply_freeze(model, detector, None).summary()

    assert says in told
    remedy = "train.freeze: none" + ("" if changes.get("norm") else " and detector.norm: batch")
    assert told.endswith(f"weights from very many pictures; after less, try {remedy}")
    for report in (apply_freeze(model, detector, "stem"), apply_freeze(fresh, detector, None)):
        assert "try" not in report.summary()


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_every_detector_has_a_stem_and_stages_to_freeze(name: str) -> None:
    with torch.device("meta"):
        model = build_detector(DetectorOptions(name=name), 3)
    everything = set(dict(model.named_parameters()))
    held: list[set[str]] = [set()]
    for spec in ("stem", *(f"stages:{count}" for count in range(1, len(DETECTORS[name].stages))), "all-but-head"):
        held.append(set(apply_freeze(model, DETECTORS[name], spec).frozen))
        assert held[-2] < held[-1] < everything
    assert apply_freeze(model, DETECTORS[name], "none").frozen == ()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("stages:2", "has a stem and 1 stages"),
        ("stages:x", "is not known"),
        ("layers", "It is none, stem"),
        ("re:nowhere", "matches no parameter of toy"),
    ],
)
def test_a_spec_that_means_nothing_is_an_error(spec: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        apply_freeze(toy(), TOY, spec)


def test_groups_hold_every_parameter_once_with_its_rate() -> None:
    model = toy()
    apply_freeze(model, TOY, "backbone")

    groups = param_groups(model, TOY, 1.0, 0.1, {"backbone": 0.5, "stem": 0.2, "re:neck.bias": 3, "head": 2})

    by_id = {id(parameter): group for group in groups for parameter in group["params"]}
    rates = {name: by_id[id(parameter)]["lr"] for name, parameter in model.named_parameters()}
    decays = {name: by_id[id(parameter)]["weight_decay"] for name, parameter in model.named_parameters()}
    assert len(by_id) == sum(len(group["params"]) for group in groups) == len(rates)
    assert rates["backbone.0.0.weight"] == rates["backbone.0.1.bias"] == 0.2
    assert rates["backbone.1.0.weight"] == 0.5
    assert (rates["neck.weight"], rates["neck.bias"], rates["head.bias"]) == (1.0, 3.0, 2.0)
    assert {name for name, decay in decays.items() if decay} == {
        "backbone.0.0.weight",
        "backbone.1.0.weight",
        "neck.weight",
        "head.weight",
    }


def test_decay_of_norms_and_biases_can_be_asked_for() -> None:
    groups = param_groups(toy(), TOY, 1.0, 0.1, norm_decay=True, bias_decay=True)
    assert [group["weight_decay"] for group in groups] == [0.1]


def test_a_list_of_multipliers_is_the_stem_then_each_stage() -> None:
    groups = param_groups(toy(), TOY, 1.0, 0.0, [0.1, 0.2], norm_decay=True, bias_decay=True)
    assert [group["lr"] for group in groups] == [0.1, 0.2, 1.0]


@pytest.mark.parametrize("multipliers", [{"bakbone": 0.1}, {"stage:7": 0.1}, {"re:nowhere": 1.0}, [0.1, 0.2, 0.3]])
def test_a_multiplier_that_applies_to_nothing_is_an_error(multipliers: dict[str, float] | list[float]) -> None:
    with pytest.raises(WeightsError, match="applies to no parameter of toy"):
        param_groups(toy(), TOY, 1.0, 0.0, multipliers)


@pytest.mark.parametrize(
    ("images", "shared", "coverage", "name"),
    [
        (100, 3, 1.0, "head-only"),
        (100, 0, 1.0, "shallow-frozen"),
        (100, None, 1.0, "shallow-frozen"),
        (5000, 3, 1.0, "full"),
        (5000, 0, 1.0, "full"),
        (100, 3, 0.1, "from-scratch"),
    ],
)
def test_the_strategy_follows_size_and_likeness(images: int, shared: int | None, coverage: float, name: str) -> None:
    strategy = choose_strategy(images, 4, shared, coverage)
    assert strategy.name == name
    apply_freeze(toy(), TOY, strategy.freeze)
    assert str(images) in strategy.reason or name == "from-scratch"
