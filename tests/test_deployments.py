"""What a team's server offers: the deployments, the parameter form, and everything together for real."""

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
import yaml
from helpers_flow import tiny_recipe, tiny_scenes
from helpers_kill import free_port
from pydantic import ValidationError

from converters.formats import FORMATS
from flows.config import FinetuneConfig, load_config
from flows.serve import DEPLOYMENTS, ServeError, environment, prefect, serving

ELSEWHERE = Path(__file__).parents[1] / "deployments"
FLOWS = {"convert", "finetune", "evaluate", "retrain"}


def prefect_file() -> dict[str, Any]:
    return dict(yaml.safe_load(DEPLOYMENTS.read_text()))


def form(flow: str) -> dict[str, Any]:
    """The schema behind a flow's parameter form."""
    from prefect.flows import load_flow_from_entrypoint  # noqa: PLC0415 - slow
    from prefect.utilities.callables import parameter_schema  # noqa: PLC0415

    entrypoints = {entry["name"]: entry["entrypoint"] for entry in prefect_file()["deployments"]}
    return dict(parameter_schema(load_flow_from_entrypoint(entrypoints[flow])).model_dump())


def test_every_deployment_names_a_module_a_queue_and_tags() -> None:
    entries = prefect_file()["deployments"]

    assert {entry["name"] for entry in entries} == FLOWS
    for entry in entries:
        assert re.fullmatch(r"flows(\.\w+)+", entry["entrypoint"])
        assert entry["work_pool"]["work_queue_name"] in {"gpu", "cpu"}
        assert entry["enforce_parameter_schema"] is True
        assert "annotune" in entry["tags"]
        if "gpu" in entry["tags"]:
            assert entry["concurrency_limit"]["limit"] == 1
            assert entry["concurrency_limit"]["collision_strategy"] == "ENQUEUE"


@pytest.mark.parametrize("flow", sorted(FLOWS))
def test_the_form_describes_every_field_and_shows_its_default(flow: str) -> None:
    schema = form(flow)

    assert schema["properties"]["config"]["description"]
    for model, definition in schema["definitions"].items():
        for name, field in definition.get("properties", {}).items():
            assert field.get("description"), f"{model}.{name} has no description"
            assert name in definition.get("required", []) or "default" in field, f"{model}.{name} shows no default"


def test_the_form_refuses_what_is_not_in_it() -> None:
    schema = form("finetune")

    strict = {name for name, model in schema["definitions"].items() if model.get("additionalProperties") is False}
    assert strict == schema["definitions"].keys() - {"Product"}
    assert schema["definitions"]["TrainOptions"]["properties"]["epochs"]["default"] == 12


def test_what_the_deployments_bring_themselves_fits_the_form() -> None:
    from prefect.utilities.schema_tools import validate  # noqa: PLC0415 - slow

    for entry in prefect_file()["deployments"]:
        unset = orjson.loads(re.sub(rb"{{ \$\w+ }}", b"", orjson.dumps(entry.get("parameters", {}))))
        validate(unset, form(entry["name"]), raise_on_error=True, ignore_required=True)


def test_a_deployment_whose_source_was_never_named_says_so() -> None:
    with pytest.raises(
        ValidationError, match="Give the folder of the dataset; the deployments take it from ANNOTUNE_SO"
    ):
        FinetuneConfig.model_validate({"source": {"format": "voc", "root": ""}})


def test_the_formats_are_a_choice_in_the_form() -> None:
    assert form("finetune")["definitions"]["SourceOptions"]["properties"]["format"]["enum"] == list(FORMATS)
    with pytest.raises(ValidationError, match="did you mean 'voc'"):
        FinetuneConfig.model_validate({"source": {"format": "vco", "root": "x"}})


def runs_of(api: str, name: str) -> list[dict[str, Any]]:
    """Runs of a flow, oldest first."""
    query = {"flows": {"name": {"any_": [name]}}, "sort": "EXPECTED_START_TIME_ASC"}
    return list(httpx.post(f"{api}/flow_runs/filter", json=query).raise_for_status().json())


def task_states(api: str, run: dict[str, Any]) -> dict[str, str]:
    query = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    tasks = httpx.post(f"{api}/task_runs/filter", json=query).raise_for_status().json()
    return {task["name"].rpartition("-")[0]: task["state_name"] for task in tasks}


@pytest.mark.slow
def test_server_worker_and_deployments_do_the_whole_job(tmp_path: Path) -> None:
    tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"))
    parameters = {"config": load_config(tmp_path / "tiny.yaml")[0].model_dump(mode="json")}
    retraining = {**parameters, "registry": str(tmp_path / "registry")}
    stages = {"convert", "check", "adapt", "train", "evaluate", "report"}

    with serving(tmp_path / "prefect", DEPLOYMENTS, free_port()) as running:
        api = running.api
        environ = environment(tmp_path / "prefect", api)

        def run(deployment: str, given: dict[str, Any]) -> dict[str, Any]:
            command = ["deployment", "run", deployment, "--params", "-", "--watch", "--watch-timeout", "300"]
            prefect(command, environ, stdin=orjson.dumps(given).decode())
            return runs_of(api, deployment.partition("/")[0])[-1]

        first, second = (run("finetune/finetune", parameters) for _ in range(2))
        assert first["state_type"] == second["state_type"] == "COMPLETED"
        assert {task_states(api, first)[stage] for stage in stages} == {"Completed"}
        assert {task_states(api, second)[stage] for stage in stages} == {"Cached"}

        assert run("retrain/retrain", retraining)["state_name"] == "Promoted"
        assert run("retrain/retrain", retraining)["state_name"] == "Unchanged"
        xml = sorted((tmp_path / "data/Annotations").glob("train*.xml"))[0]
        xml.write_text(re.sub("<name>[a-z]+", "<name>rocket", xml.read_text()))
        after = run("retrain/retrain", retraining)
        assert after["state_name"] in {"Promoted", "Kept"}
        assert re.search(r"AP 0\.\d+ -> 0\.\d+, margin 0", after["state"]["message"])
        told = {"filter": {"event": {"prefix": ["annotune.champion."]}}}
        events = [
            row["event"] for row in httpx.post(f"{api}/events/filter", json=told).raise_for_status().json()["events"]
        ]
        assert {"annotune.champion.promoted", "annotune.champion.unchanged"} <= {*events}
        assert f"annotune.champion.{after['state_name'].lower()}" in events

        xml.write_text("<annotation>")
        with pytest.raises(ServeError, match="deployment run"):
            run("convert/convert", parameters)
        failed = runs_of(api, "convert")[-1]
        assert xml.name in failed["state"]["message"]
        logged = {"logs": {"flow_run_id": {"any_": [failed["id"]]}, "level": {"ge_": 40}}}
        assert any(xml.name in row["message"] for row in httpx.post(f"{api}/logs/filter", json=logged).json())

        queue = httpx.get(f"{api}/work_pools/local/queues/gpu").json()
        assert queue["concurrency_limit"] == 1
        for deployment in httpx.post(f"{api}/deployments/filter", json={}).json():
            limit = deployment["global_concurrency_limit"]
            assert limit["limit"] == 1 if "gpu" in deployment["tags"] else limit is None
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{api}/health")


def test_the_automations_are_prefects() -> None:
    from prefect.events.schemas.automations import AutomationCore  # noqa: PLC0415 - slow

    text = DEPLOYMENTS.with_name("automations.yaml").read_text()
    automations = [AutomationCore.model_validate(entry) for entry in yaml.safe_load(text)["automations"]]

    heartbeat, reschedule, *_ = automations
    # On SQLite, news that two automations wait for is lost if one answers while the other counts (seen with Crashed).
    assert not heartbeat.trigger.expect & reschedule.trigger.expect  # type: ignore[union-attr]
    assert f"prefect.flow-run.{reschedule.actions[0].name}" in heartbeat.trigger.expect  # type: ignore[union-attr]
    assert heartbeat.trigger.within.total_seconds() >= 3 * 30  # type: ignore[union-attr]
    entries = prefect_file()["deployments"]
    assert {entry["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] for entry in entries} == {
        "30"
    }


def test_the_job_of_a_kubernetes_pool_asks_for_gpus_and_time_to_stop() -> None:
    from prefect.utilities.templating import apply_values, find_placeholders  # noqa: PLC0415 - slow

    template = orjson.loads((ELSEWHERE / "kubernetes-job-template.json").read_bytes())
    variables = template["variables"]["properties"]
    used = {placeholder.name for placeholder in find_placeholders(template["job_configuration"])}
    defaults = {name: field["default"] for name, field in variables.items() if "default" in field}
    pod = apply_values(template["job_configuration"], defaults)["job_manifest"]["spec"]["template"]["spec"]

    assert used == variables.keys()
    assert all(field["description"] for field in variables.values())
    assert pod["terminationGracePeriodSeconds"] == 90
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_prefects_kubernetes_worker_makes_a_job_of_it() -> None:
    pytest.importorskip("prefect_kubernetes", reason="the extra `kubernetes` is not installed")
    from prefect.client.schemas.objects import FlowRun  # noqa: PLC0415 - slow
    from prefect.utilities.templating import apply_values  # noqa: PLC0415
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration, KubernetesWorkerVariables  # noqa: PLC0415

    template = orjson.loads((ELSEWHERE / "kubernetes-job-template.json").read_bytes())
    own = {"gpus", "cpus", "memory", "shared_memory", "volume_claim", "grace_seconds"}
    assert template["variables"]["properties"].keys() - own <= KubernetesWorkerVariables.model_fields.keys()
    values = {
        name: field["default"] for name, field in template["variables"]["properties"].items() if "default" in field
    }

    job = KubernetesWorkerJobConfiguration(**apply_values(template["job_configuration"], values))  # raises if refused
    job.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="tiny-run"))

    pod = job.job_manifest["spec"]["template"]["spec"]
    assert job.job_manifest["metadata"]["generateName"] == "tiny-run-"
    assert pod["containers"][0]["args"] == ["prefect", "flow-run", "execute"]
    names = {variable["name"] for variable in pod["containers"][0]["env"]}
    assert {"PREFECT__FLOW_RUN_ID", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"} <= names
    assert pod["terminationGracePeriodSeconds"] == 90
