import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from converters.geometry import (
    box_ring,
    clip_ring,
    encode_rings,
    is_simple,
    ring_area,
    ring_box,
    segmentation_area,
    segmentation_box,
)
from converters.masks import encode_mask, read_counts, rle_area

SQUARE = (0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0)
BOW_TIE = (0.0, 0.0, 60.0, 60.0, 60.0, 0.0, 0.0, 60.0)
KEYHOLE = (10, 10, 90, 10, 90, 90, 10, 90, 10, 10, 30, 30, 30, 70, 70, 70, 70, 30, 30, 30)  # a seam to a hole
NUMBERS = st.floats(-50, 150, allow_nan=False)


@st.composite
def stars(draw, lo=1.0, hi=90.0):
    """A ring that turns once around (100, 100): simple by construction."""
    count = draw(st.integers(4, 40))
    radii = draw(st.lists(st.floats(lo, hi), min_size=count, max_size=count))
    angles = [math.tau * k / count for k in range(count)]
    return tuple(v for r, a in zip(radii, angles, strict=True) for v in (100 + r * math.cos(a), 100 + r * math.sin(a)))


@pytest.mark.parametrize(
    ("ring", "area"),
    [
        (SQUARE, 100),
        (SQUARE[::-1], 100),
        ((10, 10, 70, 10, 70, 70), 1800),  # the triangle that peers give 3600, 1861 or 1891
        (BOW_TIE, 0),
        (KEYHOLE, 80 * 80 - 40 * 40),
        ((0, 0, 1, 1), 0),
    ],
)
def test_shoelace(ring, area):
    assert ring_area(ring) == pytest.approx(area)


def test_shoelace_keeps_its_digits_far_from_the_origin():
    assert ring_area(tuple(v + 999_999 for v in (0.0, 0.0, 0.25, 0.0, 0.25, 0.25))) == 0.25 * 0.25 / 2


@pytest.mark.parametrize(
    ("segmentation", "area"),
    [
        ((SQUARE,), 100),
        ((BOW_TIE,), 1800),  # its pixels: the shoelace of the two wings cancels out
        ((KEYHOLE,), 4800),
        ((SQUARE, SQUARE), 100),  # several rings are a union
        ((SQUARE, (2, 2, 8, 2, 8, 8, 2, 8)), 100),  # and never a hole
        ((SQUARE, (20, 0, 30, 0, 30, 10, 20, 10)), 200),
        (((-50, -50, 10, -50, 10, 10, -50, 10), SQUARE), 100),  # pixels exist inside the image only
        (encode_mask(np.ones((3, 4), dtype=bool)), 12),
        ((), 0),
    ],
)
def test_segmentation_area(segmentation, area):
    assert segmentation_area(segmentation, 100, 100) == pytest.approx(area)


def test_a_ring_drawn_twice_around_counts_once():
    twice = (*SQUARE[:6], 0.0, 10.0, 0.5, 0.5, *(9.5, 0.5, 9.5, 9.5, 0.5, 9.5))

    assert ring_area(twice) > 150
    assert segmentation_area((twice,), 100, 100) <= 100


@pytest.mark.parametrize("count", [40, 2000])
def test_a_long_ring_has_its_shoelace_area_too(count):
    comb = [v for k in range(count) for v in ((k * 3, 10 + 60 * (k % 2)))]
    ring = (*comb, 3.0 * count, 400.0, -3.0, 400.0)

    assert segmentation_area((ring,), 3 * count + 10, 500) == pytest.approx(ring_area(ring))


@given(stars())
def test_shoelace_and_pixels_agree_on_simple_rings(ring):
    pixels = coco_mask.area(coco_mask.frPyObjects([list(ring)], 200, 200))[0]
    points = list(zip(ring[::2], ring[1::2], strict=True))
    perimeter = sum(map(math.dist, points, points[1:] + points[:1]))

    assert is_simple(ring)
    assert segmentation_area((ring,), 200, 200) == pytest.approx(ring_area(ring))
    assert abs(pixels - ring_area(ring)) <= perimeter


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=12))
def test_a_ring_called_simple_has_no_two_edges_that_cross(points):
    if is_simple([v for p in points for v in p]):
        edges = list(zip(points, points[1:] + points[:1], strict=True))
        assert not any(_cross(*a, *b) for i, a in enumerate(edges) for b in edges[i + 1 :])


@given(stars(5.0), st.tuples(st.integers(20, 150), st.integers(20, 150)))
def test_a_clipped_ring_covers_what_the_ring_covers_inside_the_image(ring, size):
    width, height = size
    whole = _decode(coco_mask.frPyObjects([list(ring)], 200, 200)[0])[:height, :width]
    part = clip_ring(ring, width, height)

    covered = _decode(encode_rings((part,), width, height)) if part else np.zeros_like(whole)
    assert np.count_nonzero(covered != whole) <= 4 * (width + height) * 0.1 + 10
    assert ring_area(part) <= ring_area(ring) + 1e-6
    if part:
        left, top, right, bottom = ring_box(part)
        assert min(left, top) >= 0
        assert right <= width
        assert bottom <= height


def test_a_ring_inside_is_left_as_it_is_and_one_outside_is_gone():
    assert clip_ring(SQUARE, 10, 10) == SQUARE
    assert clip_ring(SQUARE, 5, 4) == (0.0, 4.0, 0.0, 0.0, 5.0, 0.0, 5.0, 4.0)
    assert clip_ring((-30, -30, -20, -30, -20, -20), 10, 10) == ()
    assert clip_ring((-30, 0, 0, 0, 0, 10, -30, 10), 10, 10) == ()  # shares the border, covers nothing
    assert clip_ring((), 10, 10) == ()


def test_segmentation_box():
    assert segmentation_box((SQUARE, (20, 5, 30, 5, 30, 15))) == (0, 0, 30, 15)
    assert segmentation_box(encode_mask(np.eye(4, 6, 1, dtype=bool))) == (1, 0, 5, 4)
    assert ring_box(box_ring((1, 2, 3, 4))) == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="without a ring"):
        segmentation_box(())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e9, 1e308, -1e7])
@pytest.mark.parametrize("measure", [segmentation_area, encode_rings])
def test_no_wild_number_reaches_pycocotools(value, measure):
    """Each of these ends the process, or its memory, inside pycocotools."""
    with pytest.raises(ValueError, match="not a number of pixels"):
        measure((SQUARE, (0, 0, value, 5, 5, 5)), 10, 10)
    with pytest.raises(ValueError, match="not a number of pixels"):
        segmentation_box(((0, 0, 5, 5, value, 5),))


@pytest.mark.parametrize("ring", [(), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6, 7)])
def test_a_short_or_odd_ring_is_refused(ring):
    with pytest.raises(ValueError, match="at least 3 points"):
        segmentation_area((ring,), 10, 10)


def test_an_outline_too_long_to_draw_is_refused():
    zigzag = tuple(v for k in range(2000) for v in (k % 2 * 40_000, k))

    with pytest.raises(ValueError, match="too long to draw"):
        encode_rings((zigzag,), 40_000, 40_000)


def test_what_lies_outside_is_cut_off_before_it_is_drawn():
    assert rle_area(encode_rings(((-1e6, -1e6, 1e6, -1e6, 1e6, 1e6, -1e6, 1e6),), 10, 5)) == 50
    assert rle_area(encode_rings(((20, 20, 30, 20, 30, 30),), 10, 5)) == 0


def _decode(rle):
    height, width = rle["size"]
    counts = read_counts(rle["counts"])
    return np.repeat(np.arange(len(counts)) % 2, counts).reshape(width, height).T


def _cross(a, b, c, d):
    def side(p, q, r):
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    tiny = 1e-9
    return side(a, b, c) * side(a, b, d) < -tiny and side(c, d, a) * side(c, d, b) < -tiny
