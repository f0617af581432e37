import tracemalloc
from pathlib import Path

import orjson
import pytest
from helpers_converters import photo, real, voc_object, voc_xml, write_voc

import converters
from converters import FORMATS, AnnotationError, ConversionLog, DatasetError, convert, merge_coco
from converters.errors import CategoriesError
from converters.formats import join_shards


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for number in range(40):
        label = "rare" if number == 39 else ("cat", "dog")[number % 2]
        write_voc(root / "Annotations", f"{number:02}", voc_xml(voc_object(label), filename=f"{number:02}.jpg"))
        photo(root / "JPEGImages" / f"{number:02}.jpg")
    sets = root / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("".join(f"{number:02}\n" for number in range(30)))
    (sets / "val.txt").write_text("".join(f"{number:02}\n" for number in range(30, 40)))
    return root


def names(coco: dict) -> list[str]:  # type: ignore[type-arg]
    return [category["name"] for category in coco["categories"]]


def test_all_of_it_is_one_split(devkit: Path) -> None:
    result = convert("voc", devkit)

    assert list(result.splits) == ["all"]
    assert len(result.splits["all"]["images"]) == 40
    assert result.image_root == devkit / "JPEGImages"


def test_every_split_has_the_same_categories(devkit: Path) -> None:
    result = convert("voc", devkit, {"train": "train", "val": "val"})

    assert [len(coco["images"]) for coco in result.splits.values()] == [30, 10]
    assert result.splits["train"]["categories"] == result.splits["val"]["categories"]
    assert names(result.splits["train"]) == ["cat", "dog", "rare"]  # rare is in val alone


def test_shares_divide_by_name(devkit: Path) -> None:
    result = convert("voc", devkit, {"train": 0.5, "val": 0.5})
    train, val = ({image["file_name"] for image in coco["images"]} for coco in result.splits.values())

    assert train | val == {f"{number:02}.jpg" for number in range(40)}
    assert not train & val
    assert 10 < len(train) < 30


def test_given_categories_are_the_order_and_the_rest_is_counted(devkit: Path) -> None:
    result = convert("voc", devkit, categories=["dog", "cat"])

    assert names(result.splits["all"]) == ["dog", "cat"]
    assert result.log.dropped == {"class 'rare' is not among the categories": 1}


def test_categories_of_which_there_is_no_object_are_said(devkit: Path) -> None:
    some = convert("voc", devkit, {"train": "train", "val": "val"}, categories=["Dog", "rare", "cow"])

    assert [note for note in some.log.notes if "without" in note] == [
        "categories without any object: 'Dog' (did you mean 'dog'?), 'cow'"
    ]
    for wrong, says in ((["Dog", "cow"], r"'Dog' \(did you mean 'dog'\?\), 'cow'\. It has"), ([], "the list is empty")):
        with pytest.raises(CategoriesError, match=rf"^categories: none is in \S+: {says}.* cat, dog, rare$"):
            convert("voc", devkit, categories=wrong)
    log = ConversionLog()
    shards = [
        convert("voc", devkit, categories=["cow"], shard=(i, 2), log=log).splits for i in range(2)
    ]  # may have none
    with pytest.raises(CategoriesError, match="'cow'"):
        join_shards("voc", devkit, shards, categories=["cow"], log=log)


def test_coco_keeps_its_order_and_can_be_subset(devkit: Path, tmp_path: Path) -> None:
    converters.write_coco(convert("voc", devkit, categories=["rare", "dog", "cat"]).splits["all"], tmp_path / "in.json")

    assert names(convert("coco", tmp_path / "in.json").splits["all"]) == ["rare", "dog", "cat"]
    subset = convert("coco", tmp_path / "in.json", categories=["cat"])
    assert len(subset.splits["all"]["annotations"]) == 20
    assert subset.log.dropped.total() == 20


def test_processes_write_the_same_bytes(devkit: Path) -> None:
    splits = {"train": "train", "val": "val"}
    one, three = (convert("voc", devkit, splits, jobs=jobs) for jobs in (1, 3))

    assert orjson.dumps(one.splits) == orjson.dumps(three.splits)
    assert one.log == three.log


def test_a_box_takes_less_than_a_kilobyte_of_memory(tmp_path: Path) -> None:
    objects = "".join(voc_object("cat", (number, 2, number + 3, 9)) for number in range(20))
    for number in range(100):
        write_voc(tmp_path, f"{number:03}", voc_xml(objects))
    convert("voc", tmp_path)  # whatever is made once is made
    tracemalloc.start()
    result = convert("voc", tmp_path)
    (now, peak), instances = tracemalloc.get_traced_memory(), len(result.splits["all"]["annotations"])
    tracemalloc.stop()

    assert instances == 2000
    assert now < peak < instances * 1024


def test_shards_merge_to_the_same_bytes(devkit: Path) -> None:
    parts = [convert("voc", devkit, shard=(i, 3)).splits["all"] for i in range(3)]

    assert orjson.dumps(merge_coco(parts)) == orjson.dumps(convert("voc", devkit).splits["all"])


@pytest.mark.parametrize("name", ["00.xml", "39.xml"])  # the first part is read here, the last elsewhere
def test_errors_come_back_from_the_processes(devkit: Path, name: str) -> None:
    (devkit / "Annotations" / name).write_text("<annotation>")
    with pytest.raises(AnnotationError, match=rf"{name}:1: not XML"):
        convert("voc", devkit, jobs=2)
    log = ConversionLog(skip_bad=True)
    result = convert("voc", devkit, jobs=2, log=log)

    assert len(result.splits["all"]["images"]) == 39
    assert [Path(error.file).name for error in log.bad_files] == [name]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"format": "vco"}, "no format 'vco' (did you mean 'voc'?)"),
        ({"options": {"corner": "edges"}}, "voc has no option 'corner' (did you mean 'corners'?)"),
        ({"options": {"corners": "zero"}}, "corners is 'zero', not one of auto, devkit, edges"),
        ({"options": {"min_visibility": "much"}}, "voc option 'min_visibility' is 'much', not a float"),
        ({"options": {"masks": "yes"}}, "voc option 'masks' is 'yes', not a bool"),
        ({"splits": {"train": 0.5}}, "add up to 0.5"),
        ({"splits": {"train": 0.5, "val": "val"}}, "mix shares with selectors"),
        ({"splits": {"train": "tarin"}}, "no split 'tarin'"),
        ({"images": Path("nowhere")}, "nowhere is not a folder"),
        ({"root": Path("nowhere")}, "nowhere is not a folder"),
    ],
)
def test_what_users_get_wrong_is_said(devkit: Path, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(DatasetError) as caught:
        convert(**{"format": "voc", "root": devkit, **arguments})  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no \*\.xml file in"):
        convert("voc", tmp_path)
    write_voc(tmp_path, "a", "")
    with pytest.raises(DatasetError, match=r"no images in split 'all' of .*; 1 files could not be read"):
        convert("voc", tmp_path, log=ConversionLog(skip_bad=True))


def test_every_reader_is_documented_option_by_option() -> None:
    for format_ in FORMATS.values():
        documented = (format_.read.__doc__ or "").partition("Args:")[2]
        assert [name for name in format_.options if f" {name}: " not in documented] == []


def test_a_split_without_its_share_of_images_is_noted() -> None:
    result = convert("voc", real("voc_fridge_mini"), {"train": 0.999999, "val": 0.000001})

    assert len(result.splits["val"]["images"]) == 0
    assert result.splits["val"]["annotations"] == []
    assert result.log.notes["split without images: too few for its share"] == 1


def test_the_public_names_are_what_is_listed() -> None:
    assert sorted(converters.__all__) == sorted(set(converters.__all__))
    assert all(hasattr(converters, name) for name in converters.__all__)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_second_file_about_an_image_is_named_or_left_out_and_counted(tmp_path: Path, jobs: int) -> None:
    for name in ("a", "b", "c"):
        write_voc(tmp_path, name, voc_xml(voc_object(name), filename="b.png" if name == "c" else f"{name}.png"))
    for name in ("a", "b"):
        photo(tmp_path / f"{name}.png")

    with pytest.raises(DatasetError, match="the image 'b.png'" if jobs > 1 else r"b\.xml and \S+c\.xml describe"):
        convert("voc", tmp_path, jobs=jobs)
    log = ConversionLog(skip_bad=True)
    coco = convert("voc", tmp_path, jobs=jobs, log=log).splits["all"]

    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.png"]
    assert [annotation["image_id"] for annotation in coco["annotations"]] == [1, 2]
    assert [str(error) for error in log.bad_files] == [
        "b.png: a second annotation file describes this image. Keep one of them, or give each its folder"
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_knows_how_many_there_are(tmp_path: Path, jobs: int) -> None:
    for split, count in (("train", 400), ("val", 200)):
        (tmp_path / split).mkdir()
        for number in range(count):
            file = tmp_path / split / f"{number:03d}.xml"
            file.write_text("<annotation><size><width>9</width><height>9</height></size></annotation>")
    told: list[tuple[int, int]] = []
    convert("voc", tmp_path, {"all": 1.0}, categories=["a"], jobs=jobs, progress=lambda *news: told.append(news))
    assert sum(count for count, _ in told) >= 400
    assert {expected for _, expected in told} == {600}
