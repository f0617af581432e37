"""Corners and objects of VOC files."""

import math
import os
from pathlib import Path

import pytest
from helpers_converters import read_one, voc_object, voc_xml, write_voc

from converters import AnnotationError, ConversionLog, ImageRecord, read_voc, to_coco


def boxes(record: ImageRecord) -> list[tuple[float, ...]]:
    return [instance.box for instance in record.instances]


# --- corners -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("corners", "database", "box"),
    [
        ("edges", "", (31, 41, 90, 80)),
        ("devkit", "", (30, 40, 90, 80)),
        ("auto", "Unknown", (31, 41, 90, 80)),
        ("auto", "The VOC2007 Database", (30, 40, 90, 80)),
        ("edges", "The VOC2007 Database", (31, 41, 90, 80)),
    ],
)
def test_each_corner_rule_gives_its_box(tmp_path: Path, corners: str, database: str, box: tuple[int, ...]) -> None:
    text = voc_xml(voc_object(box=(31, 41, 90, 80)), database=database)

    assert boxes(read_one(tmp_path, text, corners=corners)) == [box]


def test_a_devkit_box_around_the_whole_image_covers_it(tmp_path: Path) -> None:
    record = read_one(tmp_path, voc_xml(voc_object(box=(1, 1, 100, 80))), corners="devkit")

    assert boxes(record) == [(0, 0, 100, 80)]


def test_a_devkit_box_of_one_pixel_is_one_pixel_wide(tmp_path: Path) -> None:
    record = read_one(tmp_path, voc_xml(voc_object(box=(31, 41, 31, 41))), corners="devkit")

    assert boxes(record) == [(30, 40, 31, 41)]


def test_the_rule_that_was_used_is_noted(tmp_path: Path) -> None:
    log = ConversionLog()
    read_one(tmp_path, voc_xml(voc_object(box=(0, 0, 9, 9)), database="The VOC2012 Database"), log=log)

    assert log.notes["corners read as devkit: 1-based, both ends inclusive"] == 1
    assert any("corner below 1" in remark for remark in log.notes)


def test_fractions_of_a_pixel_are_kept(tmp_path: Path) -> None:
    record = read_one(tmp_path, voc_xml(voc_object(box=("45.70000076293945", 2, 60.5, 9))))

    assert boxes(record) == [(45.70000076293945, 2, 60.5, 9)]


# --- objects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["", "<difficult/>", "<difficult></difficult>", "<difficult>Unspecified</difficult>"])
def test_difficult_may_be_absent_empty_or_a_word(tmp_path: Path, extra: str) -> None:
    record = read_one(tmp_path, voc_xml(voc_object(extra=extra)))

    assert "difficult" not in record.instances[0].attributes


@pytest.mark.parametrize(("rule", "left", "crowds"), [("keep", 2, 0), ("crowd", 2, 1), ("drop", 1, 0)])
def test_difficult_objects_are_kept_crowds_or_dropped(tmp_path: Path, rule: str, left: int, crowds: int) -> None:
    hard = voc_object(extra="<difficult>1</difficult>")
    log = ConversionLog()
    record = read_one(tmp_path, voc_xml(hard, voc_object()), difficult=rule, log=log)

    assert len(record.instances) == left
    assert sum(instance.iscrowd for instance in record.instances) == crowds
    assert sum(instance.attributes.get("difficult", 0) for instance in record.instances) == left - 1
    assert log.dropped["difficult"] == 2 - left


def test_flags_that_say_something_are_kept_as_attributes(tmp_path: Path) -> None:
    extra = "<pose>Left</pose><truncated>0.0597</truncated><occluded>1</occluded><difficult>0</difficult>"
    record = read_one(tmp_path, voc_xml(voc_object(extra=extra)))

    assert record.instances[0].attributes == {"pose": "Left", "truncated": 0.0597, "occluded": 1}


def test_only_objects_of_the_annotation_count(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"
    nested = part + voc_object("hat") + "</part>"
    record = read_one(tmp_path, voc_xml(voc_object("person", extra=nested)))

    assert [(instance.category, instance.box) for instance in record.instances] == [("person", (10, 20, 30, 50))]


def test_parts_are_instances_on_request(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></part>"
    record = read_one(tmp_path, voc_xml(voc_object("person", extra=part)), parts=True)

    assert {(instance.category, instance.box) for instance in record.instances} == {
        ("person", (10, 20, 30, 50)),
        ("head", (1, 2, 5, 6)),
    }


def test_reversed_corners_are_sorted_and_noted(tmp_path: Path) -> None:
    log = ConversionLog()
    record = read_one(tmp_path, voc_xml(voc_object(box=(30, 50, 10, 20))), log=log)

    assert boxes(record) == [(10, 20, 30, 50)]
    assert log.notes["reversed corners were sorted"] == 1


def test_roboflow_polygons_become_segmentations(tmp_path: Path) -> None:
    polygon = "<polygon><x1>10</x1><y1>20</y1><x2>30</x2><y2>20</y2><x3>30</x3><y3>50</y3></polygon>"
    record = read_one(tmp_path, voc_xml(voc_object(extra=polygon)))

    assert record.instances[0].segmentation == ((10, 20, 30, 20, 30, 50),)
    assert to_coco([record])["annotations"][0]["area"] == 300


def test_a_polygon_without_a_box_gives_its_box(tmp_path: Path) -> None:
    polygon = (
        "<polygon>" + "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((1, 2), (9, 2), (5, 8))) + "</polygon>"
    )
    record = read_one(tmp_path, voc_xml(voc_object(box=None, extra=polygon)))

    assert boxes(record) == [(1, 2, 9, 8)]
    assert record.instances[0].segmentation == ((1, 2, 9, 2, 5, 8),)


def test_a_rotated_box_becomes_its_four_corners(tmp_path: Path) -> None:
    rotated = f"<robndbox><cx>50</cx><cy>40</cy><w>20</w><h>10</h><angle>{math.pi / 2}</angle></robndbox>"
    record = read_one(tmp_path, voc_xml(voc_object(box=None, extra=rotated)))

    assert boxes(record)[0] == pytest.approx((45, 30, 55, 50))


def test_boxes_are_clipped_and_what_lies_outside_is_dropped(tmp_path: Path) -> None:
    log = ConversionLog()
    objects = [voc_object(box=box) for box in ((-5, 70, 20, 99), (200, 10, 220, 30), (7, 7, 7, 9), (99.5, 1, 150, 2))]
    record = read_one(tmp_path, voc_xml(*objects), log=log)

    assert boxes(record) == [(0, 70, 20, 80)]
    assert log.dropped == {
        "outside the image": 1,
        "no width or no height": 1,
        "less than a pixel inside the image": 1,
    }
    assert log.notes["box clipped to the image"] == 1


def test_too_little_inside_the_image_is_dropped_on_request(tmp_path: Path) -> None:
    text = voc_xml(voc_object(box=(90, 0, 130, 10)))

    assert len(read_one(tmp_path, text, min_visibility=0.2).instances) == 1
    assert len(read_one(tmp_path, text, min_visibility=0.3).instances) == 0


def test_other_classes_are_dropped_and_counted_by_name(tmp_path: Path) -> None:
    log = ConversionLog()
    record = read_one(
        tmp_path, voc_xml(voc_object(" traffic light "), voc_object("dgo")), categories=["traffic light"], log=log
    )

    assert [instance.category for instance in record.instances] == ["traffic light"]
    assert log.dropped == {"class 'dgo' is not among the categories": 1}


@pytest.mark.parametrize(
    ("object_", "says"),
    [
        (voc_object(box=None), "neither <bndbox>"),
        (voc_object(box=("nan", 1, 2, 3)), "<xmin> is 'nan'"),
        (voc_object(box=("inf", 1, 2, 3)), "<xmin> is 'inf'"),
        (voc_object(box=("1e308", 1, 2, 3)), "<xmin> is '1e308'"),
        (voc_object(box=("1_0", 1, 2, 3)), "<xmin> is '1_0'"),
        (voc_object(box=("ten", 1, 2, 3)), "<xmin> is 'ten'"),
        (voc_object(box=("", 1, 2, 3)), "<xmin> is ''"),
        (voc_object(""), "<name> is missing"),
        (voc_object().replace("<xmin>10</xmin>", ""), "<xmin> is missing"),
    ],
)
def test_an_object_that_cannot_be_read_is_named_with_its_file_and_line(tmp_path: Path, object_: str, says: str) -> None:
    text = voc_xml(voc_object("dog"), "\n" + object_)
    with pytest.raises(AnnotationError) as caught:
        read_one(tmp_path, text)
    log = ConversionLog(skip_bad=True)
    record = read_one(tmp_path, text, log=log)

    assert says in str(caught.value)
    assert f"{tmp_path}/a.xml:2: object 2" in str(caught.value)
    assert [instance.category for instance in record.instances] == ["dog"]
    assert log.dropped == {"object that cannot be read": 1}


@pytest.mark.parametrize(
    "outline",
    [
        "<robndbox><cx>50</cx><cy>40</cy><w>20</w><h>0</h><angle>0.7</angle></robndbox>",
        "<polygon><x1>10</x1><y1>10</y1><x2>20</x2><y2>20</y2><x3>30</x3><y3>30</y3></polygon>",
    ],
)
def test_an_outline_without_area_is_no_object_but_a_box_beside_it_is(tmp_path: Path, outline: str) -> None:
    log = ConversionLog()
    record = read_one(tmp_path, voc_xml(voc_object(box=None, extra=outline), voc_object(extra=outline)), log=log)

    assert [(instance.box, instance.segmentation) for instance in record.instances] == [((10, 20, 30, 50), None)]
    assert log.dropped == {"an outline that encloses nothing": 1}
    assert log.notes["an outline that encloses nothing: its box was taken"] == 1


def test_a_point_is_counted_not_an_error(tmp_path: Path) -> None:
    log = ConversionLog()
    record = read_one(tmp_path, voc_xml(voc_object(box=None, extra="<point><x>1</x><y>1</y></point>")), log=log)

    assert record.instances == ()
    assert log.dropped == {"a point, not a box": 1}


@pytest.mark.parametrize("size", [100 * 2**20, 2**40])
def test_a_file_too_large_for_an_annotation_is_not_even_read(tmp_path: Path, size: int) -> None:
    os.truncate(write_voc(tmp_path, "a", voc_xml()), size)
    with pytest.raises(AnnotationError, match=r"a\.xml: \d+ bytes are no annotation of one image"):
        list(read_voc(tmp_path))


def test_megabytes_of_nesting_are_one_error(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", b"<annotation>" + b"<object>" * 2_000_000)
    with pytest.raises(AnnotationError, match=r"a\.xml:1: not XML"):
        list(read_voc(tmp_path))
