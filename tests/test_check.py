from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_check import HEIGHT, WIDTH, dataset, picture, split
from helpers_seeds import OPTIONS, SEEDS
from pycocotools import mask as coco_mask

from converters.check import RULES, CheckReport, find_problems, repair_policy, rules_table
from converters.check.statistics import OBJECTS, SIDES
from converters.errors import DatasetError

LIGHT = dict.fromkeys(("image-dark", "image-bright", "image-flat", "image-blurred"), "info")
ON = LIGHT | {"split-ids-overlap": "warn"}  # rules that are off at first


def check(splits: dict[str, Any], folder: Path, rule: str = "", policy: dict[str, str] | None = None) -> CheckReport:
    options = dict(OPTIONS.get(rule, {}))
    light = LIGHT if rule in LIGHT else {rule: ON[rule]} if rule in ON else {}
    return find_problems(
        splits, folder, depth="pixels", **(options | {"policy": light | options.get("policy", {}) | (policy or {})})
    )


def test_a_clean_dataset_has_no_problem_and_stays_itself(tmp_path: Path) -> None:
    splits = dataset(tmp_path)

    report = check(splits, tmp_path)

    assert report.counts == {}
    assert report.problems == ()
    assert report.changes == ()
    assert all(report.splits[name] is splits[name] for name in splits)
    report.raise_for_errors()


def test_every_rule_has_a_seeded_defect() -> None:
    assert set(SEEDS) == set(RULES)


@pytest.mark.parametrize("rule", SEEDS)
def test_the_rule_finds_its_defect_and_nothing_else_speaks(rule: str, tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    SEEDS[rule].breaks(splits, tmp_path)

    report = check(splits, tmp_path, rule)

    assert set(report.counts) == {rule, *SEEDS[rule].also}
    found = [problem for problem in report.problems if problem.rule == rule]
    assert found
    assert all(problem.message and problem.remedy and problem.file for problem in found)


@pytest.mark.parametrize("rule", SEEDS)
def test_a_rule_that_is_off_says_nothing_and_the_check_goes_on(rule: str, tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    SEEDS[rule].breaks(splits, tmp_path)

    report = check(splits, tmp_path, rule, {rule: "off"})

    assert rule not in report.counts


@pytest.mark.parametrize("rule", SEEDS)
def test_a_repair_never_touches_its_input_and_a_second_one_finds_nothing(rule: str, tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    SEEDS[rule].breaks(splits, tmp_path)
    before = copy.deepcopy(splits)
    policy = repair_policy({rule: (({"fix", "drop"} & set(RULES[rule].allowed)) or {"error"}).pop()})

    first = find_problems(splits, tmp_path, policy=policy, max_drop=1)
    second = find_problems(first.splits, tmp_path, policy=policy, max_drop=1)

    assert splits == before or rule == "json-nan"
    assert second.changes == ()
    assert second.repaired == {}
    if RULES[rule].repair and rule not in {"leak-near"}:
        assert first.repaired.get(rule), "the repair did nothing"


def test_the_first_ten_errors_and_their_number_are_raised(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    for annotation in splits["train"]["annotations"][:12]:
        annotation["bbox"] = [1, 2, "x"]

    with pytest.raises(DatasetError) as caught:
        find_problems(splits).raise_for_errors()

    lines = str(caught.value).splitlines()
    assert lines[0] == "12 errors in the dataset"
    assert len(lines) == 12
    assert lines[1] == (
        "  bbox-invalid: train: train_0.jpg, annotation 10: a box that is not four finite numbers: [1, 2, 'x']. "
        "write [x, y, width, height] in pixels"
    )
    assert lines[-1] == "  ... and 2 more"


def test_counts_are_exact_where_examples_are_few(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    for annotation in splits["train"]["annotations"]:
        del annotation["area"]

    report = find_problems(splits, policy={"area-missing": "fix"}, keep=4)

    assert len(report.problems) == 4
    assert report.counts == report.repaired == {"area-missing": 30}
    assert len(report.changes) == 30
    assert report.severities == {"error": 0, "warning": 0, "info": 0}
    assert report.errors == ()


def test_only_what_changed_is_new(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    splits["train"]["annotations"][3]["area"] = 5000

    report = find_problems(splits, policy=repair_policy())

    fixed = report.splits["train"]["annotations"]
    assert report.splits["val"] is splits["val"]
    assert fixed[3]["area"] == 11 * 10
    assert [new is old for new, old in zip(fixed, splits["train"]["annotations"], strict=True)].count(False) == 1
    assert report.changes[0]._asdict() == {
        "rule": "area-wrong",
        "split": "train",
        "kind": "annotations",
        "id": 13,
        "before": {"area": 5000},
        "after": {"area": 110},
    }


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"bbox-tinny": "drop"}, r"no rule is called 'bbox-tinny' \(did you mean 'bbox-tiny'\?\)"),
        ({"bbox-tiny": "delete"}, "this rule takes error, warn, info, drop, off"),
        ({"bbox-tiny": "fix"}, "this rule takes error, warn, info, drop, off"),
        ({"split-empty": "drop"}, "this rule takes error, warn, info, off"),
    ],
)
def test_a_policy_that_no_rule_has_is_refused_by_name(policy: dict[str, str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        find_problems({}, policy=policy)


def test_a_policy_moves_the_severity(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    SEEDS["bbox-aspect"].breaks(splits, tmp_path)

    assert find_problems(splits).severities == {"error": 0, "warning": 0, "info": 1}
    assert find_problems(splits, policy={"bbox-aspect": "warn"}).severities["warning"] == 1
    assert find_problems(splits, policy={"bbox-aspect": "error"}).errors[0].rule == "bbox-aspect"


def test_dropping_an_image_takes_its_annotations_and_counts_against_the_budget(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    (tmp_path / "train_0.jpg").unlink()
    (tmp_path / "train_1.jpg").unlink()

    report = find_problems(splits, tmp_path, policy=repair_policy(), max_drop=0.1)

    assert len(report.splits["train"]["images"]) == 4
    assert {a["image_id"] for a in report.splits["train"]["annotations"]} == {3, 4, 5, 6}
    assert [change.kind for change in report.changes] == ["images"] * 2 + ["annotations"] * 10
    assert report.counts["drop-budget"] == 2  # of images, and of annotations
    assert "drop-budget" not in find_problems(splits, tmp_path, policy=repair_policy(), max_drop=0.4).counts


def test_reversed_corners_are_sorted_and_boxes_clipped(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    for annotation, box in zip(
        splits["train"]["annotations"], ([12, 12, -10, -8], [50, 40, 30.5, 20], [63.5, 4, 10, 8]), strict=False
    ):
        annotation.update(bbox=box, area=abs(box[2] * box[3]), segmentation=[])

    report = find_problems(splits, policy=repair_policy(), max_drop=1)

    fixed = report.splits["train"]["annotations"]
    assert fixed[0]["bbox"] == [2, 4, 10, 8]
    assert (fixed[1]["bbox"], fixed[1]["area"]) == ([50, 40, 14, 8], 112)
    assert report.repaired == {"bbox-degenerate": 1, "bbox-outside": 2, "bbox-tiny": 1}
    assert len(fixed) == 29


def test_a_mask_that_lies_on_its_side_is_turned(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    annotation = splits["train"]["annotations"][0]
    mask = np.zeros((64, 48), np.uint8, order="F")
    mask[2:12, 4:12] = 1  # the box [2, 4, 10, 8] with x and y exchanged
    rle = coco_mask.encode(mask)
    annotation["segmentation"] = {"size": [64, 48], "counts": rle["counts"].decode()}

    report = find_problems(splits, policy=repair_policy())

    turned = report.splits["train"]["annotations"][0]["segmentation"]
    assert report.repaired == {"rle-size": 1}
    assert turned["size"] == [48, 64]
    assert coco_mask.toBbox(turned).tolist() == [2, 4, 10, 8]


def test_crowds_become_run_lengths_that_cover_the_same(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    splits["train"]["annotations"][0]["iscrowd"] = 1

    report = find_problems(splits, policy=repair_policy())

    fixed = report.splits["train"]["annotations"][0]
    assert coco_mask.toBbox(fixed["segmentation"]).tolist() == [2, 4, 10, 8]
    assert fixed["area"] == 80


def test_pairs_of_near_duplicates_name_both_files(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    SEEDS["leak-near"].breaks(splits, tmp_path)

    (problem,) = find_problems(splits, tmp_path, depth="pixels").problems

    assert (problem.rule, problem.split, problem.file, problem.other) == (
        "leak-near",
        "train",
        "train_0.jpg",
        "val_0.jpg",
    )
    assert find_problems(splits, tmp_path, depth="header").counts == {}


def test_a_leak_is_dropped_from_train_on_request(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    SEEDS["leak-bytes"].breaks(splits, tmp_path)

    report = find_problems(splits, tmp_path, policy={"leak-bytes": "drop"}, max_drop=1)

    assert "train_0.jpg" not in [image["file_name"] for image in report.splits["train"]["images"]]
    assert report.splits["val"] is splits["val"]


def test_a_missing_file_with_another_case_is_named(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    (tmp_path / "train_0.jpg").rename(tmp_path / "Train_0.JPG")

    problem = find_problems(splits, tmp_path).problems[0]

    assert (problem.rule, problem.message) == ("image-missing", "no such file, but there is Train_0.JPG")


def test_what_an_evaluation_could_not_read_is_named_before(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    for name in ("train_1.jpg", "val_1.jpg"):  # header and end are whole, but the tables to decode by are gone
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(b"\xff\xdb", b"\xff\xfe"))

    headers = find_problems(splits, tmp_path)
    decoded = find_problems(splits, tmp_path, decode=["val"])

    assert "image-unreadable" not in headers.counts
    assert [(problem.rule, problem.split, problem.file) for problem in decoded.errors] == [
        ("image-unreadable", "val", "val_1.jpg")
    ]


def test_threads_and_one_thread_agree_and_reports_survive_pickling(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    for rule in ("image-truncated", "bbox-outside", "leak-bytes"):
        SEEDS[rule].breaks(splits, tmp_path)

    one = find_problems(splits, tmp_path, depth="pixels", jobs=1)
    many = find_problems(splits, tmp_path, depth="pixels", jobs=4)

    assert one == many
    assert pickle.loads(pickle.dumps(one)) == one
    assert json.dumps(one.to_json()) == json.dumps(many.to_json())


def test_each_split_can_have_its_own_folder(tmp_path: Path) -> None:
    train, val = dataset(tmp_path / "a"), dataset(tmp_path / "b")
    for at, image in enumerate(val["val"]["images"]):
        picture(tmp_path / "b" / image["file_name"], 50 + at)
        image["file_name"] = train["train"]["images"][at]["file_name"]
        (tmp_path / "b" / f"val_{at}.jpg").rename(tmp_path / "b" / image["file_name"])
    for path in [*(tmp_path / "a").glob("val_*"), *(tmp_path / "b").glob("train_[345]*")]:
        path.unlink()

    roots = {"train": tmp_path / "a", "val": tmp_path / "b"}
    report = find_problems({"train": train["train"], "val": val["val"]}, roots)

    assert report.counts == {}  # the same names, and other files


def test_the_table_of_rules_in_the_documentation_is_the_table_of_rules() -> None:
    page = Path(__file__).parents[1] / "docs" / "check.md"

    assert rules_table() in page.read_text(encoding="utf-8")


def test_no_size_and_no_link_makes_the_check_run_away(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "train_0.jpg").unlink()
    (tmp_path / "train_0.jpg").symlink_to(tmp_path / "train_0.jpg")
    (tmp_path / "train_1.jpg").unlink()
    (tmp_path / "train_1.jpg").mkdir()
    splits["train"]["images"][2]["file_name"] = "x" * 5000

    report = find_problems(splits, tmp_path)

    assert report.counts == {"image-missing": 2, "image-unreadable": 1, "image-unlisted": 1}


def test_category_ids_are_closed_up_on_request_but_not_over_orphans(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    SEEDS["category-id-gap"].breaks(splits, tmp_path)

    report = find_problems(splits, policy={"category-id-gap": "fix"})

    assert [category["id"] for category in report.splits["val"]["categories"]] == [1, 2]
    assert {a["category_id"] for a in report.splits["val"]["annotations"]} == {1, 2}
    splits["train"]["annotations"][0]["category_id"] = 2  # refers to nothing now, and would to the dog
    kept = find_problems(splits, policy={"category-id-gap": "fix"}).splits["train"]
    assert kept["categories"] == splits["train"]["categories"]


def test_a_file_in_two_splits_leaves_train_on_request(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    SEEDS["split-shared-image"].breaks(splits, tmp_path)

    report = find_problems(splits, tmp_path, policy={"split-shared-image": "drop"}, max_drop=1)

    assert report.splits["val"] is splits["val"]
    assert len(report.splits["train"]["images"]) == 5


def test_errors_come_first_and_repaired_ones_last(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    for rule in ("bbox-aspect", "segm-mixed", "orphan-category", "crowd-many", "unknown-key"):
        SEEDS[rule].breaks(splits, tmp_path)
    del splits["val"]["annotations"][0]["iscrowd"]

    report = find_problems(splits, policy={"iscrowd-missing": "fix"})

    order = [(problem.action, problem.severity) for problem in report.problems]
    assert order[0] == ("reported", "error")
    assert order[-1] == ("fixed", "error")
    severities = [severity for action, severity in order if action == "reported"]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)


def test_statistics_count_what_is_there(tmp_path: Path) -> None:
    splits = {"train": split("train", 1, 1)}
    boxes = ([0, 0, 4, 4], [0, 0, 32, 32], [60, 0, 4, 8], [31, 23, 2, 2], [0, 40, 64, 8])
    for annotation, box in zip(splits["train"]["annotations"], boxes, strict=True):
        annotation["bbox"] = box

    figures = find_problems(splits).statistics

    assert figures.images == {"train": 1}
    assert figures.classes == {"train": {"cat": 3, "dog": 2}}
    assert figures.scales == {"train": (4, 1, 0)}
    assert dict(zip(SIDES, figures.sides["train"], strict=True)) == dict.fromkeys(SIDES, 0) | {0: 1, 4: 2, 16: 1, 32: 1}
    assert figures.objects["train"][OBJECTS.index(5)] == 1
    assert figures.sizes == ((WIDTH, HEIGHT, 1),)
    cells = {(x, y): count for y, row in enumerate(figures.centres) for x, count in enumerate(row) if count}
    assert cells == {(0, 1): 1, (6, 8): 1, (23, 2): 1, (12, 12): 1, (12, 22): 1}


def test_several_crowds_of_a_class_in_an_image_are_no_crowds(tmp_path: Path) -> None:
    """As exports write them that take every object of several parts for a crowd."""
    splits = {"train": split("train", 20, 1)}
    for number in range(3):
        for annotation in splits["train"]["annotations"][5 * number : 5 * number + 3 : 2]:
            annotation["iscrowd"] = 1

    report = find_problems(splits)

    assert report.counts == {"crowd-polygons": 6, "crowd-many": 1}
    assert [p.message for p in report.problems if p.rule == "crowd-many"] == [
        "in 3 images there are several crowds of one class"
    ]
