"""Mosaic and mixup: boxes and masks stay on the pixels they belong to, and the last epochs see pictures as they are."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_training import CLASSES, draw_set, initial
from torch import Tensor

from models.training import TrainOptions, finetune
from models.training.coco import read_coco
from models.training.dataset import TrainingImages
from models.training.journal import Line
from models.training.mixing import Mixing, Picture, mixup, mosaic, within
from models.training.transforms import Augment, WorkingSize
from models.zoo.masks import InstanceMasks


def picture(channel: int, height: int = 100, width: int = 120) -> Picture:
    """A black picture with one bright square in a channel of its own."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[channel, 30:80, 20:60] = 255
    target = {
        "boxes": torch.tensor([[20.0, 30.0, 60.0, 80.0]]),
        "labels": torch.tensor([channel + 1]),
        "iscrowd": torch.tensor([False]),
        "masks": InstanceMasks.from_coco([[[20.0, 30.0, 60.0, 30.0, 60.0, 80.0, 20.0, 80.0]]], height, width),
    }
    return image, target


def bounds(bright: Tensor) -> Tensor:
    """The xyxy box of the True pixels ``(H, W)``."""
    ys, xs = np.nonzero(bright.numpy())
    return torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()


@pytest.mark.parametrize("size", [WorkingSize(64, 200), WorkingSize(0, 0, (150, 120))])
def test_what_is_left_in_a_mosaic_lies_where_its_pixels_are(size: WorkingSize) -> None:
    seen = set()
    for number in range(12):
        three = [picture(0), picture(1, 140, 90), picture(2, 90, 160)]
        empty = torch.zeros(3, 80, 80, dtype=torch.uint8), {key: value[:0] for key, value in three[0][1].items()}
        image, target = mosaic([*three, empty], size, random.Random(number))
        assert tuple(image.shape[1:]) == size.of(100, 120)
        for row, label in enumerate(target["labels"].tolist()):
            seen.add(label)
            others = [channel for channel in range(3) if channel != label - 1]
            bright = (image[label - 1] > 150) & (image[others].amax(0) < 60)  # not the grey canvas
            torch.testing.assert_close(target["boxes"][row], bounds(bright), atol=1.6, rtol=0)
            drawn = target["masks"][row : row + 1].dense(*image.shape[1:])[0].bool()
            assert (drawn ^ bright).sum() <= 2 * bounds(bright)[2:].sum()
    assert seen == {1, 2, 3}


def test_a_mask_is_empty_where_another_picture_lies() -> None:
    left = within(picture(0)[1], (0, 0, 40, 100))

    assert left["boxes"].tolist() == [[20, 30, 40, 80]]
    dense = left["masks"].dense(100, 120)[0]
    assert dense[30:80, 20:40].all()
    assert not dense[:, 41:].any()


def test_slivers_are_dropped_and_crowds_stay() -> None:
    target = picture(0)[1]

    assert len(within(target, (0, 0, 26, 100))["boxes"]) == 0  # 15% of it
    assert len(within({**target, "iscrowd": torch.tensor([True])}, (0, 0, 26, 100))["boxes"]) == 1


def test_a_mixup_shows_both_and_has_the_objects_of_both() -> None:
    one, other = picture(0), picture(1, 90, 120)
    before = one[0].clone()

    image, target = mixup(one, other, WorkingSize(50, 100), random.Random(0))

    assert image.shape == (3, 50, 60)
    assert target["labels"].tolist() == [1, 2]
    assert len(target["masks"]) == 2
    for row in range(2):
        torch.testing.assert_close(target["boxes"][row], bounds(image[row] > 60), atol=1.6, rtol=0)
    assert torch.equal(one[0], before)


def images_of(folder: Path, mixing: Mixing) -> TrainingImages:
    data = draw_set(folder, 6, outlines=True)
    table = read_coco(data.coco, CLASSES, masks=True)
    return TrainingImages(table, data.images, Augment((), WorkingSize(64, 128)), 3, masks=True, mixing=mixing)


def test_mixing_ends_with_its_last_epoch_and_repeats_exactly(tmp_path: Path) -> None:
    mixed = images_of(tmp_path / "a", Mixing(1.0, 0.5, epochs=2))
    plain = images_of(tmp_path / "b", Mixing())

    for epoch, index in [(0, 1), (1, 4), (2, 1), (3, 4)]:
        ours, usual = mixed[epoch, index], plain[epoch, index]
        assert torch.equal(ours.image, mixed[epoch, index].image)
        assert torch.equal(ours.image, usual.image) == (epoch >= 2)
        assert ours.image.shape == usual.image.shape  # steps of one shape stay so


def test_an_unreadable_part_of_a_mosaic_is_replaced_and_counted(tmp_path: Path) -> None:
    images = images_of(tmp_path, Mixing(1.0, 1.0, epochs=1))
    (images.images / "003.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")

    seen = [images[0, index].unreadable for index in range(6)]

    assert {index for indices in seen for index in indices} == {3}


def test_a_run_says_when_mixing_ends(tmp_path: Path) -> None:
    lines: list[Line] = []
    options = TrainOptions(epochs=3, batch_size=8, threads=1, mosaic=1.0, mixup=0.2, mix_until=-1)

    finetune(
        initial(tmp_path / "init.pt"), draw_set(tmp_path / "train"), None, options, tmp_path / "run", echo=lines.append
    )

    assert lines[0]["derivations"]["mixing"] == "mosaic 1, mixup 0.2 in the first 2 epochs"
