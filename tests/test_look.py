"""What a run depends on is looked at, wherever it lies, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from tasks.look import look
from tasks.source import SourceOptions


def coco(path: Path, *names: str) -> None:
    """A COCO file about pictures of 16 x 16."""
    images = [{"id": i, "file_name": name, "width": 16, "height": 16} for i, name in enumerate(names, 1)]
    box = {"iscrowd": 0, "bbox": [2, 2, 9, 9], "area": 81, "category_id": 1}
    boxes = [{"id": image["id"], "image_id": image["id"], **box} for image in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}))


def picture(path: Path, colour: int) -> None:
    """One of the pictures; neighbours in colour do not look alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((16, 16), 40 + colour).save(path)


def test_pictures_beside_a_single_file_are_looked_at_and_the_workspace_is_not(tmp_path: Path) -> None:
    coco(tmp_path / "all.json", "1.png")
    picture(tmp_path / "1.png", 1)
    source, workspace = SourceOptions(format="coco", root=tmp_path / "all.json"), tmp_path / ".annotune"

    before = look(workspace, source)
    assert look(workspace, source) == before
    (workspace / "store" / "anything").mkdir(parents=True)
    (workspace / "store" / "anything" / "new.json").write_text("{}")
    assert look(workspace, source) == before
    picture(tmp_path / "1.png", 2)
    assert look(workspace, source).images != before.images


def test_pictures_outside_of_the_root_are_looked_at(tmp_path: Path) -> None:
    frame = "aachen/aachen_000000_000000"
    labels = tmp_path / "gtFine" / "train" / f"{frame}_gtFine_polygons.json"
    labels.parent.mkdir(parents=True)
    labels.write_text(json.dumps({"imgHeight": 16, "imgWidth": 16, "objects": []}))
    photo = tmp_path / "leftImg8bit" / "train" / f"{frame}_leftImg8bit.png"
    picture(photo, 1)
    source, workspace = SourceOptions(format="cityscapes", root=tmp_path / "gtFine"), tmp_path / "workspace"

    before = look(workspace, source)
    picture(photo, 2)
    after = look(workspace, source)
    assert (after.annotations, after.images != before.images) == (before.annotations, True)
