"""Shards in a flow: whoever converts them, the bytes are those of one run, and a killed worker costs nothing."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers_converters import photo, voc_object, voc_xml, write_voc
from helpers_flow import tiny_recipe
from prefect import flow
from prefect.settings import PREFECT_API_URL

from converters.errors import DatasetError
from flows.chain import Plainly, chain
from flows.config import FinetuneConfig, load_config
from flows.finetune import as_tasks

pytestmark = pytest.mark.usefixtures("prefect_server")

RUN = """
import sys
from pathlib import Path
from test_shards_flow import converting
from flows.config import load_config
if __name__ == "__main__":
    print("reached", converting(load_config(Path(sys.argv[1]), sys.argv[2:])[0]))
"""
needs_dask = pytest.mark.skipif(find_spec("prefect_dask") is None, reason="prefect-dask is not installed")
needs_ray = pytest.mark.skipif(find_spec("prefect_ray") is None, reason="prefect-ray is not installed")
EVERY_RUNNER = [
    "inline",
    "threads",
    pytest.param("processes", marks=pytest.mark.slow),
    pytest.param("dask", marks=[needs_dask, pytest.mark.slow]),
    pytest.param("ray", marks=[needs_ray, pytest.mark.slow]),
]


@flow
def converting(config: FinetuneConfig) -> str:
    """Run the chain up to the conversion; the digest of what it made."""
    results = chain(config, as_tasks(config))
    return str(dict([next(results), next(results)])["convert"].digest)


def voc(root: Path, count: int) -> tuple[Path, str]:
    """The recipe of a dataset of ``count`` pictures, and the digest of its conversion in one go."""
    photo(root / "data/JPEGImages/00000.png")
    for number in range(count):
        objects = [voc_object(label, (5, 5, 20 + number % 50, 30)) for label in ("cat", "dog")] * 5
        name = f"{number:05d}"
        write_voc(root / "data/Annotations", name, voc_xml(*objects, filename=f"{name}.png"))
    recipe = tiny_recipe(root, root / "data", source={"format": "voc", "root": str(root / "data")})
    config, _ = load_config(recipe, [f"workspace={root}/plain"])
    results = chain(config, Plainly(config.workspace))
    return recipe, dict([next(results), next(results)])["convert"].digest


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return voc(tmp_path_factory.mktemp("small"), 20)


@pytest.mark.parametrize("runner", EVERY_RUNNER)
def test_every_runner_gives_the_bytes_of_one_run(small: tuple[Path, str], tmp_path: Path, runner: str) -> None:
    recipe, expected = small
    given = ["convert.shards=3", "convert.workers=2", f"convert.runner={runner}", f"workspace={tmp_path}"]

    assert converting(load_config(recipe, given)[0]) == expected
    assert len(list((tmp_path / "store").glob("convert_shard-*"))) == 3


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_what_is_not_installed_is_named_with_its_extra(small: tuple[Path, str], tmp_path: Path, runner: str) -> None:
    if find_spec(f"prefect_{runner}") is not None:
        pytest.skip(f"prefect_{runner} is installed")
    given = ["convert.shards=3", f"convert.runner={runner}", f"workspace={tmp_path}"]

    with pytest.raises(DatasetError, match=rf"convert.runner is {runner}, .*pip install 'annotune\[{runner}\]'"):
        converting(load_config(small[0], given)[0])


def holder(workspace: Path) -> int | None:
    """A process that is converting a shard: it has the lock of its product open."""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            for handle in folder.iterdir():
                name = str(handle.readlink())
                if name.startswith(f"{workspace}/locks/convert_shard-"):
                    return int(folder.parent.name)
    return None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc to find the worker in")
@pytest.mark.parametrize("runner", ["processes", pytest.param("dask", marks=needs_dask)])
def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path, runner: str) -> None:
    recipe, expected = voc(tmp_path, 3000)
    workspace, script, log = tmp_path / "workspace", tmp_path / "run.py", tmp_path / "log.txt"
    script.write_text(RUN)
    given = ["convert.shards=4", "convert.workers=2", f"convert.runner={runner}", f"workspace={workspace}"]
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environ = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": paths}
    killed = None
    with (
        log.open("w") as said,
        subprocess.Popen(
            [sys.executable, str(script), str(recipe), *given], env=environ, stdout=said, stderr=subprocess.STDOUT
        ) as process,
    ):
        while process.poll() is None and killed is None:
            killed = holder(workspace)
            if killed is not None:
                os.kill(killed, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.01)

    assert killed not in (None, process.pid), log.read_text()
    assert process.returncode == 0, log.read_text()
    assert f"reached {expected}" in log.read_text()
