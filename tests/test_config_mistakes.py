"""Mistakes in recipes, as people make them: each is told with its place, its key and what should stand there."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.config import load_config
from flows.yaml_config import ConfigError

GOOD = """\
source:
  format: voc
  root: data
  splits: {train: 0.7, val: 0.3}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text)
    return path


def mistakes(folder: Path, text: str = GOOD, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, text), overrides)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.epochs=", "train.epochs: should be a whole number, not None"),
        ("train.epochs=0", "train.epochs: should be greater than 0, not 0"),
        ("train.augment=hflip", "train.augment: should be a list, such as [a, b], not 'hflip'"),
        ("train.learning_rate=inf", "train.learning_rate: should be a finite number, not 'inf'"),
        ("timeouts.train=.inf", "timeouts.train: should be a finite number, not inf"),
        (
            "source.categories=[a,1]",
            "source.categories.1: should be text (in quotes where it looks like a number), not 1",
        ),
        ("source.splits.train={a: b}", "source.splits.train: should be a number or text (in quotes where"),
        ("source.categories=cat", "source.categories: no such file: cat. Give a list, such as [cat, dog], or a file"),
        ("source.splits={train: 0.5, val: 0.3, ../x: 0.2}", "source.splits: a split cannot be called '../x'"),
        ("source.splits={train: 0.5, val: 0.3, manifest: 0.2}", "source.splits: a split cannot be called 'manifest'"),
        ("source.root=", "source.root: should be a path, not None"),
        ("train=5", "train: should be keys of its own (epochs, min_steps,"),
        ("name=..", "name: should be made of letters, digits, - and _, with neither - nor . in front, not '..'"),
        ("evaluate.device=gpu", "evaluate.device: no device is called 'gpu'; auto, cpu, cuda or cuda:1"),
        ("detector.fixed_size=[320]", "detector.fixed_size.1: missing; field required"),
        ("train.freeze=re:[", "train.freeze: 're:[' is not a regular expression: unterminated character set"),
        ("train.lr_multipliers={'re:(': 1}", "train.lr_multipliers: 're:(' is not a regular expression: missing )"),
        ("workspace=''", "workspace: empty. Give a folder for the products; the deployments take it from ANNOTUNE_W"),
        ("train.epoch.s=1", "train.epoch: unknown key; did you mean epochs?"),
    ],
)
def test_the_line_names_the_override_the_key_and_what_should_stand_there(
    tmp_path: Path, override: str, says: str
) -> None:
    (line,) = mistakes(tmp_path, GOOD, override)
    assert line.startswith(f"-o {override}: {says}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            GOOD.replace("val:", "valid:"),
            "my.yaml:2: source: splits needs val: a list file, a folder, a name or a share",
        ),
        (
            GOOD + "task: classification\ndetector: {name: timm://resnet50d}\nevaluate: {voc: true}\n",
            "my.yaml: evaluate.voc is for detectors: a classifier has no AP. Leave it out",
        ),
        (GOOD + "train: {seed: 1, seed: 2}\n", "my.yaml:5: the key 'seed' stands twice"),
        (GOOD + "x: 2026-02-30\n", "my.yaml:5: x: 2026-02-30: day is out of range for month. Put text in quotes"),
        ("a: &a [*a]\n" + GOOD, "my.yaml: lists or mappings too deep in each other, or an alias that holds itself"),
        ("_base_: no.yaml\n" + GOOD, "no.yaml, which my.yaml names as its _base_: cannot be read (No such file"),
        (GOOD + "\0", "my.yaml: not YAML: unacceptable character #x0000: special characters are not allowed"),
    ],
)
def test_a_file_names_its_line(tmp_path: Path, text: str, says: str) -> None:
    (line,) = mistakes(tmp_path, text)
    assert line.startswith(says)


def test_a_merged_mapping_may_be_overridden_and_used_twice(tmp_path: Path) -> None:
    text = GOOD + "train: &t {<<: {seed: 1, epochs: 2}, seed: 3}\n"
    config, _ = load_config(write(tmp_path, text))
    assert (config.train.seed, config.train.epochs) == (3, 2)

    assert mistakes(tmp_path, text + "again: *t\n")[0].startswith("my.yaml:5: again: unknown key")


def test_the_bare_word_off_switches_a_rule_off(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "check: {policy: {bbox-outlier: off}}\n")
    assert load_config(path)[0].check.policy == {"bbox-outlier": "off"}
    assert load_config(path, ["check.policy.bbox-aspect=off"])[0].check.policy["bbox-aspect"] == "off"
    assert load_config(path, ["train.lr_multipliers.stage:1=0.5"])[0].train.lr_multipliers == {"stage:1": 0.5}
    for said, meant in (("on", True), ("'on'", True), ("off", False), ("auto", "auto")):
        assert load_config(path, [f"train.amp={said}"])[0].train.amp == meant
    said = mistakes(tmp_path, GOOD + "train: {amp: half}\n")
    assert said == ["my.yaml:5: train.amp: should be true or false or 'auto', not 'half'"]


def test_paths_of_a_recipe_in_the_working_directory_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    config, _ = load_config(Path("my.yaml"))
    assert (config.source.root, config.workspace) == (tmp_path / "data", tmp_path / ".annotune")


def test_a_recipe_with_an_odd_name_gives_a_run_that_can_be_listed(tmp_path: Path) -> None:
    for name, run in (
        (".my recipe.yaml", "my-recipe"),
        ("....yaml", "run"),
        ("rezept für alle.yaml", "rezept-für-alle"),
    ):
        (tmp_path / name).write_text(GOOD)
        assert load_config(tmp_path / name)[0].name == run
