"""Small labelme files."""

import base64
import io
import json

from PIL import Image

from converters.labelme import read_labelme

TRIANGLE = [[10, 10], [70, 10], [70, 70]]


def shape(label="cat", points=TRIANGLE, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def png(array):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def bitmap(array, left, top, **more):
    height, width = array.shape
    return shape(points=[[left, top], [left + width - 1, top + height - 1]], kind="mask", mask=png(array), **more)


def write(root, *shapes, name="a.json", image_path="a.jpg", size=(100, 80), image=False, **more):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image_path, "imageData": None}
    if size:
        data |= {"imageWidth": size[0], "imageHeight": size[1]}
    path.write_text(json.dumps(data | more))
    if image:
        save_image(path.with_suffix(".jpg"), size)
    return path


def save_image(path, size=(100, 80), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **options)


def read(root, **options):
    return list(read_labelme(root, **options))


def instances(root, *shapes, log=None, size=(100, 80), **options):
    write(root, *shapes, size=size)
    (record,) = read(root, log=log, **options)
    return record.instances
