"""A sweep: every combination once, what they share once, and a failure that does not end the others."""

from pathlib import Path

import pytest
from helpers_flow import tiny_recipe, tiny_scenes

from flows.chain import Plainly, chain
from flows.config import load_config
from flows.finetune import Outcome
from flows.registry import Registry
from flows.sweep import on_val, sweep, variants
from flows.yaml_config import ConfigError
from tasks.store import Product


def test_every_combination_has_a_name() -> None:
    assert variants(["a=1,2", "b=x"]) == [("sweep-1", ("a=1", "b=x")), ("sweep-2", ("a=2", "b=x"))]


def test_a_value_is_needed() -> None:
    with pytest.raises(ConfigError, match="write it as key=value,value"):
        variants(["train.epochs"])


def test_the_test_split_chooses_nothing(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(
        '{"best": "best.pt", "last": "last.pt", "steps": 1, "epochs": 1, "best_step": 1, '
        '"metrics": {"bbox/AP": 0.25, "bbox/AP50": 0.5}, "images": 1, "unreadable": [], "notes": []}'
    )
    for name in ("best.pt", "last.pt"):
        (tmp_path / name).touch()
    trained = Product.model_construct(stage="train", path=tmp_path, digest="")
    run = Outcome.model_construct(metrics={"AP": 0.9}, products={"train": trained})
    assert (on_val(run, None), on_val(run, "bbox/AP50")) == (0.25, 0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_runs_are_compared_and_a_failure_is_one_of_them(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"))
    changes = [*variants(["train.learning_rate=0.01,0.00001"]), ("bad", ("source.root=nowhere",))]
    configs = [load_config(recipe, [*overrides, f"name={name}"])[0] for name, overrides in changes]

    compared = sweep(configs, at_once=2, registry=str(tmp_path / "registry"))

    assert {run.name for run in compared.runs} == {"sweep-1", "sweep-2"}
    scores = [on_val(run, None) for run in compared.runs]
    assert scores == sorted(scores, reverse=True)
    assert "nowhere" in compared.failed["bad"]
    one, two = compared.runs
    assert one.products["convert"] == two.products["convert"]
    assert one.products["train"].path != two.products["train"].path
    assert compared.page is not None
    text = compared.page.read_text()
    assert all(said in text for said in ("train.learning_rate: 0.01", "train.learning_rate: 1e-05", "2 runs compared"))
    # The best of them is champion now, and the plain chain makes the same of its configuration.
    assert compared.verdict is not None
    assert compared.verdict.outcome == "promoted"
    champion = Registry(str(tmp_path / "registry")).champion()
    assert champion is not None
    assert champion.sha256 == one.products["train"].file("best.pt").sha256
    best = next(config for config in configs if config.name == one.name)
    alone = best.model_copy(update={"workspace": tmp_path / "alone"})
    plain = dict(chain(alone, Plainly(alone.workspace)))
    assert plain["train"].file("best.pt").sha256 == champion.sha256
    assert plain["evaluate"].digest == one.products["evaluate"].digest

    again = sweep([best], registry=str(tmp_path / "registry"))
    assert again.page is None
    assert again.verdict is not None
    assert (again.verdict.outcome, again.verdict.champion) == ("kept", champion.number)
