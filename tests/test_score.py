"""`annotune score`: detections of any program against any COCO file, and Pascal VOC's AP beside COCO's."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_training import draw_set, initial
from pycocotools import mask as coco_mask
from test_training_scores import scene

from flows.cli import main
from models.training import EvaluateOptions, evaluate, score
from models.training.given import read_results
from models.training.scores import complete_truth
from models.training.voc_scores import voc_scores

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # pycocotools


def row(image: int, x: float, **more: Any) -> dict[str, Any]:
    """A box of ten by ten pixels; a detection where it has a score."""
    return {"image_id": image, "category_id": 1, "bbox": [x, 0, 10, 10], **more}


def truth_of(*annotations: dict[str, Any]) -> dict[str, Any]:
    rows = [{"id": number, **one} for number, one in enumerate(annotations, 1)]
    images = [{"id": number, "file_name": f"{number}.png", "width": 400, "height": 20} for number in (1, 2, 3)]
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "nothing"}]
    return complete_truth({"images": images, "annotations": rows, "categories": categories})


# -- Pascal VOC's AP ---------------------------------------------------------------------------------------------------


def test_voc_by_hand() -> None:
    """Hit, miss, hit of three objects: precision 1 up to a recall of 1/3, 2/3 up to 2/3, then 0."""
    truth = truth_of(row(1, 0), row(2, 0), row(3, 0))
    results = [row(1, 1, score=0.9), row(2, 200, score=0.8), row(2, 2, score=0.7)]

    area, points = voc_scores(truth, results)["cell"]

    assert area == pytest.approx((1 + 2 / 3) / 3)
    assert points == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)  # recalls 0, .1, .2, .3 and .4, .5, .6
    assert voc_scores(truth, results)["nothing"] == (-1, -1)


def test_a_difficult_object_is_neither_found_nor_missed() -> None:
    truth = truth_of(row(1, 0), row(1, 100, difficult=1), row(2, 50, iscrowd=1))
    results = [row(1, 100, score=0.9), row(1, 101, score=0.85), row(2, 50, score=0.8), row(1, 0, score=0.7)]

    assert voc_scores(truth, results)["cell"] == (pytest.approx(1), pytest.approx(1))


def test_the_second_of_one_object_is_wrong_even_beside_a_free_one() -> None:
    """The devkit's rule, not COCO's: the best object counts, taken or not."""
    truth = truth_of(row(1, 0), row(1, 3))
    area, _ = voc_scores(truth, [row(1, 0, score=0.9), row(1, 0.5, score=0.8)])["cell"]

    assert area == pytest.approx(0.5)


@pytest.fixture(scope="module")
def chainercv() -> dict[str, Any]:
    """ChainerCV's own evaluation, out of a checkout of it; the one function that it imports stands before it."""
    root = os.environ.get("CHAINERCV_ROOT")
    if not root:
        pytest.skip("CHAINERCV_ROOT does not name a checkout of ChainerCV")
    overlap = (Path(root) / "chainercv/utils/bbox/bbox_iou.py").read_text().partition("def bbox_iou")[2]
    text = (Path(root) / "chainercv/evaluations/eval_detection_voc.py").read_text()
    for line in ("from __future__ import division", "import six", "from chainercv.utils.bbox.bbox_iou import bbox_iou"):
        text = text.replace(f"{line}\n", "")
    text = text.replace("np.arange(0., 1.1, 0.1)", "(np.arange(11) / 10 - 1e-12)")  # theirs rounds 0.3 upwards
    overlap = overlap.replace("cuda.get_array_module(bbox_a)", "np")
    text = f"def bbox_iou{overlap}\n{text}".replace("six.moves.", "")
    theirs: dict[str, Any] = {"range": range, "zip": zip}
    with warnings.catch_warnings(action="ignore"):  # escapes in their docstrings
        exec(compile(text, "eval_detection_voc.py", "exec"), theirs)
    return theirs


@pytest.mark.parametrize("seed", range(6))
def test_chainercv_says_the_same(chainercv: dict[str, Any], seed: int) -> None:
    content, results = scene(seed)
    truth = complete_truth(content)
    for number, one in enumerate(truth["annotations"]):
        one["difficult"] = int(number % 5 == 0)

    def arrays(rows: list[dict[str, Any]]) -> list[Any]:
        """Boxes as it has them: y before x, and the last pixel instead of the edge."""
        columns: list[list[Any]] = [[], [], [], []]
        for image in truth["images"]:
            of = [one for one in rows if one["image_id"] == image["id"]]
            xywh = np.array([one["bbox"] for one in of]).reshape(-1, 4)
            corners = np.hstack([xywh[:, 1::-1], xywh[:, 1::-1] + xywh[:, 3:1:-1] - 1])
            columns[0].append(corners)
            columns[1].append(np.array([one["category_id"] - 1 for one in of], int))
            columns[2].append(np.array([one.get("score", 0) for one in of]))
            columns[3].append(np.array([bool(one.get("difficult") or one.get("iscrowd")) for one in of], bool))
        return columns

    there, found = arrays(truth["annotations"]), arrays(results)
    with np.errstate(all="ignore"):
        expected = [
            chainercv["eval_detection_voc"](*found[:3], *there[:2], there[3], use_07_metric=points)["ap"]
            for points in (False, True)
        ]
    ours = np.array(list(voc_scores(truth, results).values()))
    np.testing.assert_allclose(np.where(ours < 0, np.nan, ours).T, expected, atol=1e-12)


# -- detections of any program -----------------------------------------------------------------------------------------


def test_masks_without_boxes_get_them(tmp_path: Path) -> None:
    """PaddleDetection's mask.json: the boxes are those around the pixels of run lengths, and around rings."""
    draw, masks, expected = np.random.default_rng(0), [], []
    for number in range(60):
        mask = np.zeros((20, 400), np.uint8)
        y, x, height, width = draw.integers((0, 0, 1, 1), (12, 300, 20, 100)) * (number % 4 > 0, 1, 1, 1)
        height = 20 if number % 4 == 0 else height
        mask[y : y + height, x : x + width] = (
            draw.integers(0, 2 + number % 3, mask[y : y + height, x : x + width].shape) > 0
        )
        masks.append(coco_mask.encode(np.asfortranarray(mask)))
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        corner = (columns[0], rows[0]) if len(rows) else (0, 0)
        expected.append([*corner, *((np.ptp(columns) + 1, np.ptp(rows) + 1) if len(rows) else (0, 0))])
    masks += [coco_mask.encode(np.asfortranarray(np.full((20, 400), fill, np.uint8))) for fill in (0, 1)]
    shapes = [{"size": mask["size"], "counts": mask["counts"].decode()} for mask in masks]
    shapes += [{"size": [20, 400], "counts": [43, 2, 18, 2, 7935]}, [[2, 3, 4, 3, 4, 5, 2, 5]]]  # type: ignore[list-item]
    shapes.append({"size": [20, 400], "counts": [8000, 0]})  # type: ignore[dict-item]
    path = tmp_path / "mask.json"
    path.write_text(
        json.dumps([{"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": shape} for shape in shapes])
    )

    expected += [[0, 0, 0, 0], [0, 0, 400, 20], [2, 3, 2, 2], [2, 3, 2, 2], [0, 0, 0, 0]]
    assert [result["bbox"] for result in read_results(path, truth_of())] == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{}", "not COCO results"),
        ("[", "not JSON"),
        ('[{"image_id": 1, "category_id": 1, "score": 0.5}]', "detection 1: .*needs image_id"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, -3, 4], "score": 0.5}]', "detection 1"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": "high"}]', "detection 1"),
        ('[{"image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "no picture 9; it has 1, 2, 3"),
        ('[{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}]', "no class 7; it has 1, 2"),
        (
            '[{"file_name": "a", "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]',
            "no picture 'a'; it has '1.png'",
        ),
        ("[7]", "detection 1: 7: Each detection needs"),
        ('[{"image_id": 1, "category_id": 1, "segmentation": {"counts": "zz"}, "score": 1}]', "detection 1"),
        ('[{"image_id": 1, "category_id": 1, "segmentation": [[]], "score": 1}]', "detection 1"),
        (
            '[{"image_id": 1, "category_id": 1, "segmentation": {"size": [9, 9], "counts": "zz"}, "score": 1}]',
            "of size",
        ),
        ('[{"image_id": 1, "category_id": 1, "segmentation": {"size": [20, 400], "counts": "zz"}, "score": 1}]', "1:"),
        (
            '[{"image_id": 1, "category_id": 1, "segmentation": {"size": [20, 400], "counts": [3, 2]}, "score": 1}]',
            "1:",
        ),
        ('[{"image_id": 1, "category": "dog", "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "no class 'dog'"),
        ('[{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 1, 1, 1e9, 4]], "score": 1}]', "detection 1"),
        ('[{"image_id": [1], "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "detection 1"),
    ],
)
def test_what_cannot_be_scored_is_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "found.json").write_text(content)

    with pytest.raises(ValueError, match=told):
        read_results(tmp_path / "found.json", truth_of())


@pytest.mark.parametrize("runs", [[0, *[2**62] * 4, 8000], [2**64 - 1], [8001], [8001, -1]])
def test_runs_that_do_not_fill_the_picture_never_reach_a_program_in_c(tmp_path: Path, runs: list[int]) -> None:
    """In 64 bits the first ones come to 8000, as they should."""
    mask = {"size": [20, 400], "counts": runs}
    (tmp_path / "found.json").write_text(
        json.dumps([{"image_id": 1, "category_id": 1, "segmentation": mask, "score": 1}])
    )

    with pytest.raises(ValueError, match="detection 1: "):
        read_results(tmp_path / "found.json", truth_of())


def test_a_name_that_two_have_says_nothing(tmp_path: Path) -> None:
    truth = truth_of(row(1, 0))
    truth["images"][1]["file_name"] = "1.png"
    (tmp_path / "named.json").write_text(json.dumps([{"file_name": "1.png", **row(1, 0, score=1)}]))
    (tmp_path / "ids.json").write_text(json.dumps([row(1, 0, score=1)]))

    with pytest.raises(ValueError, match=r"detection 1: .*the truth has picture '1\.png' more than once"):
        read_results(tmp_path / "named.json", truth)
    assert len(read_results(tmp_path / "ids.json", truth)) == 1
    truth["categories"][1]["name"] = "cell"
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=r"truth\.json: two categories are called 'cell'"):
        score(tmp_path / "ids.json", tmp_path / "truth.json", tmp_path / "out")


def run(monkeypatch: pytest.MonkeyPatch, words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["annotune", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_a_checkpoint_and_what_it_found_score_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_set(tmp_path / "set", 4)
    initial(tmp_path / "model.pt", score_threshold=0.0)
    monkeypatch.chdir(tmp_path)
    expected = evaluate(tmp_path / "model.pt", data, tmp_path / "expected", options=EvaluateOptions(voc=True))

    assert run(monkeypatch, "score set/coco.json model.pt --images set/images --voc --out whole") == 0
    assert run(monkeypatch, "score set/coco.json whole/detections.json --voc --images set/images --out again") == 0
    assert run(monkeypatch, "predict model.pt set/images --json found.json --min-score 0") == 0
    assert run(monkeypatch, "score set/coco.json found.json --voc") == 0  # by file name and class name

    printed = capsys.readouterr().out
    assert printed.count(f"VOC mAP {expected['voc']['AP']:.3f}") == 3
    written, *others = ((tmp_path / f"{name}/metrics.json").read_bytes() for name in ("whole", "again", "expected"))
    assert others == [written, written]
    assert {"confusion", "errors", "worst_images", "voc"} <= json.loads(written).keys()
    page = (tmp_path / "again/report.html").read_text()
    assert "data:image" in page
    assert {"VOC AP", "VOC AP11"} <= set(re.findall(r"<th [^>]*>([^<]+)</th>", page))
    assert not (tmp_path / "metrics.json").exists()


def test_pictures_of_another_set_end_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("truth.json").write_text(json.dumps(truth_of(row(1, 0))))
    Path("found.json").write_text(json.dumps([row(5, 0, score=1)]))

    assert run(monkeypatch, "score truth.json found.json --out there") == 2
    assert "detection 1" in capsys.readouterr().err
    assert run(monkeypatch, "score truth.json found.json --images nowhere --out there") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert not Path("there").exists()


def test_without_objects_there_is_nothing_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("truth.json").write_text(json.dumps(truth_of()))
    Path("found.json").write_text("[]")

    assert run(monkeypatch, "score truth.json found.json --voc --out there") == 0
    assert capsys.readouterr().out.startswith("AP -, AP50 -, VOC mAP -, 3 images\n")
    assert Path("there/report.html").exists()


def test_difficult_ones_do_not_touch_cocos_figures(tmp_path: Path) -> None:
    content, results = scene(3)
    (tmp_path / "found.json").write_text(json.dumps(results))

    figures = []
    for difficult in (0, 1):
        for one in content["annotations"][::3]:
            one["difficult"] = difficult
        (tmp_path / "truth.json").write_text(json.dumps(content))
        found, truth, folder = tmp_path / "found.json", tmp_path / "truth.json", tmp_path / str(difficult)
        figures.append(score(found, truth, folder, options=EvaluateOptions(voc=True)))

    without, marked = figures
    assert [marked[kind] for kind in ("bbox", "segm")] == [without[kind] for kind in ("bbox", "segm")]
    assert marked["voc"] != without["voc"]
    assert "voc" not in score(tmp_path / "found.json", tmp_path / "truth.json", tmp_path / "plain")
