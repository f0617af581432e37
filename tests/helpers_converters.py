"""Small datasets for the tests of the converters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from converters import ImageRecord, read_voc


def real(name: str) -> Path:
    """A folder of the real data, or a skip that says what is missing."""
    root = os.environ.get("ANNOTUNE_DATA")
    if not root:
        pytest.skip("ANNOTUNE_DATA does not name the folder with the real data sets")
    path = Path(root) / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def voc_object(name: str = "cat", box: tuple[Any, ...] | None = (10, 20, 30, 50), extra: str = "") -> str:
    """An <object> as LabelImg writes it."""
    corners = ""
    if box is not None:
        tags = ("xmin", "ymin", "xmax", "ymax")
        corners = f"<bndbox>{''.join(f'<{t}>{v}</{t}>' for t, v in zip(tags, box, strict=True))}</bndbox>"
    return f"<object><name>{name}</name>{extra}{corners}</object>"


def voc_xml(
    *objects: str, size: tuple[Any, Any] | None = (100, 80), filename: str = "a.jpg", database: str = ""
) -> str:
    """A VOC file around some objects."""
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    source = f"<source><database>{database}</database></source>" if database else ""
    return f"<annotation><filename>{filename}</filename>{source}{stated}{''.join(objects)}</annotation>"


def write_voc(folder: Path, name: str, text: str | bytes) -> Path:
    """Write one XML file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.xml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read_one(root: Path, text: str | bytes, **options: object) -> ImageRecord:
    """The record of a VOC set of this one file."""
    write_voc(root, "a", text)
    (record,) = read_voc(root, **options)  # type: ignore[arg-type]
    return record


def evaluated(truth: COCO, results: list[dict[str, Any]], kind: str = "bbox") -> Any:
    """COCO's twelve figures for these results, AP first."""
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


def photo(path: Path, size: tuple[int, int] = (100, 80), orientation: int = 1) -> Path:
    """Write an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (120, 90, 60))
    image.getexif()[274] = orientation
    image.save(path, exif=image.getexif())
    return path
