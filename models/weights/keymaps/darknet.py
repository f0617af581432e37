"""Darknet, under the names that :mod:`models.weights.darknet` cuts its files into: ours."""

from models.weights.classes import COCO, VOC
from models.weights.keymaps.keymap import KeyMap, Rename

DARKNET = KeyMap(
    name="darknet",
    title="darknet (YOLOv3, darknet53.conv.74)",
    signature=(r"darknet\..+",),
    renames=(Rename(r"darknet\.(.+)", r"\1"),),
    published={80: COCO, 20: VOC},
)
