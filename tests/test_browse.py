"""`annotune browse`: the pictures are those that the training gets, to the pixel."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_flow import tiny_recipe, tiny_scenes
from helpers_training import draw_set, initial
from PIL import Image

from flows.cli import main
from models.training import TrainOptions, finetune
from models.training.browse import browse
from models.training.dataset import Loaded, TrainingImages
from models.training.writers import colour_of

MASKS = {"min_size": 64, "max_size": 96, "rois_per_image": 8}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], Loaded]]:
    """What is loaded from now on, by address."""
    seen: list[tuple[tuple[int, ...], Loaded]] = []
    load = TrainingImages.__getitem__

    def heard(self: TrainingImages, address: tuple[int, int]) -> Loaded:
        seen.append((address, load(self, address)))
        return seen[-1][1]

    monkeypatch.setattr(TrainingImages, "__getitem__", heard)
    return seen


def test_they_are_those_of_the_run(tmp_path: Path, loaded: list[tuple[tuple[int, ...], Loaded]]) -> None:
    data, init = draw_set(tmp_path / "set", 6), initial(tmp_path / "init.pt")
    options = TrainOptions(
        epochs=3, batch_size=2, mosaic=0.5, mixup=0.2, mix_until=-1, balance=0.9, seed=3,
        augment=("photometric", "iou_crop", "hflip"), workers=0, threads=1, devices=0, track=(),
    )  # fmt: skip
    finetune(init, data, None, options, tmp_path / "run")
    trained, loaded[:] = loaded[:], []

    for epoch in range(3):
        list(browse(init, data, options, tmp_path / str(epoch), epoch=epoch, count=100))

    assert [address for address, _ in loaded] == [address for address, _ in trained]
    for (_, one), (_, other) in zip(loaded, trained, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.target["boxes"], other.target["boxes"])
    assert len(list((tmp_path / "0").glob("*.jpg"))) == len(trained) // 3


@pytest.mark.parametrize("masks", [False, True])
def test_objects_are_drawn_where_they_are(
    tmp_path: Path, loaded: list[tuple[tuple[int, ...], Loaded]], masks: bool
) -> None:
    data = draw_set(tmp_path / "set", 4, outlines=True)
    name = "maskrcnn_resnet50_fpn" if masks else "ssdlite320_mobilenet_v3_large"
    init = initial(tmp_path / "init.pt", name, **(MASKS if masks else {"fixed_size": (320, 320)}))

    (path,) = browse(init, data, TrainOptions(augment=()), tmp_path / "out", count=1)

    (_, one), names = loaded[0], ("disc", "square")
    with Image.open(path) as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape == (*one.image.shape[1:], 3)
    for box, label in zip(one.target["boxes"].tolist(), one.target["labels"].tolist(), strict=True):
        colour = np.array(colour_of(names[label - 1]))
        bottom, middle = min(round(box[3]), pixels.shape[0] - 1), round((box[0] + box[2]) / 2)
        near = pixels[bottom - 3 : bottom + 2, middle - 2 : middle + 3].reshape(-1, 3)
        assert np.abs(near - colour).sum(1).min() < 120
    plain = np.abs(pixels - one.image.permute(1, 2, 0).numpy()).sum(2)
    inside = plain[round(box[1]) + 8 : round(box[3]) - 8, round(box[0]) + 8 : round(box[2]) - 8]
    assert (np.median(inside) > 60) == masks


def test_from_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"))
    words = ["annotune", "browse", str(recipe), "--out", str(tmp_path / "seen"), "--count", "3", "-o", "train.mosaic=1"]
    monkeypatch.setattr(sys, "argv", words)

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 0
    assert "3 pictures in" in capsys.readouterr().out
    assert len(list((tmp_path / "seen").iterdir())) == 3
    assert not list(tmp_path.rglob("best.pt"))
