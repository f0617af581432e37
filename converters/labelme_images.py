"""The image that lies inside a labelme file: its size, and getting it out."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from converters.errors import AnnotationError
from converters.files import write_whole

_SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif", "GIF": ".gif", "PPM": ".ppm"}
_OPENED = (*_SUFFIX, "MPO")  # MPO: what Pillow calls a JPEG with a preview behind it


@dataclass(frozen=True)
class EmbeddedImage:
    """The image in ``imageData``; its size in pixels after the EXIF orientation."""

    data: bytes
    suffix: str
    width: int
    height: int


def embedded_image(path: str, image_data: Any) -> EmbeddedImage | None:
    """Return the image that lies in an annotation file, its header read and no pixel decoded; ``None`` without one.

    Raises:
        AnnotationError: it is no image in base64.
    """
    if not image_data:
        return None
    try:
        data = base64.b64decode(image_data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # huge or slightly broken pictures: only the header is of interest
            with Image.open(io.BytesIO(data), formats=_OPENED) as image:
                width, height = image.size
                turned = image.getexif().get(274, 1) in {5, 6, 7, 8}  # EXIF orientation
                kind = image.format or ""
    except (OSError, ValueError, TypeError, SyntaxError, ArithmeticError, LookupError, binascii.Error) as error:
        raise AnnotationError(path, f"imageData is no image in base64: {error}", "Set it to null") from error
    except Image.DecompressionBombError as error:
        raise AnnotationError(path, f"imageData: {error}", "Set it to null") from error
    suffix = _SUFFIX.get(kind, ".jpg")
    return EmbeddedImage(data, suffix, height, width) if turned else EmbeddedImage(data, suffix, width, height)


def write_image(image: EmbeddedImage, target: Path, path: str) -> None:
    """Write an embedded image under its final name, unless it is there already.

    Raises:
        AnnotationError: a different file has that name.
    """
    if target.exists():
        if target.read_bytes() != image.data:
            raise AnnotationError(path, f"{target} exists and is another image", "Choose an empty folder")
        return
    write_whole(target, lambda file: file.write(image.data))
