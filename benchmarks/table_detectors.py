"""Every detector on one small real set, from random weights and from weights at hand; writes docs/real-data.md.

    ANNOTUNE_DATA=... python benchmarks/table_detectors.py WORKSPACE [--detectors NAME ...]

What is done is found done: killed, the same command goes on. One thread and one seed give the same figures again.

The set: 18 labelme photos of dates, figs and hazelnuts with polygons (tony607's). "At hand" is what needs no network:
each detector trained for a few minutes on drawn scenes of eight other classes. Cascade R-CNN and the mask detectors
start from Faster R-CNN, for the scenes have no masks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.chain import Plainly, chain
from flows.config import FinetuneConfig
from flows.scenes import FAMILIES, draw_scenes

PAGE = Path(__file__).parents[1] / "docs/real-data.md"
TABLE = re.compile(r"(<!-- table -->\n.*?\n\|-[^\n]*)\n.*?(<!-- end -->)", re.DOTALL)
WIDTH, HEIGHT = 192, 144
SHORT = {"optimizer": "adamw", "weight_decay": 0.01, "batch_size": 4, "warmup_steps": 10, "threads": 1, "workers": 0}
RESIZED = {"min_size": HEIGHT, "max_size": WIDTH, "backbone": "timm://mobilenetv3_large_100", "norm": "batch"}
REGIONS = RESIZED | {"rois_per_image": 32}


@dataclass(frozen=True)
class Row:
    """One detector of the table, made small enough for one CPU core."""

    name: str
    title: str
    small: dict[str, Any]  # the options that make it small
    rate: float
    epochs: int  # over the photos; what is quick gets more of them
    scene_epochs: int = 0  # over the drawn scenes
    teacher: str | None = None  # whose pretrained weights it takes; its own by default
    freeze: str | None = "none"  # of the weights; None: what the detector holds by itself
    amp: bool = True  # bfloat16, which a network as small as SSDlite's or YOLOv3's here does not need


FASTER = "fasterrcnn_resnet50_fpn"
SSDLITE = {"fixed_size": (HEIGHT, WIDTH), "norm": "batch"}
YOLO = {"min_size": WIDTH, "max_size": WIDTH, "norm": "batch", "anchors": "auto"}
ROWS = (
    Row("ssd300_vgg16", "SSD300, VGG-16", {}, 1e-4, 24, 2),  # at 300x300, which its boxes are made for
    Row("ssdlite320_mobilenet_v3_large", "SSDlite, MobileNetV3", SSDLITE, 1e-3, 120, 12, amp=False),
    Row("yolov3_mobilenet_v3", "YOLOv3, MobileNetV3", YOLO, 1e-3, 80, 6, amp=False),
    Row(FASTER, "Faster R-CNN, MobileNetV3-FPN", REGIONS, 5e-4, 20, 3),
    Row(FASTER, "the same, its first stages held", REGIONS, 5e-4, 20, 3, freeze=None),
    Row("cascade_rcnn_resnet50_fpn", "Cascade R-CNN, MobileNetV3-FPN", REGIONS, 5e-4, 20, teacher=FASTER),
    Row("retinanet_resnet50_fpn", "RetinaNet, MobileNetV3-FPN", RESIZED, 5e-4, 24, 3),
    Row("maskrcnn_resnet50_fpn", "Mask R-CNN, MobileNetV3-FPN", REGIONS, 5e-4, 20, teacher=FASTER),
    Row("cascade_mask_rcnn_resnet50_fpn", "Cascade Mask R-CNN, MobileNetV3-FPN", REGIONS, 5e-4, 20, teacher=FASTER),
)


def run(row: Row, name: str, workspace: Path, source: dict[str, Any], epochs: int, weights: str = "") -> dict[str, Any]:
    """One run of the chain, or what it came to if it is done: AP50 of boxes and masks, and where the checkpoint is."""
    config = FinetuneConfig.model_validate(
        {
            "name": name,
            "workspace": workspace,
            "source": source,
            "detector": {"name": row.name, **row.small},
            "weights": {"source": weights} if weights else None,
            # Evaluated once, at the end: nothing is chosen by the photos that the figures come from.
            "train": SHORT
            | {"epochs": epochs, "eval_every": epochs, "learning_rate": row.rate, "amp": row.amp}
            # What a detector with weights holds by itself is for weights from millions of photos.
            | ({"freeze": row.freeze} if weights else {}),
            "evaluate": {"workers": 0},
        }
    )
    results = {}
    for stage, result in chain(config, Plainly(workspace)):
        results[stage] = result
        if stage == "evaluate":  # the page is not needed here
            break
    metrics = json.loads((results["evaluate"].path / "metrics.json").read_text())
    plan = results["adapt"].path / "plan.json"
    score = {
        "box": metrics["bbox"]["AP50"],
        "mask": metrics.get("segm", {}).get("AP50"),
        "covered": json.loads(plan.read_text())["coverage"]["elements"] if plan.is_file() else None,
        "checkpoint": str(results["train"].path / "best.pt"),
    }
    print(name, score, flush=True)
    return score


def line(row: Row, scratch: dict[str, Any], tuned: dict[str, Any]) -> str:
    """A row of the page."""
    masks = " | ".join("-" if score["mask"] is None else f"{score['mask']:.3f}" for score in (scratch, tuned))
    start = next(other.title for other in ROWS if other.name == (row.teacher or row.name)).partition(",")[0]
    boxes = f"{scratch['box']:.3f} | {tuned['box']:.3f}"
    return f"| {row.title} | {row.epochs} | {boxes} | {masks} | {start}, {tuned['covered']:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument(
        "--detectors", nargs="*", default=[row.name for row in ROWS], help="these alone, without the page"
    )
    given = parser.parse_args()
    if "ANNOTUNE_DATA" not in os.environ:
        sys.exit("ANNOTUNE_DATA is not set: the folder that holds triple_tony607_fruits/labelme")
    photos = Path(os.environ["ANNOTUNE_DATA"]) / "triple_tony607_fruits/labelme"
    fruits = {"format": "labelme", "root": photos, "splits": {"train": 0.67, "val": 0.33}}
    classes = FAMILIES["shore"] + FAMILIES["dream"]
    drawn = draw_scenes(given.workspace / "scenes", classes=classes, train=180, val=20, seed=3, size=(WIDTH, HEIGHT))
    scenes = {"format": "voc", "root": drawn, "splits": {"train": "train", "val": "val"}}
    lines = []
    for row in [row for row in ROWS if row.name in given.detectors]:
        teacher = next(other for other in ROWS if other.name == (row.teacher or row.name))
        scratch = run(row, f"{row.name}-scratch", given.workspace, fruits, row.epochs)
        taught = run(teacher, f"{teacher.name}-scenes", given.workspace, scenes, teacher.scene_epochs)
        tuned = run(row, f"{row.name}-tuned", given.workspace, fruits, row.epochs, taught["checkpoint"])
        lines.append(line(row, scratch, tuned))
    print("\n".join(lines))
    if len(lines) == len(ROWS):
        PAGE.write_text(TABLE.sub(lambda found: "\n".join([found[1], *lines, "", found[2]]), PAGE.read_text()))


if __name__ == "__main__":
    main()
