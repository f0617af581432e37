from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask

from converters.check.masks import box_iou, crossings, decode_counts, measure, raster, runs_box
from converters.geometry import ring_box, signed_area

POINTS = st.integers(-50, 50) | st.floats(-50, 50, width=32)
RINGS = st.lists(st.tuples(POINTS, POINTS), min_size=3, max_size=20).map(lambda points: list(itertools.chain(*points)))
MASKS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1))


@given(st.lists(RINGS, max_size=6))
def test_many_rings_measure_as_each_does_alone(rings: list[list[float]]) -> None:
    areas, boxes = measure(rings)

    assert np.abs(areas).tolist() == pytest.approx([abs(signed_area(ring)) for ring in rings], abs=1e-6)
    assert boxes.tolist() == [list(map(float, ring_box(ring))) for ring in rings]


def properly_crosses(ring: list[float]) -> bool:
    """Every pair of edges, one by one."""
    points = list(zip(ring[::2], ring[1::2], strict=True))
    edges = list(zip(points, [*points[1:], points[0]], strict=True))

    def side(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
        value = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        return 0 if abs(value) < 1e-6 else math.copysign(1, value)

    return any(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
        for (a, b), (c, d) in itertools.combinations(edges, 2)
    )


@given(st.lists(RINGS, max_size=6))
def test_crossings_are_those_of_every_pair_of_edges(rings: list[list[float]]) -> None:
    assert crossings(rings).tolist() == [properly_crosses(ring) for ring in rings]


def test_a_bow_tie_crosses_and_a_ring_that_touches_itself_does_not() -> None:
    bow_tie = [0, 0, 10, 10, 10, 0, 0, 10]
    keyhole = [0, 0, 10, 0, 10, 10, 0, 10, 0, 5, 3, 5, 3, 7, 6, 7, 6, 3, 3, 3, 3, 5, 0, 5]

    assert crossings([bow_tie, keyhole, [0, 0, 1, 0, 1, 1]]).tolist() == [True, False, False]


@given(MASKS)
def test_run_lengths_decode_as_pycocotools_wrote_them(mask: np.ndarray) -> None:
    height, width = mask.shape
    rle = coco_mask.encode(np.asfortranarray(mask))

    runs = decode_counts(rle["counts"].decode(), height * width)

    assert runs is not None
    decoded = np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T
    assert (decoded == mask).all()
    if mask.any():
        x, y, w, h = coco_mask.toBbox(rle).tolist()
        assert runs_box(runs, height) == (x, y, x + w, y + h)


@pytest.mark.parametrize(
    "counts",
    ["", "é", " ", "P", "o" * 40 + "0", "0", [5, 5], [-1, 13], [3, "9"], [12.0], [True, 11], [10**30], [], ["12"]],
)
def test_counts_that_are_not_those_of_twelve_pixels_are_refused(counts: object) -> None:
    assert decode_counts(counts, 12) is None


def test_nothing_is_drawn_that_would_take_all_memory() -> None:
    zigzag = [value for at in range(40_000) for value in (at % 2 * 99_999, at / 10)]

    assert raster([zigzag], 100_000, 5_000) == (None, 0)
    assert raster([[0, 0, 5, 0, 5, 5]], math.nan, 10) == (None, 0)
    assert raster([[0, 0, 4, 0, 4, 4, 0, 4]], 10, 10)[1] == 16


def test_iou_of_boxes() -> None:
    assert box_iou((0, 0, 2, 2), (0, 0, 2, 1)) == 0.5
    assert box_iou((0, 0, 2, 2), (2, 2, 3, 3)) == 0
    assert box_iou((0, 0, 2, 2), (math.nan,) * 4) == 0
