"""Shapes, groups and labels of labelme become instances; pycocotools and real sets agree."""

import json

import numpy as np
import pytest
from helpers_converters import evaluated, real
from helpers_labelme import bitmap, instances, png, read, shape, write
from pycocotools.coco import COCO

from converters.coco import to_coco, write_coco
from converters.labelme import labelme_categories
from converters.masks import encode_mask
from converters.records import ConversionLog

# --- shapes


def test_a_polygon_has_its_true_area(tmp_path):
    (cat,) = instances(tmp_path, shape())

    assert cat.category == "cat"
    assert cat.segmentation == ((10, 10, 70, 10, 70, 70),)
    assert cat.area == 1800  # peers: 3600, 1861, 1891
    assert cat.box == (10, 10, 70, 70)
    assert not cat.iscrowd


@pytest.mark.parametrize(
    "points",
    [[[10, 20], [40, 60]], [[40, 60], [10, 20]], [[40, 20], [10, 60]], [[10, 20], [40, 20], [40, 60], [10, 60]]],
)
@pytest.mark.parametrize("rule", ["ring", "box"])
def test_a_rectangle_from_any_corners(tmp_path, points, rule):
    (cat,) = instances(tmp_path, shape(points=points, kind="rectangle"), rectangles=rule)

    assert cat.box == (10, 20, 40, 60)
    assert cat.area == 1200
    assert cat.segmentation == (((10, 20, 40, 20, 40, 60, 10, 60),) if rule == "ring" else None)


def test_an_oriented_rectangle_is_its_ring(tmp_path):
    (cat,) = instances(tmp_path, shape(points=[[50, 10], [80, 40], [50, 70], [20, 40]], kind="oriented_rectangle"))

    assert (cat.box, cat.area) == ((20, 10, 80, 70), 1800)


def test_a_circle_is_the_pixels_labelme_paints(tmp_path):
    (cat,) = instances(tmp_path, shape(points=[[50, 40], [60, 40]], kind="circle"))
    rows, columns = np.ogrid[:80, :100]

    assert cat.box == (40, 30, 61, 51)  # both border pixels included, as labelme draws it
    assert abs(cat.area - np.count_nonzero((rows - 40) ** 2 + (columns - 50) ** 2 <= 105)) <= 16


def test_a_bitmap_goes_to_its_place(tmp_path):
    rng = np.random.default_rng(0)
    patch = rng.random((7, 5)) < 0.5
    whole = np.zeros((80, 100), dtype=bool)
    whole[20:27, 30:35] = patch
    for stored in (patch, patch.astype(np.uint8), patch.astype(np.uint8) * 255):
        (cat,) = instances(tmp_path, bitmap(stored, 30, 20))
        assert cat.segmentation == encode_mask(whole)
        assert cat.area == patch.sum()
        assert not cat.iscrowd


def test_a_bitmap_with_a_hole_keeps_it(tmp_path):
    patch = np.ones((20, 20), dtype=np.uint8)
    patch[5:15, 5:15] = 0
    (cat,) = instances(tmp_path, bitmap(patch, 0, 0))

    assert (cat.area, cat.box) == (300, (0, 0, 20, 20))


@pytest.mark.parametrize(
    ("points", "box"),
    [
        ([[10.4, 20.6], [15.4, 26.4]], (10, 21, 16, 28)),  # fractional bounds: the bitmap's own extent
        ([[10, 20], [12, 22]], (10, 20, 13, 23)),  # whole ones crop it
        ([[-2, -3], [3, 3]], (0, 0, 4, 4)),
        ([[97, 78], [102, 84]], (97, 78, 100, 80)),
    ],
)
def test_the_bounds_of_a_bitmap(tmp_path, points, box):
    (cat,) = instances(tmp_path, shape(points=points, kind="mask", mask=png(np.ones((7, 6), dtype=np.uint8))))

    assert cat.box == box


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("line", [[1, 1], [50, 50]]),
        ("linestrip", [[1, 1], [50, 50], [60, 10]]),
        ("point", [[30, 30]]),
        ("points", [[30, 30], [50, 50]]),
    ],
)
def test_strokes_are_objects_on_request_only(tmp_path, kind, points):
    log = ConversionLog()
    assert instances(tmp_path, shape(points=points, kind=kind), log=log) == ()
    assert log.dropped == {f"a {kind} is no object (strokes takes it as one)": 1}

    (cat,) = instances(tmp_path, shape(points=points, kind=kind), strokes=True)
    assert cat.area == {"line": cat.area, "linestrip": cat.area, "point": 97, "points": 194}[kind]
    assert cat.area > 90


@pytest.mark.parametrize("kind", [None, "", "absent"])
def test_a_shape_without_type_is_a_polygon(tmp_path, kind):
    old = shape(kind=kind)
    if kind == "absent":
        del old["shape_type"]
    (cat,) = instances(tmp_path, old)

    assert cat.area == 1800


def test_what_is_no_object_is_counted(tmp_path):
    log = ConversionLog()
    found = instances(
        tmp_path,
        shape("__ignore__"), shape("_background_"), shape(kind="cuboid"),
        shape(points=[[1, 1], [5, 5]]),  # two points
        shape(points=[[1, 1], [5, 5], [9, 9]]),  # on one line
        shape(points=[[5, 5], [5, 30]], kind="rectangle"),
        shape(points=[[5, 5], [5, 5]], kind="circle"),
        shape(points=[[-50, -50], [-10, -50], [-10, -10]]),
        shape(points=[[300, 5], [310, 5]], kind="circle"),
        bitmap(np.zeros((3, 3), dtype=np.uint8), 1, 1),
        log=log,
    )  # fmt: skip

    assert found == ()
    assert log.dropped == {
        "label __ignore__": 1, "label _background_": 1, "shape type 'cuboid' is not known": 1,
        "covers nothing inside the image": 5, "encloses no area": 2,
    }  # fmt: skip
    assert log.examples["label __ignore__"] == [f"{tmp_path}/a.json, shapes[0]"]


def test_a_polygon_partly_outside_is_cut(tmp_path):
    log = ConversionLog()
    (cat,) = instances(tmp_path, shape(points=[[-20, 10], [30, 10], [30, 30], [-20, 30]]), log=log)

    assert (cat.box, cat.area) == ((0, 10, 30, 30), 600)
    assert min(cat.segmentation[0]) >= 0
    assert log.notes["polygon cut at the border of the image"] == 1


# --- groups


def test_shapes_of_one_label_and_group_are_one_instance(tmp_path):
    right = [[80, 0], [90, 0], [90, 10], [80, 10]]
    found = instances(
        tmp_path,
        shape(group_id=0), shape(points=right, group_id=0),  # 0 is a group
        shape("dog", group_id=0), shape(), shape(), shape(group_id=1),
    )  # fmt: skip

    assert [(i.category, len(i.segmentation)) for i in found] == [
        ("cat", 2),
        ("dog", 1),
        ("cat", 1),
        ("cat", 1),
        ("cat", 1),
    ]
    assert found[0].box == (10, 0, 90, 70)
    assert found[0].area == pytest.approx(1900, abs=61)  # pixels of both
    assert not found[0].iscrowd
    assert len(instances(tmp_path, shape(group_id=0), shape(points=right, group_id=0), groups=False)) == 2


def test_rings_of_a_group_that_overlap_count_once(tmp_path):
    square = [[0, 0], [20, 0], [20, 20], [0, 20]]
    (cat,) = instances(tmp_path, shape(points=square, group_id=3), shape(points=square, group_id=3))

    assert cat.area == 400


def test_a_bitmap_in_a_group_makes_it_pixels(tmp_path):
    (cat,) = instances(
        tmp_path,
        bitmap(np.ones((10, 10), dtype=np.uint8), 0, 0, group_id=3),
        shape(points=[[20, 0], [30, 0], [30, 10], [20, 10]], group_id=3),
    )

    assert cat.segmentation["size"] == [80, 100]
    assert (cat.area, cat.box, cat.iscrowd) == (200, (0, 0, 30, 10), False)


def test_old_files_number_the_labels(tmp_path):
    shapes = [shape("cat-1"), shape("cat-1"), shape("cat-2"), shape("x-ray")]
    found = instances(tmp_path, *shapes, numbered_labels=True)

    assert [(i.category, len(i.segmentation)) for i in found] == [("cat", 2), ("cat", 1), ("x-ray", 1)]
    assert [i.category for i in instances(tmp_path, *shapes)] == ["cat-1", "cat-1", "cat-2", "x-ray"]


# --- labels, flags, categories


def test_flags_and_descriptions_travel(tmp_path):
    write(tmp_path, shape(flags={"hidden": True}, description="far"), flags={"night": True})
    (record,) = read(tmp_path)

    assert record.attributes == {"flags": {"night": True}}
    assert record.instances[0].attributes == {"flags": {"hidden": True}, "description": "far"}


@pytest.mark.parametrize("flags", [{}, [], None])
def test_an_image_without_shapes_is_a_negative(tmp_path, flags):
    write(tmp_path, flags=flags)
    (record,) = read(tmp_path)

    assert (record.instances, record.attributes, record.width, record.height) == ((), {}, 100, 80)


def test_categories(tmp_path):
    log = ConversionLog()
    assert [i.category for i in instances(tmp_path, shape("b"), shape("a"), log=log, categories=["a"])] == ["a"]
    assert log.dropped == {"class 'b' is not among the categories": 1}
    assert labelme_categories(tmp_path) == []
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    assert labelme_categories(tmp_path) == ["dog", "cat"]


# --- pycocotools, and real sets


def test_pycocotools_loads_and_evaluates_it(tmp_path, capsys):
    write(
        tmp_path, shape(), shape(points=[[50, 40], [60, 40]], kind="circle"), shape("dog", group_id=1),
        bitmap(np.ones((10, 10), dtype=np.uint8), 0, 0), shape("dog", [[80, 0], [90, 0], [90, 9]], group_id=1),
        shape("bow", [[0, 0], [60, 60], [60, 0], [0, 60]]),
    )  # fmt: skip
    path = tmp_path / "out" / "coco.json"
    write_coco(to_coco(read(tmp_path)), path)
    coco = COCO(str(path))
    detections = [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"segmentation": coco.annToRLE(a), "score": 1.0}
        for a in coco.anns.values()
    ]
    for kind in ("bbox", "segm"):
        assert evaluated(coco, detections, kind)[0] == pytest.approx(1)


def test_fruits_agree_with_the_coco_that_was_made_of_them():
    root = real("triple_tony607_fruits")
    theirs = COCO_of(json.loads((root / "coco_from_labelme/trainval.json").read_bytes()))
    ours = COCO_of(to_coco(read(root / "labelme")))

    assert len(ours) == 165
    assert {key: area for key, (area, _) in ours.items()} == pytest.approx(
        {key: area for key, (area, _) in theirs.items()}
    )
    for key, (_, box) in ours.items():  # theirs is the box of a mask: whole pixels
        assert box == pytest.approx(theirs[key][1], abs=1.5)


def COCO_of(coco):
    images = {image["id"]: image["file_name"] for image in coco["images"]}
    names = {category["id"]: category["name"] for category in coco["categories"]}
    return {
        (images[a["image_id"]], names[a["category_id"]], tuple(a["segmentation"][0][:4])): (a["area"], a["bbox"])
        for a in coco["annotations"]
    }


def test_devices():
    log = ConversionLog()
    coco = to_coco(read(real("labelme_baxi_polygons"), log=log))

    assert (len(coco["images"]), len(coco["annotations"])) == (24, 72)
    assert [category["name"] for category in coco["categories"]] == ["PS4-Controller", "Smart-Plug", "Smart-Switch"]
    assert {image["file_name"].split("/")[0] for image in coco["images"]} == {"train", "test"}
    assert len(read(real("labelme_baxi_polygons"), split="test")) == 3
    assert not log.dropped
    assert not log.notes
