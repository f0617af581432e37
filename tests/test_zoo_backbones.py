from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from test_zoo_models import trained
from torch import nn
from torchvision.models import mobilenet_v3_large, resnet50, vgg16
from torchvision.models.detection import ssd as torchvision_ssd
from torchvision.models.detection import ssdlite as torchvision_ssdlite
from torchvision.models.detection.backbone_utils import _mobilenet_extractor, _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from models.errors import DetectorError, WeightsError
from models.weights.freeze import apply_freeze
from models.zoo import DETECTORS, DetectorOptions, build_detector, resolve_options
from models.zoo.norm import NormedConv2d, freeze_norm


def frozen(module: nn.Module) -> set[str]:
    return {key for key, parameter in module.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("name", "theirs", "stages"),
    [
        ("fasterrcnn_resnet50_fpn", lambda n: _resnet_fpn_extractor(resnet50(), n), 5),
        ("fasterrcnn_mobilenet_v3_large_fpn", lambda n: _mobilenet_extractor(mobilenet_v3_large(), True, n), 6),
        ("ssd300_vgg16", lambda n: torchvision_ssd._vgg_extractor(vgg16(), False, n), 5),
        (
            "ssdlite320_mobilenet_v3_large",
            lambda n: torchvision_ssdlite._mobilenet_extractor(mobilenet_v3_large(), n, nn.BatchNorm2d),
            6,
        ),
    ],
)
def test_the_same_stages_are_frozen_as_in_torchvision(
    name: str, theirs: Callable[[int], nn.Module], stages: int
) -> None:
    for trainable in range(stages + 1):
        with torch.device("meta"):
            model = build_detector(DetectorOptions(name=name, trainable_layers=trainable, norm=live(name)), 3)
            expected = frozen(theirs(trainable))
        assert frozen(model.backbone) == expected, trainable


def live(name: str) -> str:
    return "auto" if name.startswith("ssd300") else "batch"


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("fasterrcnn_resnet50_fpn", "resnet18d"),
        ("cascade_rcnn_resnet50_fpn", "resnet18d"),
        ("retinanet_resnet50_fpn_v2", "efficientnet_lite0"),
        ("fcos_resnet50_fpn", "convnext_atto"),
        ("fcos_resnet50_fpn", "swin_tiny_patch4_window7_224"),
    ],
)
def test_a_timm_backbone_trains_and_detects(name: str, backbone: str) -> None:
    sizes = {"min_size": 64, "max_size": 96} | ({"rois_per_image": 8} if "rcnn" in name else {})
    torch.manual_seed(0)
    model = build_detector(DetectorOptions(name=name, backbone=f"timm://{backbone}", **sizes), 3)
    target = {"boxes": torch.tensor([[10.0, 10.0, 50.0, 40.0]]), "labels": torch.tensor([2])}

    losses = model([torch.rand(3, 64, 96)], [target])
    sum(losses.values()).backward()

    assert all(torch.isfinite(loss) for loss in losses.values())
    trained = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert any(key.startswith("backbone.body.") for key in trained)
    first = next(key for key in model.state_dict() if key.startswith("backbone.body."))
    assert first not in trained
    assert 0 < len(frozen(model.backbone.body)) < len(list(model.backbone.body.parameters())) / 2
    with torch.inference_mode():
        assert model.eval()([torch.rand(3, 64, 96)])[0]["boxes"].shape[1] == 4


FAMILIES = (
    "resnet50d",
    "convnext_atto",
    "efficientnet_lite0",
    "mobilenetv3_small_100",
    "regnety_002",
    "swin_tiny_patch4_window7_224",
    "dla34",
    "densenet121",
    "cspdarknet53",
)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_parameter_of_a_timm_backbone_is_in_one_stage_and_freezes_with_it(backbone: str) -> None:
    options = DetectorOptions(name="fcos_resnet50_fpn", backbone=f"timm://{backbone}")
    detector = DETECTORS[options.name]
    with torch.device("meta"):
        model = build_detector(options, 3)
    body = {key for key, _ in model.named_parameters() if key.startswith("backbone.body.")}
    stages = [{key for key in body if re.match(stage, key)} for stage in model.backbone.stages()]

    assert len(stages) == 5
    assert all(stages), [len(stage) for stage in stages]
    assert sum(map(len, stages)) == len(body) == len(set.union(*stages))
    apply_freeze(model, detector, "stem")
    assert frozen(model) == stages[0]
    for count in range(1, 5):
        apply_freeze(model, detector, f"stages:{count}")
        assert frozen(model) == set.union(*stages[: count + 1])
    with pytest.raises(WeightsError, match="a stem and 4 stages"):
        apply_freeze(model, detector, "stages:5")


def test_from_scratch_all_of_a_timm_backbone_trains() -> None:
    options = DetectorOptions(name="fcos_resnet50_fpn", backbone="timm://resnet50d")
    with torch.device("meta"):
        assert not frozen(build_detector(resolve_options(options, pretrained=False), 3))
        body = {key.split(".")[2] for key in frozen(build_detector(resolve_options(options), 3))}
    assert body == {"conv1", "bn1", "layer1"} - {"bn1"}  # as with ResNet-50: frozen norms have no parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "fasterrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn",
        "cascade_rcnn_resnet50_fpn",
        "retinanet_resnet50_fpn",
        "fcos_resnet50_fpn",
    ],
)
def test_resnet50d_learns_under_every_head(name: str) -> None:
    _, losses = trained(name, 30, objects=2, backbone="timm://resnet50d")
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3]), losses


def test_frozen_norms_of_timm_keep_their_activation_and_epsilon() -> None:
    options = DetectorOptions(name="fcos_resnet50_fpn", backbone="timm://efficientnet_lite0")
    torch.manual_seed(0)
    body = build_detector(options.model_copy(update={"norm": "batch"}), 3).backbone.eval()
    for layer in body.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    still = build_detector(options, 3).backbone
    still.load_state_dict({k: v for k, v in body.state_dict().items() if not k.endswith("num_batches_tracked")})

    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for live, fixed in zip(body(image).values(), still.train()(image).values(), strict=True):
            torch.testing.assert_close(live, fixed, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in still.modules())


def test_frozen_norm_is_live_norm_in_evaluation() -> None:
    live = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3)).eval()
    live[1].running_mean.normal_()
    live[1].running_var.uniform_(0.5, 2)
    expected = live(torch.ones(1, 3, 5, 5))
    state = live.state_dict()
    freeze_norm(live, 1e-3)
    live.load_state_dict({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")})
    torch.testing.assert_close(live.train()(torch.ones(1, 3, 5, 5)), expected)


def test_normalisation_follows_the_backbone() -> None:
    options = DetectorOptions(name="fcos_resnet50_fpn", backbone="timm://tf_efficientnet_lite0")
    assert resolve_options(options).image_mean == (0.5, 0.5, 0.5)
    given = options.model_copy(update={"image_mean": (0.1, 0.2, 0.3)})
    assert resolve_options(given).image_mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("timm://resnet50dd", "timm has no model 'resnet50dd'. Did you mean 'resnet50d'"),
        ("timm://vit_tiny_patch16_224", "has no feature maps of stride 4, 8, 16 and 32"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(backbone: str, message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        build_detector(DetectorOptions(backbone=backbone), 3)


def test_a_frozen_norm_within_its_convolution_gives_what_torchvisions_gives() -> None:
    """Forwards and backwards, under the same keys."""
    torch.manual_seed(0)
    ours, theirs = resnet50(), resnet50(norm_layer=FrozenBatchNorm2d)
    freeze_norm(ours, 1e-5)
    state = {
        key: torch.rand_like(value) + 0.5 if "running_var" in key or "bn" in key else value
        for key, value in theirs.state_dict().items()
    }
    for model in (ours, theirs):
        model.load_state_dict(state)
    assert sum(isinstance(module, NormedConv2d) for module in ours.modules()) == 53
    images = torch.rand(2, 3, 64, 64)
    found, expected = ours.train()(images), theirs(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    (found.norm() + expected.norm()).backward()
    for (key, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-3, msg=key)


def test_a_folded_norm_survives_copies() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    freeze_norm(model, 1e-5)
    copied = pickle.loads(pickle.dumps(deepcopy(model)))
    copied[1].bias += 1
    image = torch.rand(1, 3, 5, 5)
    torch.testing.assert_close(copied(image), model(image) + 1)
