import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers_training import draw_set, initial

from models.training import EvaluateOptions, evaluate
from models.training.detect import QUIET, image_batches


@pytest.fixture
def crowd() -> Iterator[None]:
    """Other threads in this process, as a flow's client and server bring along."""
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(QUIET + 1)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("crowd")
def test_loading_processes_do_not_fork_beside_other_threads(tmp_path: Path) -> None:
    init, val = initial(tmp_path / "init.pt"), draw_set(tmp_path / "val", 4)

    alone = evaluate(init, val, tmp_path / "alone", options=EvaluateOptions(workers=0))
    loaded = evaluate(init, val, tmp_path / "loaded", options=EvaluateOptions(workers=1, batch_size=4))

    assert loaded["bbox"] == alone["bbox"]


@pytest.mark.usefixtures("crowd")
def test_the_context_follows_the_threads() -> None:
    loader = image_batches(torch.arange(3), [0, 1, 2], 1, 1)  # type: ignore[arg-type]

    assert loader.multiprocessing_context.get_start_method() == "forkserver"
