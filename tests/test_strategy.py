import logging
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.training.options import TrainOptions
from tasks.store import Product, make_product
from tasks.train import choose_freeze


def checked(folder: Path, images: int) -> Product:
    coco = {"images": [{}] * images, "categories": [{"name": "cat"}, {"name": "dog"}]}
    return make_product(
        folder, "check", "c" * 64, lambda f: (f / "train.json").write_bytes(orjson.dumps(coco)) and None
    )


def adapted(folder: Path, backbone: float | None, known: list[str] | None = None) -> Product:
    def make(f: Path) -> None:
        (f / "init.pt").write_bytes(b"")
        if backbone is not None:
            (f / "plan.json").write_bytes(orjson.dumps(plan(backbone, known)))

    return make_product(folder, "adapt", "a" * 64, make)


def plan(backbone: float, known: list[str] | None) -> dict[str, Any]:
    shared = [name for name in ("cat", "dog") if name in (known or [])]
    shares = {"tensors": 1.0, "elements": 1.0, "backbone": backbone, "neck": 1.0, "head": 1.0}
    return {
        "detector": "d", "checkpoint": "c", "container": "annotune", "key_map": "name",
        "classes": {"model": ["cat", "dog"], "checkpoint": known, "shared": shared},
        "coverage": shares, "tensors": [], "unused": [], "renamed": 0, "notes": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("images", "backbone", "known", "freeze"),
    [
        (50, None, None, "none"),
        (50, 0.1, ["cat", "dog"], "none"),
        (50, 1.0, ["cat", "cow"], "all-but-head"),
        (50, 1.0, ["cow"], "stages:1"),
        (50, 1.0, None, "stages:1"),
        (5000, 1.0, ["cat", "dog"], "none"),
    ],
)
def test_auto_picks_a_rule_and_says_why(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    images: int,
    backbone: float | None,
    known: list[str] | None,
    freeze: str,
) -> None:
    with caplog.at_level(logging.INFO, "annotune"):
        options = choose_freeze(
            TrainOptions(freeze="auto"), adapted(tmp_path, backbone, known), checked(tmp_path, images)
        )

    assert options.freeze == freeze
    assert "because" in caplog.text


def test_what_the_recipe_says_stays(tmp_path: Path) -> None:
    options = TrainOptions(freeze="stages:2")

    assert choose_freeze(options, adapted(tmp_path, 1.0), checked(tmp_path, 5)) is options
