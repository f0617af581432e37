"""Prediction and what it is written as."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_training import CLASSES, draw_set, initial
from PIL import Image
from pycocotools import mask as coco_mask
from rich.console import Console

from converters import read_labelme
from converters.pictures import IMAGE_SUFFIXES
from models.outlines import outlines
from models.training import Prediction, PredictOptions, TrainingDisplay, TrainOptions, finetune, predict
from models.training.images import UnreadableImageError
from models.training.journal import read_lines
from models.training.predict import PICTURES
from models.training.progress import step_text
from models.training.writers import drawn, write_coco_results, write_labelme, write_pictures


def test_predictions_come_in_order_in_the_pixels_of_the_picture(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "set", 3)

    found = list(predict(initial(tmp_path / "init.pt"), data.images, options=PredictOptions(min_score=0.01)))

    assert [(one.path.name, one.size) for one in found] == [
        ("000.png", (90, 128)),
        ("001.png", (120, 96)),
        ("002.png", (120, 96)),
    ]
    for one in found:
        assert len(one.boxes) == len(one.scores) == len(one.names) > 0
        assert set(one.names) <= set(CLASSES)
        assert bool((one.scores >= 0.01).all())
        assert bool((one.boxes >= 0).all())
        assert bool((one.boxes[:, [0, 2]] <= one.size[0]).all())
        assert bool((one.boxes[:, [1, 3]] <= one.size[1]).all())


def test_masks_have_the_size_of_the_picture(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "set", 1)
    init = initial(tmp_path / "init.pt", "maskrcnn_resnet50_fpn", min_size=64, max_size=96, score_threshold=0.0)

    found = next(predict(init, data.images, options=PredictOptions(min_score=0.0)))

    assert found.masks is not None
    assert found.masks.shape == (len(found.boxes), 128, 90)


def test_a_picture_that_cannot_be_read_costs_no_other(tmp_path: Path) -> None:
    data, init = draw_set(tmp_path / "set", 3), initial(tmp_path / "init.pt")
    whole = list(predict(init, data.images, options=PredictOptions(min_score=0.01, batch_size=2)))
    (data.images / "001.png").write_bytes(b"no picture")

    problems: list[UnreadableImageError] = []
    left = list(predict(init, data.images, options=PredictOptions(batch_size=2, min_score=0.01), unreadable=problems))

    assert [one.path.name for one in left] == ["000.png", "002.png"]
    assert torch.equal(left[0].boxes, whole[0].boxes)
    assert [problem.path.name for problem in problems] == ["001.png"]
    with pytest.raises(UnreadableImageError, match=r"001\.png: not a readable picture"):
        list(predict(init, data.images))


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures there"):
        list(predict(initial(tmp_path / "init.pt"), tmp_path))


def one_prediction(tmp_path: Path, mask: np.ndarray | None = None) -> Prediction:  # type: ignore[type-arg]
    path = tmp_path / "in" / "a.png"
    path.parent.mkdir()
    Image.new("RGB", (60, 40), (90, 90, 90)).save(path)
    return Prediction(
        path=path,
        size=(60, 40),
        boxes=torch.tensor([[10.0, 5.0, 30.0, 25.0]]),
        labels=torch.tensor([2]),
        scores=torch.tensor([0.75]),
        names=("<b>square</b>",),
        masks=None if mask is None else torch.from_numpy(mask)[None],
    )


def test_labelme_files_name_the_picture_by_its_relative_path(tmp_path: Path) -> None:
    list(write_labelme([one_prediction(tmp_path)], tmp_path / "out"))

    written = json.loads((tmp_path / "out" / "a.json").read_text())
    assert written["imagePath"] == "../in/a.png"
    assert (written["imageWidth"], written["imageHeight"], written["imageData"]) == (60, 40, None)
    assert written["shapes"][0]["shape_type"] == "rectangle"
    assert written["shapes"][0]["points"] == [[10, 5], [30, 25]]


@pytest.mark.filterwarnings("ignore:__array__")  # pycocotools
def test_outlines_fill_back_to_the_mask(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    mask = np.zeros((40, 60), bool)
    mask[5:25, 10:30] = True
    mask[10:14, 30:50] = True
    mask[25:29, 30:34] = True  # touches the rest at a corner only
    mask[30:38, 2:9] = draw.random((8, 7)) > 0.2
    mask[33:35, 4:6] = True

    rings = outlines(mask)

    filled = np.zeros_like(mask)
    for ring in rings:
        runs = coco_mask.frPyObjects([np.array(ring).ravel().tolist()], 40, 60)
        filled |= coco_mask.decode(coco_mask.merge(runs)).astype(bool)
    assert not (mask[:30] ^ filled[:30]).any()
    list(write_labelme([one_prediction(tmp_path, mask)], tmp_path / "out"))
    shapes = json.loads((tmp_path / "out" / "a.json").read_text())["shapes"]
    assert {shape["shape_type"] for shape in shapes} == {"polygon"}
    assert {shape["group_id"] for shape in shapes} == {1}


@pytest.mark.parametrize("kind", ["rectangle", "polygon"])
def test_labelme_itself_opens_what_is_written(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    missing = "labelme 6 or newer is not installed: pip install annotune[labelme]"
    labelme = pytest.importorskip("labelme._label_file", reason=missing, exc_type=ImportError)
    mask = np.zeros((40, 60), bool)
    mask[5:25, 10:30] = True
    prediction = one_prediction(tmp_path, mask if kind == "polygon" else None)
    list(write_labelme([prediction], tmp_path / "out"))

    opened = labelme.LabelFile(str(tmp_path / "out" / "a.json"))

    assert opened.image_data  # found beside the file, by its relative path
    (shape,) = opened.shapes
    assert (shape["label"], shape["shape_type"], shape["description"]) == ("<b>square</b>", kind, "score 0.750")
    corners = np.array(shape["points"])
    assert (corners.min(0).tolist(), corners.max(0).tolist()) == ([10, 5], [30, 25])


def test_pictures_show_the_box_and_coco_results_hold_it(tmp_path: Path) -> None:
    prediction = one_prediction(tmp_path)

    write_coco_results(write_pictures([prediction], tmp_path / "out"), tmp_path / "found.json")

    with Image.open(tmp_path / "out" / "a.jpg") as picture:
        assert max(abs(a - 90) for a in picture.getpixel((20, 25))) > 25  # type: ignore[union-attr]
        assert max(abs(a - 90) for a in picture.getpixel((50, 35))) < 10  # type: ignore[union-attr]
    (result,) = json.loads((tmp_path / "found.json").read_text())
    assert (result["bbox"], result["score"], result["category_id"]) == ([10, 5, 20, 20], 0.75, 2)


def test_pictures_show_the_mask_and_not_the_rest_of_its_box(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:25, 10:18] = True
    list(write_pictures([one_prediction(tmp_path, mask)], tmp_path / "out"))

    with Image.open(tmp_path / "out" / "a.jpg") as picture:
        within, beside = (np.array(picture.getpixel(place), int) for place in ((13, 20), (26, 20)))
    assert abs(within - 90).max() > 25
    assert abs(beside - 90).max() < 10


def test_a_photo_that_is_shown_rotated_is_found_drawn_and_written_as_it_is_shown(tmp_path: Path) -> None:
    upright = draw_set(tmp_path / "set", 1).images / "000.png"  # 90 x 128
    exif, photos = Image.Exif(), tmp_path / "photos"
    exif[0x0112] = 6  # turn right
    photos.mkdir()
    with Image.open(upright) as picture:
        picture.rotate(90, expand=True).save(photos / "a.png", exif=exif)
    init, options = initial(tmp_path / "init.pt"), PredictOptions(min_score=0.01)

    (expected,) = predict(init, [upright], options=options)
    (found,) = write_labelme(write_pictures(predict(init, photos, options=options), tmp_path / "out"), photos)

    assert found.size == (90, 128)
    assert torch.equal(found.boxes, expected.boxes)
    with Image.open(tmp_path / "out" / "a.jpg") as picture:
        assert (picture.size, dict(picture.getexif())) == ((90, 128), {})
    (record,) = read_labelme(photos)  # which knows how labelme shows it
    assert (record.width, record.height, len(record.instances)) == (90, 128, len(expected.boxes))


def test_a_step_tells_of_the_gpus_memory_and_of_the_wait_for_data() -> None:
    line = {"epoch": 1.5, "loss": 2.0, "lr": 0.01, "images_per_second": 8.0, "data_wait": 0.25, "gpu_memory": 3 * 2**30}

    assert step_text(line) == "epoch 1.5 loss 2.000 lr 0.01 8.0 images/s (25% waiting for data) 3.0 GiB"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_display_says_what_happens(tmp_path: Path, terminal: bool) -> None:
    written = io.StringIO()
    train, init = draw_set(tmp_path / "train", 4), initial(tmp_path / "init.pt")

    with TrainingDisplay(Console(file=written, force_terminal=terminal, width=200 if terminal else 40)) as show:
        finetune(init, train, train, TrainOptions(epochs=1, batch_size=2), tmp_path / "run", echo=show)

    said = written.getvalue()
    assert "0.00078125 per image x 2 images per step = 0.0015625" in said
    assert "bbox/AP " in said
    assert "images/s" in said
    assert re.search(r"epoch 1\.0 loss \d+\.\d+ lr [\d.e-]+ [\d.]+ images/s \(\d+% waiting for data\)", said)
    assert not terminal or re.search(r"\d:\d\d:\d\d", said), "how long it will take"
    assert [line["event"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")] == [
        "start",
        "step",
        "eval",
        "end",
    ]


def test_a_checkpoint_written_on_a_gpu_loads_where_there_is_none(tmp_path: Path) -> None:
    data, here = draw_set(tmp_path / "set", 1), initial(tmp_path / "cpu.pt")
    with zipfile.ZipFile(here) as whole, zipfile.ZipFile(tmp_path / "gpu.pt", "w") as tagged:
        for entry in whole.infolist():
            content = whole.read(entry)
            if entry.filename.endswith("data.pkl"):
                # each tensor says where it was: a pickled string, its length before it
                assert content.count(b"X\x03\x00\x00\x00cpu") == 1  # the others refer to the first
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            tagged.writestr(entry, content)
    found = [next(predict(path, data.images, options=PredictOptions(min_score=0.01, device="cpu")))
             for path in (here, tmp_path / "gpu.pt")]  # fmt: skip

    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="on a CUDA device"):
            torch.load(tmp_path / "gpu.pt", weights_only=True)
    assert len(found[0].boxes) > 0
    assert torch.equal(found[0].boxes, found[1].boxes)
    assert torch.equal(found[0].scores, found[1].scores)


def test_pictures_of_sixteen_bits_are_drawn_in_eight(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 60), 20_000, np.uint16)).save(tmp_path / "deep.tif")
    nothing = Prediction(tmp_path / "deep.tif", (60, 40), torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), ())

    assert drawn(nothing).getpixel((0, 0)) == (78, 78, 78)


def test_the_pictures_that_are_looked_for_are_those_that_are_converted() -> None:
    assert PICTURES == IMAGE_SUFFIXES


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to(os.devnull)
    write_coco_results([], tmp_path / "null")
    assert (tmp_path / "null").is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["null"]
