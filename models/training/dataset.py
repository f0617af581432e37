"""Images and targets for the loop: decoded, augmented and resized as uint8 in the loading process, packed per step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from models.training.assemble import Assembled
from models.training.cache import PictureCache
from models.training.coco import CocoTable
from models.training.images import UnreadableImageError, read_image
from models.training.mixing import Mixing, Picture, mixup, mosaic
from models.training.options import TrainOptions
from models.training.randomness import drawn_at
from models.training.sampling import Address
from models.training.transforms import Augment, Target, WorkingSize, resize, resized_target
from models.zoo.masks import InstanceMasks


@dataclass(frozen=True)
class Loaded:
    """One picture ready for the detector.

    Attributes:
        image: (3, H, W) uint8 at the working size.
        target: boxes, labels, iscrowd, perhaps masks, in pixels of ``image``.
        index: which image it is.
        original: (height, width) of the picture as decoded.
        unreadable: indices tried before it that could not be read.
    """

    image: Tensor
    target: Target
    index: int
    original: tuple[int, int]
    unreadable: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Pictures of one step.

    Attributes:
        images: (3, h, w) uint8 each; from a loading process one (B, 3, H, W), padded right and below.
        sizes: (B, 2) height, width of each picture in it.
        targets: as in :class:`Loaded`.
        indices: which images they are.
        originals: (height, width) of each as decoded.
        unreadable: indices that could not be read.
    """

    images: Tensor | list[Tensor]
    sizes: Tensor
    targets: list[Target]
    indices: list[int]
    originals: list[tuple[int, int]]
    unreadable: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> Batch:
        """Page-locked copies, so that the way to the GPU does not block."""
        targets = [{key: value.pin_memory() for key, value in target.items()} for target in self.targets]
        return replace(self, images=packed(self.images).pin_memory(), targets=targets)

    def part(self, start: int, stop: int, device: torch.device) -> tuple[list[Tensor], list[Target]]:
        """Pictures and targets ``start`` to ``stop`` on the device, as torchvision's detectors take them."""
        moved = [{k: v.to(device, non_blocking=True) for k, v in t.items()} for t in self.targets[start:stop]]
        if isinstance(self.images, list):
            return [image.to(device) for image in self.images[start:stop]], moved
        images = self.images[start:stop].to(device, non_blocking=True)
        cut = [image[:, :h, :w] for image, (h, w) in zip(images, self.sizes[start:stop].tolist(), strict=True)]
        return cut, moved


def packed(images: Tensor | list[Tensor]) -> Tensor:
    """Pictures as one piece of memory ``(B, 3, H, W)``, which travels faster, padded with zeros to a common size."""
    if isinstance(images, Tensor):
        return images
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    together = torch.zeros(len(images), height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)  # as decoders write
    for place, image in zip(together, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return together


def collate(loaded: Sequence[Loaded]) -> Batch:
    """The pictures of a step, packed where they will travel to another process."""
    images = [picture.image for picture in loaded]
    return Batch(
        images=images if get_worker_info() is None else packed(images),
        sizes=torch.tensor([image.shape[-2:] for image in images]),
        targets=[picture.target for picture in loaded],
        indices=[picture.index for picture in loaded],
        originals=[picture.original for picture in loaded],
        unreadable=tuple(index for picture in loaded for index in picture.unreadable),
    )


class TrainingImages(Dataset[Loaded]):
    """The training images by epoch and index, perhaps copy: the same address always gives the same picture."""

    def __init__(
        self,
        table: CocoTable,
        images: Path,
        augment: Augment,
        seed: int,
        *,
        masks: bool = False,
        mixing: Mixing = Mixing(),  # noqa: B008 - frozen
    ) -> None:
        self.table, self.images, self.augment, self.seed, self.masks = table, images, augment, seed, masks
        self.mixing = mixing
        self.cache: PictureCache | None = None
        self.ready = not mixing.epochs and augment.resizes_first  # cached pictures have the working size already

    def keep_decoded(self, path: Path, limit: int) -> None:
        """Keep pictures once they are decoded, in a file of at most ``limit`` bytes; the same ones come from it."""
        sizes = [(height, width) for width, height in self.table.sizes.tolist()]
        if self.ready:
            sizes = [self.augment.size.of(*size) for size in sizes]
        self.cache = PictureCache.create(path, sizes, limit)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, address: Address) -> Loaded:
        """Load an image; where it cannot be read, the next one that can takes its place and the loss is counted."""
        epoch, wanted, *_ = address
        unreadable: list[int] = []
        index, picture = self._read(wanted, unreadable)
        width, height = self.table.sizes[index].tolist()
        with drawn_at(self.seed, "image", *address) as draw:
            for_mosaic, for_mixup = self.mixing.partners(epoch, draw)
            others = [self._read(draw.randrange(len(self)), unreadable)[1] for _ in range(for_mosaic + for_mixup)]
            if for_mosaic:
                picture = mosaic([picture, *others[:for_mosaic]], self.augment.size, draw)
            if for_mixup:
                picture = mixup(picture, others[-1], self.augment.size, draw)
            image, target = self.augment(*picture, draw)
        return Loaded(image, target, index, (height, width), tuple(unreadable))

    def _read(self, index: int, unreadable: list[int]) -> tuple[int, Picture]:
        """The picture and its target, or those of the next readable image; which one it is comes first.

        Raises:
            UnreadableImageError: not one image can be read.
        """
        for number in range(len(self.table)):
            at = (index + number) % len(self.table)
            try:
                return at, self._picture(at)
            except UnreadableImageError:
                unreadable.append(at)
                if number + 1 == len(self.table):
                    raise
        raise AssertionError("a table without images is refused before")

    def _picture(self, index: int) -> Picture:
        """A picture and its target, as decoded or, where a cache keeps it so, of the working size."""
        target = target_of(self.table, index, masks=self.masks)
        if self.cache is None:
            return read_table_image(self.table, self.images, index), target
        width, height = self.table.sizes[index].tolist()
        size = self.augment.size.of(height, width) if self.ready else (height, width)
        image = self.cache.read(index)
        if image is None:
            image, _ = resize(read_table_image(self.table, self.images, index), {"boxes": torch.empty(0, 4)}, size)
            self.cache.write(index, image)
        return image, resized_target(target, (height, width), size)


def training_images(
    table: CocoTable, images: Path, options: TrainOptions, assembled: Assembled, mixed_epochs: int
) -> TrainingImages:
    """The training images as these options want them for this model; the first ``mixed_epochs`` may mix several."""
    detector = assembled.detector
    augment = Augment(options.augmentations(detector), assembled.size)
    mixing = Mixing(options.mosaic, options.mixup, mixed_epochs)
    return TrainingImages(table, images, augment, options.seed, masks=detector.masks, mixing=mixing)


class PlainImages(Dataset[Loaded]):
    """Images at the working size, unchanged otherwise, for evaluation; the target is left empty."""

    def __init__(self, table: CocoTable, images: Path, size: WorkingSize) -> None:
        self.table, self.images, self.size = table, images, size

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Loaded:
        """Load an image.

        Raises:
            UnreadableImageError: an evaluation cannot leave images out.
        """
        return at_working_size(read_table_image(self.table, self.images, index), self.size, index)


def at_working_size(image: Tensor, size: WorkingSize, index: int) -> Loaded:
    """A picture ready for the model, without a target."""
    original = height_width(image)
    return Loaded(size.view(image), {"boxes": torch.empty(0, 4)}, index, original)


def height_width(image: Tensor) -> tuple[int, int]:
    """The (height, width) of a picture."""
    return image.shape[-2], image.shape[-1]


def read_table_image(table: CocoTable, images: Path, index: int) -> Tensor:
    """An image of the table in its annotated size, or what is cut out of it, ``(3, H, W)`` uint8."""
    width, height = table.sizes[index].tolist()
    image = read_image(images / table.name(index), (width, height))
    return image[:, *table.window(index)] if table.cut else image


def target_of(table: CocoTable, index: int, *, masks: bool) -> Target:
    """The target of an image as tensors of its own."""
    rows = table.objects(index)
    target: Target = {
        "boxes": torch.from_numpy(table.boxes[rows].copy()),
        "labels": torch.from_numpy(table.labels[rows].copy()),
        "iscrowd": torch.from_numpy(table.crowds[rows].copy()),
    }
    if masks:
        width, height = table.sizes[index].tolist()
        outlines = [table.outline(row) for row in range(rows.start, rows.stop)]
        target["masks"] = InstanceMasks.from_coco(outlines, height, width)
    return target
