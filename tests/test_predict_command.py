"""`annotune predict`: a checkpoint alone, in a folder of its own, and every form that its findings take."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_training import CLASSES, draw_set, initial
from PIL import Image
from pycocotools.coco import COCO

from converters import read_labelme
from flows.cli import main
from models.training import PredictOptions, predict

MASKS = {"min_size": 64, "max_size": 96, "score_threshold": 0.0, "detections_per_image": 5, "rois_per_image": 8}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing in it but pictures, two of the same name among them."""
    drawn, place = draw_set(tmp_path / "set", 3).images, tmp_path / "elsewhere"
    for number, name in enumerate(("one/a.png", "two/a.png", "b.png")):
        (place / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (drawn / f"{number:03d}.png").rename(place / "photos" / name)
    monkeypatch.chdir(place)
    return place


@pytest.mark.filterwarnings("ignore:__array__")  # pycocotools
@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [("ssdlite320_mobilenet_v3_large", {}, "rectangle"), ("maskrcnn_resnet50_fpn", MASKS, "polygon")],
)
def test_a_checkpoint_alone_finds_the_same_in_every_form(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, float], kind: str
) -> None:
    initial(place / "model.pt", name, **options)
    expected = list(predict(place / "model.pt", place / "photos", options=PredictOptions(min_score=0.2)))
    assert sum(len(one.boxes) for one in expected) > 0

    words = "predict model.pt photos --out seen --json found.json --csv found.csv --labelme labels --min-score 0.2"
    monkeypatch.setattr(sys, "argv", ["annotune", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 0
    results = json.loads((place / "found.json").read_text())
    names = [one.path.relative_to(place / "photos").as_posix() for one in expected]
    assert [(row["image_id"], row["file_name"]) for row in results] == [
        (number, name) for number, (name, one) in enumerate(zip(names, expected, strict=True), 1) for _ in one.boxes
    ]
    assert {(row["category_id"], row["category"]) for row in results} <= set(enumerate(CLASSES, 1))
    truth = COCO()
    images = [{"id": n, "width": one.size[0], "height": one.size[1]} for n, one in enumerate(expected, 1)]
    truth.dataset = {"images": images, "categories": [{"id": 1}, {"id": 2}], "annotations": []}
    truth.createIndex()
    read = truth.loadRes(results)  # what COCO's own tools make of them
    boxes = torch.tensor([row["bbox"] for row in read.loadAnns(read.getAnnIds())])
    boxes[:, 2:] += boxes[:, :2]
    torch.testing.assert_close(boxes, torch.cat([one.boxes for one in expected]), rtol=0, atol=2e-3)
    if kind == "polygon":
        masks = [mask for one in expected if one.masks is not None for mask in one.masks]
        assert len(masks) == len(results)
        for row, mask in zip(read.anns.values(), masks, strict=True):
            assert (read.annToMask(row) == mask.numpy()).all()

    assert len(list(csv.DictReader((place / "found.csv").read_text().splitlines()))) == len(results)
    for one, path in zip(expected, names, strict=True):
        with Image.open((place / "seen" / path).with_suffix(".jpg")) as picture:
            assert picture.size == one.size
    records = {record.file_name.removeprefix("../photos/"): record for record in read_labelme(place / "labels")}
    for one, path in zip(expected, names, strict=True):
        assert [instance.category for instance in records[path].instances] == list(one.names)
        shapes = json.loads((place / "labels" / path).with_suffix(".json").read_text())["shapes"]
        assert {shape["shape_type"] for shape in shapes} <= {kind}


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    initial(place / "model.pt")
    (place / "photos" / "b.png").write_bytes(b"no picture")
    words = "predict model.pt photos --json found.json --labelme labels --min-score 0"
    monkeypatch.setattr(sys, "argv", ["annotune", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 1
    assert "b.png: not a readable picture" in capfd.readouterr().err
    assert {row["file_name"] for row in json.loads((place / "found.json").read_text())} == {"one/a.png", "two/a.png"}
    assert sorted(path.name for path in (place / "labels").rglob("*.json")) == ["a.json", "a.json"]


def test_what_goes_to_stdout_stands_there_alone(place: Path) -> None:
    initial(place / "model.pt", "ssdlite320_mobilenet_v3_large")
    code = "from flows.cli import main; main()"
    words = ["predict", "model.pt", "photos", "--json", "/dev/stdout", "--min-score", "0"]

    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=True)

    assert {row["file_name"] for row in json.loads(done.stdout)} <= {"one/a.png", "two/a.png", "b.png"}
    assert done.stderr.count(b"a.png: ") == 2
