"""Prefect is kept to a folder of its own and, where a test needs it, one real server for the whole session."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="annotune-prefect-")
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mirror, login or proxy of this machine's in what is fetched."""
    for name in ("ANNOTUNE_OFFLINE", "ANNOTUNE_WEIGHTS_MIRROR", "HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The URL of its API."""
    from prefect.settings import PREFECT_API_URL  # noqa: PLC0415 - after PREFECT_HOME is set
    from prefect.testing.utilities import prefect_test_harness  # noqa: PLC0415

    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(os.environ["PREFECT_HOME"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs Prefect's server last: once it runs in this process, forked loading processes die at birth."""
    items.sort(key=lambda item: "prefect_server" in getattr(item, "fixturenames", ()))
