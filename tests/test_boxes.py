from hypothesis import given
from hypothesis import strategies as st

from converters import ConversionLog
from converters.boxes import fit_box

SIDE = st.integers(1, 200)
EDGE = st.floats(-300, 300)


@given(st.tuples(EDGE, EDGE, EDGE, EDGE), SIDE, SIDE, st.floats(0, 1))
def test_what_is_kept_lies_inside_and_everything_else_is_counted(
    box: tuple[float, float, float, float], width: int, height: int, share: float
) -> None:
    log = ConversionLog()
    kept = fit_box(box, width, height, log, "here", share)

    assert (kept is None) == (log.dropped.total() == 1)
    if kept is not None:
        left, top, right, bottom = kept
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert (kept == box) == (not log.notes)
        assert (left >= box[0], top >= box[1], right <= box[2], bottom <= box[3]) == (True, True, True, True)


@given(SIDE, SIDE, st.data())
def test_a_box_inside_stays_as_it_is(width: int, height: int, data: st.DataObject) -> None:
    left, right = sorted(data.draw(st.lists(st.floats(0, width), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(data.draw(st.lists(st.floats(0, height), min_size=2, max_size=2, unique=True)))
    log = ConversionLog()

    assert fit_box((left, top, right, bottom), width, height, log, "here", 1.0) == (left, top, right, bottom)
    assert not log.dropped
    assert not log.notes


@given(st.tuples(EDGE, EDGE, EDGE, EDGE), SIDE, SIDE)
def test_a_second_time_changes_nothing(box: tuple[float, float, float, float], width: int, height: int) -> None:
    kept = fit_box(box, width, height, ConversionLog(), "here")

    assert kept is None or fit_box(kept, width, height, ConversionLog(), "here", 1.0) == kept
