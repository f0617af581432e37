"""Encodings, broken files and hostile ones."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers_labelme import TRIANGLE, instances, png, read, shape, write

from converters.errors import AnnotationError, DatasetError
from converters.records import ConversionLog

# --- encodings and hostile files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_encodings(tmp_path, encoding):
    text = json.dumps(
        {"shapes": [shape("人")], "imagePath": "a.jpg", "imageWidth": 99, "imageHeight": 99}, ensure_ascii=False
    )
    (tmp_path / "a.json").write_bytes(text.encode(encoding))

    assert read(tmp_path)[0].instances[0].category == "人"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b'{"shapes": [', "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"\x00\xff\xff", "not JSON"),
        (b"[" * 1_000_000, "not JSON"),
        (b'{"shapes": {}, "imagePath": "a.jpg"}', "shapes is dict, not a list"),
        (b'{"shapes": null, "imagePath": "a.jpg"}', "shapes is NoneType, not a list"),
        (b'{"imagePath": "a.jpg",\n"shapes": [{"label": "a", "points": [[1, NaN]]}]}', "a.json:2: NaN is not a number"),
        (
            b'{"imagePath": "a.jpg", "shapes": [{"label": "a", "points": [[1, -Infinity]]}]}',
            "-Infinity is not a number",
        ),
        (b'{"imagePath": "a.jpg", "shapes": [{"label": "\\ud800", "points": []}]}', "not JSON"),
        (b'{"imagePath": "a.jpg", "shapes": [], "imageWidth": 1e300, "imageHeight": 5}', "more pixels than"),
        (b'{"imagePath": "a.jpg", "shapes": [], "imageWidth": 9999999, "imageHeight": 9999999}', "more pixels than"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, content, problem):
    write(tmp_path, shape(), name="b.json")
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(AnnotationError) as caught:
        read(tmp_path)
    assert problem in str(caught.value)
    assert "a.json" in str(caught.value)

    log = ConversionLog(skip_bad=True)
    assert [r.file_name for r in read(tmp_path, log=log)] == ["a.jpg"]
    assert len(log.bad_files) == 1


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (3, "is int, not an object"),
        ({"points": TRIANGLE}, "label is None"),
        (shape(7), "label is 7"),
        (shape(""), "label is ''"),
        (shape(kind=3), "shape_type is 3"),
        (shape(points=None), "points is None, not a list"),
        (shape(points=[]), "points is empty"),
        (shape(points=[1, 2, 3]), "not a list of [x, y]"),
        (shape(points=[[1], [2], [3]]), "not a list of [x, y]"),
        (shape(points=[[1, 2, 3]] * 4), "not a list of [x, y]"),
        (shape(points=["ab"] * 4), "not a list of [x, y]"),
        (shape(points=[[1, "2"]] * 4), "not a list of [x, y]"),
        (shape(points=[[1, None]] * 4), "not a list of [x, y]"),
        (shape(points=[[1, True]] * 4), "not a list of [x, y]"),
        (shape(points=[{"x": 1, "y": 2}] * 4), "not a list of [x, y]"),
        (shape(points=[[0, 0], [5, 5], [1e308, 5]]), "points holds 1e+308"),
        (shape(points=[[0, 0], [5, 5], [-1e9, 5]]), "points holds -1000000000.0"),
        (shape(points=[[0, 0], [5, 5], [10**30, 5]]), "points holds 1e+30"),
        (shape(points=TRIANGLE, kind="rectangle"), "a rectangle has 2 or 4 points, not 3"),
        (shape(points=TRIANGLE, kind="circle"), "a circle has 2 points, not 3"),
        (shape(kind="oriented_rectangle"), "has 4 points, not 3"),
        (shape(points=[[1, 1], [2, 2]], kind="mask"), "mask is None, not a PNG"),
        (shape(points=[[1, 1], [2, 2]], kind="mask", mask="AAAA"), "mask is no PNG in base64"),
        (shape(points=[[1, 1], [2, 2]], kind="mask", mask="A"), "mask is no PNG in base64"),
        (shape(points=[[1, 1], [2, 2]], kind="mask", mask="é"), "mask is no PNG in base64"),
        (shape(points=[[1, 1], [2, 2]], kind="mask", mask=png(np.ones((3, 3, 3), dtype=np.uint8))), "of 3 channels"),
        (
            shape(points=[[1, 1], [2, 2]], kind="mask", mask=png(np.ones((900, 900), dtype=np.uint8))),
            "900 x 900 pixels",
        ),
        (shape(group_id=[1]), "group_id is [1]"),
        (shape(group_id=True), "group_id is True"),
        (shape(group_id=1.5), "group_id is 1.5"),
    ],
)
def test_a_shape_that_cannot_be_read(tmp_path, bad, problem):
    write(tmp_path, shape("dog"), bad)
    with pytest.raises(AnnotationError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/a.json: shapes[1]")
    assert problem in str(caught.value)

    log = ConversionLog(skip_bad=True)
    (record,) = read(tmp_path, log=log)
    assert [i.category for i in record.instances] == ["dog"]
    assert log.dropped == {"shape that cannot be read": 1}


def test_json_of_other_programs_is_passed_over(tmp_path):
    write(tmp_path)
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "number.json").write_text("3")
    log = ConversionLog()

    assert len(read(tmp_path, log=log)) == 1
    assert log.notes["JSON of another program passed over"] == 3


def test_what_is_no_file_is_no_annotation(tmp_path):
    write(tmp_path)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.json").symlink_to(tmp_path / "self.json")
    os.mkfifo(tmp_path / "pipe.json")
    log = ConversionLog(skip_bad=True)

    assert len(read(tmp_path, log=log)) == 1
    assert sorted(Path(error.file).name for error in log.bad_files) == ["pipe.json", "self.json"]
    assert sum("not a file" in str(error) for error in log.bad_files) == 1


def test_a_name_that_is_not_utf8(tmp_path):
    write(tmp_path)
    path = os.fsencode(tmp_path) + b"/\xff.json"
    Path(os.fsdecode(path)).write_bytes((tmp_path / "a.json").read_bytes().replace(b"a.jpg", b"gone"))
    log = ConversionLog(skip_bad=True)

    assert len(read(tmp_path, log=log)) == 1
    assert "not UTF-8" in str(log.bad_files[0]).encode().decode()


@pytest.mark.parametrize("options", [{"rectangles": "oval"}, {"images": Path("nowhere")}])
def test_options_out_of_their_range(tmp_path, options):
    write(tmp_path)
    with pytest.raises(DatasetError):
        read(tmp_path, **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no \*\.json"):
        read(tmp_path / "empty")


def test_a_huge_image_costs_only_what_is_drawn(tmp_path):
    found = instances(
        tmp_path, shape(points=[[40_000, 40_000], [40_010, 40_000]], kind="circle"), size=(46_000, 46_000)
    )
    assert found[0].box == (39_990, 39_990, 40_011, 40_011)
