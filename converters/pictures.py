"""What the header of an image file says, without decoding a pixel."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

from converters.errors import AnnotationError
from converters.records import ConversionLog, ImageRecord

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif", ".jp2",
})  # fmt: skip

_EXIF_ORIENTATION = 274  # TIFF tag 0x0112; 5..8 swap width and height


class PictureSize(NamedTuple):
    """Size of an image as viewers show it, in pixels."""

    width: int
    height: int
    turned: bool  # EXIF swaps the sides: the stored array is (width, height) high and wide


def picture_size(path: Path | str) -> PictureSize:
    """Read the size of an image from its header, after the EXIF orientation.

    Raises:
        AnnotationError: the file is no image that Pillow knows, or cannot be opened.
    """
    from PIL import Image  # noqa: PLC0415 (what finds its sizes elsewhere does not wait for it)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # huge or slightly broken pictures: only the header is of interest
            with Image.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(_EXIF_ORIENTATION, 1) in {5, 6, 7, 8}
    except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, Image.DecompressionBombError) as error:
        # Pillow's plugins raise all of these on hostile headers.
        raise AnnotationError(path, f"not a readable image: {error}", "Replace the image or leave it out") from error
    return PictureSize(height, width, True) if turned else PictureSize(width, height, False)


def record_without_objects(images: Path, image: str, log: ConversionLog) -> ImageRecord:
    """Return the record of an image that no annotation file describes.

    Args:
        images: the image root.
        image: the image's name in it.
        log: takes the remark.

    Raises:
        AnnotationError: the image cannot be measured.
    """
    path = images / image
    width, height, _ = picture_size(path)
    log.note("image without annotation file: no objects", image)
    return ImageRecord(image, width, height, source=str(path))
