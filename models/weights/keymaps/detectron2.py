"""detectron2 (checked against the key lists of its models).

Its background is the last class, and its box and mask rows have none; a RetinaNet's anchors go by size before aspect
ratio, torchvision's by aspect ratio before size.
"""

from __future__ import annotations

from models.weights.classes import COCO, VOC
from models.weights.keymaps.keymap import KeyMap, Rename
from models.weights.rows import SourceRows

_LAST = SourceRows(background="last")
_NONE = SourceRows(background="none")
_WB = r"(weight|bias)"
_BY_RATIO = tuple(3 * size + ratio for ratio in range(3) for size in range(3))  # our anchor -> theirs
_BODY = r"backbone\.(?:bottom_up\.)?"

_BACKBONE = (
    Rename(rf"{_BODY}stem\.conv1\.weight", "backbone.body.conv1.weight"),
    Rename(rf"{_BODY}stem\.conv1\.norm\.(.+)", r"backbone.body.bn1.\1"),
    *(
        rename
        for stage in range(2, 6)
        for rename in (
            Rename(rf"{_BODY}res{stage}\.(\d+)\.(conv\d)\.weight", rf"backbone.body.layer{stage - 1}.\1.\2.weight"),
            Rename(rf"{_BODY}res{stage}\.(\d+)\.conv(\d)\.norm\.(.+)", rf"backbone.body.layer{stage - 1}.\1.bn\2.\3"),
            Rename(
                rf"{_BODY}res{stage}\.(\d+)\.shortcut\.weight",
                rf"backbone.body.layer{stage - 1}.\1.downsample.0.weight",
            ),
            Rename(
                rf"{_BODY}res{stage}\.(\d+)\.shortcut\.norm\.(.+)",
                rf"backbone.body.layer{stage - 1}.\1.downsample.1.\2",
            ),
        )
    ),
)
# The pyramid's first level is P2 in an R-CNN and P3 in a RetinaNet.
_PYRAMID = tuple(
    Rename(
        rf"backbone\.fpn_{theirs}{level}\.{_WB}",
        rf"backbone.fpn.{ours}_blocks.{level - first}.0.\1",
        beside=rf"backbone\.fpn_lateral{first}\.weight",
    )
    for theirs, ours in (("lateral", "inner"), ("output", "layer"))
    for first in (2, 3)
    for level in range(first, 6)
)


def _for_each_mask_head(pattern: str, module: str, rest: str, rows: SourceRows | None = None) -> Rename:
    """A mask tensor: a cascade has one mask head there and three here, which then agree as one."""
    cascade = tuple(f"roi_heads.{module}{stage}.{rest}" for stage in range(3))
    return Rename(rf"roi_heads\.mask_head\.{pattern}", f"roi_heads.{module}{rest}", also=cascade, rows=rows)


_RCNN = (
    Rename(rf"proposal_generator\.rpn_head\.conv\.{_WB}", r"rpn.head.conv.0.0.\1"),
    Rename(rf"proposal_generator\.rpn_head\.objectness_logits\.{_WB}", r"rpn.head.cls_logits.\1"),
    Rename(rf"proposal_generator\.rpn_head\.anchor_deltas\.{_WB}", r"rpn.head.bbox_pred.\1"),
    Rename(rf"roi_heads\.box_head\.((?:\d\.)?)fc1\.{_WB}", r"roi_heads.box_head.\1fc6.\2"),
    Rename(rf"roi_heads\.box_head\.((?:\d\.)?)fc2\.{_WB}", r"roi_heads.box_head.\1fc7.\2"),
    Rename(
        rf"roi_heads\.box_predictor\.((?:\d\.)?)cls_score\.{_WB}",
        r"roi_heads.box_predictor.\1cls_score.\2",
        rows=_LAST,
    ),
    Rename(
        rf"roi_heads\.box_predictor\.((?:\d\.)?)bbox_pred\.{_WB}",
        r"roi_heads.box_predictor.\1bbox_pred.\2",
        rows=_NONE,
    ),
    *(_for_each_mask_head(rf"mask_fcn{number}\.{_WB}", "mask_head.", rf"{number - 1}.0.\1") for number in range(1, 5)),
    _for_each_mask_head(rf"deconv\.{_WB}", "mask_predictor.", r"conv5_mask.\1"),
    _for_each_mask_head(rf"predictor\.{_WB}", "mask_predictor.", r"mask_fcn_logits.\1", _NONE),
)
_RETINANET = (
    Rename(rf"backbone\.top_block\.(p[67])\.{_WB}", r"backbone.fpn.extra_blocks.\1.\2"),
    *(
        Rename(rf"head\.{theirs}_subnet\.{2 * number}\.{_WB}", rf"head.{ours}_head.conv.{number}.0.\1")
        for theirs, ours in (("cls", "classification"), ("bbox", "regression"))
        for number in range(4)
    ),
    Rename(
        rf"head\.cls_score\.{_WB}",
        r"head.classification_head.cls_logits.\1",
        rows=SourceRows(background="none", groups=_BY_RATIO),
    ),
    Rename(rf"head\.bbox_pred\.{_WB}", r"head.regression_head.bbox_reg.\1", rows=SourceRows(groups=_BY_RATIO, unit=4)),
)

DETECTRON2 = KeyMap(
    name="detectron2",
    title="detectron2",
    signature=(rf"({_BODY})?stem\.conv1\.weight|backbone\.fpn_lateral\d\.weight",),
    renames=(
        *_BACKBONE,
        *_PYRAMID,
        *_RCNN,
        *_RETINANET,
        Rename(r"pixel_(mean|std)", None, reason="the normalisation is part of our model's options"),
    ),
    published={80: COCO, 20: VOC},
)
