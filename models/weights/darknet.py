"""Darknet's files hold one row of numbers: cut it up in the order of the network that it must belong to.

Which network that is follows from the count alone: 40,620,640 numbers are ``darknet53.conv.74``, the backbone;
YOLOv3 has 62,001,757 for COCO's 80 classes and 5,385 more or fewer for each class more or less (``yolov3.cfg``).
Anything else has no names, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from torch import Tensor

from models.errors import WeightsError
from models.weights.containers import Checkpoint

PREFIX = "darknet."  # of every name given here, so that the key map knows them


@dataclass(frozen=True)
class _Convolution:
    """One convolution: name, channels in and out, kernel, and whether a batch norm follows instead of a bias."""

    name: str
    inner: int
    outer: int
    kernel: int
    norm: bool = True

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each tensor in the file's order (``load_convolutional_weights``, pjreddie/darknet)."""
        if self.norm:
            for name in ("bias", "weight", "running_mean", "running_var"):
                yield f"{self.name}.bn.{name}", (self.outer,)
        else:
            yield f"{self.name}.bias", (self.outer,)
        weight = f"{self.name}.conv.weight" if self.norm else f"{self.name}.weight"
        yield weight, (self.outer, self.inner, self.kernel, self.kernel)


def _backbone() -> Iterator[_Convolution]:
    """Darknet-53 without its classifier, 52 convolutions (``darknet53.cfg``)."""
    yield _Convolution("backbone.conv1", 3, 32, 3)
    for stage, blocks in enumerate((1, 2, 8, 8, 4), start=1):
        width = 32 * 2**stage
        yield _Convolution(f"backbone.conv_res_block{stage}.conv", width // 2, width, 3)
        for block in range(blocks):
            name = f"backbone.conv_res_block{stage}.res{block}"
            yield _Convolution(f"{name}.conv1", width, width // 2, 1)
            yield _Convolution(f"{name}.conv2", width // 2, width, 3)


def _heads(classes: int) -> Iterator[_Convolution]:
    """YOLOv3's three levels, from coarse to fine (``yolov3.cfg``)."""
    for level, width in enumerate((512, 256, 128)):
        if level:
            yield _Convolution(f"neck.conv{level}", 2 * width, width, 1)
        inner = 1024 if level == 0 else 3 * width
        for number in range(1, 6):
            wide = number % 2 == 0
            yield _Convolution(
                f"neck.detect{level + 1}.conv{number}", inner, 2 * width if wide else width, 3 if wide else 1
            )
            inner = 2 * width if wide else width
        yield _Convolution(f"convs_bridge.{level}", width, 2 * width, 3)
        yield _Convolution(f"yolo_output.{level}", 2 * width, 3 * (5 + classes), 1, norm=False)


def _count(layers: Iterator[_Convolution]) -> int:
    """How many numbers they have."""
    return sum(prod(shape) for layer in layers for _, shape in layer.tensors())


def network(count: int) -> list[_Convolution] | None:
    """The network that has ``count`` numbers; None where there is none."""
    backbone = list(_backbone())
    rest = count - _count(iter(backbone))
    if rest == 0:
        return backbone
    bare, one = _count(_heads(0)), _count(_heads(1)) - _count(_heads(0))
    classes, odd = divmod(rest - bare, one)
    return None if odd or classes < 1 else [*backbone, *_heads(classes)]


def with_names(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, or a darknet file with its numbers under names; they are views, nothing is copied.

    Raises:
        WeightsError: a darknet file of another network than YOLOv3 and its backbone.
    """
    if checkpoint.container != "darknet":
        return checkpoint
    row = checkpoint.tensors["darknet"]
    layers = network(row.numel())
    if layers is None:
        raise WeightsError(
            f"{checkpoint.path.name}: {row.numel():,} numbers are neither YOLOv3 nor darknet53.conv.74",
            "Other darknet networks have no names that could be matched",
        )
    return replace(checkpoint, tensors=dict(_cut(row, layers)))


def _cut(row: Tensor, layers: list[_Convolution]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the layers, one after another."""
    start = 0
    for layer in layers:
        for name, shape in layer.tensors():
            stop = start + prod(shape)
            yield PREFIX + name, row[start:stop].view(shape)
            start = stop
