"""Making millions of dicts without paying for them over and over."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collection() -> Iterator[None]:
    """Pause Python's cycle collector: annotations hold no cycles, and it would walk all of them each time they grow."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            # Straight to the oldest generation: else the first allocation from here on walks all that was made.
            gc.freeze()
            gc.unfreeze()
            gc.enable()
