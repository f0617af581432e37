"""The drawn scenes: a VOC dataset whose every box can be trusted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random

import numpy as np
import pytest
from lxml import etree
from PIL import Image

from flows.scenes import FAMILIES, Drawn, Placed, ScenesError, annotation, draw_scene, draw_scenes, place, visible
from flows.sprites import DRAWINGS, cut

EVERYTHING = FAMILIES["shore"] + FAMILIES["dream"]


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def block(name: str, x: int, y: int, w: int, h: int, shape: tuple[int, int] = (100, 100)) -> Placed:
    mask = np.zeros(shape, dtype=np.bool_)
    mask[y : y + h, max(x, 0) : x + w] = True
    return Placed(name, mask, w * h)


def test_same_arguments_same_bytes_and_another_seed_other_pictures(tmp_path: Path) -> None:
    first = digest(draw_scenes(tmp_path / "a", classes=EVERYTHING, train=3, val=2, seed=1))
    again = digest(draw_scenes(tmp_path / "b", classes=EVERYTHING, train=3, val=2, seed=1))
    other = digest(draw_scenes(tmp_path / "c", classes=EVERYTHING, train=3, val=2, seed=2))
    assert first == again
    assert not set(first.values()) & {v for k, v in other.items() if k.endswith(".jpg")}
    assert len({v for k, v in first.items() if k.endswith(".jpg")}) == 5, "train and val share a picture"


def test_more_images_keep_those_drawn_before(tmp_path: Path) -> None:
    few = digest(draw_scenes(tmp_path / "few", classes=EVERYTHING, train=2, val=1, seed=1))
    many = digest(draw_scenes(tmp_path / "many", classes=EVERYTHING, train=3, val=2, seed=1))
    assert {k: v for k, v in few.items() if k.endswith(("jpg", "xml"))}.items() <= many.items()


def test_layout_is_the_devkits(tmp_path: Path) -> None:
    root = draw_scenes(tmp_path / "scenes", classes=("boat",), train=4, val=2, seed=5, size=(160, 120))
    for split, count in (("train", 4), ("val", 2)):
        names = (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        assert names == sorted(names)
        assert len(names) == count
        for name in names:
            with Image.open(root / "JPEGImages" / f"{name}.jpg") as picture:
                assert (picture.size, picture.mode) == ((160, 120), "RGB")
            xml = etree.parse(root / "Annotations" / f"{name}.xml")
            assert xml.findtext("filename") == f"{name}.jpg"
            assert (xml.findtext("size/width"), xml.findtext("size/height")) == ("160", "120")
            assert {node.text for node in xml.iterfind("object/name")} <= {"boat"}
            assert not (xml.findtext("source/database") or "").startswith("The VOC20"), (
                "corners would be read as 1-based"
            )
    assert not list(tmp_path.glob(".*")), "a part folder stayed behind"


def test_scenes_have_empty_truncated_and_occluded_ones_and_every_class() -> None:
    scenes = [draw_scene(Random(f"variety/{i}"), EVERYTHING, (160, 120))[1] for i in range(120)]
    things = [thing for scene in scenes for thing in scene]
    assert 3 <= sum(not scene for scene in scenes) <= 24
    assert {thing.name for thing in things} == set(DRAWINGS)
    assert 0.05 < np.mean([thing.truncated for thing in things]) < 0.5
    assert 0.02 < np.mean([thing.occluded for thing in things]) < 0.5
    for thing in things:
        x0, y0, x1, y1 = thing.box
        assert 0 <= x0 < x1 <= 160
        assert 0 <= y0 < y1 <= 120


def test_the_box_is_of_what_remains_visible() -> None:
    below, above = block("tree", 10, 10, 40, 20), block("boat", 30, 0, 40, 40)
    assert visible([below, above]) == [
        Drawn("tree", (10, 10, 30, 30), truncated=False, occluded=True),
        Drawn("boat", (30, 0, 70, 40), truncated=False, occluded=False),
    ]


def test_whatever_is_painted_stays_visible_enough_to_be_annotated() -> None:
    """An object that shows and is not annotated would teach the detector not to find it."""
    canvas, rng = np.zeros((120, 160, 3), dtype=np.float32), Random("crowd")
    placed: list[Placed] = []
    for _ in range(30):
        place(canvas, placed, rng, rng.choice(EVERYTHING), 50)
    assert 8 < len(placed) < 30, "the canvas holds no thirty of them"
    assert len(visible(placed)) == len(placed)


def test_what_is_mostly_hidden_is_not_annotated() -> None:
    assert [d.name for d in visible([block("tree", 10, 10, 40, 20), block("boat", 22, 0, 40, 40)])] == ["boat"]
    assert visible([block("tree", -30, 10, 40, 20)]) == [], "three quarters lie outside of the image"
    assert visible([block("tree", -10, 10, 40, 20)])[0].truncated
    assert visible([block("tree", 10, 10, 40, 4)]) == [], "a sliver"


def test_a_lone_object_fills_its_box() -> None:
    """The box is measured against the pixels: outside of it the picture is what it is without the object."""
    for name, draw in DRAWINGS.items():
        sprite = cut(draw(Random(name)), 60, degrees=20)
        solid = sprite.alpha > 0.5
        assert solid.any(0)[2:-2].all() or name == "kite", name  # no empty columns inside
        assert solid.any(1)[:2].any(), f"{name}: empty rows above"
        assert solid.any(1)[-2:].any(), f"{name}: empty rows below"
        assert solid.any(0)[:2].any(), f"{name}: empty columns at the left"
        assert solid.any(0)[-2:].any(), f"{name}: empty columns at the right"
        assert 45 < max(solid.shape) < 90, f"{name}: {solid.shape}"


def test_existing_scenes_are_kept_and_other_things_are_not_overwritten(tmp_path: Path) -> None:
    root = draw_scenes(tmp_path / "scenes", classes=("boat",), train=1, val=1, seed=5)
    stamp = (root / "scenes.json").stat().st_mtime_ns
    draw_scenes(root, classes=("boat",), train=1, val=1, seed=5)
    assert (root / "scenes.json").stat().st_mtime_ns == stamp
    with pytest.raises(ScenesError, match="holds something else"):
        draw_scenes(root, classes=("boat",), train=2, val=1, seed=5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ScenesError, match="mine: holds something else"):
        draw_scenes(tmp_path / "mine", classes=("boat",), train=1, val=1, seed=5)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("classes", [("boat", "unicorn"), ()])
def test_an_unknown_class_is_an_error_that_names_the_known_ones(tmp_path: Path, classes: tuple[str, ...]) -> None:
    with pytest.raises(ScenesError, match=r"cannot draw (unicorn|none)\. Choose from balloon, boat"):
        draw_scenes(tmp_path / "scenes", classes=classes, train=1, val=1, seed=5)
    assert not (tmp_path / "scenes").exists()


def test_the_families_share_no_class() -> None:
    assert not set(FAMILIES["shore"]) & set(FAMILIES["dream"])
    assert set(EVERYTHING) == set(DRAWINGS)


def test_the_annotation_says_what_was_drawn() -> None:
    xml = etree.fromstring(annotation("a.jpg", (10, 20), [Drawn("fish", (1, 2, 9, 8), truncated=True, occluded=False)]))
    corners = [xml.findtext(f"object/bndbox/{tag}") for tag in ("xmin", "ymin", "xmax", "ymax")]
    assert corners == ["1", "2", "9", "8"]
    assert (xml.findtext("object/truncated"), xml.findtext("object/occluded")) == ("1", "0")
