"""Decoded pictures that are kept: the same bytes as without, within their limit, gone after the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_training import CLASSES, draw_set, initial
from test_training_resume import assert_same_weights

from models.training import TrainOptions, finetune
from models.training.cache import PictureCache
from models.training.coco import read_coco
from models.training.dataset import TrainingImages
from models.training.mixing import Mixing
from models.training.transforms import AUGMENTATIONS, Augment, WorkingSize


@pytest.mark.parametrize("names", [("hflip", "photometric"), tuple(AUGMENTATIONS)])
@pytest.mark.parametrize("size", [WorkingSize(64, 200), WorkingSize(0, 0, (50, 90))])
@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_kept_pictures_are_the_bytes_that_decoding_gives(
    tmp_path: Path, names: tuple[str, ...], size: WorkingSize, mosaic: float
) -> None:
    data = draw_set(tmp_path, 5, outlines=True)
    table = read_coco(data.coco, CLASSES, masks=True)
    mixing = Mixing(mosaic, 0.0, 9 if mosaic else 0)
    plain, kept = (
        TrainingImages(table, data.images, Augment(names, size), 3, masks=True, mixing=mixing) for _ in range(2)
    )
    kept.keep_decoded(tmp_path / "cache", 10**6)

    for epoch in range(3):
        for index in range(5):
            one, two = plain[epoch, index], kept[epoch, index]
            assert torch.equal(one.image, two.image)
            assert one.image.stride() == two.image.stride()
            assert torch.equal(one.target["boxes"], two.target["boxes"])
            assert torch.equal(one.target["masks"].frames, two.target["masks"].frames)
            assert one.original == two.original
    assert (tmp_path / "cache").read_bytes()[:5] == b"\1" * 5
    assert kept.ready == (not mosaic and "iou_crop" not in names)
    for picture in data.images.iterdir():
        picture.unlink()
    assert torch.equal(kept[7, 1].image, kept[7, 1].image)


def test_what_does_not_fit_is_decoded_each_time(tmp_path: Path) -> None:
    image = torch.arange(2 * 2 * 3, dtype=torch.uint8).view(2, 2, 3).permute(2, 0, 1)
    cache = PictureCache.create(tmp_path / "cache", [(2, 2)] * 3, 3 + 24)

    for index in range(3):
        assert cache.read(index) is None
        cache.write(index, image)

    assert [cache.read(index) is not None for index in range(3)] == [True, True, False]
    assert torch.equal(cache.read(1), image)  # type: ignore[arg-type]
    other = PictureCache.create(tmp_path / "other", [(2, 2)], 99)
    other.write(0, image.contiguous())  # as Pillow's pictures lie: it would come back in another order
    assert other.read(0) is None
    assert (tmp_path / "cache").stat().st_size == 27


def test_a_run_with_kept_pictures_has_the_same_weights_and_leaves_nothing(tmp_path: Path) -> None:
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train", 4)
    options = TrainOptions(epochs=2, batch_size=4, threads=1)

    plain = finetune(init, train, None, options, tmp_path / "plain")
    kept = finetune(init, train, None, options.model_copy(update={"cache_mb": 10, "workers": 2}), tmp_path / "kept")

    assert_same_weights(plain.last, kept.last)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        path.name for path in (tmp_path / "plain").iterdir()
    }
