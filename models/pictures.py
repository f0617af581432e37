"""Pictures of Pillow's as eight bits of red, green and blue, whatever depth they were stored in."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of sixteen bits a pixel


def as_rgb(picture: Image.Image) -> Image.Image:
    """The picture in RGB. Of sixteen bits the upper eight are taken, where Pillow's own conversion makes most white.

    Raises:
        ValueError: pixels of 32 bits that go beyond 0..255, which nobody can know the white of.
    """
    if picture.mode in SIXTEEN:
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        pixels = np.asarray(picture)
        low, high = float(pixels.min()), float(pixels.max())
        if not 0 <= low <= high <= 255:
            raise ValueError(f"32-bit pixels from {low:g} to {high:g}; convert it to 8 or 16 bits")
    return picture.convert("RGB")
