import math
import os
from pathlib import Path

import orjson
import pytest
from helpers_converters import photo, real, voc_object, voc_xml, write_voc

from converters import AnnotationError, ConversionLog, DatasetError, ImageRecord, read_voc, to_coco


def read_one(tmp_path: Path, text: str | bytes, **options: object) -> ImageRecord:
    write_voc(tmp_path, "a", text)
    (record,) = read_voc(tmp_path, **options)  # type: ignore[arg-type]
    return record


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


# --- sizes and images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, (0, 0), ("", "x"), (80, 100)])
def test_a_missing_zero_or_swapped_size_is_that_of_the_image(tmp_path: Path, size: tuple[int, int] | None) -> None:
    photo(tmp_path / "a.jpg", (100, 80))
    record = read_one(tmp_path, voc_xml(voc_object(box=(10, 20, 95, 50)), size=size))

    assert (record.width, record.height) == (100, 80)


def test_the_size_is_as_shown_after_exif(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", (80, 100), orientation=6)
    record = read_one(tmp_path, voc_xml(voc_object(), size=None))

    assert (record.width, record.height) == (100, 80)


def test_sizes_are_whole_numbers(tmp_path: Path) -> None:
    record = read_one(tmp_path, voc_xml(voc_object(), size=("200.0", "100.0")))

    assert (record.width, record.height) == (200, 100)
    assert isinstance(record.width, int)


def test_no_size_and_no_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"a\.xml: no <size>, and no image"):
        read_one(tmp_path, voc_xml(voc_object(), size=None))


@pytest.mark.parametrize(
    ("image", "filename"),
    [
        ("a.jpg", "other.jpg"),  # the stem of the XML first: the devkit's rule
        ("a.JPG", "a"),  # LabelImg once left the suffix out
        ("A.png", "a.jpg"),
        ("b.webp", r"C:\photos\b.webp"),
        ("b.webp", "../../etc/b.webp"),
        ("a.b.jpg", "a.b"),
    ],
)
def test_images_are_found_by_stem_then_by_name(tmp_path: Path, image: str, filename: str) -> None:
    photo(tmp_path / image.replace(".webp", ".png")).rename(tmp_path / image)
    photo(tmp_path / "zzz.png")

    assert read_one(tmp_path, voc_xml(voc_object(), filename=filename)).file_name == image


def test_of_several_images_with_one_stem_the_named_one_is_taken(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "a.png")

    assert read_one(tmp_path, voc_xml(voc_object(), filename="a.png")).file_name == "a.png"


@pytest.mark.parametrize("filename", ["../../etc/passwd", "/etc/passwd", r"..\..\x.jpg", "a", ""])
def test_a_name_from_the_xml_never_leaves_the_image_root(tmp_path: Path, filename: str) -> None:
    assert read_one(tmp_path, voc_xml(voc_object(), filename=filename)).file_name == "a.jpg"


def test_xml_in_folders_of_images_in_mirrored_folders(tmp_path: Path) -> None:
    for city in ("bonn", "ulm"):
        write_voc(tmp_path / "Annotations" / city, "1", voc_xml(voc_object()))
        photo(tmp_path / "JPEGImages" / city / "1.jpg")

    assert [record.file_name for record in read_voc(tmp_path)] == ["bonn/1.jpg", "ulm/1.jpg"]


# --- splits ------------------------------------------------------------------------------------------------------


def devkit(tmp_path: Path, lists: dict[str, str], names: tuple[str, ...] = ("1", "2", "3")) -> Path:
    for name in names:
        write_voc(tmp_path / "Annotations", name, voc_xml(voc_object(), filename=f"{name}.jpg"))
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
    for name, text in lists.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return tmp_path


def names(root: Path, **options: object) -> list[str]:
    return [record.file_name for record in read_voc(root, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "1\n3\n",
        "3\r\n\r\n1\r\n",
        "\ufeff1\n3",
        "# comment\n1\n\n3\n",
        "1 -1\n3  1\n",
        "1 0 extra.xml\n3 ./Annotations/3.xml\n".replace("0 extra.xml", "1.xml"),
        "JPEGImages/1.jpg Annotations/1.xml\nJPEGImages/3.jpg Annotations/3.xml\n",
        "./JPEGImages/1.jpg ./annotations/1.xml\n./JPEGImages/3.jpg 3.xml\n",
        "1.jpg\n3.jpg\n",
        "1 2 -1\n3 1 1\n",
        '"1"\n"3" 1\n',
        "1\n3\n1\n",
    ],
)
def test_every_kind_of_image_set_is_understood(tmp_path: Path, text: str) -> None:
    root = devkit(tmp_path, {"ImageSets/Main/train.txt": text})

    assert names(root, split="train") == ["1.jpg", "3.jpg"]


def test_a_split_may_be_a_list_file_or_a_folder(tmp_path: Path) -> None:
    root = devkit(tmp_path, {"lists/mine.txt": "2\n", "test.txt": "3\n"})
    write_voc(root / "Annotations" / "extra", "9", voc_xml(voc_object()))

    assert names(root, split="lists/mine.txt") == ["2.jpg"]
    assert names(root, split="test") == ["3.jpg"]
    assert names(root, split="extra") == ["extra/9.jpg"]


def test_names_with_blanks_are_one_name(tmp_path: Path) -> None:
    root = devkit(tmp_path, {"ImageSets/Main/train.txt": "photo of 1\nphoto of 2 -1\n"}, ("photo of 1", "photo of 2"))

    assert names(root, split="train") == ["photo of 1.jpg", "photo of 2.jpg"]


def test_an_unknown_split_names_the_ones_there_are(tmp_path: Path) -> None:
    root = devkit(tmp_path, {"ImageSets/Main/train.txt": "1\n", "ImageSets/Main/val.txt": "2\n"})

    with pytest.raises(DatasetError, match="image sets are train, val"):
        names(root, split="tarin")


def test_a_listed_name_without_xml_is_an_error_or_a_negative(tmp_path: Path) -> None:
    root = devkit(tmp_path, {"ImageSets/Main/train.txt": "1\n8\n9\n"})
    photo(root / "JPEGImages" / "9.jpg")
    log = ConversionLog(skip_bad=True)

    with pytest.raises(AnnotationError, match=r"8\.xml: listed, but not in"):
        names(root, split="train")
    assert names(root, split="train", allow_missing=True, log=log) == ["1.jpg", "9.jpg"]
    assert [error.file for error in log.bad_files] == ["8.xml"]


def test_a_list_cannot_reach_outside_the_dataset(tmp_path: Path) -> None:
    write_voc(tmp_path, "secret", voc_xml(voc_object()))
    root = devkit(tmp_path / "set", {"ImageSets/Main/train.txt": "../secret.xml\n../../secret\n"})

    with pytest.raises(AnnotationError, match="listed, but not in"):
        names(root, split="train")


def test_images_without_xml_are_negatives_on_request(tmp_path: Path) -> None:
    root = devkit(tmp_path, {})
    photo(root / "JPEGImages" / "empty.jpg", (7, 5))

    assert names(root) == ["1.jpg", "2.jpg", "3.jpg"]
    assert names(root, allow_missing=True) == ["1.jpg", "2.jpg", "3.jpg", "empty.jpg"]


def test_shards_are_the_whole_in_order(tmp_path: Path) -> None:
    root = devkit(tmp_path, {})

    assert [name for i in range(4) for name in names(root, shard=(i, 4))] == names(root)
    with pytest.raises(DatasetError, match="no shard 4 of 4"):
        names(root, shard=(4, 4))


# --- real sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split", "images", "counts", "dropped"),
    [
        ("voc_bccd", None, 364, {"Platelets": 361, "RBC": 4153, "WBC": 372}, 2),
        ("voc_bccd", "train", 205, None, 1),
        ("voc_bccd", "val", 87, None, 1),
        ("voc_bccd", "test", 72, None, 0),
        ("voc_microcontroller", None, 149, None, 0),
        ("voc_microcontroller", "train", 142, None, 0),
        ("voc_microcontroller", "test", 7, None, 0),
        ("voc_fridge_mini", None, 6, {"can": 3, "carton": 5, "milk_bottle": 2, "water_bottle": 2}, 0),
        ("triple_tony607_fruits/voc_and_coco/VOC", None, 18, {"date": 71, "fig": 40, "hazelnut": 53}, 0),
        ("vocdevkit_mini/mmdet/VOCdevkit/VOC2007", "test", 1, {"dog": 1, "person": 1}, 0),
        ("vocdevkit_mini/mmdet/VOCdevkit", None, 2, {"dog": 1, "person": 1, "train": 1}, 0),
        ("vocdevkit_mini/datumaro/voc_dataset1", "train", 1, {"cat": 1, "person": 1}, 0),
    ],
)
def test_real_sets_are_read_whole(
    name: str, split: str | None, images: int, counts: dict[str, int] | None, dropped: int
) -> None:
    log = ConversionLog()
    records = list(read_voc(real(name), split=split, log=log))
    found: dict[str, int] = {}
    for record in records:
        for instance in record.instances:
            found[instance.category] = found.get(instance.category, 0) + 1

    assert len(records) == images
    assert counts is None or found == counts
    assert log.dropped.total() == dropped


def test_another_converters_coco_of_the_same_xml_has_the_same_boxes() -> None:
    root = real("triple_tony607_fruits/voc_and_coco")
    theirs = orjson.loads((root / "coco/output.json").read_bytes())
    ours = to_coco(read_voc(root / "VOC", corners="devkit"))

    def flat(coco: dict) -> set:  # type: ignore[type-arg]
        images = {image["id"]: image["file_name"] for image in coco["images"]}
        classes = {category["id"]: category["name"] for category in coco["categories"]}
        return {(images[a["image_id"]], classes[a["category_id"]], *a["bbox"]) for a in coco["annotations"]}

    assert len(ours["annotations"]) == 164
    assert flat(ours) == flat(theirs)
