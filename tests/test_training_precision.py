"""Where training computes in bfloat16, and where a CPU cannot be trusted with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_training import draw_set, initial
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder

from models.checkpoint import load_checkpoint
from models.training import DetectionData, TrainOptions, finetune
from models.training.precision import bfloat16, trusted
from models.zoo import DetectorOptions, build_detector, get_detector, resolve_options

CPU = torch.device("cpu")


def weights(folder: Path, init: Path, train: DetectionData, amp: bool) -> dict[str, Tensor]:
    options = TrainOptions(epochs=1, min_steps=2, threads=1, amp=amp)
    found: dict[str, Tensor] = load_checkpoint(finetune(init, train, None, options, folder).last)[0]["model"]
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_auto_is_what_the_processor_has_and_the_detector_gains_from() -> None:
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    faster, ssdlite = get_detector("fasterrcnn_resnet50_fpn"), get_detector("ssdlite320_mobilenet_v3_large")
    assert bfloat16(TrainOptions(), CPU, faster)[0] == native
    assert not bfloat16(TrainOptions(), CPU, ssdlite)[0]
    assert bfloat16(TrainOptions(amp=True), CPU, ssdlite) == (True, "bfloat16 as set")
    assert bfloat16(TrainOptions(amp=False), CPU, faster) == (False, "float32 as set")


def test_narrow_batches_are_computed_in_float32(tmp_path: Path) -> None:
    train, init = draw_set(tmp_path / "train"), initial(tmp_path / "init.pt")  # works at 96 pixels
    assert same(weights(tmp_path / "on", init, train, True), weights(tmp_path / "off", init, train, False))


def test_wide_ones_in_bfloat16_twice_the_same(tmp_path: Path) -> None:
    train, init = draw_set(tmp_path / "train"), initial(tmp_path / "init.pt", fixed_size=(64, 288))
    on = weights(tmp_path / "on", init, train, True)
    assert same(on, weights(tmp_path / "again", init, train, True))
    off = weights(tmp_path / "off", init, train, False)
    assert not same(on, off)
    assert {value.dtype for value in on.values()} == {value.dtype for value in off.values()}


@pytest.mark.parametrize(
    "name",
    [
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "cascade_rcnn_resnet50_fpn",
        "retinanet_resnet50_fpn",
        "fcos_resnet50_fpn",
    ],
)
def test_anchors_and_boxes_stay_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision gives them the type of the maps and of the deltas: in bfloat16 they were off by whole pixels."""
    seen: list[torch.dtype] = []
    encode, decode = BoxCoder.encode_single, BoxCoder.decode_single
    monkeypatch.setattr(
        BoxCoder, "encode_single", lambda self, a, b: (seen.extend((a.dtype, b.dtype)), encode(self, a, b))[1]
    )
    monkeypatch.setattr(
        BoxCoder, "decode_single", lambda self, a, b: (seen.extend((a.dtype, b.dtype)), decode(self, a, b))[1]
    )
    options = resolve_options(DetectorOptions(name=name, min_size=96, max_size=96), pretrained=False)
    model = build_detector(options, 3).train()
    generator = model.rpn.anchor_generator if hasattr(model, "rpn") else model.anchor_generator
    generator.register_forward_hook(lambda _module, _inputs, made: seen.extend(one.dtype for one in made))
    target = {"boxes": torch.tensor([[10.0, 10.0, 50.0, 60.0]]), "labels": torch.tensor([1])}
    with torch.autocast("cpu", torch.bfloat16):
        model([torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)], [target])
    assert len(seen) >= 1
    assert set(seen) == {torch.float32}


def test_what_is_wide_depends_on_the_coarsest_map() -> None:
    detector, classifier = get_detector("ssdlite320_mobilenet_v3_large"), get_detector("timm://resnet50d")
    assert not trusted([torch.zeros(3, 900, 256)], detector)
    assert trusted([torch.zeros(3, 10, 20), torch.zeros(3, 90, 257)], detector)
    assert trusted([torch.zeros(3, 64, 64)], classifier)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 4, 64])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_a_stride_within_the_map_has_the_whole_gradient(kernel: int, groups: int, layout: torch.memory_format) -> None:
    """In memory that held infinities: what is not written shows."""
    torch.manual_seed(0)
    for height, width in ((1, 2), (2, 2), (1, 7), (7, 2), (10, 10)):
        layer = nn.Conv2d(64, 64, kernel, 2, kernel // 2, groups=groups, bias=False).to(memory_format=layout)
        maps = torch.randn(2, 64, height, width).to(memory_format=layout)
        (expected,) = torch.autograd.grad(layer(maps).square().sum(), layer.weight)
        for _ in range(3):
            soiled = [torch.full((size,), torch.inf) for size in (64, 576, 1024, 4096, 36_864, 200_000)]
            del soiled
            with torch.autocast("cpu", torch.bfloat16):
                made = layer(maps)
            (gradient,) = torch.autograd.grad(made.float().square().sum(), layer.weight)
            assert (gradient - expected).abs().max() < 0.05 * expected.abs().max() + 1e-3
