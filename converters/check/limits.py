"""The numbers that the rules go by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds of the check; the defaults are those of the tools and papers they were taken from."""

    tiny: float = 1.0  # pixels: mmdetection drops boxes under it
    aspect: float = 20.0  # long side by short side
    sigmas: float = 5.0  # standard deviations of the logarithm, as datumaro's FarFromLabelMean counts
    outlier_samples: int = 20  # boxes of a class before any of them is an outlier
    whole_image_share: float = 0.1  # of the images
    resize: tuple[int, int] = (800, 1333)  # pixels: the usual short and long side in training
    stride: float = 4.0  # pixels: the finest level of a feature pyramid
    crowded: int = 100  # objects of a class in an image: COCOeval's maxDets
    near_iou: float = 0.95
    mask_iou: float = 0.5  # of box and mask's box
    area_error: float = 0.1  # of the true area
    crowd_share: float = 0.2  # of the annotations
    crowd_images: int = 3  # with several crowds of one class
    points: int = 1000  # of a ring
    coordinate: float = 1e6  # pixels: beyond it pycocotools takes all memory or crashes
    few: int = 10  # annotations of a class
    imbalance: float = 50.0  # most frequent class by rarest
    share_ratio: float = 3.0  # a class's share in one split by its share in another
    image_side: int = 10  # pixels
    image_pixels: int = 89_478_485  # where Pillow begins to warn of a decompression bomb
    image_aspect: float = 4.0  # times the median ratio of the images
    near_bits: int = 6  # of the 128 of a difference hash
