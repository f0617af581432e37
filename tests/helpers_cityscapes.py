"""Small Cityscapes sets, painted by its rules."""

import json

import numpy as np
from PIL import Image, ImageDraw

from converters.cityscapes import read_cityscapes
from converters.cityscapes_labels import LABELS

THINGS = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]


def square(left, top, side=10):
    return [[left, top], [left + side - 1, top], [left + side - 1, top + side - 1], [left, top + side - 1]]


def obj(label, polygon, **more):
    return {"label": label, "polygon": polygon, **more}


SCENE = [
    obj("road", square(0, 0, 80)),
    obj("car", square(10, 10, 40)),
    obj("person", square(20, 20)),  # in front of the car: no part of it
    obj("license plate", square(12, 12, 3)),
    obj("cargroup", square(60, 0)),
    obj("cargroup", square(60, 20)),
    obj("car", square(0, 60), deleted=1),
    obj("bicycle", square(0, 70, 5)),
    obj("truck", square(0, 70, 8)),  # hides the bicycle altogether
    obj("caravan", square(30, 70, 6)),
    obj("polegroup", square(40, 70, 6)),
]


def write_frame(
    root, objects, name="train/aachen/aachen_000000_000019", kind="gtFine", png=True, polygons=True, size=(80, 80)
):
    path = root / kind / f"{name}_{kind}_polygons.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgWidth": size[0], "imgHeight": size[1], "objects": objects}))
    if png:
        Image.fromarray(paint(objects, size)).save(
            path.with_name(path.name.replace("polygons.json", "instanceIds.png"))
        )
    if not polygons:
        path.unlink()
    return path


def paint(objects, size):
    """The rules of json2instanceImg, written down once more and slowly."""
    numbers = {label.name: label for label in LABELS}
    counts = {}
    ids = np.zeros(size[::-1], dtype=np.uint16)
    for item in objects:
        if item.get("deleted"):
            continue
        name = item["label"]
        group = name not in numbers and name.endswith("group")
        label = numbers[name[:-5] if group else name]
        value = label.number
        if label.has_instances and not group:
            value = value * 1000 + counts.get(name, 0)
            counts[name] = counts.get(name, 0) + 1
        if value >= 0:
            canvas = Image.new("1", size)
            ImageDraw.Draw(canvas).polygon([tuple(point) for point in item["polygon"]], fill=1)
            ids[np.asarray(canvas)] = value
    return ids


def read(root, **options):
    return list(read_cityscapes(root, **options))
