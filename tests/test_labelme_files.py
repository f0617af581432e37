"""Which files and images belong to a labelme set, and how large an image is."""

import base64
import io

import pytest
from helpers_labelme import read, save_image, shape, write
from PIL import Image

from converters.errors import AnnotationError, DatasetError
from converters.records import ConversionLog

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
