"""Adapt: a complete checkpoint for this detector and these classes, and the account of every tensor in it."""

from __future__ import annotations

from pathlib import Path

import orjson
import torch

from models.checkpoint import CheckpointMeta, save_checkpoint
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
) -> None:
    """Write ``init.pt``, which loads strictly, and ``plan.json``; without weights the model is as ``seed`` makes it.

    Raises:
        WeightsError: the checkpoint cannot be read, or too little of it fits.
        DetectorError: no such detector, or an option that it does not have.
    """
    entry = get_detector(detector.name)
    torch.manual_seed(seed)
    options = resolve_options(detector, source.source if source else None, pretrained=weights is not None)
    model = build_detector(options, num_classes=len(classes) + 1)
    state = model.state_dict()
    if weights is None:
        (folder / "summary.md").write_text("no pretrained weights: every tensor starts at its initial values\n")
    else:
        checkpoint = read_checkpoint(weights.path)
        plan = plan_load(model, entry, classes, checkpoint, source)
        state = apply_plan(plan, state, checkpoint)
        (folder / "plan.json").write_bytes(orjson.dumps(plan.to_json(), option=orjson.OPT_INDENT_2))
        (folder / "summary.md").write_text(_summary(plan))
    meta = CheckpointMeta(entry.name, classes, options.model_dump(mode="json"), {"weights": weights and weights.sha256})
    save_checkpoint(folder / "init.pt", state, meta)


def _summary(plan: LoadPlan) -> str:
    pairing, moved, *rest = plan.summary()
    share = f"{plan.coverage.elements:.1%} of the elements, {plan.coverage.backbone:.1%} of the backbone"
    return "\n".join([f"{moved}: {share}", "", *(f"- {line}" for line in (pairing, *rest))]) + "\n"
