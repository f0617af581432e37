"""Our cascades and YOLOv3 against mmdetection 3.3.0: the same weights, the same input, the same numbers."""

from __future__ import annotations

import re
from typing import Any

import helpers_mmdet
import pytest
import torch
from helpers_mmdet import agree, shaken
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from models.zoo import DetectorOptions, build_detector
from models.zoo.roi_heads import Detections
from models.zoo.yolov3 import COCO_ANCHORS, STRIDES, flatten
from models.zoo.yolov3_loss import Priors, yolo_losses

mm = helpers_mmdet.mmdetection()
CLASSES = 4
SIZES = [(96, 128), (120, 100)]

# mmdetection's names -> ours; its last class is the background, ours is the first.
CASCADE_NAMES = (
    (r"backbone\.", "backbone.body."),
    (r"neck\.lateral_convs\.(\d)\.conv", r"backbone.fpn.inner_blocks.\1.0"),
    (r"neck\.fpn_convs\.(\d)\.conv", r"backbone.fpn.layer_blocks.\1.0"),
    (r"rpn_head\.rpn_conv", "rpn.head.conv.0.0"),
    (r"rpn_head\.rpn_cls", "rpn.head.cls_logits"),
    (r"rpn_head\.rpn_reg", "rpn.head.bbox_pred"),
    (r"roi_head\.bbox_head\.(\d)\.shared_fcs\.0", r"roi_heads.box_head.\1.fc6"),
    (r"roi_head\.bbox_head\.(\d)\.shared_fcs\.1", r"roi_heads.box_head.\1.fc7"),
    (r"roi_head\.bbox_head\.(\d)\.fc_cls", r"roi_heads.box_predictor.\1.cls_score"),
    (r"roi_head\.bbox_head\.(\d)\.fc_reg", r"roi_heads.box_predictor.\1.bbox_pred"),
    (r"roi_head\.mask_head\.(\d)\.convs\.(\d)\.conv", r"roi_heads.mask_head.\1.\2.0"),
    (r"roi_head\.mask_head\.(\d)\.upsample", r"roi_heads.mask_predictor.\1.conv5_mask"),
    (r"roi_head\.mask_head\.(\d)\.conv_logits", r"roi_heads.mask_predictor.\1.mask_fcn_logits"),
)


def renamed(state: dict[str, Tensor], names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    result = {}
    for key, value in state.items():
        new = next(re.sub(pattern, to, key, count=1) for pattern, to in names if re.match(pattern, key))
        if ".fc_cls." in key:
            result[new] = torch.cat((value[-1:], value[:-1]))
        elif ".conv_logits." in key:
            result[new] = torch.cat((torch.zeros_like(value[:1]), value))
        else:
            result[new] = value
    return {key: value for key, value in result.items() if not key.endswith("num_batches_tracked")}


class Cascades:
    """Both models with the same weights, their features, proposals and truth of two images."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = mm.Config.fromfile(mm.configs / "_base_/models/cascade-mask-rcnn_r50_fpn.py").model
        config.backbone.init_cfg = None
        for head in config.roi_head.bbox_head:
            head.num_classes = CLASSES
        config.roi_head.mask_head.num_classes = CLASSES
        self.theirs = shaken(mm.MODELS.build(config)).eval()
        options = DetectorOptions(name="cascade_mask_rcnn_resnet50_fpn", trainable_layers=5)
        self.ours = build_detector(options, CLASSES + 1).eval()
        self.ours.load_state_dict(renamed(self.theirs.state_dict(), CASCADE_NAMES), strict=True)
        draw = torch.Generator().manual_seed(1)
        self.batch = torch.randn(2, 3, 128, 128, generator=draw)
        with torch.inference_mode():
            self.features = self.ours.backbone(self.batch)
            self.theirs_features = self.theirs.extract_feat(self.batch)
        self.truth = [self.scene(draw, size) for size in SIZES]
        self.proposals = [self.around(draw, boxes, size) for (boxes, *_), size in zip(self.truth, SIZES, strict=True)]

    @staticmethod
    def scene(draw: torch.Generator, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        height, width = size
        low = torch.rand(5, 2, generator=draw) * torch.tensor([width - 50.0, height - 50.0])
        boxes = torch.cat((low, low + 10 + 40 * torch.rand(5, 2, generator=draw)), 1)
        masks = (torch.rand(5, height, width, generator=draw) > 0.4).to(torch.uint8)
        return boxes, torch.tensor([0, 3, 1, 2, 0]), masks

    @staticmethod
    def around(draw: torch.Generator, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """60 proposals near the objects: all of them are sampled, so that chance has no say."""
        moved = boxes.repeat(12, 1) + 5 * torch.randn(60, 4, generator=draw)
        low, high = torch.minimum(moved[:, :2], moved[:, 2:] - 4), moved[:, 2:]
        limit = torch.tensor([size[1], size[0]], dtype=torch.float32)
        return torch.cat((torch.minimum(low.clamp(min=0), limit - 4), torch.minimum(high, limit).clamp(min=4)), 1)

    def samples(self) -> list[Any]:

        result = []
        for (boxes, labels, masks), (height, width) in zip(self.truth, SIZES, strict=True):
            sample = mm.DetDataSample(
                metainfo={"img_shape": (height, width), "ori_shape": (height, width), "scale_factor": (1.0, 1.0)}
            )
            pictures = mm.BitmapMasks(masks.numpy(), height, width)
            sample.gt_instances = mm.InstanceData(bboxes=boxes, labels=labels, masks=pictures)
            result.append(sample)
        return result

    def instances(self) -> list[Any]:

        return [mm.InstanceData(bboxes=boxes.clone(), scores=torch.ones(len(boxes))) for boxes in self.proposals]


@pytest.fixture(scope="module")
def cascades() -> Cascades:
    return Cascades()


def test_cascade_features_and_proposals(cascades: Cascades) -> None:
    for ours, theirs in zip(cascades.features.values(), cascades.theirs_features, strict=True):
        agree("pyramid features", ours, theirs, 1e-4)
    with torch.inference_mode():
        ours, _ = cascades.ours.rpn(ImageList(cascades.batch, SIZES), cascades.features)
        theirs = cascades.theirs.rpn_head.predict(cascades.theirs_features, cascades.samples())
    for mine, other in zip(ours, theirs, strict=True):
        agree("proposals, px", mine, other.bboxes, 1e-3)


def test_cascade_regions_and_logits(cascades: Cascades) -> None:

    metas = [sample.metainfo for sample in cascades.samples()]
    with torch.inference_mode():
        logits, deltas, regions = cascades.ours.roi_heads.cascade(cascades.features, cascades.proposals, SIZES)
        rois, scores, boxes = cascades.theirs.roi_head._refine_roi(
            cascades.theirs_features, mm.bbox2roi(cascades.proposals), metas, [60, 60]
        )
    scores = torch.cat(scores)
    agree("refined regions, px", torch.cat(regions), torch.cat(rois)[:, 1:], 1e-3)
    agree("mean logits", logits, torch.cat((scores[:, -1:], scores[:, :-1]), 1), 1e-5)
    agree("box deltas", deltas, torch.cat(boxes), 1e-5)


def test_cascade_detections(cascades: Cascades) -> None:
    heads = cascades.theirs.roi_head
    with torch.inference_mode():
        ours: Detections = cascades.ours.roi_heads.detections(cascades.features, cascades.proposals, SIZES)
        theirs = heads.predict_bbox(
            cascades.theirs_features,
            [sample.metainfo for sample in cascades.samples()],
            cascades.instances(),
            heads.test_cfg,
        )
        pooled = cascades.ours.roi_heads.mask_roi_pool(cascades.features, [one["boxes"] for one in ours], SIZES)

        stages = [
            heads._mask_forward(k, cascades.theirs_features, mm.bbox2roi([one["boxes"] for one in ours]))["mask_preds"]
            for k in range(3)
        ]
    assert len(pooled) == sum(len(one["boxes"]) for one in ours) > 20
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["labels"].tolist() == (other.labels + 1).tolist()
        agree("detected boxes, px", mine["boxes"], other.bboxes, 1e-3)
        agree("scores", mine["scores"], other.scores, 1e-5)
    labels = torch.cat([one["labels"] for one in ours]) - 1
    mean = torch.stack([logits.sigmoid() for logits in stages]).mean(0)[torch.arange(len(labels)), labels]
    agree("mask probabilities", torch.cat([one["masks"] for one in ours])[:, 0], mean, 1e-5)


def test_cascade_losses(cascades: Cascades) -> None:
    targets = [{"boxes": boxes, "labels": labels + 1, "masks": masks} for boxes, labels, masks in cascades.truth]
    with torch.no_grad():
        ours = cascades.ours.roi_heads.losses(cascades.features, cascades.proposals, SIZES, targets)
        theirs = cascades.theirs.roi_head.loss(cascades.theirs_features, cascades.instances(), cascades.samples())
    for stage in range(3):
        for name, other in (("classifier", "cls"), ("box_reg", "bbox"), ("mask", "mask")):
            mine = ours[f"loss_{name}_{stage}"]
            assert mine > 0
            agree(f"loss_{name}_{stage}", mine, theirs[f"s{stage}.loss_{other}"].squeeze(), 1e-4)


YOLO_NAMES = (
    (r"(backbone|neck)\.", r"\1."),
    (r"bbox_head\.convs_bridge", "convs_bridge"),
    (r"bbox_head\.convs_pred", "yolo_output"),
)


class Yolos:
    """Both detectors with the same weights, one batch of two images, and its raw maps."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = mm.Config.fromfile(mm.configs / "yolo/yolov3_d53_8xb8-ms-608-273e_coco.py").model
        config.backbone.init_cfg = None
        config.bbox_head.num_classes = CLASSES
        self.theirs = shaken(mm.MODELS.build(config)).eval()
        self.ours = build_detector(DetectorOptions(name="yolov3_darknet53"), CLASSES + 1).eval()
        state = renamed(self.theirs.state_dict(), YOLO_NAMES)
        incomplete = self.ours.load_state_dict(state, strict=False)
        assert not incomplete.unexpected_keys
        assert all(key.endswith("num_batches_tracked") for key in incomplete.missing_keys)
        draw = torch.Generator().manual_seed(2)
        self.batch = torch.rand(2, 3, 128, 160, generator=draw)
        with torch.inference_mode():
            self.maps = self.ours.maps(self.batch)
            (self.theirs_maps,) = self.theirs.bbox_head(self.theirs.extract_feat(self.batch))
        # Random weights shout: raw values of several hundred, whose exponentials are no boxes.
        self.quiet = [one / 200 for one in self.maps]
        shapes = [(one.shape[2], one.shape[3]) for one in self.maps]
        self.priors = Priors.of(shapes, COCO_ANCHORS, STRIDES, self.batch.device)


@pytest.fixture(scope="module")
def yolos() -> Yolos:
    return Yolos()


def test_yolo_maps_and_boxes(yolos: Yolos) -> None:
    for ours, theirs in zip(yolos.maps, yolos.theirs_maps, strict=True):
        agree("YOLOv3 maps", ours, theirs, 1e-4)
    head = yolos.theirs.bbox_head
    priors = torch.cat(head.prior_generator.grid_priors([one.shape[2:] for one in yolos.maps], device="cpu"))
    agree("YOLOv3 priors, px", yolos.priors.boxes, priors, 1e-4)
    predictions = flatten(yolos.quiet, 3)[..., :4]
    theirs = torch.cat((predictions[..., :2].sigmoid(), predictions[..., 2:]), -1)
    decoded = head.bbox_coder.decode(priors, theirs, yolos.priors.strides[:, None])
    agree("YOLOv3 decoded boxes, px", yolos.priors.decode(predictions), decoded, 1e-3)


def test_yolo_detections(yolos: Yolos) -> None:
    sizes = [(128, 160), (100, 150)]
    metas = [{"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)} for size in sizes]
    maps = yolos.quiet
    with torch.inference_mode():
        ours = yolos.ours.detections(maps, yolos.priors, sizes)
        theirs = yolos.theirs.bbox_head.predict_by_feat([one.clone() for one in maps], metas)
    for mine, other, (height, width) in zip(ours, theirs, sizes, strict=True):
        assert len(mine["labels"]) == 100
        assert mine["labels"].tolist() == (other.labels + 1).tolist()
        limit = torch.tensor([width, height, width, height])
        agree("YOLOv3 boxes, px", mine["boxes"], torch.minimum(other.bboxes.clamp(min=0), limit), 1e-3)
        agree("YOLOv3 scores", mine["scores"], other.scores, 1e-5)


def test_yolo_losses(yolos: Yolos) -> None:
    draw = torch.Generator().manual_seed(3)
    low = torch.rand(2, 8, 2, generator=draw) * torch.tensor([110.0, 80.0])
    boxes = torch.cat((low, low + 3 + 45 * torch.rand(2, 8, 2, generator=draw)), -1)
    boxes[1, 1] = boxes[1, 0] + 1  # two objects for the same place
    labels = torch.randint(CLASSES, (2, 8), generator=draw)
    theirs = yolos.theirs.bbox_head.loss_by_feat(
        yolos.quiet,
        [mm.InstanceData(bboxes=box, labels=label) for box, label in zip(boxes, labels, strict=True)],
        [{}, {}],
    )
    targets = [{"boxes": box, "labels": label + 1} for box, label in zip(boxes, labels, strict=True)]
    ours = yolo_losses(flatten(yolos.quiet, 3), yolos.priors, targets)
    for mine, other in (
        ("loss_class", "loss_cls"), ("loss_object", "loss_conf"), ("loss_center", "loss_xy"), ("loss_size", "loss_wh")
    ):  # fmt: skip
        summed = torch.stack(theirs[other]).sum()
        agree(f"YOLOv3 {mine}, relative", 2 * ours[mine] / summed, torch.tensor(1.0), 1e-5)
