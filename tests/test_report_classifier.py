"""The page of a classifier: accuracy, its confusions, and the pictures that it got wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.report import ReportInputs, compare, render
from models.training.accuracy import measure

HOSTILE = "<script>alert(1)</script>"


def write(folder: Path, name: str, content: Any) -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder / name


@pytest.fixture
def run(tmp_path: Path) -> ReportInputs:
    """Six pictures of three classes, two of them named wrongly, one of those outside of the folder."""
    names = ["a.png", "b.png", "c.png", "../secret.png", "e.png", "f.png"]
    (tmp_path / "images").mkdir()
    for name in names:
        Image.new("RGB", (64, 48), (90, 120, 60)).save(tmp_path / "images" / name)
    labels, said = [1, 1, 2, 2, 3, 3], [1, 2, 2, 1, 3, 3]
    box = [4.5, 4, 20, 30]
    coco = {
        "images": [{"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(names, 1)],
        "categories": [{"id": 1, "name": HOSTILE}, {"id": 2, "name": "dog"}, {"id": 3, "name": "emu"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": label, "bbox": box, "area": 600, "iscrowd": 0}
            for n, label in enumerate(labels, 1)
        ],
    }
    results = [
        {"image_id": n, "annotation_id": n, "category_id": guess, "score": 0.9, "bbox": box}
        for n, guess in enumerate(said, 1)
    ]
    worse = [{**result, "category_id": 3} for result in results]
    return ReportInputs(
        title="three classes",
        val=write(tmp_path, "val.json", coco),
        metrics=write(tmp_path, "metrics.json", measure(coco, results)),
        baseline=write(tmp_path, "baseline.json", measure(coco, worse)),
        detections=write(tmp_path, "detections.json", results),
        images=tmp_path / "images",
    )


def test_it_shows_accuracy_confusions_and_the_wrong_answers(run: ReportInputs, tmp_path: Path) -> None:
    render(run, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()

    assert re.findall(r'<section id="(\w+)"', page) == ["result", "data", "classes", "mistakes", "pictures", "setup"]
    assert "names 66.7% rightly at the first guess, 33.3 points more than the baseline" in page
    assert "Top-1" in page
    assert "AP50" not in page
    assert "nothing found" not in page
    rows = re.findall(r'<th scope="row">(dog|emu)</th>(.*?)</tr>', page, re.DOTALL)
    cells = [re.findall(r'<td class="(?:none|hit|miss)"[^>]*>([^<]*)</td>', row) for _, row in rows]
    assert ["1", "1", "·"] in cells  # dog: once taken for the first class, once right
    assert page.count('<figure class="card"><img src="data:image/jpeg') == 1
    assert "secret" in page  # it is told of, and not opened


def test_a_label_is_never_markup_and_the_bytes_are_the_same(run: ReportInputs, tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        render(run, tmp_path / name)

    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert "<script" not in (tmp_path / "one.html").read_text()
    assert "&lt;script&gt;" in (tmp_path / "one.html").read_text()


def test_two_classifiers_are_compared_by_accuracy(run: ReportInputs, tmp_path: Path) -> None:
    other = ReportInputs(title="other", val=run.val, metrics=run.baseline or run.metrics)
    compare([run, other], tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text()

    assert "Class mean" in page
    assert "\N{MINUS SIGN}33.3" in page
