"""Annotations in, COCO out: plain Python without torch or Prefect."""

from converters.coco import merge_coco, to_coco, write_coco
from converters.coco_source import read_coco
from converters.errors import AnnotationError, DatasetError
from converters.fingerprint import Fingerprint, fingerprint
from converters.formats import FORMATS, Conversion, Format, convert
from converters.kitti import read_kitti
from converters.labelme import read_labelme
from converters.records import ConversionLog, ImageRecord, Instance
from converters.splits import split_by_hash
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
    "fingerprint",
    "merge_coco",
    "read_coco",
    "read_kitti",
    "read_labelme",
    "read_voc",
    "read_widerface",
    "read_yolo",
    "split_by_hash",
    "to_coco",
    "write_coco",
]
