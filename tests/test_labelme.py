import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from converters.coco import to_coco, write_coco
from converters.errors import AnnotationError, DatasetError
from converters.labelme import labelme_categories, read_labelme
from converters.masks import encode_mask
from converters.records import ConversionLog

TRIANGLE = [[10, 10], [70, 10], [70, 70]]


def shape(label="cat", points=TRIANGLE, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def png(array):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def bitmap(array, left, top, **more):
    height, width = array.shape
    return shape(points=[[left, top], [left + width - 1, top + height - 1]], kind="mask", mask=png(array), **more)


def write(root, *shapes, name="a.json", image_path="a.jpg", size=(100, 80), image=False, **more):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image_path, "imageData": None}
    if size:
        data |= {"imageWidth": size[0], "imageHeight": size[1]}
    path.write_text(json.dumps(data | more))
    if image:
        save_image(path.with_suffix(".jpg"), size)
    return path


def save_image(path, size=(100, 80), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **options)


def read(root, **options):
    return list(read_labelme(root, **options))


def instances(root, *shapes, log=None, size=(100, 80), **options):
    write(root, *shapes, size=size)
    (record,) = read(root, log=log, **options)
    return record.instances


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


# --- files, images, splits


def test_a_tree_of_files_in_the_order_of_their_paths(tmp_path):
    for name in ("b/1.json", "a/2.JSON", "a/10.json", "c.json"):
        write(tmp_path, name=name, image_path="x.jpg")
        save_image((tmp_path / name).with_suffix(".JPG"))

    assert [r.file_name for r in read(tmp_path)] == ["a/10.JPG", "a/2.JPG", "b/1.JPG", "c.JPG"]
    assert [r.file_name for i in range(3) for r in read(tmp_path, shard=(i, 3))] == [
        r.file_name for r in read(tmp_path)
    ]


def test_splits(tmp_path):
    for name in ("train/1.json", "val/2.json", "val/3.json"):
        write(tmp_path, name=name, image_path="x.jpg", image=True)
    (tmp_path / "few.txt").write_text("3.jpg\ntrain/1\n\n")

    assert [r.file_name for r in read(tmp_path, split="val")] == ["val/2.jpg", "val/3.jpg"]
    for split in ("few", "few.txt"):
        assert [r.file_name for r in read(tmp_path, split=split)] == ["train/1.jpg", "val/3.jpg"]
    with pytest.raises(DatasetError, match="has no split 'test'"):
        read(tmp_path, split="test")
    (tmp_path / "few.txt").write_text("4\n3\n")
    with pytest.raises(AnnotationError, match=r"4\.json: listed"):
        read(tmp_path, split="few")
    log = ConversionLog(skip_bad=True)
    assert len(read(tmp_path, split="few", log=log)) == 1
    write(tmp_path, name="train/3.json")
    with pytest.raises(DatasetError, match="give its folder, too"):
        read(tmp_path, split="few", log=log)


def test_images_without_a_file_are_negatives_on_request(tmp_path):
    write(tmp_path, name="a.json", image=True)
    write(tmp_path, name="b.json", image_path="other.jpg")
    for name in ("other.jpg", "c/empty.png"):
        save_image(tmp_path / name, (30, 20))

    assert [r.file_name for r in read(tmp_path)] == ["a.jpg", "other.jpg"]
    assert [r.file_name for r in read(tmp_path, allow_missing=True)] == ["a.jpg", "other.jpg", "c/empty.png"]
    (tmp_path / "c.txt").write_text("c/empty\n")
    assert [r.width for r in read(tmp_path, split="c.txt", allow_missing=True)] == [30]


@pytest.mark.parametrize(
    ("image_path", "expected"),
    [
        ("photo.png", "photo.png"),
        ("sub/photo.png", "photo.png"),
        ("..\\images\\p.jpg", "images/p.jpg"),
        ("../images/P.JPG", "images/p.jpg"),
        ("C:\\Users\\me\\p.jpg", "images/p.jpg"),
        ("/home/me/p.jpg", "images/p.jpg"),
        ("gone.bmp", "ann/gone.bmp"),
        ("gone", "ann/b.jpg"),
        ("../../../../etc/passwd", "ann/b.jpg"),
        ("/etc/passwd", "ann/b.jpg"),
        ("../../etc/outside.jpg", "ann/outside.jpg"),  # it is there, but not in the image root
        ("..\\..\\etc\\outside.jpg", "ann/outside.jpg"),
        ("..", "ann/b.jpg"),
        ("a\nb.jpg", "ann/b.jpg"),
        ("", "ann/b.jpg"),
        (None, "ann/b.jpg"),
        (7, "ann/b.jpg"),
    ],
)
def test_the_image_is_found_and_never_outside_the_root(tmp_path, image_path, expected):
    root = tmp_path / "set"
    write(root, name="ann/b.json", image_path=image_path)
    save_image(root / "images/p.jpg")
    save_image(root / "photo.png")
    save_image(tmp_path / "etc/outside.jpg")

    assert [r.file_name for r in read(root)] == [expected]


def test_an_absolute_path_counts_inside_the_root_only(tmp_path):
    root = tmp_path / "set"
    for folder, expected in ((root / "far/away", "far/away/p.jpg"), (tmp_path / "else", "ann/p.jpg")):
        save_image(folder / "p.jpg")
        write(root, name="ann/b.json", image_path=f"{folder}/p.jpg")
        assert [r.file_name for r in read(root)] == [expected]


def test_the_image_beside_the_file_wins(tmp_path):
    log = ConversionLog()
    write(tmp_path, image_path="other.jpg", image=True)
    save_image(tmp_path / "other.jpg")

    assert [r.file_name for r in read(tmp_path, log=log)] == ["a.jpg"]
    assert log.notes["imagePath names another image than the one beside the file, which was taken"] == 1


def test_an_image_root_of_its_own(tmp_path):
    write(tmp_path / "json", name="x/a.json")
    save_image(tmp_path / "jpg/x/a.jpeg")

    assert [r.file_name for r in read(tmp_path / "json", images=tmp_path / "jpg")] == ["x/a.jpeg"]


def test_of_images_with_one_stem_the_named_one(tmp_path):
    write(tmp_path, image_path="a.png")
    for name in ("a.bmp", "a.png", "a.v2.jpg"):
        save_image(tmp_path / name)

    assert [r.file_name for r in read(tmp_path)] == ["a.png"]


# --- sizes


@pytest.mark.parametrize(
    "size", [{}, {"imageWidth": None, "imageHeight": None}, {"imageWidth": 0, "imageHeight": 80.5}]
)
def test_a_size_that_is_not_stated_is_measured(tmp_path, size):
    write(tmp_path, shape(), size=None, **size)
    with pytest.raises(AnnotationError, match="no imageWidth and imageHeight"):
        read(tmp_path)
    save_image(tmp_path / "a.jpg", (90, 70))
    assert [(r.width, r.height) for r in read(tmp_path)] == [(90, 70)]


@pytest.mark.parametrize("stated", [None, (80, 100), (100, 80)])
def test_a_turned_image_has_the_size_it_is_shown_in(tmp_path, stated):
    exif = Image.Exif()
    exif[274] = 6
    save_image(tmp_path / "a.jpg", (100, 80), exif=exif)
    write(tmp_path, shape(), size=stated)
    (record,) = read(tmp_path)

    assert (record.width, record.height) == (stated or (80, 100))


def test_an_annotation_in_the_stored_orientation_stays_so(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    save_image(tmp_path / "a.jpg", (100, 80), exif=exif)
    write(tmp_path, shape(points=[[0, 0], [100.5, 0], [100.5, 80]]), size=(100, 80))
    log = ConversionLog()

    assert [(r.width, r.height) for r in read(tmp_path, log=log)] == [(100, 80)]
    assert log.notes["annotated without the EXIF rotation: size kept as annotated"] == 1


def test_points_beyond_the_stated_size_make_the_image_be_measured(tmp_path):
    write(tmp_path, shape(points=[[0, 0], [190, 0], [190, 150]]))
    save_image(tmp_path / "a.jpg", (200, 160))
    log = ConversionLog()

    assert [(r.width, r.instances[0].box) for r in read(tmp_path, log=log)] == [(200, (0, 0, 190, 150))]
    assert log.notes["imageWidth and imageHeight differ from the image: the image's size was taken"] == 1


# --- the image in the file


def embedded(size=(30, 20), kind="PNG"):
    data = io.BytesIO()
    Image.new("RGB", size, "red").save(data, kind)
    return data.getvalue()


def test_an_image_that_lies_in_the_file_only(tmp_path):
    data = embedded()
    write(tmp_path, shape(points=[[0, 0], [9, 0], [9, 9]]), size=None, imageData=base64.b64encode(data).decode())
    log = ConversionLog()
    (record,) = read(tmp_path, log=log)
    assert (record.file_name, record.width, record.height) == ("a.jpg", 30, 20)
    assert log.notes == {"image lies in the JSON only: extract_images writes it out": 1}

    out = tmp_path / "images"
    (record,) = read(tmp_path, images=out, extract_images=out)
    assert record.file_name == "a.png"  # what it is, not what imagePath says
    assert (out / "a.png").read_bytes() == data
    assert read(tmp_path, images=out, extract_images=out)[0].file_name == "a.png"
    (record,) = read(tmp_path, extract_images=tmp_path / "sub" / "folder")
    assert (tmp_path / record.file_name).read_bytes() == data


def test_an_image_is_never_overwritten_nor_written_outside_the_root(tmp_path):
    write(tmp_path, name="j/a.json", image_path="a.dat", imageData=base64.b64encode(embedded()).decode())
    with pytest.raises(DatasetError, match="is not in the image root"):
        read(tmp_path / "j", extract_images=tmp_path / "o")
    mine = tmp_path / "j/sub/a.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(AnnotationError, match="exists and is another image"):
        read(tmp_path / "j", extract_images=mine.parent)
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("data", ["!!", "AAAA", base64.b64encode(b"\x89PNG\r\n\x1a\n").decode(), 7, {"a": 1}])
def test_broken_image_data(tmp_path, data):
    write(tmp_path, shape(), size=None, imageData=data)
    with pytest.raises(AnnotationError, match="imageData is no image in base64"):
        read(tmp_path)
    write(tmp_path, shape(), imageData=data)
    assert len(read(tmp_path)) == 1  # nobody needs it


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
        evaluation = COCOeval(coco, coco.loadRes(detections), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)


DATA = Path(os.environ.get("ANNOTUNE_DATA", ""))
needs_data = pytest.mark.skipif("ANNOTUNE_DATA" not in os.environ, reason="ANNOTUNE_DATA is not set")


@needs_data
def test_fruits_agree_with_the_coco_that_was_made_of_them():
    root = DATA / "triple_tony607_fruits"
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


@needs_data
def test_devices():
    log = ConversionLog()
    coco = to_coco(read(DATA / "labelme_baxi_polygons", log=log))

    assert (len(coco["images"]), len(coco["annotations"])) == (24, 72)
    assert [category["name"] for category in coco["categories"]] == ["PS4-Controller", "Smart-Plug", "Smart-Switch"]
    assert {image["file_name"].split("/")[0] for image in coco["images"]} == {"train", "test"}
    assert len(read(DATA / "labelme_baxi_polygons", split="test")) == 3
    assert not log.dropped
    assert not log.notes
