"""What a checkpoint would do for a detector and these classes, without a dataset and without building any weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from models.weights.containers import read_checkpoint
from models.weights.plan import LoadPlan
from models.weights.planning import plan_load
from models.weights.rules import LoadRules
from models.zoo import DetectorOptions, build_detector, get_detector


def plan_for(
    detector: str | DetectorOptions, classes: Sequence[str], checkpoint: Path, rules: LoadRules | None = None
) -> LoadPlan:
    """Plan a load with the model on the meta device: the work of `annotune weights plan`.

    Args:
        detector: its name, or the recipe's options where they change the model (another backbone, anchors).
        classes: class names in label order, without the background.
        checkpoint: a local file of any container.
        rules: what the user wants; the defaults load all that fits.

    Raises:
        DetectorError: no such detector, or no classes.
        WeightsError: the file cannot be read, or does not fit.
    """
    options = DetectorOptions(name=detector) if isinstance(detector, str) else detector
    entry = get_detector(options.name)
    with torch.device("meta"):
        model = build_detector(options, len(classes) + 1)
    return plan_load(model, entry, classes, read_checkpoint(checkpoint), rules)
