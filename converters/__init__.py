"""Annotations in, COCO out: plain Python without torch or Prefect.

The readers are imported when they are used, so that what reads VOC does not wait for NumPy.
"""

from typing import TYPE_CHECKING, Any

from converters.coco import merge_coco, to_coco, write_coco
from converters.crops import crop_boxes
from converters.errors import AnnotationError, DatasetError
from converters.fingerprint import Fingerprint, fingerprint
from converters.formats import FORMATS, Conversion, Format, convert
from converters.records import ConversionLog, ImageRecord, Instance
from converters.splits import split_by_hash

if TYPE_CHECKING:
    from converters.cityscapes import read_cityscapes
    from converters.coco_source import read_coco
    from converters.imagefolder import read_imagefolder
    from converters.imagelist import read_imagelist
    from converters.kitti import read_kitti
    from converters.labelme import read_labelme
    from converters.voc import read_voc
    from converters.widerface import read_widerface
    from converters.yolo import read_yolo

__all__ = [
    "FORMATS",
    "AnnotationError",
    "Conversion",
    "ConversionLog",
    "DatasetError",
    "Fingerprint",
    "Format",
    "ImageRecord",
    "Instance",
    "convert",
    "crop_boxes",
    "fingerprint",
    "merge_coco",
    "read_cityscapes",
    "read_coco",
    "read_imagefolder",
    "read_imagelist",
    "read_kitti",
    "read_labelme",
    "read_voc",
    "read_widerface",
    "read_yolo",
    "split_by_hash",
    "to_coco",
    "write_coco",
]


def __getattr__(name: str) -> Any:
    """Import a reader from its module."""
    if name not in __all__ or not name.startswith("read_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = FORMATS[name.removeprefix("read_")].read
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
