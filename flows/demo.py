"""The demo: draw a dataset, train a "pretrained" checkpoint on other classes, fine-tune with and without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.config import FinetuneConfig
from flows.finetune import Outcome, finetune
from flows.scenes import FAMILIES, draw_scenes

# Small enough for two CPU cores and a cup of coffee: docs/performance.md says what it takes. One thread, because sums
# in another order give other weights, and the demo should tell everybody the same figures.
DETECTOR = {"name": "ssdlite320_mobilenet_v3_large", "fixed_size": (160, 208), "norm": "batch"}
TRAIN = {
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "weight_decay": 0.01,
    "batch_size": 8,
    "warmup_steps": 20,
    "eval_every": 2,
    "log_every": 10,
    "threads": 1,
}


@dataclass(frozen=True)
class DemoOutcome:
    """Three runs: on the other classes, without their weights, with them."""

    pretrained: Outcome
    scratch: Outcome
    finetuned: Outcome


def run_demo(folder: Path) -> DemoOutcome:
    """Run the whole job on drawn scenes; everything lands in ``folder``.

    Run again, every stage is found done.
    """
    shore = draw_scenes(folder / "shore", classes=FAMILIES["shore"], train=480, val=40, seed=1)
    dream = draw_scenes(folder / "dream", classes=FAMILIES["dream"], train=160, val=60, seed=2)
    pretrained = finetune(_config("pretrain", shore, folder, epochs=6))
    scratch = finetune(_config("from-scratch", dream, folder, epochs=6))
    weights = {"source": str(pretrained.checkpoint)}
    config = _config("fine-tuned", dream, folder, epochs=6, weights=weights)
    finetuned = finetune(config, baseline=scratch.products["evaluate"], baseline_title="the run from random weights")
    return DemoOutcome(pretrained, scratch, finetuned)


def _config(name: str, root: Path, folder: Path, epochs: int, weights: dict[str, Any] | None = None) -> FinetuneConfig:
    return FinetuneConfig.model_validate(
        {
            "name": name,
            "workspace": folder / "workspace",
            "source": {"format": "voc", "root": root, "splits": {"train": "train", "val": "val"}},
            "detector": DETECTOR,
            "weights": weights,
            "train": {**TRAIN, "epochs": epochs},
        }
    )
