"""What pip installs: the wheel has all that the packages need, and works alone, from an empty folder."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("converters", "models", "tasks", "flows")
RUN = """
import sys
from importlib.metadata import entry_points

(entry,) = entry_points(group="console_scripts", name=sys.argv[1])
del sys.argv[0]
entry.load()()
"""
"""What the script that pip writes does."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked as pip does it."""
    pytest.importorskip("hatchling", reason="builds the wheel; it is in the extra `dev`")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("annotune-*-py3-none-any.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def installed(site: Path, folder: Path, program: str, *arguments: str) -> str:
    """What a command says with nothing of the checkout on the path."""
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", RUN, program, *arguments]
    done = subprocess.run(  # noqa: PLW1510 - stderr says more than CalledProcessError
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_what_the_packages_have_and_no_more(site: Path) -> None:
    there = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    beside = {name for name in there if re.match(r"annotune-[\w.]+\.dist-info/", name)}
    assert there - beside == ours
    assert {Path(name).name for name in beside} == {"METADATA", "RECORD", "WHEEL", "LICENSE", "entry_points.txt"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= there
    assert {"flows/prefect.yaml", "flows/automations.yaml", "flows/recipes/fasterrcnn.yaml"} <= there
    assert {"converters/check/page.html", "models/report/templates/report.html.j2"} <= there


def test_every_command_of_the_wheel_tells_its_help(site: Path, tmp_path: Path) -> None:
    for program in ("annotune", "annotune-convert", "x2coco"):
        assert program in installed(site, tmp_path, program, "--help")
    assert not list(tmp_path.iterdir())


def test_a_recipe_in_an_empty_folder_stands_on_one_that_came_with_the_wheel(site: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "my.yaml"
    recipe.write_text("_base_: fasterrcnn-small\nsource: {format: voc, root: data}\n")

    said = installed(site, tmp_path, "annotune", "config", "my.yaml")

    assert re.search(r"name: fasterrcnn_resnet50_fpn +# annotune:fasterrcnn-small:4\n", said)
    assert re.search(rf"root: {tmp_path}/data +# my.yaml:2\n", said)
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]
