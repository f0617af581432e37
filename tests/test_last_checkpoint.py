"""The checkpoint that a run ended with is scored beside its best one, where it is another."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import pytest
from helpers_flow import tiny_recipe, tiny_scenes
from helpers_training import draw_set, initial

from flows.chain import Plainly, chain
from flows.cli import main
from flows.config import FinetuneConfig, load_config
from flows.runs import publish
from models.checkpoint import load_checkpoint, save_checkpoint
from models.training import DetectionData, EvaluateOptions
from models.training import evaluate as evaluate_checkpoint
from tasks.convert import Images
from tasks.evaluate import evaluate
from tasks.store import FileRef, Product, sha256_of

STANDSTILL = ("train.epochs=2", "train.learning_rate=1e-12")  # the second epoch gains nothing: the first was best


def reference(path: Path) -> FileRef:
    return FileRef(path=path, sha256=sha256_of(path), size=path.stat().st_size)


def products(config: FinetuneConfig) -> dict[str, Product]:
    return {name: made for name, made in chain(config, Plainly(config.workspace)) if isinstance(made, Product)}


def test_both_checkpoints_are_scored_as_each_alone(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "set", 3)
    best, last = initial(tmp_path / "best.pt"), tmp_path / "last.pt"
    content, meta = load_checkpoint(best)
    biases = {key: value.uniform_(-1, 1) for key, value in content["model"].items() if key.endswith("bias")}
    save_checkpoint(last, {**content["model"], **biases}, meta)

    made = evaluate(
        tmp_path / "workspace", reference(best), reference(data.coco), Images(root=data.images, digest=""),
        EvaluateOptions(), reference(last),
    )  # fmt: skip

    for checkpoint, place in ((best, made.path), (last, made.path / "last")):
        evaluate_checkpoint(checkpoint, DetectionData(data.coco, data.images), tmp_path / "alone")
        for name in ("metrics.json", "detections.json"):
            assert (place / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    first, _, heads, *_ = (made.path / "summary.md").read_text().splitlines()
    assert "; last checkpoint AP " in first
    assert heads == "| class | AP | AP, last | AP50 | AP50, last | AR | AR, last | truths |"


def test_a_run_tells_of_its_last_checkpoint_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def annotune(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["annotune", *map(str, arguments)])
        with suppress(SystemExit):
            main()
        return capsys.readouterr().out

    config, _ = load_config(tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data")), STANDSTILL)

    made = products(config)
    again = products(config)

    assert again["evaluate"] == made["evaluate"]
    assert made["evaluate"].has("last/metrics.json")
    page = (made["report"].path / "report.html").read_text()
    assert "Best and last checkpoint" in page
    assert "that of the last checkpoint" in page
    one, two = (
        publish(config.workspace, name, f"name: {name}\ntrain: {{epochs: {epochs}, seed: 3}}\n", made)
        for name, epochs in (("one", 2), ("two", 4))
    )
    told = annotune("runs", config.workspace)
    assert all(text in told for text in ("AP50", "last AP", "train.epochs"))
    assert "train.seed" not in told
    annotune("report", one, two, "--out", tmp_path / "compare.html")
    compared = (tmp_path / "compare.html").read_text()
    assert compared.count("its last checkpoint") == 2
    assert "train.epochs: 4" in compared


def test_a_run_that_ends_with_its_best_checkpoint_is_scored_once(tmp_path: Path) -> None:
    config, _ = load_config(tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data")), ["train.epochs=1"])

    made = products(config)

    assert not made["evaluate"].has("last/metrics.json")
    assert "last" not in (made["evaluate"].path / "summary.md").read_text()
    assert "Best and last checkpoint" not in (made["report"].path / "report.html").read_text()
