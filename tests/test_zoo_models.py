from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from helpers_converters import evaluated
from pycocotools.coco import COCO
from torch import Tensor, nn

from models.zoo import DETECTORS, DetectorOptions, build_detector, resolve_options
from models.zoo.masks import InstanceMasks

NAMES = sorted(DETECTORS)
SIZES = {"min_size": 96, "max_size": 128, "rois_per_image": 32, "detections_per_image": 10, "score_threshold": 0.0}


def tiny(name: str, **changes: Any) -> DetectorOptions:
    """Options that make one step cheap."""
    own = {key: value for key, value in SIZES.items() if key in DETECTORS[name].options}
    return DetectorOptions(name=name, **(own | changes))


@cache
def model_of(name: str) -> nn.Module:
    return fresh(name, seed=0)


def fresh(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = build_detector(tiny(name), 4)
    if hasattr(model, "rpn"):
        model.rpn._post_nms_top_n = {"training": 200, "testing": 20}
    return model


def scene(seed: int, objects: int, height: int = 96, width: int = 128) -> tuple[Tensor, dict[str, Any]]:
    """Bright rectangles on noise; label 1 is red, 2 green, 3 blue."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.rand(3, height, width, generator=draw) * 0.3
    boxes, labels, outlines = [], [], []
    for _ in range(objects):
        w, h = torch.randint(20, 48, (2,), generator=draw).tolist()
        x = int(torch.randint(0, width - w, (1,), generator=draw))
        y = int(torch.randint(0, height - h, (1,), generator=draw))
        label = int(torch.randint(1, 4, (1,), generator=draw))
        image[label - 1, y : y + h, x : x + w] = 1.0
        boxes.append([x, y, x + w, y + h])
        labels.append(label)
        outlines.append([[x, y, x + w, y, x + w, y + h, x, y + h]])
    return image, {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
        "masks": InstanceMasks.from_coco(outlines, height, width),
    }


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([loss.sum() for loss in losses.values()]).sum()


@pytest.mark.parametrize("name", NAMES)
def test_images_without_objects_one_pixel_objects_and_crowds_train(name: str) -> None:
    model = model_of(name).train()
    image, target = scene(1, 3)
    target["iscrowd"][0] = 1
    target["boxes"][1] = torch.tensor([64.0, 40.0, 65.0, 41.0])
    empty_image, empty = scene(2, 0)

    losses = model([image, empty_image], [target, empty])

    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    total(losses).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    model.zero_grad()
    assert target["iscrowd"].tolist() == [1, 0, 0]  # the caller's target is as it was


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_any_object_trains(name: str) -> None:
    losses = model_of(name).train()(*map(list, zip(scene(1, 0), scene(2, 0), strict=True)))
    assert all(torch.isfinite(loss) for loss in losses.values()), losses


@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_the_same_state_detects_the_same_and_stays_in_the_image(name: str) -> None:
    model, other = model_of(name).eval(), fresh(name, seed=1).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    images = [scene(3, 2)[0], scene(4, 2, 160, 64)[0]]
    with torch.inference_mode():
        first, second, again = model(images), other(images), model(images)

    for image, one, other, same in zip(images, first, second, again, strict=True):
        assert (
            one.keys()
            == other.keys()
            == {"boxes", "labels", "scores"} | ({"masks"} if DETECTORS[name].masks else set())
        )
        assert all(torch.equal(one[key], other[key]) and torch.equal(one[key], same[key]) for key in one)
        height, width = image.shape[1:]
        assert one["boxes"].shape == (len(one["labels"]), 4)
        assert ((one["boxes"] >= 0) & (one["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3)).all()
        assert set(one["labels"].tolist()) <= {1, 2, 3}
        if DETECTORS[name].masks:
            assert one["masks"].shape == (len(one["labels"]), 1, height, width)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_one_large_image_is_survived(name: str) -> None:
    image, target = scene(6, 5, 3000, 4000)
    # Two of them: SSDlite's last map is one pixel, and live batch norm wants more than one value.
    losses = model_of(name).train()([image, image], [target, target])
    assert all(torch.isfinite(loss) for loss in losses.values())
    with torch.inference_mode():
        (found,) = model_of(name).eval()([image])
    assert torch.isfinite(found["scores"]).all()


CHEAP = ("fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large", "yolov3_mobilenet_v3")


@pytest.mark.parametrize(
    ("name", "steps", "images"),
    [*((name, 12, 2) for name in CHEAP), *(pytest.param(name, 30, 8, marks=pytest.mark.slow) for name in NAMES)],
)
def test_the_loss_falls_and_the_same_seed_gives_the_same_numbers(name: str, steps: int, images: int) -> None:
    first, second = (trained(name, steps if run == 0 else 3, objects=2, images=images)[1] for run in range(2))
    assert all(torch.isfinite(torch.tensor(first)))
    assert sum(first[-3:]) < 0.9 * sum(first[:3]), first
    assert first[:3] == second


def trained(name: str, steps: int, objects: int, images: int = 2, **changes: Any) -> tuple[nn.Module, list[float]]:
    """A model trained from scratch on a few scenes, and its loss at each step."""
    *_, (model, history) = training(name, steps, objects, images, **changes)
    return model, history


def training(
    name: str, steps: int, objects: int, images: int, **changes: Any
) -> Iterator[tuple[nn.Module, list[float]]]:
    """After each step, the model and the losses so far."""
    torch.manual_seed(7)
    model = build_detector(resolve_options(tiny(name, **changes), pretrained=False), 4).train()
    batch, targets = map(list, zip(*(scene(10 + index, objects) for index in range(images)), strict=True))
    rate = 0.003 if name in {"yolov3_darknet53", "retinanet_resnet50_fpn"} else 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    history: list[float] = []
    for step in range(steps):
        # It falls, as in a recipe: statistics of live batch norms follow only weights that come to rest.
        fall = 0.5 * (1 + math.cos(math.pi * step / max(steps, 400)))
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 10) * fall
        loss = total(model.train()(batch, targets))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 35.0 if name.startswith("yolov3") else 10.0)
        optimizer.step()
        history.append(loss.item())
        yield model, history


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_four_images_are_learned_by_heart(name: str) -> None:
    scenes = [scene(10 + index, 3) for index in range(4)]
    for model, history in training(name, steps=400, objects=3, images=4):
        if len(history) % 50 == 0 and (reached := ap50(model, scenes)) > 0.9:
            break
    print(f"{name}: AP50 {reached:.3f} after {len(history)} steps")
    assert reached > 0.9


def ap50(model: nn.Module, scenes: list[tuple[Tensor, dict[str, Any]]]) -> float:
    """COCO's AP at an IoU of 0.5 on these scenes."""
    with torch.inference_mode():
        found = model.eval()([image for image, _ in scenes])
    truth = COCO()
    truth.dataset = {
        "images": [{"id": k} for k in range(len(scenes))],
        "categories": [{"id": label} for label in (1, 2, 3)],
        "annotations": [
            {"id": 10 * k + n + 1, "image_id": k, "category_id": label, "bbox": xywh(box), "area": 1000, "iscrowd": 0}
            for k, (_, target) in enumerate(scenes)
            for n, (box, label) in enumerate(zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True))
        ],
    }
    truth.createIndex()
    results = [
        {"image_id": k, "category_id": label, "bbox": xywh(box), "score": score}
        for k, one in enumerate(found)
        for box, label, score in zip(*(one[key].tolist() for key in ("boxes", "labels", "scores")), strict=True)
    ]
    return float(evaluated(truth, results)[1]) if results else 0.0


def xywh(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_live_norms_follow_a_short_run(name: str) -> None:
    """A momentum of 0.01, torchvision's for MobileNetV3, leaves the statistics of a few hundred steps behind."""
    if "norm" not in DETECTORS[name].options:
        return
    with torch.device("meta"):
        model = build_detector(DetectorOptions(name=name, norm="batch"), 4)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert min(norm.momentum or 0 for norm in norms) >= 0.03
