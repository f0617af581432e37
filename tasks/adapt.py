"""Adapt: a complete checkpoint for this detector and these classes, and the account of every tensor in it."""

from __future__ import annotations

from pathlib import Path

import orjson
import torch

from models.checkpoint import CheckpointMeta, save_checkpoint
from models.training.anchors import choose_anchors
from models.training.coco import read_coco
from models.weights.apply import apply_plan
from models.weights.containers import read_checkpoint
from models.weights.plan import LoadPlan
from models.weights.planning import plan_load
from models.zoo import build_detector, get_detector, resolve_options
from models.zoo.options import DetectorOptions
from tasks.fetch import WeightsOptions
from tasks.stage import product
from tasks.store import FileRef


@product("tasks.adapt")
def adapt(
    folder: Path,
    weights: FileRef | None,
    source: WeightsOptions | None,
    detector: DetectorOptions,
    classes: tuple[str, ...],
    seed: int,
    train: FileRef | None = None,
) -> None:
    """Write ``init.pt``, which loads strictly, and ``plan.json``; without weights the model is as ``seed`` makes it.

    ``train`` is there only where the anchors are to fit its boxes.

    Raises:
        WeightsError: the checkpoint cannot be read, or too little of it fits.
        DetectorError: no such detector, or an option that it does not have.
    """
    entry = get_detector(detector.name)
    torch.manual_seed(seed)
    options = resolve_options(detector, source.source if source else None, pretrained=weights is not None)
    checkpoint = read_checkpoint(weights.path) if weights else None
    table = read_coco(train.path, classes) if train else None
    options, why = choose_anchors(options, detector.anchors, checkpoint, table)
    model = build_detector(options, num_classes=len(classes) + 1)
    state = model.state_dict()
    if checkpoint is None:
        summary = "no pretrained weights: every tensor starts at its initial values\n"
    else:
        plan = plan_load(model, entry, classes, checkpoint, source)
        state = apply_plan(plan, state, checkpoint)
        (folder / "plan.json").write_bytes(orjson.dumps(plan.to_json(), option=orjson.OPT_INDENT_2))
        summary = _summary(plan)
    (folder / "summary.md").write_text(summary + (f"\nanchors: {why}\n" if why else ""))
    meta = CheckpointMeta(entry.name, classes, options.model_dump(mode="json"), {"weights": weights and weights.sha256})
    save_checkpoint(folder / "init.pt", state, meta)


def _summary(plan: LoadPlan) -> str:
    pairing, moved, *rest = plan.summary()
    share = f"{plan.coverage.elements:.1%} of the elements, {plan.coverage.backbone:.1%} of the backbone"
    return "\n".join([f"{moved}: {share}", "", *(f"- {line}" for line in (pairing, *rest))]) + "\n"
