from pathlib import Path

import pytest

from flows.yaml_config import RECIPES, ConfigError, read_recipe


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_later_bases_win_and_the_file_wins_over_its_bases(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "train: {epochs: 1, lr: 0.1}\nname: a\n")
    write(tmp_path, "b.yaml", "train: {epochs: 2}\n")
    path = write(tmp_path, "c.yaml", "_base_: [a.yaml, b.yaml]\ntrain: {seed: 3}\n")

    recipe = read_recipe(path)

    assert recipe.values == {"train": {"epochs": 2, "lr": 0.1, "seed": 3}, "name": "a"}


def test_every_leaf_knows_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, "base/a.yaml", "train:\n  epochs: 1\n  lr: 0.1\n")
    path = write(tmp_path, "c.yaml", "_base_: base/a.yaml\n\ntrain:\n  epochs: 5\n")

    origins = read_recipe(path, ["train.seed=7"]).origins

    assert {key: origin.name.rsplit("/", 1)[-1] for key, origin in origins.items()} == {
        "train.epochs": "c.yaml:4",
        "train.lr": "a.yaml:3",
        "train.seed": "-o train.seed=7",
    }
    assert origins["train.lr"].folder == tmp_path / "base"


def test_a_bare_name_is_a_recipe_that_comes_with_annotune(tmp_path: Path) -> None:
    write(tmp_path, "fasterrcnn", "detector: {name: mine}\n")  # a file of that name is ./fasterrcnn
    path = write(tmp_path, "c.yaml", "_base_: [ssdlite, fasterrcnn]\ntrain: {epochs: 5}\n")

    recipe = read_recipe(path)

    assert recipe.values["detector"]["name"] == "fasterrcnn_resnet50_fpn"
    assert recipe.values["train"]["epochs"] == 5
    assert recipe.origins["detector.name"].name == "annotune:fasterrcnn:4"
    assert recipe.origins["train.learning_rate"].name == "annotune:ssdlite:6"
    assert read_recipe(write(tmp_path, "d.yaml", "_base_: ./fasterrcnn\n")).values == {"detector": {"name": "mine"}}


def test_a_name_that_no_recipe_has_is_told_with_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yaml", "name: x\n_base_: fasterrcnn_smal\n")

    with pytest.raises(ConfigError) as refused:
        read_recipe(path)

    said = str(refused.value)
    assert said.startswith(f"{path}:2: _base_: fasterrcnn_smal: no recipe of that name comes with Annotune; ")
    assert "did you mean fasterrcnn-small? There are fasterrcnn, fasterrcnn-small, " in said
    assert said.endswith("a file of your own is ./fasterrcnn_smal")


@pytest.mark.parametrize("file", sorted(RECIPES.iterdir()), ids=lambda file: file.name)
def test_what_comes_with_annotune_says_nothing_of_where_it_runs(file: Path) -> None:
    assert file.suffix == ".yaml"
    assert not read_recipe(file).values.keys() & {"source", "workspace", "name"}


def test_delete_replaces_a_mapping_instead_of_merging(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "train: {epochs: 1, lr: 0.1}\n")
    path = write(tmp_path, "c.yaml", "_base_: a.yaml\ntrain: {_delete_: true, seed: 3}\n")

    recipe = read_recipe(path)

    assert recipe.values == {"train": {"seed": 3}}
    assert set(recipe.origins) == {"train.seed"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("a.b=3", 3), ("a.b=[1, x]", [1, "x"]), ("a.b=", None), ("a.b={c: true}", {"c": True}), ("a.b=x=y", "x=y")],
)
def test_overrides_are_yaml(tmp_path: Path, text: str, value: object) -> None:
    path = write(tmp_path, "c.yaml", "a: {b: 1}\n")

    assert read_recipe(path, [text]).values["a"]["b"] == value


def test_environment_variables_with_and_without_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "here")
    path = write(tmp_path, "c.yaml", "a: ${PLACE}/x\nb: ${NOWHERE:-there}\n")

    assert read_recipe(path).values == {"a": "here/x", "b": "there"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1\n", r"c\.yaml:2: not YAML"),
        ("- a\n", "mapping of keys"),
        ("a: 1\na: 2\n", r"c\.yaml:2: the key 'a' stands twice"),
        ("a: ${NOT_SET_ANYWHERE}\n", "c.yaml:1: a: the environment variable NOT_SET_ANYWHERE is not set"),
        ("_base_: c.yaml\n", "includes itself"),
        ("_base_: other.yaml\n", r"other.yaml, which .*c.yaml names as its _base_: cannot be read"),
        ("_base_: 3\n", "_base_ must be"),
        ("a: !!python/object/apply:os.system [true]\n", "not YAML"),
        ("1: a\n", "is not text"),
        ("a: \x01\n", "not YAML"),
        ("&a [*a]\n", "mapping of keys"),
        ("a: &a [*a]\n", "an alias that holds itself"),
    ],
)
def test_a_bad_recipe_names_its_file_and_the_remedy(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, "c.yaml", text)

    with pytest.raises(ConfigError, match=says):
        read_recipe(path)


def test_aliases_that_multiply_themselves_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)]
    path = write(tmp_path, "bomb.yaml", "\n".join(lines))

    with pytest.raises(ConfigError, match="more than"):
        read_recipe(path)


@pytest.mark.parametrize("text", ["epochs", "=3", "a..b=1", "a.b=[1"])
def test_a_bad_override_is_named(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "c.yaml", "a: 1\n")

    with pytest.raises(ConfigError, match="-o "):
        read_recipe(path, [text])
