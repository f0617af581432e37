"""mmdetection 2 and 3 (checked against the key lists of mmdetection 3.3.0, which names these models as 2.x did).

Its background is the last class, and its box and mask rows have none. Normalisation, anchors and box coders are
torchvision's but for the rounding of the anchors.
"""

from __future__ import annotations

from models.weights.classes import COCO, VOC
from models.weights.keymaps.keymap import KeyMap, Rename, vgg_stages
from models.weights.rows import SourceRows

_LAST = SourceRows(background="last")
_NONE = SourceRows(background="none")
_WB = r"(weight|bias)"

_RCNN = (
    Rename(rf"rpn_head\.rpn_conv\.{_WB}", r"rpn.head.conv.0.0.\1"),
    Rename(rf"rpn_head\.rpn_cls\.{_WB}", r"rpn.head.cls_logits.\1"),
    Rename(rf"rpn_head\.rpn_reg\.{_WB}", r"rpn.head.bbox_pred.\1"),
    Rename(rf"roi_head\.bbox_head\.((?:\d\.)?)shared_fcs\.0\.{_WB}", r"roi_heads.box_head.\1fc6.\2"),
    Rename(rf"roi_head\.bbox_head\.((?:\d\.)?)shared_fcs\.1\.{_WB}", r"roi_heads.box_head.\1fc7.\2"),
    Rename(rf"roi_head\.bbox_head\.((?:\d\.)?)fc_cls\.{_WB}", r"roi_heads.box_predictor.\1cls_score.\2", rows=_LAST),
    Rename(rf"roi_head\.bbox_head\.((?:\d\.)?)fc_reg\.{_WB}", r"roi_heads.box_predictor.\1bbox_pred.\2", rows=_NONE),
    Rename(rf"roi_head\.mask_head\.((?:\d\.)?)convs\.(\d)\.conv\.{_WB}", r"roi_heads.mask_head.\1\2.0.\3"),
    Rename(rf"roi_head\.mask_head\.((?:\d\.)?)upsample\.{_WB}", r"roi_heads.mask_predictor.\1conv5_mask.\2"),
    Rename(
        rf"roi_head\.mask_head\.((?:\d\.)?)conv_logits\.{_WB}",
        r"roi_heads.mask_predictor.\1mask_fcn_logits.\2",
        rows=_NONE,
    ),
)
_RETINANET = (
    Rename(rf"neck\.fpn_convs\.3\.conv\.{_WB}", r"backbone.fpn.extra_blocks.p6.\1"),
    Rename(rf"neck\.fpn_convs\.4\.conv\.{_WB}", r"backbone.fpn.extra_blocks.p7.\1"),
    Rename(rf"bbox_head\.cls_convs\.(\d)\.conv\.{_WB}", r"head.classification_head.conv.\1.0.\2"),
    Rename(rf"bbox_head\.reg_convs\.(\d)\.conv\.{_WB}", r"head.regression_head.conv.\1.0.\2"),
    Rename(rf"bbox_head\.retina_cls\.{_WB}", r"head.classification_head.cls_logits.\1", rows=_NONE),
    Rename(rf"bbox_head\.retina_reg\.{_WB}", r"head.regression_head.bbox_reg.\1"),
)
_SSD = (
    *vgg_stages(lambda block, conv: rf"backbone\.features\.{(0, 5, 10, 17, 24)[block] + 2 * conv}\."),
    Rename(rf"backbone\.features\.31\.{_WB}", r"backbone.extra.0.7.1.\1"),
    Rename(rf"backbone\.features\.33\.{_WB}", r"backbone.extra.0.7.3.\1"),
    Rename(r"neck\.l2_norm\.weight", "backbone.scale_weight"),
    *(
        Rename(rf"neck\.extra_layers\.{n}\.{conv}\.conv\.{_WB}", rf"backbone.extra.{n + 1}.{2 * conv}.\1")
        for n in range(5)
        for conv in range(2)
    ),
    Rename(rf"bbox_head\.cls_convs\.(\d)\.(?:0\.)?{_WB}", r"head.classification_head.module_list.\1.\2", rows=_LAST),
    Rename(rf"bbox_head\.reg_convs\.(\d)\.(?:0\.)?{_WB}", r"head.regression_head.module_list.\1.\2"),
)
_YOLO = (
    Rename(r"(backbone|neck)\.(.+)", r"\1.\2"),
    Rename(r"bbox_head\.convs_bridge\.(\d)\.(.+)", r"convs_bridge.\1.\2"),
    Rename(rf"bbox_head\.convs_pred\.(\d)\.{_WB}", r"yolo_output.\1.\2"),
)

MMDETECTION = KeyMap(
    name="mmdetection",
    title="mmdetection 2 and 3",
    signature=(r"backbone\..+", r"(neck|rpn_head|roi_head|bbox_head)\..+"),
    renames=(
        Rename(r"backbone\.((conv1|bn1|layer\d)\..+)", r"backbone.body.\1"),
        Rename(rf"neck\.lateral_convs\.(\d)\.conv\.{_WB}", r"backbone.fpn.inner_blocks.\1.0.\2"),
        Rename(rf"neck\.fpn_convs\.(\d)\.conv\.{_WB}", r"backbone.fpn.layer_blocks.\1.0.\2"),
        *_RCNN,
        *_RETINANET,
        *_SSD,
        *_YOLO,
    ),
    published={80: COCO, 20: VOC},
)
