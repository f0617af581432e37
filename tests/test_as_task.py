import errno
import threading
from asyncio import CancelledError
from pathlib import Path

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Failed
from prefect.task_engine import TaskRunTimeoutError
from pydantic import BaseModel

from flows import chain, retrain
from models.errors import WeightsError
from models.weights.fetch import NetworkError
from tasks.as_task import RETRY_AFTER, as_task, is_transient, refuse_timeout
from tasks.stage import Stage, product
from tasks.store import Product
from tasks.timeouts import StageTimeoutError, Timeouts

pytestmark = pytest.mark.usefixtures("prefect_server")


class Options(BaseModel):
    root: Path
    text: str = "x"


calls: list[str] = []
failures: list[Exception] = []


@product("tasks.store")
def convert(folder: Path, options: Options) -> None:
    """Write the text."""
    calls.append(options.text)
    if options.text == "hangs":
        threading.Event().wait(60)
    if failures:
        raise failures.pop(0)
    (folder / "a.txt").write_text(options.text)
    (folder / "summary.md").write_text("one line\n\n| a | table |\n")


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()
    failures.clear()


def run(workspace: Path, options: Options) -> tuple[str | None, Product]:
    @flow
    def one() -> tuple[str | None, Product]:
        state = as_task(convert, workspace)(workspace, options)
        return state.name, state.result()

    return one()


def test_equal_content_is_cached_wherever_it_lies(tmp_path: Path) -> None:
    first = run(tmp_path, Options(root=Path("/here")))
    second = run(tmp_path, Options(root=Path("/there")))

    assert (first[0], second[0]) == ("Completed", "Cached")
    assert second[1] == first[1]
    assert calls == ["x"]


def test_other_content_is_not(tmp_path: Path) -> None:
    run(tmp_path, Options(root=Path("/x")))
    run(tmp_path, Options(root=Path("/x"), text="y"))

    assert calls == ["x", "y"]


@pytest.mark.parametrize("harm", ["delete the folder", "alter a file"])
def test_a_hit_counts_only_while_its_product_is_whole(tmp_path: Path, harm: str) -> None:
    _, made = run(tmp_path, Options(root=Path("/x")))
    if harm == "alter a file":
        (made.path / "a.txt").write_text("altered")
    else:
        made.path.rename(tmp_path / "elsewhere")

    name, again = run(tmp_path, Options(root=Path("/x")))

    assert name == "Completed"
    assert again.digest == made.digest
    assert calls == ["x", "x"]


def test_two_workspaces_do_not_share_results(tmp_path: Path) -> None:
    _, here = run(tmp_path / "here", Options(root=Path("/x")))
    _, there = run(tmp_path / "there", Options(root=Path("/x")))

    assert here.path != there.path


def test_what_the_world_may_heal_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RETRY_AFTER, "convert", (0, 0))
    failures.extend([TimeoutError("slow disk"), ConnectionResetError("share gone")])

    name, _ = run(tmp_path, Options(root=Path("/x")))

    assert name == "Completed"
    assert len(calls) == 3


def test_bad_data_fails_at_once_with_its_own_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RETRY_AFTER, "convert", (0, 0))
    failures.extend([WeightsError("a.pth: no checkpoint", "Give another")] * 3)

    with pytest.raises(WeightsError, match=r"a.pth: no checkpoint. Give another"):
        run(tmp_path, Options(root=Path("/x")))

    assert len(calls) == 1


def test_what_hangs_is_given_up_once_and_says_which_key_to_raise(tmp_path: Path) -> None:
    timeouts = Timeouts(convert=0.3 / 3600)

    @flow
    def one() -> None:
        state = as_task(convert, tmp_path, timeouts)(tmp_path, Options(root=Path("/x"), text="hangs"))
        refuse_timeout("convert", state, timeouts, 1)

    with pytest.raises(
        StageTimeoutError, match=r"convert was stopped after .* h, its timeout\. Raise timeouts\.convert"
    ):
        one()

    assert calls == ["hangs"]  # another attempt would hang as well
    assert list((tmp_path / "store").iterdir()) == []


def test_a_stage_that_prefect_cancels_has_not_run_out_of_time() -> None:
    cancelled = Failed(name="TimedOut", data=TaskRunTimeoutError())  # what it makes of any cancellation

    with pytest.raises(CancelledError, match="train was cancelled after 60 s"):
        refuse_timeout("train", cancelled, Timeouts(), 60)


def test_every_stage_that_is_a_task_has_its_timeout_and_its_retries() -> None:
    stages = {value.name for module in (chain, retrain) for value in vars(module).values() if isinstance(value, Stage)}

    assert Timeouts.model_fields.keys() == RETRY_AFTER.keys() == stages


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError(errno.EIO, "input/output error"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (NetworkError("http://x: no answer"), True),
        (OSError(errno.ENOSPC, "no space left"), False),
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
        (httpx.ConnectError("all connection attempts failed"), True),
        (ValueError("bad"), False),
        (KeyError("bug"), False),
    ],
)
def test_what_counts_as_transient(error: Exception, transient: bool) -> None:
    assert is_transient(None, None, Failed(data=error)) is transient  # type: ignore[arg-type]


def test_the_summary_is_an_artifact(tmp_path: Path) -> None:
    run(tmp_path, Options(root=Path("/x")))

    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts()

    description, text = next((a.description, a.data) for a in artifacts if a.key == "annotune-convert")
    assert description == "one line"
    assert text.startswith("| a | table |\n\nAll of it: `")
    assert (Path(text.split("`")[1]) / "a.txt").is_file()
