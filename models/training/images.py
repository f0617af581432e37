"""Pictures from disk: uint8 RGB tensors of the size the annotations speak of, or a clear refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision.io  # noqa: F401 - registers torch.ops.image
from PIL import Image, ImageOps
from torch import Tensor

from models.pictures import as_rgb

RGB = 3  # torchvision.io.ImageReadMode.RGB
PIXELS = 178_956_970  # Pillow's own limit against decompression bombs


class UnreadableImageError(ValueError):
    """A picture that cannot be decoded, or whose size is not the annotated one."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Decode a picture to ``(3, H, W)`` uint8 RGB.

    JPEG and PNG go through torchvision's decoders, what those refuse through Pillow; of several in a file
    the first is taken. The picture is as its EXIF orientation shows it, which is how labelme, CVAT, Label Studio and
    LabelImg of today show it to whoever draws; as it is stored only where the annotated size says so.

    Args:
        path: the picture.
        size: ``(width, height)`` in pixels that the annotations were made for; None: the picture as it is shown.

    Raises:
        UnreadableImageError: no such file, not a picture, damaged, or of another size.
    """
    image = _decoded(path, upright=True)
    if size is not None and (image.shape[2], image.shape[1]) != size:
        image = _as_stored(path, image, size)
    return image


def _decoded(path: Path, *, upright: bool) -> Tensor:
    try:
        # The operators behind torchvision.io, whose functions only add a warning that they will move to torchcodec.
        # A torchvision without them is an AttributeError here; then Pillow reads everything.
        content = torch.ops.image.read_file(str(path))
        if upright and _is_webp_with_exif(bytes(content[:21].tolist())):
            raise RuntimeError("torchvision's decoder turns JPEG and PNG alone")
        image: Tensor = torch.ops.image.decode_image(content, RGB, upright)
    except (RuntimeError, AttributeError):
        image = _read_with_pillow(path, upright=upright)
    if image.ndim == 4:  # an animation
        image = image[0]
    if image.dtype != torch.uint8:  # 16-bit PNG
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return image


def _is_webp_with_exif(head: bytes) -> bool:
    """By the flags of the extended file header, https://developers.google.com/speed/webp/docs/riff_container."""
    return head[8:16] == b"WEBPVP8X" and bool(int.from_bytes(head[20:21]) & 0x08)


def _read_with_pillow(path: Path, *, upright: bool) -> Tensor:
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > PIXELS:
                raise UnreadableImageError(path, f"{picture.width}x{picture.height} pixels are too many to decode")
            turned = ImageOps.exif_transpose(picture) if upright else picture
            pixels = np.array(as_rgb(turned))
    except FileNotFoundError:
        raise UnreadableImageError(path, "no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(path, f"not a readable picture ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _as_stored(path: Path, shown: Tensor, size: tuple[int, int]) -> Tensor:
    """The picture without its EXIF orientation, if that has the annotated size."""
    found = (shown.shape[2], shown.shape[1])
    if found == size[::-1]:
        stored = _decoded(path, upright=False)
        if (stored.shape[2], stored.shape[1]) == size:
            return stored
    raise UnreadableImageError(path, f"is {found[0]}x{found[1]} pixels, annotated as {size[0]}x{size[1]}")
