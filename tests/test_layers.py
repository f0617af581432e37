"""Who may import whom: the rooms of the house, lazy imports included."""

import sys
from pathlib import Path

import pytest

from tasks.keys import imports_of

ROOT = Path(__file__).parents[1]
MAY_NOT = {
    "converters": {"models", "tasks", "flows", "prefect", "torch", "torchvision", "pydantic", "timm", "yaml"},
    "models": {"converters", "tasks", "flows", "prefect"},
    "tasks": {"flows"},
    "flows": set(),
}
SOURCES = [path for room in MAY_NOT for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]

    imported = {name.split(".")[0] for name in imports_of(path)}

    assert not imported & MAY_NOT[room]


# The flows themselves, and what turns stages into tasks and shows them. Nothing else waits for Prefect to be imported.
KNOW_PREFECT = {"tasks/as_task.py", "tasks/runners.py", "tasks/training_page.py"} | {
    f"flows/{name}.py" for name in ("finetune", "parts", "retrain", "prelabel", "sweep")
}


@pytest.mark.parametrize("path", [p for p in SOURCES if "tasks" in p.parts or "flows" in p.parts], ids=lambda p: p.name)
def test_few_files_know_prefect(path: Path) -> None:
    knows = "prefect" in {name.split(".")[0] for name in imports_of(path)}

    assert not knows or path.relative_to(ROOT).as_posix() in KNOW_PREFECT


def test_no_file_in_flows_hides_a_package() -> None:
    names = {path.stem for path in (ROOT / "flows").glob("*.py")}

    assert not names & set(MAY_NOT)
    assert not names & set(sys.stdlib_module_names)


def test_files_fit_in_a_head() -> None:
    beside = [path for room in ("tests", "benchmarks") for path in (ROOT / room).rglob("*.py")]

    assert [path.name for path in [*SOURCES, *beside] if path.read_text().count("\n") > 400] == []
