"""A worker, a machine and a server that die, and a run that is cancelled, with everything as `annotune serve` has it.

Whatever happens, the run ends with the bytes of one that nothing disturbed.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers_flow import tiny_recipe, tiny_scenes
from helpers_kill import (
    TRAIN,
    ask,
    begin_run,
    best_of,
    ending_within,
    free_port,
    processes_below,
    training_below,
    wait_for_steps,
    wait_until,
)

from flows.chain import Plainly, chain
from flows.config import FinetuneConfig, load_config
from flows.serve import DEPLOYMENTS, environment, prefect, prepare, server, worker
from tasks.store import sha256_of

pytestmark = pytest.mark.slow

LONG = {**TRAIN, "epochs": 30}  # so that there is time to strike


@dataclass
class Site:
    """A team's server that can be killed and started again."""

    environ: dict[str, str]
    stack: ExitStack
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = self.stack.enter_context(server(self.environ))

    def kill(self) -> None:
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def get(self, path: str, **given: Any) -> Any:
        return ask("GET", f"{self.environ['PREFECT_API_URL']}/{path}", **given)

    def post(self, path: str, body: Any) -> Any:
        return ask("POST", f"{self.environ['PREFECT_API_URL']}/{path}", json=body)

    def begin(self, config: FinetuneConfig) -> str:
        return begin_run(self.environ["PREFECT_API_URL"], config)

    def state(self, run: str) -> str:
        return str(self.get(f"flow_runs/{run}")["state_type"])

    def wait_for(self, run: str, *states: str) -> None:
        wait_until(lambda: self.state(run) in states)

    def history(self, run: str) -> dict[str, str]:
        """Names and messages of the states that a run went through."""
        rows = self.get("flow_run_states/", params={"flow_run_id": run})
        return {row["name"]: row["message"] or "" for row in sorted(rows, key=lambda row: row["timestamp"])}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site")
    for file in (DEPLOYMENTS, DEPLOYMENTS.with_name("automations.yaml")):
        shutil.copy(file, home)
    patient = (home / "automations.yaml").read_text()
    # The shortest heartbeat Prefect allows is 30 seconds, which the deployments have.
    (home / "automations.yaml").write_text(patient.replace("within: 90", "within: 40").replace("90 seconds", "a while"))
    environ = environment(home / "prefect", f"http://127.0.0.1:{free_port()}/api")
    with ExitStack() as stack:
        place = Site({**environ, "PREFECT_WORKER_QUERY_SECONDS": "1"}, stack)
        place.start()
        prepare(home / "prefect.yaml", place.environ)
        yield place


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scenes(tmp_path_factory.mktemp("kill") / "data")


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Hash of the best checkpoint of the same recipe, as plain calls without Prefect."""
    config = recipe(tmp_path_factory.mktemp("undisturbed"), data)
    for stage, _ in chain(config, Plainly(config.workspace)):
        if stage == "train":
            break
    return sha256_of(best_of(config.workspace))


def recipe(folder: Path, data: Path) -> FinetuneConfig:
    return load_config(tiny_recipe(folder, data, train=LONG))[0]


@pytest.fixture
def config(tmp_path: Path, data: Path) -> FinetuneConfig:
    return recipe(tmp_path, data)


def test_what_a_killed_worker_ran_is_scheduled_again_and_goes_on(
    site: Site, config: FinetuneConfig, undisturbed: str
) -> None:
    with worker(site.environ) as first:
        run = site.begin(config)
        part = wait_for_steps(config.workspace, first)
        training = training_below(first.pid)
        with ending_within(30, *training):  # nobody listens to the run any more, nobody could cancel it: it ends
            first.kill()
            first.wait()
    wait_until(lambda: "AwaitingRetry" in site.history(run))
    assert "Crashed" in site.history(run)
    assert (part / "last.pt").is_file()

    with worker(site.environ):
        site.wait_for(run, "COMPLETED")

    assert sha256_of(best_of(config.workspace)) == undisturbed


def test_a_run_whose_machine_died_is_missed_and_goes_on_elsewhere(
    site: Site, config: FinetuneConfig, undisturbed: str
) -> None:
    with worker(site.environ) as first:
        run = site.begin(config)
        wait_for_steps(config.workspace, first)
        everything = [first.pid, *processes_below(first.pid, "prefect.engine")]
        everything += [*processes_below(first.pid, "torch.distributed.run"), *training_below(first.pid)]
        assert len(everything) == 4
        for pid in everything:
            os.kill(pid, signal.SIGKILL)
    assert site.state(run) == "RUNNING"  # nobody has told the server anything

    wait_until(lambda: "AwaitingRetry" in site.history(run))
    assert site.history(run)["Crashed"] == "no heartbeat for a while"
    with worker(site.environ):
        site.wait_for(run, "COMPLETED")

    assert sha256_of(best_of(config.workspace)) == undisturbed


def test_a_run_outlives_its_server(site: Site, config: FinetuneConfig, undisturbed: str) -> None:
    """Where the server is away for minutes, Prefect ends the run, which a rerun takes up then."""
    with worker(site.environ) as first:
        run = site.begin(config)
        wait_for_steps(config.workspace, first)
        site.kill()
        wait_until(lambda: list(config.workspace.glob("store/train-*")))  # without any server
        site.start()
        site.wait_for(run, "COMPLETED", "CRASHED")
        if site.state(run) == "CRASHED":  # on a slow machine
            run = site.begin(config)
            site.wait_for(run, "COMPLETED")

    assert sha256_of(best_of(config.workspace)) == undisturbed


def test_a_cancelled_run_frees_its_device_and_the_next_one_goes_on_from_there(
    site: Site, config: FinetuneConfig, undisturbed: str
) -> None:
    with worker(site.environ) as runs:
        first = site.begin(config)
        part = wait_for_steps(config.workspace, runs)
        with ending_within(15, *training_below(runs.pid), *processes_below(runs.pid, "prefect.engine")):
            site.post(f"flow_runs/{first}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
        site.wait_for(first, "CANCELLED")
        assert (part / "last.pt").is_file()

        second = site.begin(config)
        site.wait_for(second, "COMPLETED")

    assert sha256_of(best_of(config.workspace)) == undisturbed
    events = (best_of(config.workspace).parent / "metrics.jsonl").read_text()
    assert '"event":"resume"' in events  # what was reached was not trained again


def test_new_data_starts_a_retrain(site: Site) -> None:
    deployment = site.get("deployments/name/retrain/retrain")["id"]

    prefect(["event", "emit", "annotune.source.changed", "--resource-id", "annotune.source.cells"], site.environ)

    asked = {"deployments": {"id": {"any_": [deployment]}}}
    wait_until(lambda: site.post("flow_runs/filter", asked))


@pytest.mark.parametrize("event", ["annotune.champion.promoted", "prefect.flow-run.Failed"])
def test_the_examples_fire_when_they_are_switched_on(site: Site, config: FinetuneConfig, event: str) -> None:
    (example,) = [row for row in site.post("automations/filter", {}) if row["trigger"]["expect"] == [event]]
    assert not example["enabled"]
    url = f"{site.environ['PREFECT_API_URL']}/automations/{example['id']}"
    httpx.patch(url, json={"enabled": True}).raise_for_status()

    if event == "prefect.flow-run.Failed":
        run = site.begin(config)
        site.post(f"flow_runs/{run}/set_state", {"state": {"type": "FAILED", "name": "Failed"}})
    else:
        prefect(["event", "emit", event, "--resource-id", "annotune.registry.cells"], site.environ)

    done = {"filter": {"event": {"name": ["prefect.automation.action.executed"]}}}
    wait_until(
        lambda: any(
            example["id"] in row["resource"]["prefect.resource.id"]
            for row in site.post("events/filter", done)["events"]
        )
    )
