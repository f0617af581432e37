"""What of a box lies inside its image, with the account of the rest."""

from __future__ import annotations

from converters.records import Box, ConversionLog


def fit_box(
    box: Box, width: int, height: int, log: ConversionLog, where: str, min_visibility: float = 0.0
) -> Box | None:
    """Return the part of a box inside the image, or ``None``, counted, where there is too little of it.

    Args:
        box: finite corners.
        width: of the image, in pixels.
        height: of the image, in pixels.
        log: counts what is dropped or clipped.
        where: file and object, for the log.
        min_visibility: the share of the box, 0..1, that must lie inside.
    """
    left, top, right, bottom = box
    if 0 <= left < right <= width and 0 <= top < bottom <= height:
        return box
    if left >= right or top >= bottom:
        log.drop("no width or no height", where)
        return None
    inside = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        log.drop("outside the image", where)
        return None
    visible = (inside[2] - inside[0]) * (inside[3] - inside[1])
    if visible < 1:
        log.drop("less than a pixel inside the image", where)
        return None
    if visible < min_visibility * (right - left) * (bottom - top):
        log.drop("too little inside the image", where)
        return None
    log.note("box clipped to the image", where)
    return inside
