"""Images with rare classes come more often: how often, in which order, and the same again after a kill."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers_training import CLASSES, draw_set, initial

from models.checkpoint import load_checkpoint
from models.training import DetectionData, TrainOptions, finetune
from models.training.coco import CocoTable, read_coco
from models.training.dataset import TrainingImages
from models.training.sampling import StepSampler, epoch_steps, images_per_epoch, repeat_factors, step_groups
from models.training.transforms import Augment, WorkingSize


def rare_set(folder: Path, count: int = 12, rare: int = 1) -> DetectionData:
    """Discs in every image, squares in the first ``rare`` ones only; a crowd of squares in the last."""
    data = draw_set(folder, count)
    content = json.loads(data.coco.read_text())
    for number, row in enumerate(content["annotations"]):
        row["category_id"] = 2 if row["image_id"] <= rare and number % 2 else 1
        if row["image_id"] == count:
            row |= {"category_id": 2, "iscrowd": 1}
    data.coco.write_text(json.dumps(content))
    return data


def table_of(data: DetectionData) -> CocoTable:
    return read_coco(data.coco, CLASSES)


def test_the_factor_is_the_root_of_what_is_asked_over_what_is_there(tmp_path: Path) -> None:
    """One image of twelve has squares, and a crowd of them counts for nothing: the root of 0.75 / (1 / 12) is 3."""
    table = table_of(rare_set(tmp_path))

    factors = repeat_factors(table, 0.75)

    assert factors is not None
    assert factors.tolist() == pytest.approx([3.0, *[1.0] * 11])
    assert images_per_epoch(table, factors) == 14
    assert repeat_factors(table, 0.08) is None  # squares are not that rare
    assert repeat_factors(table, 0.0) is None


def test_every_epoch_has_as_many_steps_and_the_mean_is_the_factor(tmp_path: Path) -> None:
    table = table_of(rare_set(tmp_path, rare=2))
    factors = repeat_factors(table, 0.5)  # the root of 3 twice: 1.73, raised to 2 more images in all
    assert factors is not None
    seen: Counter[int] = Counter()

    for epoch in range(40):
        steps = epoch_steps(step_groups(table), 7, seed=1, epoch=epoch, factors=factors)
        assert steps.shape == (2, 7)
        assert {place % 12 for place in steps.flatten().tolist()} == set(range(12))
        seen.update(place % 12 for place in steps.flatten().tolist())

    assert images_per_epoch(table, factors) == 14
    assert [seen[image] for image in range(12)] == [80, 80, *[40] * 10]


def test_a_part_of_a_factor_comes_in_that_part_of_the_epochs() -> None:
    factors = torch.tensor([1.25, 1.25, 1.5, 1, 1], dtype=torch.float64)
    drawn = [epoch_steps(torch.zeros(5), 1, 3, epoch, factors).flatten() % 5 for epoch in range(400)]

    assert {len(one) for one in drawn} == {6}
    times = torch.stack([one.bincount(minlength=5) for one in drawn])
    assert times.min() == 1
    assert times.max() == 2
    assert times.double().mean(0).tolist() == pytest.approx(factors.tolist(), abs=0.08)


def test_copies_are_augmented_each_in_its_own_way_and_a_late_start_goes_on(tmp_path: Path) -> None:
    data = rare_set(tmp_path)
    table = table_of(data)
    factors = repeat_factors(table, 0.75)
    whole = list(StepSampler(step_groups(table), 2, seed=1, start=0, stop=20, factors=factors))

    assert list(StepSampler(step_groups(table), 2, seed=1, start=5, stop=20, factors=factors)) == whole[5:]
    addresses = [address for step in whole[:7] for address in step if address[1] == 0]
    assert sorted(addresses) == [(0, 0), (0, 0, 1), (0, 0, 2)]
    images = TrainingImages(table, data.images, Augment(("hflip", "photometric"), WorkingSize(64, 96)), seed=5)
    pictures = [images[address].image for address in ((0, 0), (0, 0, 1), (0, 0, 2))]
    assert not any(torch.equal(pictures[0], other) for other in pictures[1:])
    assert torch.equal(images[0, 0, 2].image, pictures[2])


def test_a_run_says_so_and_sees_more_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen, load = rare_set(tmp_path / "set"), list[tuple[int, ...]](), TrainingImages.__getitem__
    monkeypatch.setattr(
        TrainingImages, "__getitem__", lambda self, address: (seen.append(address), load(self, address))[1]
    )
    options = TrainOptions(epochs=1, batch_size=2, balance=0.75, workers=0, threads=1, devices=0, track=())
    summary = finetune(initial(tmp_path / "init.pt"), data, None, options, tmp_path / "run")

    start = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert summary.steps == 7
    assert sorted(seen) == [(0, 0), (0, 0, 1), (0, 0, 2), *((0, image) for image in range(1, 12))]
    assert start["derivations"]["balance"] == "0.75: 14 images an epoch, of 12"
    assert load_checkpoint(summary.last)[0]["run"]["step"] == 7
