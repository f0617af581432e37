import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from converters.masks import (
    encode_instances,
    encode_mask,
    encode_patch,
    read_counts,
    rle_area,
    rle_box,
    unite,
)

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))
MASKS = arrays(bool, SIDES)


def peer(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


@given(MASKS, st.integers(1, 60))
def test_a_mask_is_encoded_bit_for_bit_as_pycocotools_does(mask, scale):
    mask = np.repeat(mask, scale, axis=0)  # long runs take several characters each

    assert encode_mask(mask) == peer(mask)


@given(arrays(np.uint16, SIDES, elements=st.sampled_from([0, 7, 24000, 24001, 33000])))
def test_every_instance_of_a_map_is_encoded_as_pycocotools_does_it_alone(ids):
    rles = encode_instances(ids)

    assert list(rles) == sorted(set(ids.flat))
    assert all(rle == peer(ids == name) for name, rle in rles.items())


@given(arrays(np.int32, SIDES, elements=st.integers(-1, 4)), st.sets(st.integers(-1, 6)))
def test_only_the_wanted_instances_of_a_map(ids, wanted):
    assert list(encode_instances(ids, wanted)) == sorted(set(ids.flat) & wanted)


@given(MASKS, st.integers(-12, 20), st.integers(-12, 20), st.integers(1, 16), st.integers(1, 16))
def test_a_patch_is_pasted_and_cut_at_the_border(patch, left, top, width, height):
    canvas = np.zeros((height + 40, width + 40), dtype=bool)
    canvas[20 + top : 20 + top + patch.shape[0], 20 + left : 20 + left + patch.shape[1]] = patch[
        : canvas.shape[0], : canvas.shape[1]
    ][: max(0, height + 20 - top), : max(0, width + 20 - left)]

    assert encode_patch(patch, left, top, width, height) == peer(canvas[20:-20, 20:-20])


@given(MASKS)
def test_box_area_and_counts_of_run_lengths(mask):
    rle = encode_mask(mask)
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if mask.any() else (0, 0, 0, 0)

    assert rle_area(rle) == mask.sum()
    assert rle_box(rle) == box
    counts = read_counts(rle["counts"])
    assert counts.sum() == mask.size
    assert counts[1::2].sum() == mask.sum()


@given(arrays(bool, (2, 6, 5)))
def test_union(pair):
    assert unite([encode_mask(mask) for mask in pair]) == peer(pair.any(axis=0))


def test_a_patch_is_worth_its_own_size_only():
    rle = encode_patch(np.ones((2, 3), dtype=bool), 40_000, 40_000, 46_000, 46_000)  # 2.1e9 pixels, never allocated

    assert rle_area(rle) == 6
    assert rle_box(rle) == (40_000, 40_000, 40_003, 40_002)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: encode_mask(np.zeros(3)), "two dimensions, not 1"),
        (lambda: encode_mask(np.zeros((3, 3, 3))), "two dimensions, not 3"),
        (lambda: encode_mask(np.zeros((0, 3))), "3 x 0 has no pixels"),
        (lambda: encode_instances(np.zeros(3, dtype=int)), "two dimensions, not 1"),
        (lambda: encode_instances(np.zeros((3, 0), dtype=int)), "0 x 3 has no pixels"),
        (lambda: encode_patch(np.ones((1, 1)), 0, 0, 1 << 20, 1 << 20), "more pixels than"),
        (lambda: read_counts("R"), "not the run lengths"),
        (lambda: read_counts("0 0"), "not the run lengths"),
        (lambda: read_counts("0é"), "not the run lengths"),
        (lambda: read_counts("o" * 40 + "0"), "not the run lengths"),
        (lambda: read_counts("o" * 10**6 + "0"), "not the run lengths"),
    ],
)
def test_what_is_no_mask_is_refused(call, problem):
    with pytest.raises(ValueError, match=problem):
        call()
