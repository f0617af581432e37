import io
import math
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from helpers_converters import photo, real
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from converters import (
    AnnotationError,
    ConversionLog,
    DatasetError,
    ImageRecord,
    Instance,
    merge_coco,
    read_coco,
    to_coco,
    write_coco,
)
from converters.coco_source import coco_categories


def record(name: str = "a.jpg", *instances: Instance, **more: Any) -> ImageRecord:
    return ImageRecord(name, 100, 80, instances, source=f"{name}.xml", **more)


def cat(box: tuple[float, ...] = (10, 20, 30, 50), category: str = "cat", **more: Any) -> Instance:
    return Instance(category, box, **more)  # type: ignore[arg-type]


def test_every_key_is_there_and_ids_count_from_one() -> None:
    coco = to_coco([record("b.jpg", cat(category="dog")), record("a.jpg", cat(), cat())])

    assert list(coco) == ["info", "licenses", "categories", "images", "annotations"]
    assert coco["categories"] == [
        {"id": 1, "name": "cat", "supercategory": ""},
        {"id": 2, "name": "dog", "supercategory": ""},
    ]
    assert [(image["id"], image["file_name"]) for image in coco["images"]] == [(1, "a.jpg"), (2, "b.jpg")]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in coco["annotations"]] == [
        (1, 1, 1),
        (2, 1, 1),
        (3, 2, 2),
    ]
    assert coco["annotations"][0] == {
        "id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 30],
        "area": 600, "iscrowd": 0, "segmentation": [],
    }  # fmt: skip


def test_an_empty_dataset_has_empty_lists() -> None:
    assert to_coco([]) == {"info": {}, "licenses": [], "categories": [], "images": [], "annotations": []}


def test_the_order_of_the_records_does_not_matter() -> None:
    records = [record(f"{i}.jpg", cat(category=name)) for i, name in enumerate("badce")]

    assert orjson.dumps(to_coco(records)) == orjson.dumps(to_coco(reversed(records)))


def test_given_categories_keep_their_order_and_their_ids() -> None:
    records = [record("a.jpg", cat())]

    assert [c["name"] for c in to_coco(records, ["zebra", "cat"])["categories"]] == ["zebra", "cat"]
    assert to_coco(records, [{"name": "cat", "id": 24, "supercategory": "pet"}])["categories"] == [
        {"id": 24, "name": "cat", "supercategory": "pet"}
    ]
    assert to_coco(records, [{"name": "cat", "id": 24}])["annotations"][0]["category_id"] == 24


def test_a_class_that_is_not_given_is_named_with_its_image_and_the_nearest() -> None:
    with pytest.raises(DatasetError, match=r"'cta' of b\.jpg .* Is it 'cat'\?"):
        to_coco([record("a.jpg", cat()), record("b.jpg", cat(category="cta"))], ["cat", "dog"])


@pytest.mark.parametrize("categories", [["cat", "cat"], [""], [{"name": 3}], [{}]])
def test_categories_are_distinct_names(categories: list[Any]) -> None:
    with pytest.raises(DatasetError, match="distinct names"):
        to_coco([], categories)


def test_one_file_name_twice_is_an_error() -> None:
    with pytest.raises(DatasetError, match=r"describe the image 'a\.jpg'"):
        to_coco([record("a.jpg"), record("b.jpg"), record("a.jpg")])


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.jpg", "a/../../b.jpg", "C:\\a.jpg", ""])
def test_a_name_that_leaves_the_image_root_is_refused(name: str) -> None:
    with pytest.raises(DatasetError, match="leaves the image root"):
        to_coco([record(name)])


@pytest.mark.parametrize(
    "box",
    [(0, 0, 0, 5), (5, 5, 4, 9), (math.nan, 0, 1, 1), (0, 0, math.inf, 1), (-math.inf, 0, 1, 1), (0, 0, 1e300, 1)],
)
def test_what_is_no_box_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(DatasetError, match=r"a\.jpg\.xml: the box"):
        to_coco([record("a.jpg", cat(box))])


def test_attributes_stand_beside_coco_keys_and_never_replace_them() -> None:
    attributes = {"difficult": 1, "bbox": "no", "id": -1, "ignore": 1}
    coco = to_coco([record("a.jpg", cat(attributes=attributes), attributes={"license": 3, "id": 99})])

    assert coco["images"][0] == {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80, "license": 3}
    assert coco["annotations"][0]["difficult"] == 1
    assert coco["annotations"][0]["bbox"] == [10, 20, 20, 30]
    assert "ignore" not in coco["annotations"][0]


def test_the_area_is_that_of_the_segmentation() -> None:
    triangle = cat((0, 0, 60, 60), segmentation=((0.0, 0.0, 60.0, 0.0, 0.0, 60.0),))
    given_ = cat((0, 0, 60, 60), area=7.5)

    assert [a["area"] for a in to_coco([record("a.jpg", triangle, given_)])["annotations"]] == [1800, 7.5]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself
def test_pycocotools_loads_shows_and_evaluates_it(tmp_path: Path) -> None:
    ring = cat((10, 20, 30, 50), segmentation=((10.0, 20.0, 30.0, 20.0, 30.0, 50.0),))
    write_coco(
        to_coco([record("a.jpg", cat(), ring, cat(iscrowd=True, segmentation=None)), record("b.jpg")]),
        tmp_path / "c.json",
    )
    with redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "c.json")
        found = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
            for a in coco.dataset["annotations"]
            if not a["iscrowd"]
        ][:1]
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.params.maxDets = [1, 10, 100]
        evaluation.evaluate()
        evaluation.accumulate()

    assert coco.getCatIds(supNms=[""]) == [1]
    assert coco.annToMask(coco.anns[2]).sum() > 0
    assert evaluation.eval["precision"].max() == pytest.approx(1)


# --- writing -----------------------------------------------------------------------------------------------------


def test_what_is_written_is_the_dataset_byte_for_byte_each_time(tmp_path: Path) -> None:
    coco = to_coco([record(f"{i}.jpg", cat(), cat()) for i in range(5)])
    write_coco(coco, tmp_path / "one.json")
    write_coco(coco, tmp_path / "deep/er/two.json")

    assert orjson.loads((tmp_path / "one.json").read_bytes()) == coco
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "deep/er/two.json").read_bytes()


def test_long_lists_are_written_in_pieces_that_join(tmp_path: Path) -> None:
    coco = {"images": [{"id": i} for i in range(45_001)], "empty": [], "info": {}}
    write_coco(coco, tmp_path / "a.json")

    assert orjson.loads((tmp_path / "a.json").read_bytes()) == coco


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(DatasetError, match=r"a\.json: cannot be written as JSON"):
        write_coco({"images": [], "bad": object()}, path)

    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_reader_of_the_old_file_keeps_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with path.open() as reader:
        write_coco(to_coco([record()]), path)
        assert reader.read() == "old"  # the new file took the name; it was not written over the old one


# --- merging -----------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=3), st.lists(st.sampled_from("xyz"), max_size=3)),
        unique_by=lambda r: r[0],
    ),
    st.integers(1, 4),
)
def test_merged_shards_are_the_bytes_of_one_run(images: list[tuple[str, list[str]]], shards: int) -> None:
    records = [record(name, *(cat(category=label) for label in labels)) for name, labels in images]
    parts = [to_coco(records[i::shards]) for i in range(shards)]

    assert orjson.dumps(merge_coco(parts)) == orjson.dumps(to_coco(records))


def test_an_image_in_two_parts_is_an_error() -> None:
    with pytest.raises(DatasetError, match="two annotation files"):
        merge_coco([to_coco([record("a.jpg", cat())]), to_coco([record("a.jpg")])])


def test_parts_that_agree_on_their_categories_keep_the_order() -> None:
    parts = [to_coco([record(name)], ["zebra", "ant"]) for name in ("a", "b")]

    assert [category["name"] for category in merge_coco(parts)["categories"]] == ["zebra", "ant"]


# --- reading -----------------------------------------------------------------------------------------------------


def dataset(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}],
        "annotations": [
            {"id": 0, "image_id": 7, "category_id": 3, "bbox": [10, 20, 20, 30], "area": 600, "iscrowd": 0, "score": 1}
        ],
        "categories": [{"id": 9, "name": "zebra"}, {"id": 3, "name": "cat", "supercategory": "pet"}],
    }
    return {**base, **changes}


def save(tmp_path: Path, data: Any, name: str = "in.json") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(data))
    return path


def one(tmp_path: Path, **changes: Any) -> Instance:
    annotation = {**dataset()["annotations"][0], **changes}
    (found,) = read_coco(save(tmp_path, dataset(annotations=[annotation])))
    return found.instances[0]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    ring = cat(segmentation=((10.0, 20.0, 30.0, 20.0, 30.0, 50.0),), attributes={"note": "x"})
    rle = cat((0, 0, 100, 80), segmentation={"size": [80, 100], "counts": "0Pj7"}, iscrowd=True)
    coco = to_coco([record("a.jpg", cat(), ring, rle, attributes={"license": 1}), record("b.jpg", cat(category="ant"))])
    write_coco(coco, tmp_path / "c.json")

    assert to_coco(read_coco(tmp_path / "c.json")) == coco


def test_ids_are_made_anew_and_the_category_order_is_kept(tmp_path: Path) -> None:
    path = save(tmp_path, dataset())
    coco = to_coco(read_coco(path), coco_categories(path))

    assert [(c["id"], c["name"], c["supercategory"]) for c in coco["categories"]] == [
        (1, "zebra", ""),
        (2, "cat", "pet"),
    ]
    assert (coco["annotations"][0]["id"], coco["annotations"][0]["category_id"]) == (1, 2)
    assert coco["annotations"][0]["score"] == 1


def test_run_lengths_as_numbers_are_packed(tmp_path: Path) -> None:
    found = one(tmp_path, segmentation={"size": [80, 100], "counts": [0, 80 * 100]}, bbox=[0, 0, 100, 80], area=None)

    assert found.segmentation == {"size": [80, 100], "counts": "0Pj7"}
    assert to_coco([record("a.jpg", found)])["annotations"][0]["area"] == 8000


def test_a_box_is_made_from_the_segmentation_if_missing(tmp_path: Path) -> None:
    assert one(tmp_path, bbox=None, segmentation=[[1, 2, 9, 2, 5, 8]]).box == (1, 2, 9, 8)


def test_ignore_becomes_a_crowd(tmp_path: Path) -> None:
    assert one(tmp_path, ignore=1).iscrowd


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bbox": [1, 2, 3]}, "not four numbers"),
        ({"bbox": "1234"}, "bbox"),
        ({"bbox": [None, 1, 2, 3]}, "annotations"),
        ({"bbox": [1e300, 1, 2, 3]}, "not four finite numbers"),
        ({"segmentation": [[1e9, 0, 1, 1, 2, 2]]}, "coordinate"),
        ({"segmentation": [["x", 0, 1, 1, 2, 2]]}, "annotations"),
        ({"segmentation": {"size": [100, 80], "counts": "00"}}, "size of the run lengths"),
        ({"segmentation": {"size": [80, 100], "counts": [5]}}, "add up to 5"),
        ({"segmentation": {"size": [80, 100], "counts": [-5, 8005]}}, "not run lengths"),
        ({"segmentation": {"size": [80, 100]}}, "not run lengths"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "annotations"),
    ],
)
def test_a_bad_annotation_is_named_or_dropped(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(AnnotationError, match=r"in\.json: annotations\[0\]") as caught:
        one(tmp_path, **changes)
    log = ConversionLog(skip_bad=True)
    (found,) = read_coco(tmp_path / "in.json", log=log)

    assert says in str(caught.value)
    assert found.instances == ()
    assert log.dropped == {"annotation that cannot be read": 1}


@pytest.mark.parametrize(
    "image",
    [
        {"id": 7, "file_name": "../x.jpg", "width": 9, "height": 9},
        {"id": 7, "file_name": "C:\\x.jpg", "width": 9, "height": 9},
        {"id": 7, "file_name": 5, "width": 9, "height": 9},
        {"id": 7, "file_name": "x.jpg", "width": 0, "height": 9},
        {"id": 7, "file_name": "x.jpg", "width": "9", "height": 9},
        {"id": 7, "file_name": "x.jpg", "height": 9},
        {"id": 7, "width": 9, "height": 9},
        [],
        None,
    ],
)
def test_a_bad_image_is_named_or_skipped(tmp_path: Path, image: Any) -> None:
    good = {"id": 8, "file_name": "good.jpg", "width": 9.0, "height": 9}
    path = save(tmp_path, dataset(images=[image, good]))
    log = ConversionLog(skip_bad=True)

    with pytest.raises(AnnotationError, match=r"in\.json: images\[0\]"):
        list(read_coco(path))
    assert [found.file_name for found in read_coco(path, log=log)] == ["good.jpg"]
    assert len(log.bad_files) == 1


def test_orphans_are_dropped_and_counted(tmp_path: Path) -> None:
    annotation = dataset()["annotations"][0]
    orphans = [{**annotation, "image_id": 5}, {**annotation, "category_id": 5}, {**annotation, "image_id": [1]}, "x"]
    log = ConversionLog()
    (found,) = read_coco(save(tmp_path, dataset(annotations=[annotation, *orphans])), log=log)

    assert len(found.instances) == 1
    assert log.dropped.total() == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "not JSON"), ("[1]", "no list 'images'"), ('{"images": []}', "no list 'annotations'"), ("{", "not JSON")],
)
def test_what_is_no_coco_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=says):
        list(read_coco(path))


def test_files_of_a_folder_and_splits_by_name(tmp_path: Path) -> None:
    for name in ("train", "val"):
        image = {"id": 1, "file_name": f"{name}.jpg", "width": 9, "height": 9}
        save(tmp_path, dataset(images=[image], annotations=[]), f"annotations/instances_{name}.json")

    assert [found.file_name for found in read_coco(tmp_path)] == ["train.jpg", "val.jpg"]
    assert [found.file_name for found in read_coco(tmp_path, split="val")] == ["val.jpg"]
    with pytest.raises(DatasetError, match=r"split 'test' in .*There are annotations/instances_train\.json"):
        list(read_coco(tmp_path, split="test"))


@pytest.mark.parametrize("place", ["{}", "images/{}", "images", "."])
def test_images_lie_in_the_folder_of_their_split(tmp_path: Path, place: str) -> None:
    for split in ("train2017", "val2017"):
        image = {"id": 1, "file_name": f"{split}.jpg", "width": 9, "height": 9}
        save(tmp_path, dataset(images=[image], annotations=[]), f"annotations/instances_{split}.json")
        photo(tmp_path / place.format(split) / f"{split}.jpg", (9, 9))

    for found in (*read_coco(tmp_path), *read_coco(tmp_path, split="val2017", images=tmp_path)):
        assert (tmp_path / found.file_name).is_file()


@pytest.mark.parametrize("first", [{}, {"file_name": "../x.jpg"}, {"file_name": "x" * 300 + ".jpg"}, 5])
def test_a_first_image_without_a_place_is_told_of_like_any_other(tmp_path: Path, first: Any) -> None:
    other = {"id": 2, "file_name": "a.jpg", "width": 9, "height": 9}
    save(tmp_path, dataset(images=[first, other], annotations=[]), "annotations/train.json")
    log = ConversionLog(skip_bad=True)

    assert [found.file_name for found in read_coco(tmp_path, log=log)] == ["a.jpg"]
    assert len(log.bad_files) == 1


def test_roboflow_sets_are_read_from_their_folders() -> None:
    root = real("coco_roboflow_rbc")
    records = list(read_coco(root))

    assert len(records) == 30
    assert sum(len(found.instances) for found in records) == 691
    assert all((root / found.file_name).is_file() for found in records)
    assert np.isfinite([instance.box for found in records for instance in found.instances]).all()
