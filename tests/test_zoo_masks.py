from __future__ import annotations

import math
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_training import CLASSES, draw_set
from pycocotools import mask as coco_mask

from models.training.coco import read_coco
from models.training.dataset import TrainingImages
from models.training.transforms import Augment, WorkingSize
from models.zoo.masks import InstanceMasks, project

HEIGHT, WIDTH = 200, 300


def star(x: float, y: float, radius: float) -> list[float]:
    points = []
    for corner in range(14):
        reach = radius if corner % 2 else 0.55 * radius
        points += [x + reach * math.cos(corner * math.pi / 7), y + reach * math.sin(corner * math.pi / 7)]
    return points


POLYGONS = [[star(80, 90, 60)], [star(200, 100, 40), star(250, 150, 25)], [[10, 10, 50, 10, 50, 30, 10, 30]]]
RUNS = [coco_mask.merge(coco_mask.frPyObjects(rings, HEIGHT, WIDTH)) for rings in POLYGONS]


@pytest.fixture
def dense() -> torch.Tensor:
    """The same objects as pictures, uncompressed by hand."""
    pictures = []
    for one in RUNS:
        counts = uncompressed(one)
        flat = np.repeat(np.arange(len(counts)) % 2, counts)
        pictures.append(flat.reshape(WIDTH, HEIGHT).T)
    return torch.from_numpy(np.stack(pictures).astype(np.uint8))


def uncompressed(runs: dict[str, bytes]) -> list[int]:
    """COCO's run lengths (pycocotools rleFrString): base 32 with a continuation bit, differences from the third on."""
    counts: list[int] = []
    position, text = 0, runs["counts"]
    while position < len(text):
        value = shift = 0
        while True:
            digit = text[position] - 48
            position += 1
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                value -= (digit & 16) and (1 << shift)
                break
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def boxes_around(masks: InstanceMasks) -> torch.Tensor:
    jitter = torch.tensor([[-4.0, 3.0, 6.0, -2.0], [5.0, -5.0, -7.0, 4.0], [-1.0, -1.0, 1.0, 1.0]])
    return masks.frames + jitter


@pytest.mark.parametrize(
    "segmentations",
    [POLYGONS, RUNS, [{"size": [HEIGHT, WIDTH], "counts": uncompressed(one)} for one in RUNS]],
    ids=["polygons", "compressed", "runs"],
)
def test_small_masks_say_what_pictures_say(segmentations: list[object], dense: torch.Tensor) -> None:
    masks = InstanceMasks.from_coco(segmentations, HEIGHT, WIDTH)
    boxes, matched = boxes_around(masks), torch.tensor([0, 1, 2])

    small = project(masks, boxes, matched, 28, aligned=True)
    exact = project(dense, boxes, matched, 28, aligned=True)

    assert (small - exact).abs().mean() < 0.01  # torchvision's half-pixel shift alone is 0.027 here
    assert ((small >= 0.5) != (exact >= 0.5)).float().mean() < 0.01
    drawn = masks.dense(HEIGHT, WIDTH)
    assert (drawn & dense).sum() / (drawn | dense).sum() > 0.97


def test_cells_beyond_the_frame_are_empty() -> None:
    masks = InstanceMasks.from_coco([[[10, 10, 50, 10, 50, 30, 10, 30]]], HEIGHT, WIDTH)
    seen = masks.crop_and_resize(torch.tensor([[0.0, 0.0, 60.0, 40.0]]), torch.tensor([0]), 4)[0]
    assert seen[1, 1] == 1
    assert seen[0].tolist() == [0, 0, 0, 0]
    assert seen.sum() == pytest.approx(40 * 20 / 60 / 40 * 16, rel=0.1)


def test_moving_the_masks_is_moving_the_picture(dense: torch.Tensor) -> None:
    masks = InstanceMasks.from_coco(RUNS, HEIGHT, WIDTH)
    for moved, picture in (
        (masks.shifted(-30, -20), dense[:, 20:, 30:]),
        (masks.scaled(2, 2), dense.repeat_interleave(2, 1).repeat_interleave(2, 2)),
    ):
        drawn = moved.dense(*picture.shape[1:])
        assert (drawn & picture).sum() / (drawn | picture).sum() > 0.97


def test_no_objects_and_empty_outlines() -> None:
    assert len(InstanceMasks.from_coco([], HEIGHT, WIDTH)) == 0
    empty = InstanceMasks.from_coco([[], {"size": [4, 4], "counts": [16]}], 4, 4)
    assert empty.dense(4, 4).sum() == 0
    assert torch.isfinite(empty.crop_and_resize(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([0]), 28)).all()


def test_masks_follow_their_boxes_by_index() -> None:
    masks = InstanceMasks.from_coco(POLYGONS, HEIGHT, WIDTH)
    kept = masks[torch.tensor([False, True, True])]
    assert torch.equal(kept.frames, masks.frames[1:])
    assert len(kept) == 2


def test_no_mask_is_ever_as_large_as_its_image() -> None:
    """A hundred polygons in a photo of 4000 x 3000: as pictures they would take 1.2 GB."""
    ring = [1000.0, 500.0, 3000.0, 600.0, 2900.0, 2500.0, 1100.0, 2400.0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    masks = InstanceMasks.from_coco([[ring]] * 100, 3000, 4000).scaled(0.3, 0.3)
    boxes = masks.frames.repeat(4, 1)
    truth = masks.crop_and_resize(boxes, torch.arange(100).repeat(4), 28)

    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kilobytes
    assert truth.shape == (400, 28, 28)
    assert truth.mean() > 0.8
    assert masks.cells.numel() == 100 * 112 * 112  # bytes, whatever the image
    assert grown < 100_000, grown


def test_training_reads_no_mask_of_the_size_of_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw_set(tmp_path, 3, outlines=True)
    table = read_coco(data.coco, CLASSES, masks=True)
    seen: list[tuple[int, ...]] = []
    decode = coco_mask.decode
    monkeypatch.setattr(coco_mask, "decode", lambda runs: seen.append(tuple(runs["size"])) or decode(runs))

    loaded = TrainingImages(table, data.images, Augment(("hflip",), WorkingSize(64, 96)), 0, masks=True)[0, 0]

    assert isinstance(loaded.target["masks"], InstanceMasks)
    assert set(seen) == {(112, 112)}  # filled within their own frames
