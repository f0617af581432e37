"""Which XML files, images and sizes belong to a VOC set."""

from pathlib import Path

import orjson
import pytest
from helpers_converters import photo, read_one, real, voc_object, voc_xml, write_voc

from converters import AnnotationError, ConversionLog, DatasetError, read_voc, to_coco

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
