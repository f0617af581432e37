"""Pixel for pixel what labelme paints: against Pillow on a whole canvas, and against labelme itself where installed."""

import base64
import contextlib
import importlib
import inspect
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from converters.coco import to_coco
from converters.errors import AnnotationError
from converters.geometry import ring_box
from converters.labelme import read_labelme
from converters.labelme_shapes import cover
from converters.masks import encode_mask

SIZE = (60, 50)
XY = st.floats(-70, 120, allow_nan=False).map(lambda v: round(v, 2)) | st.integers(-70, 120)
POINT = st.tuples(XY, XY)
SHAPES = st.one_of(
    st.tuples(st.just("circle"), st.lists(POINT, min_size=2, max_size=2)),
    st.tuples(st.just("line"), st.lists(POINT, min_size=2, max_size=2)),
    st.tuples(st.just("linestrip"), st.lists(POINT, min_size=2, max_size=6)),
    st.tuples(st.just("point"), st.lists(POINT, min_size=1, max_size=1)),
)


def ours(kind, points, mask=None):
    flat = tuple(float(v) for point in points for v in point)
    return cover(kind, flat, ring_box(flat), {"mask": mask}, *SIZE) or encode_mask(np.zeros(SIZE[::-1]))


@settings(max_examples=200, deadline=None)
@given(SHAPES)
def test_a_part_of_the_canvas_gives_the_same_pixels_as_all_of_it(shape):
    kind, points = shape
    canvas = Image.new("L", SIZE)
    draw = ImageDraw.Draw(canvas)
    if kind == "circle":
        (a, b), (c, d) = points
        r = ((a - c) ** 2 + (b - d) ** 2) ** 0.5
        if r:
            draw.ellipse((a - r, b - r, a + r, b + r), fill=1, outline=1)
    elif kind == "point":
        ((a, b),) = points
        draw.ellipse((a - 5, b - 5, a + 5, b + 5), fill=1, outline=1)
    else:
        draw.line(points, fill=1, width=10, joint="curve" if kind == "linestrip" else None)

    assert ours(kind, points) == encode_mask(np.asarray(canvas))


def _labelme_painter():
    for module in ("labelme.utils.shape", "labelme._utils.shape"):  # to version 6, and from 7
        with contextlib.suppress(ImportError):
            return importlib.import_module(module).shape_to_mask
    pytest.skip("labelme is not installed: pip install annotune[labelme]")


@settings(max_examples=300, deadline=None)
@given(SHAPES)
def test_labelme_paints_the_same(shape):
    pytest.importorskip(
        "labelme", reason="labelme is not installed: pip install annotune[labelme]", exc_type=ImportError
    )
    painter = pytest.importorskip("labelme.utils.shape", exc_type=ImportError).shape_to_mask
    kind, points = shape
    if kind == "linestrip" and "curve" not in inspect.getsource(painter):
        return  # versions before 7 leave notches between the segments
    if kind == "circle" and points[0] == points[1]:
        return  # a circle of radius 0 is one pixel to labelme, and no object to us

    assert ours(kind, points) == encode_mask(painter(SIZE[::-1], [list(p) for p in points], kind))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(-3, 55), st.integers(-3, 45), st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False)
)
def test_bitmaps_are_pasted_as_numpy_would(left, top, width, height, random):
    patch = np.array([[random.random() < 0.5 for _ in range(width)] for _ in range(height)])
    data = io.BytesIO()
    Image.fromarray(patch).save(data, "PNG")
    whole = np.zeros((SIZE[1] + 40, SIZE[0] + 40), dtype=bool)
    whole[20 + top : 20 + top + height, 20 + left : 20 + left + width] = patch
    bounds = [(left, top), (left + width - 1, top + height - 1)]

    found = ours("mask", bounds, base64.b64encode(data.getvalue()).decode())
    assert found == encode_mask(whole[20:-20, 20:-20])


KEYS = (
    "shapes", "imagePath", "imageData", "imageWidth", "imageHeight",
    "label", "points", "shape_type", "group_id", "mask", "flags",
)  # fmt: skip
KINDS = (
    "polygon", "rectangle", "oriented_rectangle", "circle", "mask",
    "line", "linestrip", "point", "points", None, "x",
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_whatever_json_there_is_ends_in_records_or_in_one_kind_of_error(tmp_path_factory, value):
    _survives(tmp_path_factory.mktemp("fuzz"), value)


JSON_POINT = st.lists(st.floats(width=32) | st.integers(-(10**12), 10**12), min_size=1, max_size=3)
FUZZ_SHAPE = st.fixed_dictionaries({
    "label": st.sampled_from(["a", "b", "", "__ignore__", "a-1"]) | st.none(),
    "points": st.lists(st.tuples(XY, XY) | JSON_POINT, max_size=6) | st.none(),
    "shape_type": st.sampled_from(KINDS),
    "group_id": st.none() | st.integers(0, 2),
    "mask": st.none() | st.text(max_size=8) | st.binary(max_size=30).map(lambda b: base64.b64encode(b).decode()),
})  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(FUZZ_SHAPE, max_size=5), st.sampled_from([60, 1, 0, -3, None, 1e9, "60"]))
def test_whatever_shapes_there_are_end_in_sound_records_or_in_one_kind_of_error(tmp_path_factory, shapes, width):
    _survives(
        tmp_path_factory.mktemp("fuzz"),
        {"imagePath": "a.jpg", "imageWidth": width, "imageHeight": 50, "shapes": shapes},
    )


def _survives(folder, value):
    (folder / "a.json").write_text(json.dumps(value))
    for options in ({}, {"strokes": True, "numbered_labels": True, "rectangles": "box"}):
        try:
            records = list(read_labelme(folder, **options))
        except AnnotationError:
            continue
        coco = to_coco(records)
        for annotation in coco["annotations"]:
            (image,) = coco["images"]
            left, top, width, height = annotation["bbox"]
            assert 0 <= left < left + width <= image["width"]
            assert 0 <= top < top + height <= image["height"]
            assert 0 < annotation["area"] <= image["width"] * image["height"]
