"""Where training computes in bfloat16."""

from __future__ import annotations

import torch

from models.training.options import TrainOptions
from models.zoo import Detector

# On a CPU the gradient of a convolution is garbage in bfloat16 where its stride is greater than its map is wide: oneDNN
# (torch 2.15) leaves rows of it unwritten. Pixels of a batch up to which that can be, by the coarsest map that a
# convolution here strides over: SSDlite's last extra layer has one of stride 256, a classifier one of 16.
NARROW = {"detection": 256, "classification": 32}


def bfloat16(options: TrainOptions, device: torch.device, detector: Detector) -> tuple[bool, str]:
    """Whether to compute in bfloat16 under autocast, and why.

    ``auto``: where the processor multiplies bfloat16 itself, which float32 takes twice as long for; on a CPU not for
    detectors that hardly multiply (depthwise convolutions). Weights, optimizer, evaluation and prediction stay float32.
    """
    if options.amp != "auto":
        return options.amp, f"{'bfloat16' if options.amp else 'float32'} as set"
    if device.type == "cpu" and not detector.defaults.get("cpu_bfloat16", True):
        return False, "float32: bfloat16 would not make this detector faster on a CPU"
    where = "GPU" if device.type == "cuda" else "CPU"
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_has_it()
    return native, f"bfloat16, which this {where} has" if native else f"float32: this {where} has no bfloat16"


def trusted(images: list[torch.Tensor], detector: Detector) -> bool:
    """Whether bfloat16 computes what it should with these ``(3, H, W)`` pictures where they are; see ``NARROW``."""
    return images[0].device.type != "cpu" or max(image.shape[2] for image in images) > NARROW[detector.task]


def _cpu_has_it() -> bool:
    """AVX512-BF16 (AMD since Zen 4, Intel since Cooper Lake) or AMX (Intel since Sapphire Rapids)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
