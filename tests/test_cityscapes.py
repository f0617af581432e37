import pickle

import numpy as np
import pytest
from helpers_cityscapes import SCENE, THINGS, obj, paint, read, square, write_frame
from helpers_converters import evaluated, real
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from converters.cityscapes import cityscapes_categories, paint_polygons, read_cityscapes, read_frame
from converters.cityscapes_labels import chosen_labels
from converters.cityscapes_layout import find_frames
from converters.coco import to_coco, write_coco
from converters.errors import AnnotationError, DatasetError
from converters.geometry import MAX_COORDINATE
from converters.masks import encode_mask
from converters.records import ConversionLog


@pytest.mark.parametrize("source", ["png", "json", "auto"])
def test_what_is_visible_of_each_instance(tmp_path, source):
    write_frame(tmp_path, SCENE)
    (record,) = read(tmp_path, source=source)
    ids = paint(SCENE, (80, 80))

    assert (record.file_name, record.width, record.height) == (
        "train/aachen/aachen_000000_000019_leftImg8bit.png",
        80,
        80,
    )
    found = {(i.category, i.iscrowd): i for i in record.instances}
    assert sorted(found) == [("car", False), ("car", True), ("person", False), ("truck", False)]
    car = found["car", False]
    assert car.segmentation == encode_mask(ids == 26000)
    assert car.area == 40 * 40 - 10 * 10  # what the person covers is no part of the car; the license plate is
    assert car.box == (10, 10, 50, 50)
    assert found["person", False].box == (20, 20, 30, 30)  # peers: 9 x 9
    assert found["car", True].area == 200  # both groups: one crowd
    assert found["car", True].box == (60, 0, 70, 30)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ("things", {"car", "person", "truck"}),
        ("instances", {"car", "person", "truck", "caravan"}),
        ("all", {"car", "person", "truck", "caravan", "road", "polegroup"}),
    ],
)
def test_classes(tmp_path, classes, names):
    write_frame(tmp_path, SCENE)
    (record,) = read(tmp_path, classes=classes)

    assert {i.category for i in record.instances} == names
    assert all(i.iscrowd for i in record.instances if i.category in {"road", "polegroup"})
    (only,) = read(tmp_path, classes=classes, categories=["person", "nothing"])
    assert [i.category for i in only.instances] == ["person"]


def test_categories_are_in_the_order_of_the_labels_whatever_occurs():
    assert [entry["name"] for entry in cityscapes_categories()] == THINGS
    assert [entry["id"] for entry in cityscapes_categories()] == list(range(1, 9))
    assert [entry["id"] for entry in cityscapes_categories(ids="labels")] == [24, 25, 26, 27, 28, 31, 32, 33]
    assert {entry["supercategory"] for entry in cityscapes_categories()} == {"human", "vehicle"}
    assert [label.name for label in chosen_labels("instances")][5:7] == ["caravan", "trailer"]
    everything = [entry["name"] for entry in cityscapes_categories("all")]
    assert len(everything) == 27
    assert not {"unlabeled", "static", "license plate"} & set(everything)


def test_a_hole_stays_a_hole(tmp_path):
    write_frame(tmp_path, [obj("bus", square(0, 0, 40)), obj("sky", square(10, 10, 20))], png=False)
    (record,) = read(tmp_path)

    assert record.instances[0].area == 40 * 40 - 20 * 20


def test_polygons_that_leave_the_image_are_cut(tmp_path):
    write_frame(tmp_path, [obj("bus", square(-20, 60, 40)), obj("car", square(500, 500))], png=False)
    (record,) = read(tmp_path)

    assert [(i.category, i.box, i.area) for i in record.instances] == [("bus", (0, 60, 20, 80), 400)]


def test_png_without_polygons_and_polygons_without_png(tmp_path):
    write_frame(tmp_path / "a", SCENE, polygons=False)
    write_frame(tmp_path / "b", SCENE, png=False)

    (png,), (polygons,) = read(tmp_path / "a"), read(tmp_path / "b")
    assert png.instances == polygons.instances
    with pytest.raises(AnnotationError, match="no json annotation"):
        read(tmp_path / "a", source="json")
    with pytest.raises(AnnotationError, match="no png annotation"):
        read(tmp_path / "b", source="png")


def test_verify_counts_the_frames_that_differ(tmp_path):
    write_frame(tmp_path, SCENE)
    path = write_frame(tmp_path, SCENE, "train/aachen/aachen_000001_000019")
    Image.new("I;16", (80, 80)).save(path.with_name(path.name.replace("polygons.json", "instanceIds.png")))
    path = write_frame(tmp_path, SCENE, "train/aachen/aachen_000002_000019")
    Image.new("I;16", (8, 8)).save(path.with_name(path.name.replace("polygons.json", "instanceIds.png")))
    for source in ("png", "json"):
        log = ConversionLog()
        read(tmp_path, source=source, verify=True, log=log)

        assert log.notes["verify: PNG and polygons agree"] == 1
        assert log.notes["verify: PNG and polygons differ"] == 1
        assert log.notes["verify: PNG and polygons differ in size"] == 1
        assert "6400 pixels" in log.examples["verify: PNG and polygons differ"][0]


@pytest.mark.parametrize("level", ["", "gtFine_trainvaltest"])
def test_the_folder_of_the_zip_file_may_be_there(tmp_path, level):
    write_frame(tmp_path / level, SCENE)
    write_frame(tmp_path / level, [], "val/lindau/lindau_000000_000019")

    assert [r.file_name[:5] for r in read(tmp_path)] == ["train", "val/l"]
    assert [r.file_name for r in read(tmp_path, split="val")] == ["val/lindau/lindau_000000_000019_leftImg8bit.png"]
    assert len(read(tmp_path, split="val/lindau")) == 1
    assert len(read(tmp_path / level / "gtFine", split="val")) == 1


def test_coarse_annotations_where_there_are_no_fine_ones(tmp_path):
    write_frame(tmp_path, SCENE)
    write_frame(tmp_path, SCENE[:2], "train_extra/ulm/ulm_000000_000019", kind="gtCoarse")
    write_frame(tmp_path, SCENE[:2], kind="gtCoarse")

    assert [r.file_name.split("/")[0] for r in read(tmp_path)] == ["train"]
    assert [len(r.instances) for r in read(tmp_path, split="train")] == [4]
    assert [len(r.instances) for r in read(tmp_path, split="train", annotations="gtCoarse")] == [1]
    assert [r.file_name.split("/")[0] for r in read(tmp_path, split="train_extra")] == ["train_extra"]


def test_fine_and_coarse_annotations_in_one_folder(tmp_path):
    fine = write_frame(tmp_path, SCENE)
    coarse = write_frame(tmp_path, SCENE[:2], kind="gtCoarse", png=False)
    coarse.rename(fine.with_name(coarse.name))

    assert [len(r.instances) for r in read(tmp_path, source="json")] == [4]
    assert [len(r.instances) for r in read(tmp_path / "gtFine", source="json", annotations="gtCoarse")] == [1]


def test_the_test_split_has_images_without_objects(tmp_path):
    write_frame(
        tmp_path,
        [obj("ego vehicle", square(0, 70)), obj("out of roi", square(0, 0, 4))],
        "test/bonn/bonn_000000_000019",
    )
    write_frame(tmp_path, SCENE)
    image = tmp_path / "leftImg8bit_trainvaltest/leftImg8bit/test2/bonn/bonn_000001_000019_leftImg8bit.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(image)

    coco = to_coco(read(tmp_path, split="test"), cityscapes_categories())
    assert (len(coco["images"]), coco["annotations"]) == (1, [])
    (bare,) = read(tmp_path, split="test2")
    assert (bare.file_name, bare.width, bare.height, bare.instances) == (
        "test2/bonn/bonn_000001_000019_leftImg8bit.png", 20, 10, (),
    )  # fmt: skip


@pytest.mark.parametrize("options", [{"split": "nowhere"}, {"annotations": "gtCoarse"}])
def test_no_such_split(tmp_path, options):
    write_frame(tmp_path, SCENE)
    with pytest.raises(DatasetError, match="Expected gt"):
        read(tmp_path, **options)


@pytest.mark.parametrize("options", [{"source": "jpg"}, {"annotations": "fine"}, {"classes": "stuff"}])
def test_options_out_of_their_range(tmp_path, options):
    with pytest.raises(DatasetError, match="not one of"):
        read(tmp_path, **options)
    with pytest.raises(DatasetError, match="not a folder"):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"{", "not JSON"),
        (b"[]", "no list of objects"),
        (b'{"objects": 3}', "no list of objects"),
        (b'{"objects": []}', "imgWidth and imgHeight are None"),
        (b'{"objects": [], "imgWidth": 0, "imgHeight": 5}', "no size of an image"),
        (b'{"objects": [], "imgWidth": 1000000, "imgHeight": 1000000}', "no size of an image"),
        (b'{"objects": [1], "imgWidth": 5, "imgHeight": 5}', "objects[0]: no label"),
        (b'{"objects": [{"label": "car"}], "imgWidth": 5, "imgHeight": 5}', "objects[0]: polygon is 'None'"),
        (b'{"objects": [{"label": "car", "polygon": [[1]]}], "imgWidth": 5, "imgHeight": 5}', "not a list of [x, y]"),
        (b'{"objects": [{"label": "car", "polygon": ["ab"]}], "imgWidth": 5, "imgHeight": 5}', "no number of pixels"),
        (
            b'{"objects": [{"label": "car", "polygon": [[1, NaN]]}], "imgWidth": 5, "imgHeight": 5}',
            "NaN is not a number",
        ),
        (
            b'{"objects": [{"label": "car", "polygon": [[1, 1e308]]}], "imgWidth": 5, "imgHeight": 5}',
            "no number of pixels",
        ),
        (b"[" * 1_000_000, "not JSON"),
    ],
)
def test_a_file_that_is_none_of_cityscapes(tmp_path, content, problem):
    good = write_frame(tmp_path, SCENE, "train/aachen/aachen_000001_000019", png=False)
    bad = write_frame(tmp_path, [], png=False)
    bad.write_bytes(content)
    with pytest.raises(AnnotationError) as caught:
        read(tmp_path)
    assert problem in str(caught.value)
    assert bad.name in str(caught.value)

    log = ConversionLog(skip_bad=True)
    (record,) = read(tmp_path, log=log)
    assert record.source == str(good)
    assert len(log.bad_files) == 1


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_a_png_that_is_none(tmp_path, content):
    path = write_frame(tmp_path, SCENE, polygons=False)
    png = path.with_name(path.name.replace("polygons.json", "instanceIds.png"))
    whole = png.read_bytes()
    for broken in (content, whole[: len(whole) // 2], whole[:40]):
        png.write_bytes(broken)
        with pytest.raises(AnnotationError, match=r"instanceIds\.png: not a readable PNG"):
            read(tmp_path)
    Image.new("RGB", (5, 5)).save(png)
    with pytest.raises(AnnotationError, match="not a map of ids"):
        read(tmp_path)


def test_odd_polygons(tmp_path):
    objects = [obj("car", [[5, 5]]), obj("car", []), obj("dragon", square(0, 0)), obj("bus", square(0, 0)),
               obj("car", [[-MAX_COORDINATE, 70], [MAX_COORDINATE, 70], [0, MAX_COORDINATE]])]  # fmt: skip
    write_frame(tmp_path, objects, png=False)
    log = ConversionLog()
    (record,) = read(tmp_path, log=log)

    assert [(i.category, i.area) for i in record.instances] == [("car", 800), ("bus", 100)]
    assert log.dropped == {"class 'dragon' is none of Cityscapes": 1}


def test_more_than_a_thousand_of_a_class_have_no_ids(tmp_path):
    write_frame(tmp_path, [obj("car", square(0, 0, 2))] * 1001, png=False)
    with pytest.raises(AnnotationError, match="more than a thousand times car"):
        read(tmp_path)


def test_shards_together_are_the_whole_and_frames_travel(tmp_path):
    for number in range(5):
        write_frame(tmp_path, SCENE[: number + 2], f"train/aachen/aachen_{number:06}_000019")
    whole = read(tmp_path)

    assert [r for i in range(3) for r in read(tmp_path, shard=(i, 3))] == whole
    frames = [pickle.loads(pickle.dumps(frame)) for frame in find_frames(tmp_path, None, "auto")]
    assert [pickle.loads(pickle.dumps(read_frame))(f, tmp_path, "auto", THINGS) for f in frames] == whole


def test_pycocotools_loads_and_evaluates_it(tmp_path, capsys):
    write_frame(tmp_path, SCENE)
    path = tmp_path / "coco.json"
    write_coco(to_coco(read(tmp_path), cityscapes_categories()), path)
    coco = COCO(str(path))
    detections = [
        {key: a[key] for key in ("image_id", "category_id", "segmentation", "bbox")} | {"score": 1.0}
        for a in coco.anns.values() if not a["iscrowd"]
    ]  # fmt: skip
    for kind in ("bbox", "segm"):
        assert evaluated(coco, detections, kind)[0] == pytest.approx(1)


def test_memory_kept_between_frames_is_given_back_in_the_end(tmp_path):
    for number in range(3):
        write_frame(tmp_path, SCENE, name=f"train/aachen/aachen_{number:06}_000019")
    before = Image.core.get_blocks_max()

    records = read_cityscapes(tmp_path)
    next(records)
    assert Image.core.get_blocks_max() == max(before, 2)
    records.close()  # left half-way

    assert Image.core.get_blocks_max() == before
    assert Image.core.get_stats()["blocks_cached"] <= before


OBJECTS = st.lists(
    st.fixed_dictionaries({
        "label": st.sampled_from(["road", "car", "cargroup", "person", "polegroup", "license plate", "trailer"]),
        "polygon": st.lists(st.lists(st.integers(-40, 120), min_size=2, max_size=2), min_size=2, max_size=7),
        "deleted": st.sampled_from([0, 0, 0, 1]),
    }),
    max_size=8,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(OBJECTS)
def test_polygons_are_painted_by_the_rules(tmp_path_factory, objects):
    path = write_frame(tmp_path_factory.mktemp("city"), objects, png=False)

    assert np.array_equal(paint_polygons(str(path), ConversionLog()), paint(objects, (80, 80)))


@settings(max_examples=100, deadline=None)
@given(OBJECTS)
def test_cityscapes_scripts_paint_the_same(tmp_path_factory, objects):
    reason = "cityscapesScripts is not installed: pip install cityscapesscripts"
    painter = pytest.importorskip("cityscapesscripts.preparation.json2instanceImg", reason=reason)
    path = write_frame(tmp_path_factory.mktemp("city"), objects, png=False)
    annotation = painter.Annotation()
    annotation.fromJsonFile(str(path))

    theirs = np.asarray(painter.createInstanceImage(annotation, "ids"))
    assert np.array_equal(paint_polygons(str(path), ConversionLog()), theirs)


@pytest.mark.parametrize("layout", ["dataset", "train_dataset"])
def test_datumaros_example(layout):
    root = real("cityscapes_datumaro") / layout
    found = {
        record.file_name: [(i.category, i.box, i.area, i.iscrowd) for i in record.instances]
        for record in read(root, classes="all")
    }

    assert found == {
        "test/defaultcity/defaultcity_000001_000031_leftImg8bit.png": [
            ("truck", (2, 0, 3, 1), 1, False), ("truck", (3, 0, 5, 1), 2, False)],
        "test/defaultcity/defaultcity_000001_000032_leftImg8bit.png": [
            ("wall", (2, 0, 3, 1), 1, True), ("train", (0, 0, 2, 1), 2, False)],
        "train/defaultcity/defaultcity_000002_000045_leftImg8bit.png": [("person", (2, 0, 3, 1), 1, False)],
        "val/defaultcity/defaultcity_000001_000019_leftImg8bit.png": [],
    }  # fmt: skip
    assert len(read(root, split="train")) == 1
