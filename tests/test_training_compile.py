"""torch.compile of the backbone: by option, with a reason where it cannot be, invisible in the checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_training import draw_set, initial
from test_training_resume import assert_same_weights

from models.checkpoint import load_checkpoint
from models.errors import TrainingStopped
from models.training import TrainOptions, finetune
from models.training.compiling import compilation_failed
from models.training.process import StopSignal

OPTIONS = TrainOptions(epochs=3, batch_size=4, log_every=1, threads=1, workers=0, compile=True)


def test_without_a_compiler_the_run_goes_on_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor  # noqa: PLC0415 - slow

    monkeypatch.setattr(inductor.cpp, "cxx", ("there-is-no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    torch.compiler.reset()
    lines: list[dict[str, Any]] = []
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train", 4)

    summary = finetune(init, train, None, OPTIONS, tmp_path / "run", echo=lines.append)

    (note,) = summary.notes
    assert note.startswith("the backbone is not compiled (")
    assert "compiler" in note.lower()
    assert [line["said"] for line in lines if line["event"] == "note"] == [note]
    plain = finetune(init, train, None, OPTIONS.model_copy(update={"compile": False}), tmp_path / "plain")
    assert_same_weights(summary.last, plain.last)


def test_only_what_a_compiler_says_takes_the_compiled_backbone_away() -> None:
    from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException  # noqa: PLC0415 - slow

    assert issubclass(BackendCompilerFailed, TorchDynamoException)
    model = torch.nn.Module()
    model.backbone = torch.nn.Identity()
    own = model.backbone.forward
    model.backbone.forward = lambda x: own(x) + 1

    assert not compilation_failed(model, RuntimeError("shapes differ"))
    assert int(model.backbone(torch.zeros(()))) == 1
    assert compilation_failed(model, TorchDynamoException("graph too odd"))
    assert int(model.backbone(torch.zeros(()))) == 0
    assert not compilation_failed(model, TorchDynamoException("again"))


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_run_resumes_to_the_bit_under_the_same_names(tmp_path: Path) -> None:
    init, train = initial(tmp_path / "init.pt"), draw_set(tmp_path / "train", 4)
    stop = StopSignal()

    def stop_there(line: dict[str, Any]) -> None:
        if line["event"] == "step" and line["step"] == 2:
            stop.stop()

    whole = finetune(init, train, None, OPTIONS, tmp_path / "whole")
    with pytest.raises(TrainingStopped):
        finetune(init, train, None, OPTIONS, tmp_path / "run", echo=stop_there, stop=stop)
    summary = finetune(init, train, None, OPTIONS, tmp_path / "run")

    assert whole.notes == ()
    assert_same_weights(summary.last, whole.last)
    assert load_checkpoint(whole.last)[0]["model"].keys() == load_checkpoint(init)[0]["model"].keys()
