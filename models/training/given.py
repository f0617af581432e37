"""Somebody's detections: COCO results of any program, brought to the ids of the truth they are scored against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.training.scores import Result

FORM = "Each detection needs image_id, category_id, bbox [x, y, width, height] or segmentation, and score"


class NotInTruthError(ValueError):
    """A picture or class that the truth does not have, or has twice, or a mask of another size."""


def read_results(path: Path, truth: dict[str, Any]) -> list[Result]:
    """Read detections in COCO's results format.

    ``file_name`` and ``category``, which `annotune predict` writes beside the ids, win over them: its pictures are
    numbered by themselves. A mask without a box (PaddleDetection's ``mask.json``) gets the box around it.

    Args:
        path: a JSON list of detections.
        truth: from :func:`models.training.scores.complete_truth`.

    Raises:
        ValueError: naming the detection: a field is absent or no number, a mask is none or of another size, or picture
            or class are not in the truth, or are there twice.
    """
    try:
        rows = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: not COCO results, which are a list. {FORM}")
    known = _Known(truth)
    results = []
    for number, row in enumerate(rows, 1):
        try:
            results.append(_result(row, known))
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            told = str(error) if isinstance(error, NotInTruthError) else FORM
            raise ValueError(f"{path}: detection {number}: {orjson.dumps(row).decode()[:200]}: {told}") from error
    return results


class _Known:
    """The truth's ids, by themselves and by name."""

    def __init__(self, truth: dict[str, Any]) -> None:
        self.sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
        self.pictures = {image["id"]: image["id"] for image in truth["images"]}
        self.picture_names = _by_name(truth["images"])
        self.classes = {category["id"]: category["id"] for category in truth["categories"]}
        self.class_names = {category["name"]: category["id"] for category in truth["categories"]}

    def picture(self, row: dict[str, Any]) -> int:
        if "file_name" in row:
            return _known("picture", row["file_name"], self.picture_names)
        return _known("picture", row["image_id"], self.pictures)

    def category(self, row: dict[str, Any]) -> int:
        if "category" in row:
            return _known("class", row["category"], self.class_names)
        return _known("class", row["category_id"], self.classes)


def _by_name(images: list[dict[str, Any]]) -> dict[str, int | None]:
    """The ids of images by file name; None where several have it."""
    ids: dict[str, int | None] = {}
    for image in images:
        ids[image["file_name"]] = None if image["file_name"] in ids else image["id"]
    return ids


def _known(what: str, key: Any, ids: Mapping[Any, int | None]) -> int:
    if key not in ids:
        some = ", ".join(repr(other) for other in list(ids)[:3])
        raise NotInTruthError(
            f"the truth has no {what} {key!r}; it has {some or 'none'}. Give the truth of these pictures"
        )
    if (found := ids[key]) is None:
        raise NotInTruthError(f"the truth has {what} {key!r} more than once. Name each once, or write ids alone")
    return found


def _result(row: Any, known: _Known) -> Result:
    picture = known.picture(row)
    mask = row.get("segmentation")
    around = _box_of(mask, known.sizes[picture]) if mask else ()
    x, y, width, height, score = (float(value) for value in (*(row.get("bbox") or around), row["score"]))
    if not all(map(math.isfinite, (x, y, width, height, score))) or min(width, height) < 0:
        raise ValueError
    found = {"image_id": picture, "category_id": known.category(row), "bbox": [x, y, width, height], "score": score}
    return {**found, "segmentation": mask} if mask else found


def _box_of(mask: Any, size: tuple[int, int]) -> list[float]:
    """The box (x, y, width, height) around run lengths or rings, once they are ones that a program in C may draw."""
    height, width = size
    if not isinstance(mask, dict):
        points = np.array([value for ring in mask for value in ring], np.float64).reshape(-1, 2)
        if min(map(len, mask)) < 6 or (np.abs(points) > 2 * max(size)).any() or np.isnan(points).any():
            raise ValueError
        return [*points.min(0).tolist(), *np.ptp(points, 0).tolist()]
    if mask["size"] != [height, width]:
        raise NotInTruthError(f"its mask is of size {mask['size']}, the picture of [{height}, {width}]")
    counts = mask["counts"]
    runs = np.array(counts, np.int64) if isinstance(counts, list) else _runs(counts.encode())
    area = height * width
    if ((runs < 0) | (runs > area)).any() or runs.sum() != area:
        raise ValueError
    ends = runs.cumsum()  # by ourselves: of a run of length 0 pycocotools' toBbox makes a box of four billion pixels
    first, last = ends[:-1:2], ends[1::2] - 1  # of each run of the mask, counted down the columns
    first, last = first[: len(last)][runs[1::2] > 0], last[runs[1::2] > 0]
    if not len(first):
        return [0.0, 0.0, 0.0, 0.0]
    left, right = first[0] // height, last[-1] // height
    spans = (first // height != last // height).any()  # over the foot of a column: it touches both edges
    top, bottom = (0, height - 1) if spans else ((first % height).min(), (last % height).max())
    return [float(left), float(top), float(right - left + 1), float(bottom - top + 1)]


def _runs(text: bytes) -> NDArray[np.int64]:
    """The counts of COCO's compressed run lengths: five bits a letter, from the third on as differences to two before.

    Raises:
        ValueError: no such text.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError
    starts = np.flatnonzero(np.append(True, codes[:-1] & 32 == 0))
    ends = np.append(starts[1:], len(codes))
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts)
    if place.max() > 6:
        raise ValueError
    values = np.add.reduceat((codes & 31) << 5 * place, starts)
    values -= np.where(codes[ends - 1] & 16, 1 << 5 * (ends - starts), 0)
    for start in (1, 2):
        values[start::2] = values[start::2].cumsum()
    return values
