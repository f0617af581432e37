"""PaddlePaddle 1.x, where tensors carry Detectron's flat names (``res2a_branch2a_weights``, ``cls_score_w``).

Checked against the parameters of the programs that PaddleDetection 0.4 and PaddleClas's static branch make on
PaddlePaddle 1.8.5. Linear weights are stored [in, out], and R-CNN heads have the background first. An affine channel
has no statistics: ours then keep their initial mean 0 and variance 1, which is the same function. SSD's heads are
numbered by the program that makes them and have no names of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

from models.weights.classes import COCO, VOC
from models.weights.keymaps.keymap import KeyMap, Rename
from models.weights.rows import SourceRows

_FIRST = SourceRows(background="first")
_NONE = SourceRows(background="none")
_FOREGROUND = SourceRows(groups=(1,), unit=4)  # a cascade's boxes: four rows for the background, four for any object
_WB = (("w", "weight"), ("b", "bias"))
_NORM = (("scale", "weight"), ("offset", "bias"), ("mean", "running_mean"), ("(?:variance|var)", "running_var"))
_BLOCKS = (3, 4, 6, 3)  # ResNet-50's, by stage


def _norm(pattern: str, to: str) -> Iterator[Rename]:
    """A batch norm's four tensors."""
    for theirs, ours in _NORM:
        yield Rename(pattern + theirs, to + ours)


def _resnet(prefix: str) -> Iterator[Rename]:
    """ResNet-50, plain or vd: the stem of the latter has three convolutions and its shortcuts pool first."""
    yield Rename(r"conv1_weights", f"{prefix}conv1.weight")
    yield from _norm(r"bn_conv1_", f"{prefix}bn1.")
    for number in range(3):
        yield Rename(rf"conv1_{number + 1}_weights", f"{prefix}conv1.{3 * number}.weight")
        norm = "bn1" if number == 2 else f"conv1.{3 * number + 1}"
        yield from _norm(rf"bnv1_{number + 1}_", f"{prefix}{norm}.")
    for stage, blocks in enumerate(_BLOCKS):
        for block in range(blocks):
            theirs, ours = f"{stage + 2}{chr(97 + block)}", f"{prefix}layer{stage + 1}.{block}."
            for number, branch in enumerate("abc", start=1):
                yield Rename(rf"res{theirs}_branch2{branch}_weights", f"{ours}conv{number}.weight")
                yield from _norm(rf"bn{theirs}_branch2{branch}_", f"{ours}bn{number}.")
            for shift, beside in ((1, r"conv1_1_weights"), (0, "")):
                yield Rename(rf"res{theirs}_branch1_weights", f"{ours}downsample.{shift}.weight", beside=beside)
                norms = _norm(rf"bn{theirs}_branch1_", f"{ours}downsample.{shift + 1}.")
                yield from (Rename(norm.pattern, norm.to, beside=beside) for norm in norms)


def _pyramid() -> Iterator[Rename]:
    """The feature pyramid, which begins at res2 in an R-CNN and at res3 in a RetinaNet."""
    for theirs, ours in _WB:
        for first in (2, 3):
            beside = rf"fpn_inner_res{first}_sum_lateral_w"
            for level in range(first, 6):
                inner = rf"fpn_inner_res{level}_sum(?:_lateral)?_{theirs}"
                yield Rename(inner, f"backbone.fpn.inner_blocks.{level - first}.0.{ours}", beside=beside)
                outer = rf"fpn_res{level}_sum_{theirs}"
                yield Rename(outer, f"backbone.fpn.layer_blocks.{level - first}.0.{ours}", beside=beside)
        yield Rename(rf"fpn_([67])_{theirs}", rf"backbone.fpn.extra_blocks.p\1.{ours}")


def _rcnn() -> Iterator[Rename]:
    """Faster, Mask and Cascade R-CNN; a cascade's stages are called "", "_2" and "_3"."""
    for theirs, ours in _WB:
        yield Rename(rf"conv_rpn_fpn2_{theirs}", f"rpn.head.conv.0.0.{ours}")
        yield Rename(rf"rpn_cls_logits_fpn2_{theirs}", f"rpn.head.cls_logits.{ours}")
        yield Rename(rf"rpn_bbox_pred_fpn2_{theirs}", f"rpn.head.bbox_pred.{ours}")
        turn = ours == "weight"
        for stage, place in (("", ""), ("", "0."), ("_2", "1."), ("_3", "2.")):
            for layer in ("fc6", "fc7"):
                target = f"roi_heads.box_head.{place}{layer}.{ours}"
                yield Rename(rf"{layer}{stage}_{theirs}", target, transpose=turn)
            for layer, rows in (("cls_score", _FIRST), ("bbox_pred", _FOREGROUND if place else _FIRST)):
                target = f"roi_heads.box_predictor.{place}{layer}.{ours}"
                yield Rename(rf"{layer}{stage}_{theirs}", target, transpose=turn, rows=rows)
        for number in range(4):
            yield _for_each_mask_head(rf"mask_inter_feat_{number + 1}_{theirs}", "mask_head.", f"{number}.0.{ours}")
        yield _for_each_mask_head(rf"conv5_mask_{theirs}", "mask_predictor.", f"conv5_mask.{ours}")
        logits = f"mask_fcn_logits.{ours}"
        yield _for_each_mask_head(rf"mask_fcn_logits_{theirs}", "mask_predictor.", logits, _FIRST)


def _for_each_mask_head(pattern: str, module: str, rest: str, rows: SourceRows | None = None) -> Rename:
    """A mask tensor: a cascade has one mask head there and three here, which then agree as one."""
    cascade = tuple(f"roi_heads.{module}{stage}.{rest}" for stage in range(3))
    return Rename(pattern, f"roi_heads.{module}{rest}", also=cascade, rows=rows)


def _retinanet() -> Iterator[Rename]:
    """RetinaNet, whose levels share the tensors of the third."""
    for theirs, ours in _WB:
        for kind, head in (("cls", "classification"), ("bbox", "regression")):
            tower = rf"retnet_{kind}_conv_n(\d)_fpn3_{theirs}"
            yield Rename(tower, rf"head.{head}_head.conv.\1.0.{ours}")
        scores = f"head.classification_head.cls_logits.{ours}"
        yield Rename(rf"retnet_cls_pred_fpn3_{theirs}", scores, rows=_NONE)
        yield Rename(rf"retnet_bbox_pred_fpn3_{theirs}", f"head.regression_head.bbox_reg.{ours}")


def _yolov3() -> Iterator[Rename]:
    """YOLOv3 with Darknet-53."""
    yield from _conv_bn(r"yolo_input\.", "backbone.conv1.")
    for stage, blocks in enumerate((1, 2, 8, 8, 4)):
        ours = f"backbone.conv_res_block{stage + 1}."
        place = r"yolo_input\.downsample\." if stage == 0 else rf"stage\.{stage - 1}\.downsample\."
        yield from _conv_bn(place, ours + "conv.")
        for block in range(blocks):
            for number in range(2):
                theirs = rf"stage\.{stage}\.{block}\.{number}\."
                yield from _conv_bn(theirs, f"{ours}res{block}.conv{number + 1}.")
    for level in range(3):
        names = (r"0\.0", r"0\.1", r"1\.0", r"1\.1", "2")
        for number, theirs in enumerate(names, start=1):
            place = rf"yolo_block\.{level}\.{theirs}\."
            yield from _conv_bn(place, f"neck.detect{level + 1}.conv{number}.")
        yield from _conv_bn(rf"yolo_block\.{level}\.tip\.", f"convs_bridge.{level}.")
        yield from _conv_bn(rf"yolo_transition\.{level}\.", f"neck.conv{level + 1}.")
        yield Rename(rf"yolo_output\.{level}\.conv\.weights", f"yolo_output.{level}.weight")
        yield Rename(rf"yolo_output\.{level}\.conv\.bias", f"yolo_output.{level}.bias")


def _conv_bn(pattern: str, to: str) -> Iterator[Rename]:
    """A convolution and its batch norm."""
    yield Rename(pattern + r"conv\.weights", to + "conv.weight")
    yield from _norm(pattern + r"bn\.", to + "bn.")


PADDLE_STATIC = KeyMap(
    name="paddle-static",
    title="PaddleDetection and PaddleClas (PaddlePaddle 1.x)",
    signature=(r"res2a_branch2a_weights|yolo_input\.conv\.weights",),
    renames=(
        *(rename for prefix in ("backbone.body.", "") for rename in _resnet(prefix)),
        *_pyramid(),
        *_rcnn(),
        *_retinanet(),
        *_yolov3(),
        Rename(r"fc_0\.w_0", "fc.weight", transpose=True),
        Rename(r"fc_0\.b_0", "fc.bias"),
        Rename(r"@LR_DECAY_COUNTER@|learning_rate_?\d*|.*velocity.*", None, reason="the optimizer's, not the model's"),
    ),
    published={80: COCO, 20: VOC},
)
