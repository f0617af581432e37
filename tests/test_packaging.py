"""What pip must know: bounds that were tried, a light base, versions that fit each other."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(extra: str) -> dict[str, Requirement]:
    return {parsed.name: parsed for parsed in map(Requirement, PROJECT["optional-dependencies"][extra])}


def test_fastapi_is_bound_below_the_versions_that_kill_prefects_server() -> None:
    fastapi = requirements("pipeline")["fastapi"].specifier

    assert "0.150.0" in fastapi
    assert "0.159.0" not in fastapi
    assert "0.165.0" not in fastapi
    assert version("fastapi") in fastapi  # the one with which the session's server starts


def test_the_converters_need_neither_torch_nor_prefect() -> None:
    base = {Requirement(text).name for text in PROJECT["dependencies"]}

    assert not base & {"torch", "torchvision", "timm", "prefect", "pydantic"}


def test_what_is_installed_is_what_was_tried() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()

    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;]+", line) for line in lines)
    pinned = dict(line.split("==") for line in lines)
    for name in ("torch", "torchvision", "prefect", "fastapi"):
        assert name in pinned


def test_labelme_is_never_a_dependency_of_ours() -> None:
    everything = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["pipeline"]]

    assert "labelme" not in {Requirement(text).name for text in everything}
