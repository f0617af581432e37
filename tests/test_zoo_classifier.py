"""Classifiers of timm and torchvision under the detectors' interface."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor
from torchvision import models as torchvision_models

from models.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
from models.errors import DetectorError
from models.training.assemble import assemble
from models.weights.freeze import apply_freeze, param_groups
from models.weights.preview import plan_for
from models.zoo import DetectorOptions, build_detector, classifier_table, get_detector, resolve_options

SMALL = ("timm://test_resnet", "timm://test_vit", "torchvision://squeezenet1_0")
NAMES = (*SMALL, "timm://resnet50d", "timm://mobilenetv3_small_100", "torchvision://resnet18")


def tiny(name: str, **changes: object) -> DetectorOptions:
    return resolve_options(DetectorOptions(name=name, fixed_size=(64, 64), **changes))  # type: ignore[arg-type]


def pictures(count: int = 4) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    draw = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=draw) for _ in range(count)]
    return images, [{"labels": torch.tensor([1 + number % 3])} for number in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_the_head_is_what_depends_on_the_classes_and_every_parameter_has_a_stage(name: str) -> None:
    entry = get_detector(name)
    with torch.device("meta"):
        few, many = (build_detector(DetectorOptions(name=name), classes + 1) for classes in (4, 7))

    sizes = {key: tensor.shape for key, tensor in many.state_dict().items()}
    changed = {key for key, tensor in few.state_dict().items() if tensor.shape != sizes[key]}
    assert changed
    assert changed == {key for key in sizes if entry.rows_of(key)}
    assert changed == {key for key in sizes if entry.part_of(key) == "head"}
    for key, _ in few.named_parameters():
        assert sum(re.match(stage, key) is not None for stage in entry.stages) == (key not in changed), key
    assert len(entry.stages) >= 4


def test_the_stages_of_resnet50d_are_those_of_paddleclas() -> None:
    entry = get_detector("timm://resnet50d")
    with torch.device("meta"):
        model = build_detector(DetectorOptions(name=entry.name), 103)

    assert len(entry.stages) == 5
    frozen = apply_freeze(model, entry, "stages:1").frozen
    assert {name.split(".")[0] for name in frozen} == {"conv1", "bn1", "layer1"}
    names = [group["name"] for group in param_groups(model, entry, 0.00375, 1e-6, [0.1, 0.1, 0.2, 0.2, 0.3])]
    assert {name.partition(",")[0] for name in names} == {
        "stem x0.1", "stage:1 x0.1", "stage:2 x0.2", "stage:3 x0.2", "stage:4 x0.3", "rest x1",
    }  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_it_gives_a_loss_in_training_and_ranked_probabilities_in_evaluation(name: str) -> None:
    torch.manual_seed(0)
    model = build_detector(tiny(name), 4)
    images, targets = pictures()

    losses = model.train()(images, targets)
    assert list(losses) == ["classification"]
    losses["classification"].backward()
    with torch.inference_mode():
        one, again = model.eval()(images), model(images)
    for found, same in zip(one, again, strict=True):
        assert sorted(found["labels"].tolist()) == [1, 2, 3]
        assert found["scores"].sum().item() == pytest.approx(1.0)
        assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
        assert torch.equal(found["scores"], same["scores"])


def test_its_weights_are_those_of_the_library() -> None:
    """What is fine-tuned here loads in timm and torchvision, and gives their numbers."""
    images, _ = pictures()
    batch = torch.stack(images).float() / 255
    theirs = {"timm://test_resnet": timm.create_model("test_resnet", num_classes=3)}
    theirs["torchvision://squeezenet1_0"] = torchvision_models.squeezenet1_0(weights=None, num_classes=3)
    for name, other in theirs.items():
        options = tiny(name, image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0))
        ours = build_detector(options, 4)
        other.load_state_dict(ours.state_dict())
        with torch.inference_mode():
            expected = other.eval()(batch).softmax(1)
            found = ours.eval()(images)
        for row, own in zip(expected, found, strict=True):
            assert torch.allclose(row[own["labels"] - 1], own["scores"], atol=1e-5)


def test_label_smoothing_and_mixing_change_the_loss_and_follow_the_seed() -> None:
    images, targets = pictures()
    losses = {}
    for name, changes in {
        "plain": {},
        "smooth": {"label_smoothing": 0.1},
        "mixed": {"mixup": 0.4, "cutmix": 1.0},
    }.items():
        torch.manual_seed(0)
        model = build_detector(tiny("timm://test_resnet", **changes), 4).train()
        values = []
        for _ in range(2):
            torch.manual_seed(7)
            values.append(model(images, targets)["classification"].item())
        assert values[0] == values[1]
        losses[name] = values[0]
    assert len(set(losses.values())) == 3


def test_a_checkpoint_alone_makes_the_model(tmp_path: Path) -> None:
    options = tiny("timm://test_vit", crop=0.8)
    model = build_detector(options, 4)
    meta = CheckpointMeta(options.name, ("a", "b", "c"), options.model_dump(mode="json"))
    save_checkpoint(tmp_path / "best.pt", model.state_dict(), meta)

    _, read = load_checkpoint(tmp_path / "best.pt")
    assembled = assemble(tmp_path / "best.pt")

    assert read == meta
    assert assembled.detector.task == "classification"
    images, _ = pictures()
    with torch.inference_mode():
        for one, other in zip(model.eval()(images), assembled.model.eval()(images), strict=True):
            assert torch.allclose(one["scores"], other["scores"])


def test_class_rows_move_by_name(tmp_path: Path) -> None:
    options = tiny("timm://test_resnet")
    meta = CheckpointMeta(options.name, ("cat", "dog", "cow"), options.model_dump(mode="json"))
    save_checkpoint(tmp_path / "best.pt", build_detector(options, 4).state_dict(), meta)

    plan = plan_for(options.name, ("horse", "cow", "cat", "duck"), tmp_path / "best.pt")

    assert plan.classes.shared == ("cow", "cat")
    assert plan.coverage.backbone == 1.0
    rows = {tensor.key: (tensor.action, tensor.rows, tensor.runs) for tensor in plan.tensors if tensor.part == "head"}
    assert set(rows.values()) == {("rows", (2, 4), ((1, 2, 1), (2, 0, 1)))}


@pytest.mark.parametrize("rows", [20, 90])
def test_rows_as_many_as_a_detection_set_has_classes_are_not_taken_for_its_classes(tmp_path: Path, rows: int) -> None:
    torch.save(timm.create_model("test_resnet", num_classes=rows).state_dict(), tmp_path / "theirs.pth")

    plan = plan_for("timm://test_resnet", ("person", "dog"), tmp_path / "theirs.pth")

    assert plan.classes.checkpoint is None
    assert plan.coverage.backbone == 1.0
    assert {tensor.action for tensor in plan.tensors if tensor.part == "head"} == {"skipped"}


def test_what_is_not_there_is_said_with_the_nearest() -> None:
    with pytest.raises(DetectorError, match=r"no classifier 'resnet50dd'\. Did you mean timm://resnet50d"):
        get_detector("timm://resnet50dd")
    with pytest.raises(DetectorError, match=r"torchvision has no classifier .*Did you mean torchvision://resnet50"):
        get_detector("torchvision://resnt50")
    with pytest.raises(DetectorError, match="needs two classes to tell apart, here is 1"):
        build_detector(DetectorOptions(name="timm://test_resnet"), 2)
    with pytest.raises(DetectorError, match="has no option 'anchors'"):
        resolve_options(DetectorOptions(name="timm://test_resnet", anchors=((8.0,),)))


def test_the_table_has_what_torchvision_publishes() -> None:
    rows = {row.name: row for row in classifier_table()}
    for row in rows.values():
        for source in row.weights:
            if source.startswith("torchvision://"):
                enum, _, member = source.removeprefix("torchvision://").partition(".")
                meta = getattr(torchvision_models, enum)[member].meta
                assert row.parameters == meta["num_params"]
                assert round(meta["_metrics"]["ImageNet-1K"]["acc@1"], 1) == row.top1
    assert "ResNet50_vd" in rows["timm://resnet50d"].title
    assert rows["timm://resnet50d"].parameters == 25_576_264
