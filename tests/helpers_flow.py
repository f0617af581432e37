"""A whole run that is small enough for a test: drawn scenes, a tiny SSDlite, one short epoch."""

from pathlib import Path
from typing import Any

import yaml

from flows.scenes import FAMILIES, draw_scenes


def tiny_scenes(root: Path, family: str = "dream") -> Path:
    """24 training scenes and 8 for validation, 160x120."""
    return draw_scenes(root, classes=FAMILIES[family], train=24, val=8, seed=5, size=(160, 120))


def tiny_recipe(folder: Path, root: Path, **sections: Any) -> Path:
    """A recipe in ``folder`` for the scenes in ``root``; ``sections`` replace its own."""
    values = {
        "name": "tiny",
        "workspace": "workspace",
        "source": {"format": "voc", "root": str(root), "splits": {"train": "train", "val": "val"}},
        "detector": {"name": "ssdlite320_mobilenet_v3_large", "fixed_size": [64, 96], "norm": "batch"},
        "train": {"epochs": 1, "batch_size": 8, "threads": 1, "workers": 0, "learning_rate": 0.01},
        "evaluate": {"workers": 0},
        **sections,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
