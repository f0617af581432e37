"""What a recipe can say about a detector; the same object is YAML, form field and part of the checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Triple = tuple[float, float, float]
Pixels = Annotated[int, Field(ge=1)]
Side = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class DetectorOptions(BaseModel):
    """The detector and what may be changed about it.

    ``None`` means the detector's own value; :func:`models.zoo.resolve_options` puts that value in its place, and the
    resolved options are what a checkpoint stores, so that a checkpoint alone predicts. An option that the detector
    does not have must stay ``None``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        default="fasterrcnn_resnet50_fpn",
        description="Detector, as `annotune models` lists them, or a classifier: `timm://NAME`, `torchvision://NAME`.",
    )
    backbone: str | None = Field(
        default=None,
        pattern=r"^timm://",
        description="Another backbone: `timm://NAME` with any timm model that gives feature maps, e.g. timm://resnet50d.",
    )
    min_size: Pixels | None = Field(default=None, description="Shorter side of the image after resizing, pixels.")
    max_size: Pixels | None = Field(
        default=None, description="Longest side of the image after resizing, pixels; wins over min_size."
    )
    fixed_size: tuple[Pixels, Pixels] | None = Field(
        default=None, description="(height, width) that images are stretched to, for detectors of one size (SSD)."
    )
    image_mean: Triple | None = Field(default=None, description="RGB mean of the normalisation, in 0..1.")
    image_std: Triple | None = Field(default=None, description="RGB standard deviation of the normalisation, in 0..1.")
    trainable_layers: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Backbone stages that train, counted from the last; all when nothing is pretrained."
    )
    norm: Literal["auto", "frozen", "batch"] = Field(
        default="auto",
        description="Batch norm with fixed statistics, or live. auto: what the detector wants (frozen for most), "
        "live when nothing is pretrained. Live statistics need 8 images and more per device.",
    )
    norm_eps: Annotated[float, Field(ge=0.0)] | None = Field(
        default=None,
        description="Epsilon of frozen batch norm. None: what the checkpoint was trained with (0 for torchvision's "
        "first COCO weights, else 1e-5).",
    )
    anchors: Literal["auto", "checkpoint", "default"] | tuple[tuple[Side, ...], ...] | None = Field(
        default=None,
        description="Anchor sizes in pixels, one tuple per feature level (R-CNN, RetinaNet), or (width, height) pairs "
        "from small to large, three per level (YOLOv3). YOLOv3 also takes checkpoint (those of the pretrained "
        "checkpoint) and auto (those, or by k-means on the training boxes where the default ones fit badly).",
    )
    aspect_ratios: tuple[Annotated[float, Field(gt=0.0)], ...] | None = Field(
        default=None, description="Anchor height / width, the same on every level."
    )
    rois_per_image: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Regions sampled per image for the box head's loss; 64 to 128 are enough on a CPU."
    )
    score_threshold: Share | None = Field(default=None, description="Detections below this score are dropped.")
    nms: Share | None = Field(default=None, description="IoU above which the weaker of two detections is dropped.")
    detections_per_image: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="At most so many detections per image."
    )
    cascade: Literal["mmdetection", "detectron2"] | None = Field(
        default=None,
        description="Whose rules the cascade follows: mmdetection weighs the stages' losses 1, 1/2, 1/4, samples "
        "again for each and averages logits; detectron2 weighs them alike, keeps the samples and averages softmax.",
    )
    crop: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        default=None,
        description="Classifiers: share of a picture's shorter side that the centre crop of evaluation keeps.",
    )
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] | None = Field(
        default=None, description="Classifiers: share of the truth that is spread over all classes in the loss."
    )
    mixup: Annotated[float, Field(ge=0.0)] | None = Field(
        default=None, description="Classifiers: alpha of mixup, pictures of a step blended in pairs; 0: none."
    )
    cutmix: Annotated[float, Field(ge=0.0)] | None = Field(
        default=None, description="Classifiers: alpha of CutMix, a window of one picture in another; 0: none."
    )
