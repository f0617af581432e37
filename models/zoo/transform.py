"""From images as they come to one normalised batch on the device."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from models.zoo.masks import Array, InstanceMasks
from models.zoo.options import DetectorOptions

Target = dict[str, Any]
Sizes = list[tuple[int, int]]  # (height, width) of each image in the batch, without the padding


def resized_size(options: DetectorOptions, height: int, width: int) -> tuple[int, int]:
    """The ``(height, width)`` that the detector resizes an image to; for workers that resize before they ship.

    Args:
        options: resolved options.
        height: of the original image, pixels.
        width: of the original image, pixels.
    """
    if options.fixed_size is not None:
        return options.fixed_size
    assert options.min_size is not None, "options are resolved first"
    assert options.max_size is not None, "options are resolved first"
    scale = min(options.min_size / min(height, width), options.max_size / max(height, width))
    return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))


class ImageTransform(GeneralizedRCNNTransform):
    """torchvision's transform that also takes uint8 images, and resizes only where it is asked to.

    A uint8 image (0..255) is normalised straight into its place in the batch, on its device. Set
    ``resize_images = False`` where the images already have their size (:func:`resized_size`): boxes and masks are then
    those of the image as given, in training and in prediction. Set ``paste_masks = False`` to have masks as the
    detector gives them, ``(N, 1, M, M)`` within their boxes, instead of pictures of the whole image.
    """

    resize_images: bool = True
    paste_masks: bool = True
    channels_last: bool = False  # how a uint8 batch lies in memory

    def __init__(self, options: DetectorOptions, *, size_divisible: int = 32) -> None:
        """Take sizes and normalisation from resolved options; ``size_divisible`` pads the batch."""
        fixed = options.fixed_size
        self.options = options
        super().__init__(
            options.min_size or min(fixed or (0,)),
            options.max_size or max(fixed or (0,)),
            list(options.image_mean or ()),
            list(options.image_std or ()),
            size_divisible=size_divisible,
            fixed_size=(fixed[1], fixed[0]) if fixed else None,  # torchvision wants (width, height)
        )

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> tuple[ImageList, list[Target] | None]:
        """Resize, normalise and batch.

        Args:
            images: ``(3, H, W)`` each, uint8 in 0..255 or float in 0..1.
            targets: ``boxes (N, 4)`` pixel xyxy, ``labels (N,)`` and what else the detector reads; not modified.

        Returns:
            The batch, zero-padded to a common size, and the targets in its pixels, crowd regions set apart.
        """
        truth = [None] * len(images) if targets is None else [without_crowds(target) for target in targets]
        pairs = [self._resize(image, target) for image, target in zip(images, truth, strict=True)]
        sizes = [(image.shape[-2], image.shape[-1]) for image, _ in pairs]
        batch = self.batch_images([image for image, _ in pairs], self.size_divisible)
        return ImageList(batch, sizes), None if targets is None else [
            target for _, target in pairs if target is not None
        ]

    def _resize(self, image: Tensor, target: Target | None) -> tuple[Tensor, Target | None]:
        """Give one image its size; it stays uint8 when it has it already."""
        if image.dim() != 3:
            raise ValueError(f"an image is (3, H, W), not {tuple(image.shape)}")
        if not self.resize_images:
            return (image if image.dtype == torch.uint8 else self.normalize(image)), target
        if image.dtype == torch.uint8:
            image = image.float() / 255
        height, width = resized_size(self.options, *image.shape[1:])
        resized = functional.interpolate(self.normalize(image)[None], (height, width), mode="bilinear")[0]
        return resized, target and resized_target(target, width / image.shape[2], height / image.shape[1])

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: Sizes, original_image_sizes: Sizes
    ) -> list[dict[str, Tensor]]:
        """Detections in pixels of the images as given."""
        apart = [] if self.paste_masks else [one.pop("masks", None) for one in result]
        pasted: list[dict[str, Tensor]] = super().postprocess(result, image_shapes, original_image_sizes)
        for one, masks in zip(pasted, apart, strict=False):
            if masks is not None:
                one["masks"] = masks
        return pasted

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        """Pad images of ``(3, H, W)`` with zeros to one ``(B, 3, H, W)``; uint8 is normalised on the way."""
        if images[0].dtype != torch.uint8:
            batch: Tensor = super().batch_images(images, size_divisible)
            return batch
        height, width = (
            math.ceil(max(image.shape[axis] for image in images) / size_divisible) * size_divisible for axis in (1, 2)
        )
        batch = _memory(len(images) * height * 3 * width, images[0].device).view(len(images), height, 3 * width)
        scale = (1 / (255 * torch.tensor(self.image_std, device=batch.device))).repeat(width)
        shift = -255 * torch.tensor(self.image_mean, device=batch.device).repeat(width) * scale
        for image, place in zip(images, batch, strict=True):
            _normalise_rows(image, place, scale, shift)
        pictures = batch.view(len(images), height, width, 3).permute(0, 3, 1, 2)
        return pictures if self.channels_last else pictures.contiguous()


_given_back: deque[Array] = deque(maxlen=1)  # memory of a batch that nobody refers to any more


def _memory(numbers: int, device: torch.device) -> Tensor:
    """So many float32 numbers, not set; on a CPU where an earlier batch lay, if it is gone and was large enough.

    The system clears fresh memory page by page, which takes longer than filling it with a batch of large pictures. What
    is lent comes back by itself: torch lets go of the array when neither a tensor nor autograd needs it any more.
    """
    if device.type != "cpu":
        return torch.empty(numbers, device=device)
    try:
        block = _given_back.pop()
    except IndexError:
        block = np.empty(0, np.float32)
    if len(block) < numbers:
        block = torch.empty(numbers).numpy()  # torch's, not numpy's, begin where vector instructions like it
    lent = block[:numbers]
    weakref.finalize(lent, _given_back.append, block)
    return torch.from_numpy(lent)


def _normalise_rows(image: Tensor, place: Tensor, scale: Tensor, shift: Tensor) -> None:
    """Write ``image (3, h, w)`` uint8 times ``scale`` plus ``shift``, ``(3 * W,)`` each, to ``place (H, 3 * W)``.

    The rest of it is zeros. A pixel's three numbers lie side by side, as decoders deliver them; a whole row is one loop
    then. One type at a time: an operator that takes uint8 and float together is not vectorised. On a CPU a few rows at
    a time, which are still in the cache when they are needed again.
    """
    height, across = image.shape[1], 3 * image.shape[2]
    pixels = image.permute(1, 2, 0).reshape(height, across)
    place[height:] = 0
    place[:height, across:] = 0
    rows = 64 if image.device.type == "cpu" else height
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        place[band, :across].copy_(pixels[band]).mul_(scale[:across]).add_(shift[:across])


def resized_target(target: Target, x: float, y: float) -> Target:
    """The target in an image that is ``x`` times as wide and ``y`` times as high."""
    boxes = {key: target[key] * target[key].new_tensor([x, y, x, y]) for key in ("boxes", "crowds") if key in target}
    masks = target.get("masks")
    if masks is None:
        return target | boxes
    if isinstance(masks, InstanceMasks):
        return target | boxes | {"masks": masks.scaled(x, y)}
    size = round(masks.shape[1] * y), round(masks.shape[2] * x)
    return target | boxes | {"masks": functional.interpolate(masks[:, None].float(), size)[:, 0].byte()}


def without_crowds(target: Target) -> Target:
    """A copy of the target whose crowd regions are no longer truth but stand in ``crowds (K, 4)``.

    A crowd region is not one object: it must not become a positive, and what a detector finds there is not wrong.
    """
    if "iscrowd" not in target:
        return dict(target)
    crowd = target["iscrowd"].to(dtype=torch.bool, device=target["boxes"].device)
    single = ~crowd
    per_object = {key: value[single] for key, value in target.items() if key in {"boxes", "labels", "masks"}}
    return {**target, **per_object, "iscrowd": target["iscrowd"][single], "crowds": target["boxes"][crowd]}
