"""VOC's outlines: polygons in the XML, and the segmentation images beside it.

``SegmentationObject/<stem>.png`` holds palette indices: 0 background, 255 void (borders and what is too hard), k the
k-th object; ``SegmentationClass/<stem>.png`` holds the class of each pixel in the order of :data:`VOC_CLASSES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from converters.errors import AnnotationError
from converters.geometry import clip_ring, polygon_area, ring_box
from converters.masks import encode_instances, rle_area, rle_box
from converters.records import Box, ConversionLog, ImageRecord, Instance, Polygons, Rle

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Pixel value 1 is the first (VOC2012 devkit, section 3.2)."""

_VOID = 255
_SAME = 0.5  # IoU from which a mask's box is an object's box


def ring_edges(
    ring: Sequence[float], devkit: bool, width: int, height: int
) -> tuple[Box, Polygons | None, float | None]:
    """Return the box of a ring, the part of the ring inside the image, and the area of that; 0 where it encloses none.

    ``devkit`` corners count from 1.
    """
    if devkit:
        ring = [value - 1 for value in ring]
    box = left, top, right, bottom = ring_box(ring)
    inside = left >= 0 and top >= 0 and right <= width and bottom <= height
    part = tuple(ring) if inside else clip_ring(ring, width, height)
    if not part:
        return box, None, None
    area = polygon_area(part, width, height)
    return box, (part,) if area > 0 else None, area


def add_masks(record: ImageRecord, xml: str, complete: bool, log: ConversionLog) -> ImageRecord:
    """Return the record with the masks of ``SegmentationObject`` in it, boxes and areas taken from them.

    A mask belongs to the object of its number if their boxes agree, otherwise to the one it overlaps best. A mask
    without an object gets its class from ``SegmentationClass``, if the record holds every object of its file.

    Args:
        record: the image as its XML describes it.
        xml: path of the XML file; the folders of the PNGs lie beside its folder.
        complete: no object of the file was left out.
        log: takes the masks that were left out.

    Raises:
        AnnotationError: a PNG holds no indices, or has another size than the image.
    """
    folder, stem = Path(xml).parent.parent, Path(xml).stem
    path = folder / "SegmentationObject" / f"{stem}.png"
    if not path.is_file():
        return record
    pixels = _indices(path, record)
    masks = {k: rle for k, rle in encode_instances(pixels).items() if k not in {0, _VOID}}
    instances = list(record.instances)
    free = set(range(len(instances)))
    for k, rle in sorted(masks.items()):
        owner = _owner(k, rle_box(rle), instances, free)
        if owner is not None:
            free.discard(owner)
            instances[owner] = _outlined(instances[owner], rle)
        elif complete and (category := _majority(folder, stem, pixels == k, record)):
            instances.append(_outlined(Instance(category, rle_box(rle)), rle))
        else:
            log.drop("mask without an object", f"{path}, index {k}")
    return record._replace(instances=tuple(instances))


def _outlined(instance: Instance, rle: Rle) -> Instance:
    return instance._replace(box=rle_box(rle), segmentation=rle, area=float(rle_area(rle)))


def _owner(k: int, box: Box, instances: list[Instance], free: set[int]) -> int | None:
    if k - 1 in free and _iou(box, instances[k - 1].box) >= _SAME:
        return k - 1
    best = max(sorted(free), key=lambda i: _iou(box, instances[i].box), default=None)
    return best if best is not None and _iou(box, instances[best].box) >= _SAME else None


def _iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _majority(folder: Path, stem: str, mask: NDArray[np.bool_], record: ImageRecord) -> str | None:
    """The class most pixels under the mask have, or ``None`` where they have none."""
    path = folder / "SegmentationClass" / f"{stem}.png"
    if not path.is_file():
        return None
    counts = Counter(_indices(path, record)[mask].tolist())
    known = [(count, -value) for value, count in counts.items() if 1 <= value <= len(VOC_CLASSES)]
    return VOC_CLASSES[-max(known)[1] - 1] if known else None


def _indices(path: Path, record: ImageRecord) -> NDArray[Any]:
    """Indices ``(H, W)`` of a palette PNG, or of one that a program has saved in the palette's colours."""
    try:
        with Image.open(path) as image:
            if image.mode not in {"P", "L", "RGB"} or image.size != (record.width, record.height):
                width, height = image.size
                raise AnnotationError(
                    path,
                    f"is a {width}x{height} image of mode {image.mode}, not {record.width}x{record.height} indices",
                    "SegmentationObject wants palette images of the photo's size",
                )
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(path, f"not a readable image: {error}") from error
    return pixels if pixels.ndim == 2 else _from_colours(pixels, path)


def _from_colours(pixels: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Indices of pixels ``(H, W, 3)`` in the colours of VOC's palette."""
    # Bit 3k of an index is a high bit of red, bit 3k + 1 of green, bit 3k + 2 of blue (VOCcolormap.m of the devkit).
    codes = np.array([
        sum(((index >> (3 * k + channel)) & 1) << (7 - k + 16 - 8 * channel) for k in range(3) for channel in range(3))
        for index in range(256)
    ])  # fmt: skip
    order = np.argsort(codes)
    wide = pixels.astype(np.int64)
    found = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    places = np.searchsorted(codes[order], found).clip(max=255)
    indices = order[places]
    if not np.array_equal(codes[indices], found):
        raise AnnotationError(path, "has colours that are not in VOC's palette", "Save it with its palette indices")
    result: NDArray[np.uint8] = indices.astype(np.uint8)
    return result
