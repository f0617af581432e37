"""The files of a plausible run on drawn scenes, without training anything."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

from flows.scenes import FAMILIES, draw_scene
from models.report import ReportInputs

SIZE = (320, 240)
VOID = {"meta", "link", "br", "img", "hr", "input"}
CLASSES = FAMILIES["dream"]


class Page(HTMLParser):
    """What a browser sees: elements with their attributes, ids, text; and whether every element is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def sections(self) -> list[str | None]:
        return [section["id"] for section in self.every("section")]


def fake_run(
    folder: Path, *, images: int = 24, train: int = 60, classes: tuple[str, ...] = CLASSES, seed: int = 7
) -> ReportInputs:
    """Write every file that a report can be made from."""
    rng = Random(f"run/{seed}")
    (folder / "images").mkdir(parents=True)
    val = _coco(folder / "images", "val", images, classes)
    detections = _detections(val, rng, classes)
    inputs = ReportInputs(
        title="Drawn dreams",
        val=_dump(folder / "val.json", val),
        train=_dump(folder / "train.json", _coco(None, "train", train, classes)),
        images=folder / "images",
        detections=_dump(folder / "detections.json", detections),
        metrics=_dump(folder / "metrics.json", _metrics(val, detections, rng, classes, lift=0.0)),
        last=_dump(folder / "last.json", _metrics(val, detections, rng, classes, lift=-0.02)),
        baseline=_dump(folder / "baseline.json", _metrics(val, detections, rng, classes, lift=-0.06)),
        baseline_title="training from scratch",
        history=folder / "metrics.jsonl",
        plan=_dump(folder / "plan.json", _plan(classes)),
        problems=_dump(folder / "problems.json", _problems()),
        config=f"detector: ssdlite320_mobilenet_v3_large\nsource:\n  root: {folder}/scenes\ntrain:\n  epochs: 30\n",
        environment={"Python": "3.12.3", "torch": "2.9.0", "Machine": "2 CPU cores"},
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in _history(rng)))
    return inputs


def rewrite(path: Path | None, **values: Any) -> None:
    """Put other values into a file of JSON."""
    assert path is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def bare(inputs: ReportInputs) -> ReportInputs:
    """The essentials alone."""
    return ReportInputs(title=inputs.title, val=inputs.val, metrics=inputs.metrics)


def renamed(inputs: ReportInputs, names: dict[str, str]) -> ReportInputs:
    """The same run with other class names, in every file."""
    for path in (inputs.val, inputs.train, inputs.metrics, inputs.baseline, inputs.plan):
        assert path is not None
        content = path.read_text()
        for old, new in names.items():
            content = content.replace(json.dumps(old), json.dumps(new))
        path.write_text(content)
    return replace(inputs)


def _dump(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def _coco(images: Path | None, split: str, count: int, classes: tuple[str, ...]) -> dict[str, Any]:
    coco: dict[str, Any] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    for number in range(1, count + 1):
        picture, drawn = draw_scene(Random(f"report/{split}/{number}"), CLASSES, SIZE)
        name = f"{split}_{number:05d}.jpg"
        if images:
            picture.save(images / name, quality=90)
        coco["images"].append({"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for thing in drawn:
            x0, y0, x1, y1 = thing.box
            box = [x0, y0, x1 - x0, y1 - y0]
            category = CLASSES.index(thing.name) + 1
            ids = {"id": len(coco["annotations"]) + 1, "image_id": number, "category_id": category, "iscrowd": 0}
            coco["annotations"].append({**ids, "bbox": box, "area": box[2] * box[3]})
    return coco


def _detections(coco: dict[str, Any], rng: Random, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Most objects, a little off; some in the wrong class; some inventions."""
    found = []
    for truth in coco["annotations"]:
        if rng.random() < 0.1:
            continue
        x, y, width, height = truth["bbox"]
        shift = [rng.gauss(0, 0.05) for _ in range(4)]
        box = [x + shift[0] * width, y + shift[1] * height, width * (1 + shift[2]), height * (1 + shift[3])]
        category = truth["category_id"] if rng.random() < 0.93 else rng.randint(1, len(classes))
        score = min(0.99, max(0.1, rng.gauss(0.78, 0.16)))
        found.append({"image_id": truth["image_id"], "category_id": category, "bbox": box, "score": round(score, 3)})
    for image in coco["images"]:
        for _ in range(rng.choice((0, 0, 1, 4))):
            box = [rng.uniform(0, 240), rng.uniform(0, 180), rng.uniform(20, 70), rng.uniform(20, 60)]
            category, score = rng.randint(1, len(classes)), min(0.9, abs(rng.gauss(0.2, 0.2)))
            found.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": round(score, 3)})
    return found


def _metrics(
    coco: dict[str, Any], detections: list[dict[str, Any]], rng: Random, classes: tuple[str, ...], lift: float
) -> dict[str, Any]:
    aps = [0.62 + lift + rng.uniform(-0.14, 0.14) for _ in classes]
    mean = sum(aps) / len(aps)
    recall = [round(0.01 * step, 2) for step in range(101)]
    curves = {
        name: {"recall": recall, "precision": [max(0.0, 1 - 0.12 * r - max(0, r - ap - 0.2) * 3) for r in recall]}
        for name, ap in zip(classes, aps, strict=True)
    }
    count = len(classes)
    matrix = [[rng.choice((0, 0, 1, 2)) for _ in range(count + 1)] for _ in range(count + 1)]
    for index in range(count):
        matrix[index][index] = 14 + rng.randint(0, 12)
    matrix[count][count] = 0
    kinds = {
        "class": (6, 0.021),
        "localisation": (9, 0.034),
        "duplicate": (2, 0.002),
        "background": (13, 0.026),
        "missed": (11, 0.058),
    }
    return {
        "bbox": {
            "AP": mean, "AP50": mean + 0.24, "AP75": mean + 0.05, "APs": mean - 0.26, "APm": mean - 0.02,
            "APl": mean + 0.1, "AR1": mean - 0.1, "AR10": mean + 0.06, "AR100": mean + 0.07,
        },
        "per_class": [
            {
                "name": name, "AP": ap, "AP50": ap + 0.24, "AR": ap + 0.07,
                "truths": sum(a["category_id"] == number for a in coco["annotations"]),
                "detections": sum(d["category_id"] == number for d in detections),
            }
            for number, (name, ap) in enumerate(zip(classes, aps, strict=True), start=1)
        ],
        "curves": curves,
        "confusion": {"labels": [*classes, "background"], "matrix": matrix},
        "errors": {name: {"count": n, "AP50_gain": gain} for name, (n, gain) in kinds.items()},
        "suspects": [
            {"file_name": "val_00007.jpg", "kind": "wrong_label", "found": classes[0], "annotated": classes[1],
             "score": 0.97},
            {"file_name": "val_00019.jpg", "kind": "missing", "found": classes[2], "annotated": None, "score": 0.94},
        ],
        "images": len(coco["images"]),
    }  # fmt: skip


def _plan(classes: tuple[str, ...]) -> dict[str, Any]:
    tensors = []
    for layer in range(1, 17):
        width = 16 * layer
        for name, shape in (("0.weight", [width, 16, 3, 3]), ("1.weight", [width]), ("1.running_mean", [width])):
            key = f"backbone.features.{layer}.{name}"
            tensors.append(
                {
                    "key": key,
                    "shape": shape,
                    "part": "backbone",
                    "action": "copied",
                    "source": key,
                    "rows": None,
                    "reason": None,
                }
            )
    for level in range(6):
        rows, key = 6 * (len(classes) + 1), f"head.classification_head.module_list.{level}.1.weight"
        reason = "1 of 4 classes are shared"
        fields = {"part": "head", "source": key}
        tensors.append(
            {"key": key, "shape": [rows, 480, 1, 1], "action": "rows", "rows": [12, rows], "reason": reason, **fields}
        )
        key = f"head.regression_head.module_list.{level}.1.weight"
        fields |= {"source": key}
        tensors.append(
            {"key": key, "shape": [24, 480, 1, 1], "action": "copied", "rows": None, "reason": None, **fields}
        )
    reason = "shapes differ: 128 x 64 here, 256 x 64 in the checkpoint"
    key = "backbone.extra.0.weight"
    tensors.append(
        {
            "key": key,
            "shape": [128, 64],
            "part": "neck",
            "action": "skipped",
            "source": key,
            "rows": None,
            "reason": reason,
        }
    )
    return {
        "detector": "ssdlite320_mobilenet_v3_large",
        "checkpoint": "shore-best.pt",
        "container": "torch",
        "key_map": "annotune",
        "classes": {"model": list(classes), "checkpoint": ["boat", "fish", "house"], "shared": ["fish"]},
        "coverage": {"tensors": 0.98, "elements": 0.963, "backbone": 1.0, "neck": 0.0, "head": 0.71},
        "tensors": tensors,
        "unused": [{"key": "ema.decay", "shape": [], "reason": "no tensor of the model has this name"}],
        "renamed": 0,
        "notes": ["The checkpoint was trained on 3 classes."],
    }


def _problems() -> dict[str, Any]:
    message = "two boxes of one category lie on one another"
    return {
        "severities": {"error": 0, "warning": 2, "info": 1},
        "rules": {
            "duplicate": {"severity": "warning", "count": 2, "repaired": 1, "what": message, "remedy": "Delete one"},
            "empty-image": {"severity": "info", "count": 9, "repaired": 0, "what": "nothing annotated", "remedy": ""},
        },
        "problems": [
            {"rule": "duplicate", "severity": "warning", "split": "train", "file": "train_00004.jpg",
             "value": "IoU 0.98", "message": message, "remedy": "Delete one", "action": "fixed"},
        ],
    }  # fmt: skip


def _history(rng: Random, steps: int = 900, every: int = 90) -> list[dict[str, Any]]:
    derived = {"learning_rate": "0.02 as given", "warmup": "one epoch, at most 500 steps"}
    events: list[dict[str, Any]] = [{"event": "start", "steps": steps, "device": "cpu", "derivations": derived}]
    for step in range(1, steps + 1):
        trend = 1.1 + 7.5 * math.exp(-step / 130)
        parts = {
            "classification": trend * 0.68 * rng.uniform(0.8, 1.2),
            "bbox_regression": trend * 0.32 * rng.uniform(0.7, 1.3),
        }
        rate = 0.02 * min(1.0, step / 60) * 0.5 * (1 + math.cos(math.pi * step / steps))
        speed = {"images_per_second": rng.gauss(41, 2), "data_wait": 0.01, "seconds": 4.0}
        events.append(
            {
                "event": "step",
                "step": step,
                "epoch": step // 30,
                "lr": rate,
                "loss": sum(parts.values()),
                "losses": parts,
                **speed,
            }
        )
        if step % every == 0:
            ap = 0.66 * (1 - math.exp(-step / 240)) + rng.uniform(-0.015, 0.015)
            metrics = {"bbox/AP": ap, "bbox/AP50": min(1.0, ap * 1.34)}
            events.append({"event": "eval", "step": step, "epoch": step // 30, "metrics": metrics})
    return [*events, {"event": "end", "step": steps}]
