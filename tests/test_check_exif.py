"""Photos that EXIF turns: what the check says about them, and what their boxes are drawn on."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from helpers_check import dataset, picture
from PIL import Image

from converters.check import find_problems, repair_policy, write_page


def turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(path, 0, exif=exif)


def test_a_photo_turned_by_half_is_named_with_how_it_is_taken(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    turned(tmp_path / "train_0.jpg", 3)

    (problem,) = find_problems(splits, tmp_path).problems

    assert (problem.file, problem.value) == ("train_0.jpg", "EXIF orientation 3")
    assert "its size is the same either way, so training takes the boxes as drawn on what is shown" in problem.message
    assert "bake the rotation into the pixels" in problem.remedy


def test_the_size_of_a_turned_photo_stays_as_annotated_unless_its_boxes_tell_otherwise(tmp_path: Path) -> None:
    splits = dataset(tmp_path)
    train = splits["train"]
    turned(tmp_path / "train_0.jpg", 6)  # stored 64x48, shown 48x64
    first, *others = [row for row in train["annotations"] if row["image_id"] == train["images"][0]["id"]]
    train["annotations"] = [row for row in train["annotations"] if row not in others]  # it fits both ways

    drawn_as_stored = find_problems(splits, tmp_path, policy=repair_policy())
    x, y, w, h = first["bbox"] = [4, 50, 10, 8]
    first |= {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
    drawn_as_shown = find_problems(splits, tmp_path, policy=repair_policy())

    (problem,) = drawn_as_stored.problems
    assert problem.rule == "image-exif"
    assert "training takes the boxes as drawn on those" in problem.message
    assert drawn_as_stored.splits["train"]["images"][0] == train["images"][0]
    assert drawn_as_shown.repaired == {"image-size-differs": 1}
    assert [drawn_as_shown.splits["train"]["images"][0][side] for side in ("width", "height")] == [48, 64]
    for report, size in ((drawn_as_stored, (64, 48)), (drawn_as_shown, (48, 64))):
        write_page(report, tmp_path / "page.html", tmp_path)
        uri = re.findall(r'<image href="data:image/jpeg;base64,([^"]+)', (tmp_path / "page.html").read_text())[0]
        with Image.open(io.BytesIO(base64.b64decode(uri))) as embedded:
            assert embedded.size == size
