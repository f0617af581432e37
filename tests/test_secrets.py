"""Two planted secrets: how a mirror is logged in to, and a login in a URL. Neither may turn up where people look."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from helpers_flow import tiny_recipe, tiny_scenes
from helpers_server import serving

from flows.chain import Plainly, chain
from flows.config import load_config
from flows.finetune import finetune

MIRROR, LOGIN = "m1rr0r-s3cret", "l0gin-s3cret"


def files_with(secret: str, folder: Path) -> list[str]:
    """Files below ``folder`` that hold the secret, or bear it in their name."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if secret in path.name or (path.is_file() and secret.encode() in path.read_bytes())
    ]


def told_by_prefect(api: str) -> str:
    """Everything that is seen of runs on Prefect's pages: logs, artifacts, states."""
    from prefect.logging.handlers import APILogHandler  # noqa: PLC0415 - slow

    asyncio.run(APILogHandler.aflush())
    text = ""
    for what in ("logs", "artifacts", "task_runs"):
        for page in range(50):
            rows = httpx.post(f"{api}/{what}/filter", json={"limit": 200, "offset": 200 * page}).raise_for_status()
            text += rows.text
            if len(rows.json()) < 200:
                break
    states = httpx.post(f"{api}/flow_runs/filter", json={}).raise_for_status().json()
    return text + "".join(str(run["state"]) for run in states)


@pytest.mark.slow
@pytest.mark.parametrize("works", [True, False], ids=["a run that works", "a run that cannot fetch"])
def test_a_planted_secret_turns_up_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: str, works: bool
) -> None:
    tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"))
    start, _ = load_config(tmp_path / "tiny.yaml", [f"workspace={tmp_path / 'start'}"])
    init = dict(zip(range(5), chain(start, Plainly(start.workspace)), strict=False))[4][1].path / "init.pt"

    with serving(lambda request, _: request.serve(init.read_bytes()) if works else request.send(403, b"no")) as mirror:
        monkeypatch.setenv("ANNOTUNE_WEIGHTS_MIRROR", f"http://somebody:{MIRROR}@{urlsplit(mirror.url).netloc}")
        monkeypatch.setenv("NO_PROXY", "*")
        source = f"https://somebody:{LOGIN}@weights.invalid/init.pt"
        state = finetune(load_config(tmp_path / "tiny.yaml", [f"weights.source={source}"])[0], return_state=True)

    assert state.is_completed() is works, state
    assert mirror.requests
    told = told_by_prefect(prefect_server)
    assert "weights" in told
    for secret in (MIRROR, LOGIN):
        assert files_with(secret, tmp_path / "workspace") == []
        assert secret not in told
