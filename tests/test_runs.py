from pathlib import Path

import orjson
import pytest
import yaml

from flows.cli import runs
from flows.runs import differences, list_runs, publish
from tasks.fetch import WeightsOptions
from tasks.store import Product, make_product


def products(workspace: Path, ap: float) -> dict[str, Product]:
    def fill(stage: str, folder: Path) -> None:
        files = {
            "train": {"best.pt": b"weights", "metrics.jsonl": b"{}\n", "tensorboard/events.out.tfevents.000000": b"e"},
            "evaluate": {"metrics.json": orjson.dumps({"bbox": {"AP": ap}})},
            "report": {"report.html": b"<p>"},
        }
        for name, content in files.get(stage, {"other": b""}).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)

    return {
        stage: make_product(workspace, stage, f"{ap}" * 24, lambda folder, stage=stage: fill(stage, folder))
        for stage in ("train", "evaluate", "adapt", "check", "report")
    }


def test_a_run_is_found_under_its_name(tmp_path: Path) -> None:
    publish(tmp_path, "one", "name: one\ntrain: {epochs: 3}\n", products(tmp_path, 0.25))

    (run,) = list_runs(tmp_path)

    assert (run.name, run.metrics["AP"], run.config["train.epochs"]) == ("one", 0.25, 3)
    assert (run.path / "best.pt").read_bytes() == b"weights"
    assert (run.path / "tensorboard" / "events.out.tfevents.000000").read_bytes() == b"e"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["one"]


def test_a_later_run_of_that_name_replaces_it(tmp_path: Path) -> None:
    for ap in (0.25, 0.5):
        publish(tmp_path, "one", "name: one\n", products(tmp_path, ap))

    assert [run.metrics["AP"] for run in list_runs(tmp_path)] == [0.5]


def test_only_what_differs_is_compared(tmp_path: Path) -> None:
    publish(tmp_path, "one", "name: one\ntrain: {epochs: 3, seed: 0}\n", products(tmp_path, 0.25))
    publish(tmp_path, "two", "name: two\ntrain: {epochs: 5, seed: 0}\nweights: {source: x}\n", products(tmp_path, 0.5))

    assert differences(list_runs(tmp_path)) == [["train.epochs: 3"], ["train.epochs: 5", "weights.source: x"]]


def test_what_only_one_run_has_counts_where_somebody_chose_it(tmp_path: Path) -> None:
    weights = WeightsOptions(source="best.pt").model_dump(mode="json")
    publish(tmp_path, "with", yaml.safe_dump({"weights": weights}), products(tmp_path, 0.25))
    publish(tmp_path, "without", yaml.safe_dump({"weights": None}), products(tmp_path, 0.25))

    assert differences(list_runs(tmp_path)) == [["weights.source: best.pt"], ["weights: none"]]


def test_the_table_of_runs_can_be_read_on_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"option_{number}_of_the_source" for number in range(12)]
    for number, name in enumerate(("one", "two")):
        config = {"name": name, "source": dict.fromkeys(settings, f"value {number}")}
        publish(tmp_path, name, yaml.safe_dump(config), products(tmp_path, 0.25))
    monkeypatch.setenv("COLUMNS", "80")

    runs(tmp_path)

    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    for whole in ("0.250", *(f"source.{key}: value {number}" for key in settings for number in range(2))):
        assert whole in said
