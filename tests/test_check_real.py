"""The check on data that people published. Counts stand in the data's own description, or were counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from helpers_converters import real

from converters.check import find_problems, repair_policy
from converters.coco import to_coco
from converters.voc import read_voc


def test_a_roboflow_export() -> None:
    """Ids from 0 in each split, a super-category as an unused class 0, and one box with two classes."""
    root = real("coco_roboflow_rbc")
    splits = {name: root / name / "_annotations.coco.json" for name in ("valid", "test")}
    roots = {name: root / name for name in splits}

    report = find_problems(splits, roots, depth="pixels")

    assert report.counts == {
        "annotation-id-nonpositive": 2,
        "category-id-gap": 2,
        "category-unused": 1,
        "bbox-two-classes": 1,
    }
    assert report.statistics.annotations == {"valid": 470, "test": 221}
    repaired = find_problems(splits, roots, policy=repair_policy({"category-id-gap": "fix"}))
    assert repaired.severities["error"] == 0
    assert [c["id"] for c in repaired.splits["test"]["categories"]] == [1, 2, 3]
    assert find_problems(repaired.splits, roots, policy=repair_policy()).changes == ()


def test_bccd_has_a_leak_and_a_wrong_label() -> None:
    """One field of cells, focused twice, is in train and in val; and a platelet is annotated as a white cell."""
    root = real("voc_bccd")
    records = {split: list(read_voc(root, split=split)) for split in ("train", "val", "test")}
    splits = {split: to_coco(found, ["Platelets", "RBC", "WBC"]) for split, found in records.items()}

    report = find_problems(splits, root / "JPEGImages", depth="pixels", jobs=2)

    assert report.severities == {"error": 0, "warning": 1, "info": 2}
    assert (report.problems[0].rule, report.problems[0].file, report.problems[0].other) == (
        "leak-near",
        "BloodImage_00038.jpg",
        "BloodImage_00037.jpg",
    )
    wrong = report.problems[1]
    assert (wrong.rule, wrong.file, wrong.box) == ("bbox-outlier", "BloodImage_00113.jpg", (257, 430, 31, 27))
    assert sum(report.statistics.annotations.values()) == 4886  # the reader left out the two without size


def bccd_as_written(root: Path, corners: int) -> dict[str, Any]:
    """The 364 files as a converter writes them that looks at nothing: w = xmax - xmin + corners."""
    coco: dict[str, Any] = {"info": {}, "licenses": [], "images": [], "annotations": []}
    names = ["RBC", "WBC", "Platelets"]
    coco["categories"] = [{"id": at, "name": name, "supercategory": ""} for at, name in enumerate(names, 1)]
    for image_id, path in enumerate(sorted((root / "Annotations").glob("*.xml")), 1):
        tree = ElementTree.parse(path)
        coco["images"].append({"id": image_id, "file_name": f"{path.stem}.jpg", "width": 640, "height": 480})
        for box in tree.iter("object"):
            x0, y0, x1, y1 = (int(box.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax"))
            w, h = x1 - x0 + corners, y1 - y0 + corners
            number = len(coco["annotations"]) + 1
            coco["annotations"].append(
                {"id": number, "image_id": image_id, "bbox": [x0, y0, w, h], "area": w * h, "iscrowd": 0}
                | {"category_id": names.index(box.findtext("name", "")) + 1}
            )
    return coco


def test_bccd_as_a_careless_converter_writes_it() -> None:
    root = real("voc_bccd")

    edges = find_problems({"all": bccd_as_written(root, 0)}, root / "JPEGImages")
    pixels = find_problems({"all": bccd_as_written(root, 1)}, root / "JPEGImages")

    assert edges.counts["bbox-degenerate"] == edges.counts["area-invalid"] == 2
    assert {p.file for p in edges.errors} == {"BloodImage_00338.jpg", "BloodImage_00343.jpg"}
    assert "bbox-overhang" not in edges.counts
    assert pixels.counts["bbox-overhang"] == 545  # xmax or ymax is the image's size: each a pixel too far
    repaired = find_problems({"all": bccd_as_written(root, 0)}, policy=repair_policy())
    assert repaired.repaired == {"bbox-degenerate": 2}
    assert repaired.severities["error"] == 0
