"""PaddlePaddle 2 and 3: PaddleDetection's detectors and PaddleClas's ResNet50_vd.

Checked against the key lists of the models that both projects' develop branches build.

Linear weights are stored [in, out]. Scores have the background last, box and mask rows have none; a RetinaNet's anchors
go by size before aspect ratio, torchvision's by aspect ratio before size.
"""

from __future__ import annotations

from collections.abc import Iterator

from models.weights.classes import COCO, VOC
from models.weights.keymaps.keymap import KeyMap, Rename, vgg_stages
from models.weights.rows import SourceRows

_LAST = SourceRows(background="last")
_NONE = SourceRows(background="none")
_WB = r"(weight|bias)"
_BY_RATIO = tuple(3 * size + ratio for ratio in range(3) for size in range(3))  # our anchor -> theirs
_BLOCKS = (3, 4, 6, 3)  # ResNet-50's, by stage
# PaddleDetection's stages are res2 to res5, their blocks a, b, c, ...: (stage, block) -> our name.
_RESNET = {
    rf"(?:backbone\.)?res{stage + 2}\.res{stage + 2}{chr(97 + block)}": f"backbone.body.layer{stage + 1}.{block}"
    for stage, blocks in enumerate(_BLOCKS)
    for block in range(blocks)
}


def _norm(pattern: str, to: str) -> Iterator[Rename]:
    """A batch norm's four tensors."""
    yield Rename(pattern + r"(weight|bias)", to + r"\1")
    yield Rename(pattern + "_mean", to + "running_mean")
    yield Rename(pattern + "_variance", to + "running_var")


def _linear(pattern: str, to: str, rows: SourceRows | None = None) -> Iterator[Rename]:
    """A Linear layer: its weight is transposed."""
    yield Rename(pattern + r"\.weight", to + ".weight", transpose=True, rows=rows)
    yield Rename(pattern + r"\.bias", to + ".bias", rows=rows)


def _resnet() -> Iterator[Rename]:
    """PaddleDetection's ResNet."""
    yield Rename(r"(?:backbone\.)?conv1\.conv1\.conv\.weight", "backbone.body.conv1.weight")
    yield from _norm(r"(?:backbone\.)?conv1\.conv1\.norm\.", "backbone.body.bn1.")
    for block, ours in _RESNET.items():
        for number, branch in enumerate("abc", start=1):
            yield Rename(rf"{block}\.branch2{branch}\.conv\.weight", f"{ours}.conv{number}.weight")
            yield from _norm(rf"{block}\.branch2{branch}\.norm\.", f"{ours}.bn{number}.")
        yield Rename(rf"{block}\.short\.conv\.weight", f"{ours}.downsample.0.weight")
        yield from _norm(rf"{block}\.short\.norm\.", f"{ours}.downsample.1.")


def _pyramid() -> Iterator[Rename]:
    """The feature pyramid, which begins at res2 in an R-CNN and at res3 in a RetinaNet."""
    for first in (2, 3):
        beside = rf"neck\.fpn_inner_res{first}_sum_lateral\.weight"
        for level in range(first, 6):
            inner = rf"neck\.fpn_inner_res{level}_sum(?:_lateral)?\.{_WB}"
            yield Rename(inner, rf"backbone.fpn.inner_blocks.{level - first}.0.\1", beside=beside)
            outer = rf"neck\.fpn_res{level}_sum\.{_WB}"
            yield Rename(outer, rf"backbone.fpn.layer_blocks.{level - first}.0.\1", beside=beside)
    yield Rename(rf"neck\.fpn_([67])\.{_WB}", r"backbone.fpn.extra_blocks.p\1.\2")


def _rcnn() -> Iterator[Rename]:
    """Faster, Mask and Cascade R-CNN."""
    yield Rename(rf"rpn_head\.rpn_feat\.rpn_conv\.{_WB}", r"rpn.head.conv.0.0.\1")
    yield Rename(rf"rpn_head\.rpn_rois_score\.{_WB}", r"rpn.head.cls_logits.\1")
    yield Rename(rf"rpn_head\.rpn_rois_delta\.{_WB}", r"rpn.head.bbox_pred.\1")
    for stage, ours in (("", ""), *((f"{number}", f"{number}.") for number in range(3))):
        named = f"_stage{stage}" if stage else ""
        head = r"bbox_head\.head\." + (rf"{stage}\." if stage else "")
        yield from _linear(head + "fc6", f"roi_heads.box_head.{ours}fc6")
        yield from _linear(head + "fc7", f"roi_heads.box_head.{ours}fc7")
        yield from _linear(rf"bbox_head\.bbox_score{named}", f"roi_heads.box_predictor.{ours}cls_score", _LAST)
        yield from _linear(rf"bbox_head\.bbox_delta{named}", f"roi_heads.box_predictor.{ours}bbox_pred", _NONE)
    masks = r"mask_head\.head\.(?:upsample\.)?"
    for number in range(4):
        yield _for_each_mask_head(rf"{masks}mask_inter_feat_{number + 1}\.{_WB}", "mask_head.", rf"{number}.0.\1")
    yield _for_each_mask_head(rf"{masks}conv5_mask\.{_WB}", "mask_predictor.", r"conv5_mask.\1")
    yield _for_each_mask_head(rf"mask_head\.mask_fcn_logits\.{_WB}", "mask_predictor.", r"mask_fcn_logits.\1", _NONE)


def _for_each_mask_head(pattern: str, module: str, rest: str, rows: SourceRows | None = None) -> Rename:
    """A mask tensor: a cascade has one mask head there and three here, which then agree as one."""
    cascade = tuple(f"roi_heads.{module}{stage}.{rest}" for stage in range(3))
    return Rename(pattern, f"roi_heads.{module}{rest}", also=cascade, rows=rows)


def _retinanet() -> Iterator[Rename]:
    """RetinaNet."""
    for theirs, ours in (("cls", "classification"), ("reg", "regression")):
        tower = rf"head\.conv_feat\.(?:fcos|retina)_head_{theirs}_tower_conv_(\d)\.conv\.{_WB}"
        yield Rename(tower, rf"head.{ours}_head.conv.\1.0.\2")
    scores = SourceRows(background="none", groups=_BY_RATIO)
    yield Rename(rf"head\.retina_cls\.{_WB}", r"head.classification_head.cls_logits.\1", rows=scores)
    boxes = SourceRows(groups=_BY_RATIO, unit=4)
    yield Rename(rf"head\.retina_reg\.{_WB}", r"head.regression_head.bbox_reg.\1", rows=boxes)


def _ssd() -> Iterator[Rename]:
    """SSD with VGG-16."""
    yield from vgg_stages(lambda block, conv: rf"backbone\.conv_block_{block}\.conv{conv}\.")
    yield Rename(rf"backbone\.fc6\.{_WB}", r"backbone.extra.0.7.1.\1")
    yield Rename(rf"backbone\.fc7\.{_WB}", r"backbone.extra.0.7.3.\1")
    yield Rename(r"backbone\.norm0\.scale", "backbone.scale_weight")
    for number in range(5):
        for conv in range(2):
            extra = f"backbone.extra.{number + 1}.{2 * conv}"
            yield Rename(rf"backbone\.conv{number + 6}\.conv{conv}\.{_WB}", rf"{extra}.\1")
    yield Rename(rf"ssd_head\.scores(\d)\.{_WB}", r"head.classification_head.module_list.\1.\2", rows=_LAST)
    yield Rename(rf"ssd_head\.boxes(\d)\.{_WB}", r"head.regression_head.module_list.\1.\2")


def _yolov3() -> Iterator[Rename]:
    """YOLOv3 with Darknet-53."""
    yield from _conv_bn(r"backbone\.conv0\.", "backbone.conv1.")
    for stage, blocks in enumerate((1, 2, 8, 8, 4)):
        place = r"downsample0" if stage == 0 else rf"stage\.{stage - 1}\.downsample"
        ours = f"backbone.conv_res_block{stage + 1}."
        yield from _conv_bn(rf"backbone\.{place}\.conv_bn_layer\.", ours + "conv.")
        for number in range(blocks):
            # The first block has a name of its own, the others live in a list.
            theirs = rf"backbone\.stage\.{stage}\." + ("basicblock0" if number == 0 else rf"stage\.{stage}\.{number}")
            for conv in (1, 2):
                yield from _conv_bn(rf"{theirs}\.conv{conv}\.", f"{ours}res{number}.conv{conv}.")
    for level in range(3):
        block = rf"neck\.yolo_block\.{level}\."
        for number in range(5):
            theirs = f"conv{number}" if number < 4 else "route"
            yield from _conv_bn(rf"{block}conv_module\.{theirs}\.", f"neck.detect{level + 1}.conv{number + 1}.")
        yield from _conv_bn(rf"{block}tip\.", f"convs_bridge.{level}.")
        yield from _conv_bn(rf"neck\.yolo_transition\.{level}\.", f"neck.conv{level + 1}.")
    yield Rename(rf"yolo_head\.yolo_output\.(\d)\.{_WB}", r"yolo_output.\1.\2")


def _conv_bn(pattern: str, to: str) -> Iterator[Rename]:
    """A convolution and its batch norm."""
    yield Rename(pattern + r"conv\.weight", to + "conv.weight")
    yield from _norm(pattern + r"batch_norm\.", to + "bn.")


def _clas() -> Iterator[Rename]:
    """PaddleClas's ResNet50_vd, whose blocks are counted through, as timm's resnet50d: classifier or backbone."""
    for prefix in ("", "backbone.body.", "backbone."):
        for number in range(3):
            yield Rename(rf"stem\.{number}\.conv\.weight", f"{prefix}conv1.{3 * number}.weight")
            norm = "bn1" if number == 2 else f"conv1.{3 * number + 1}"
            yield from _norm(rf"stem\.{number}\.bn\.", f"{prefix}{norm}.")
        places = [(stage, block) for stage, blocks in enumerate(_BLOCKS) for block in range(blocks)]
        for count, (stage, block) in enumerate(places):
            ours = f"{prefix}layer{stage + 1}.{block}."
            for number in range(3):
                yield Rename(rf"blocks\.{count}\.conv{number}\.conv\.weight", f"{ours}conv{number + 1}.weight")
                yield from _norm(rf"blocks\.{count}\.conv{number}\.bn\.", f"{ours}bn{number + 1}.")
            yield Rename(rf"blocks\.{count}\.short\.conv\.weight", f"{ours}downsample.1.weight")
            yield from _norm(rf"blocks\.{count}\.short\.bn\.", f"{ours}downsample.2.")
    yield from _linear("fc", "fc")


PADDLE = KeyMap(
    name="paddle",
    title="PaddleDetection and PaddleClas (PaddlePaddle 2 and 3)",
    signature=(r".+\._mean|backbone\.conv_block_0\.conv0\.weight",),
    renames=(*_resnet(), *_pyramid(), *_rcnn(), *_retinanet(), *_ssd(), *_yolov3(), *_clas()),
    published={80: COCO, 20: VOC},
)
