"""The input path: pictures, what follows them through augmentations, and which images come when."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_training import CLASSES, draw_set
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from models.training.coco import read_coco
from models.training.dataset import Batch, Loaded, TrainingImages, height_width, packed
from models.training.detect import image_batches
from models.training.images import UnreadableImageError, read_image
from models.training.sampling import StepSampler, epoch_steps
from models.training.transforms import AUGMENTATIONS, Augment, WorkingSize
from models.zoo.masks import InstanceMasks

SQUARE = [[20.0, 30.0, 60.0, 30.0, 60.0, 80.0, 20.0, 80.0]]


@pytest.mark.parametrize("name", [*AUGMENTATIONS, "all"])
@pytest.mark.parametrize("size", [WorkingSize(64, 200), WorkingSize(0, 0, (50, 90))])
def test_boxes_and_masks_follow_the_pixels(name: str, size: WorkingSize) -> None:
    image = torch.zeros(3, 100, 120, dtype=torch.uint8)
    image[:, 30:80, 20:60] = 255
    target = {
        "boxes": torch.tensor([[20.0, 30.0, 60.0, 80.0]]),
        "labels": torch.tensor([1]),
        "iscrowd": torch.tensor([False]),
        "masks": InstanceMasks.from_coco([SQUARE], 100, 120),
    }
    augment = Augment(tuple(AUGMENTATIONS) if name == "all" else (name,), size)
    drawer, seen = random.Random(name), 0
    torch.manual_seed(0)

    for _ in range(12):
        changed, after = augment(image, target, drawer)
        if not len(after["boxes"]):
            continue
        seen += 1
        bright = changed.float().amax(0) > 0.75 * changed.max()  # recoloured, the canvas grey
        ys, xs = np.nonzero(bright.numpy())
        if len(xs):
            found = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
            torch.testing.assert_close(after["boxes"][0], found, atol=2.1, rtol=0)
            drawn = after["masks"].dense(*changed.shape[-2:])[0].bool()
            assert (drawn ^ bright).sum() <= 2 * (found[2:] - found[:2]).sum()  # a pixel along the edge
        assert changed.dtype == torch.uint8
        assert size.fixed is None or tuple(changed.shape[-2:]) == size.fixed
    assert seen >= 6
    assert torch.equal(target["boxes"], torch.tensor([[20.0, 30.0, 60.0, 80.0]]))


def test_the_same_address_gives_the_same_picture_whatever_was_drawn_before(tmp_path: Path) -> None:
    data = draw_set(tmp_path, 4)
    augment = Augment(tuple(AUGMENTATIONS), WorkingSize(64, 128))
    images = TrainingImages(read_coco(data.coco, CLASSES), data.images, augment, seed=5)

    first = images[2, 1]
    torch.manual_seed(99)
    random.seed(99)
    state = torch.get_rng_state()
    images[0, 3]
    again = images[2, 1]

    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target["boxes"], again.target["boxes"])
    assert torch.equal(state, torch.get_rng_state())
    assert any(not torch.equal(first.image, images[epoch, 1].image) for epoch in (3, 4, 5))


def test_an_epoch_has_every_image_once_and_steps_of_one_shape() -> None:
    groups = torch.tensor([0, 1] * 20 + [0] * 3)

    steps = epoch_steps(groups, 4, seed=0, epoch=0)

    assert steps.shape == (11, 4)
    assert set(steps.flatten().tolist()) == set(range(43))
    assert sum(len(groups[step].unique()) == 1 for step in steps) >= 10
    assert not torch.equal(steps, epoch_steps(groups, 4, seed=0, epoch=1))
    assert epoch_steps(torch.zeros(3), 8, seed=0, epoch=0).shape == (1, 8)


def test_a_sampler_that_starts_late_goes_on_as_the_whole_one() -> None:
    groups = torch.tensor([0, 1, 1, 0, 1, 0, 0])

    whole = list(StepSampler(groups, 3, seed=1, start=0, stop=8))

    assert list(StepSampler(groups, 3, seed=1, start=5, stop=8)) == whole[5:]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loading_process_packs_the_pictures_of_a_step(tmp_path: Path, workers: int) -> None:
    for name, size in (("a.png", (64, 48)), ("b.png", (40, 64)), ("c.bmp", (64, 48))):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / name)
    images = SimpleImages(tmp_path)

    (batch,) = image_batches(images, range(3), 3, workers)
    cut, _ = batch.part(1, 3, torch.device("cpu"))  # type: ignore[attr-defined]

    assert isinstance(batch, Batch)
    assert isinstance(batch.images, torch.Tensor) == (workers > 0)
    assert packed(batch.images).shape == (3, 3, 64, 64)
    assert packed(batch.images).sum() == sum(images[index].image.sum() for index in range(3))  # zeros elsewhere
    assert batch.sizes.tolist() == [[48, 64], [64, 40], [48, 64]]
    assert all(torch.equal(image, images[index].image) for image, index in zip(cut, (1, 2), strict=True))


class SimpleImages(Dataset[Loaded]):
    """The pictures of a folder as they are."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __getitem__(self, index: int) -> Loaded:
        image = read_image(self.paths[index])
        return Loaded(image, {"boxes": torch.empty(0, 4)}, index, height_width(image))


def png(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


def test_pictures_of_all_kinds_become_rgb(tmp_path: Path) -> None:
    colour = Image.new("RGB", (6, 4), (250, 128, 3))
    expected = torch.tensor([250, 128, 3], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 6)

    assert torch.equal(read_image(png(tmp_path / "a.png", colour)), expected)
    assert torch.equal(read_image(png(tmp_path / "a.bmp", colour)), expected)
    assert torch.equal(read_image(png(tmp_path / "a.tif", colour)), expected)
    assert torch.equal(read_image(png(tmp_path / "p.png", colour.quantize(4))), expected)
    assert read_image(png(tmp_path / "g.png", Image.new("L", (6, 4), 7))).unique().tolist() == [7]
    deep = Image.fromarray(np.full((4, 6), 40_000, np.uint16))
    assert read_image(png(tmp_path / "deep.png", deep)).unique().tolist() == [40_000 >> 8]
    assert read_image(png(tmp_path / "c.jpg", Image.new("CMYK", (6, 4)))).shape == (3, 4, 6)


def test_depth_and_number_of_pictures_in_a_file(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((4, 6), 40_000, np.uint16))
    assert read_image(png(tmp_path / "deep.tif", deep)).unique().tolist() == [40_000 >> 8]
    floats = Image.fromarray(np.full((4, 6), 40.0, np.float32))
    assert read_image(png(tmp_path / "float.tif", floats)).unique().tolist() == [40]
    for name, values in (("f.tif", np.full((4, 6), -0.5, np.float32)), ("i.tif", np.full((4, 6), 70_000, np.int32))):
        with pytest.raises(UnreadableImageError, match=r"32-bit pixels from .* to .*; convert it to 8 or 16 bits"):
            read_image(png(tmp_path / name, Image.fromarray(values)))
    frames = [Image.new("L", (6, 4), level) for level in (9, 200)]
    moving = png(tmp_path / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_image(moving).unique().tolist() == [9]
    assert read_image(moving, (6, 4)).shape == (3, 4, 6)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_as_it_is_shown_to_whoever_draws_boxes(tmp_path: Path, suffix: str, orientation: int) -> None:
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    corner = Image.new("RGB", (48, 32), (20, 20, 20))
    corner.paste((230, 40, 40), (0, 0, 24, 16))
    corner.save(path, exif=exif, **({"quality": 95} if suffix in {"jpg", "webp"} else {}))

    with Image.open(path) as picture:
        shown = np.array(ImageOps.exif_transpose(picture).convert("RGB")).astype(int)
    found = read_image(path).permute(1, 2, 0).numpy()

    assert found.shape == shown.shape == ((48, 32, 3) if orientation > 4 else (32, 48, 3))
    assert abs(found - shown).max() <= 3
    annotated = read_image(path, (shown.shape[1], shown.shape[0])).permute(1, 2, 0).numpy()
    assert np.array_equal(annotated, found)  # also where the size is that of the stored pixels: 2, 3 and 4


def test_the_annotated_size_decides_about_the_rotation(tmp_path: Path) -> None:
    picture = Image.new("RGB", (6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    path = png(tmp_path / "a.jpg", picture, exif=exif)

    assert read_image(path, (6, 4)).shape == (3, 4, 6)
    assert read_image(path, (4, 6)).shape == (3, 6, 4)
    with pytest.raises(UnreadableImageError, match=r"a\.jpg: is 4x6 pixels, annotated as 9x9"):
        read_image(path, (9, 9))


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "JPEG")
    contents = {"empty": b"", "text": b"hello", "cut": whole.getvalue()[:500], "xml": b"<svg/>"}

    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImageError):
            read_image(tmp_path / name)
    with pytest.raises(UnreadableImageError, match="no such file"):
        read_image(tmp_path / "gone.jpg")
