"""A sweep: every combination once, what they share once, and a failure that does not end the others."""

from pathlib import Path

import pytest
from helpers_flow import tiny_recipe, tiny_scenes

from flows.config import load_config
from flows.sweep import sweep, variants
from flows.yaml_config import ConfigError


def test_every_combination_has_a_name() -> None:
    assert variants(["a=1,2", "b=x"]) == [("sweep-1", ("a=1", "b=x")), ("sweep-2", ("a=2", "b=x"))]


def test_a_value_is_needed() -> None:
    with pytest.raises(ConfigError, match="write it as key=value,value"):
        variants(["train.epochs"])


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_runs_are_compared_and_a_failure_is_one_of_them(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"))
    changes = [*variants(["train.learning_rate=0.01,0.00001"]), ("bad", ("source.root=nowhere",))]
    configs = [load_config(recipe, [*overrides, f"name={name}"])[0] for name, overrides in changes]

    compared = sweep(configs, at_once=2)

    assert {run.name for run in compared.runs} == {"sweep-1", "sweep-2"}
    scores = [run.metrics["AP"] for run in compared.runs]
    assert scores == sorted(scores, reverse=True)
    assert "nowhere" in compared.failed["bad"]
    one, two = compared.runs
    assert one.products["convert"] == two.products["convert"]
    assert one.products["train"].path != two.products["train"].path
