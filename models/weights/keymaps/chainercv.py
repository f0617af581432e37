"""ChainerCV's SSD300 and SSD512 (checked against the key lists of chainercv with chainer 7.8).

Boxes are (dy, dx, dh, dw), ours (dx, dy, dw, dh). Its background is the first class, as ours; images are RGB less the
mean, in 0..255, as torchvision's SSD takes them. Its smallest boxes are 30 pixels, ours 21: a fine-tune corrects that.
"""

from __future__ import annotations

from models.weights.classes import COCO, VOC
from models.weights.keymaps.keymap import KeyMap, Rename, vgg_stages
from models.weights.rows import SourceRows

_Y_FIRST = SourceRows(inner=(1, 0, 3, 2), unit=4)
_TENSORS = (("W", "weight"), ("b", "bias"))

CHAINERCV = KeyMap(
    name="chainercv",
    title="ChainerCV",
    signature=(r"(extractor/)?conv1_1/W",),
    renames=(
        *vgg_stages(lambda block, conv: rf"(?:extractor/)?conv{block + 1}_{conv + 1}/", "W", "b"),
        *(
            Rename(rf"(?:extractor/)?conv{number}/{theirs}", f"backbone.extra.0.7.{2 * number - 11}.{ours}")
            for number in (6, 7)
            for theirs, ours in _TENSORS
        ),
        Rename(r"(?:extractor/)?norm4/scale", "backbone.scale_weight"),
        *(
            Rename(rf"extractor/conv{number}_{conv + 1}/{theirs}", f"backbone.extra.{number - 7}.{2 * conv}.{ours}")
            for number in range(8, 13)
            for conv in range(2)
            for theirs, ours in _TENSORS
        ),
        *(
            rename
            for theirs, ours in _TENSORS
            for rename in (
                Rename(rf"multibox/conf/(\d)/{theirs}", rf"head.classification_head.module_list.\1.{ours}"),
                Rename(rf"multibox/loc/(\d)/{theirs}", rf"head.regression_head.module_list.\1.{ours}", rows=_Y_FIRST),
            )
        ),
        Rename(r"fc[678]/.+", None, reason="the classifier of another task"),
    ),
    published={20: VOC, 80: COCO},
)
