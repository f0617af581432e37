"""The ONNX file of every detector gives what PyTorch gives, and says what a program needs to know to run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_training import initial
from PIL import Image
from test_zoo_models import CHEAP, NAMES, scene, tiny, trained

from models.checkpoint import CheckpointMeta, save_checkpoint
from models.errors import ExportError
from models.training import export
from models.training.export import Agreement, export_onnx, parse_size
from models.zoo import DETECTORS, resolve_options

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

DOCS = Path(__file__).parents[1] / "docs/export.md"
DATA = os.environ.get("ANNOTUNE_DATA")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Drawn scenes, wide and upright, one of them empty; and real photos where there are any."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (objects, height, width) in enumerate(((2, 96, 128), (3, 160, 100), (0, 96, 96))):
        image = (scene(30 + number, objects, height, width)[0] * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(image).save(folder / f"{number}.png")
    real = sorted((Path(DATA) / "voc_fridge_mini").rglob("*.jpg"))[:2] if DATA else []
    return [*sorted(folder.iterdir()), *real]


def made(name: str, folder: Path) -> Path:
    """A checkpoint of a detector that has begun to learn: without a step its scores would all be the same."""
    path = folder / f"{name}.pt"
    model, _ = trained(name, 12 if name == "yolov3_mobilenet_v3" else 3, objects=2)
    options = resolve_options(tiny(name), pretrained=False).model_dump(mode="json")
    save_checkpoint(path, model.state_dict(), CheckpointMeta(name, ("red", "green", "blue"), options))
    return path


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made("yolov3_mobilenet_v3", tmp_path_factory.mktemp("quick"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in CHEAP else pytest.mark.slow) for name in NAMES]
)
def test_onnx_runtime_finds_what_pytorch_finds_in_pictures_of_any_shape(
    name: str, tmp_path: Path, pictures: list[Path]
) -> None:
    agreement = export_onnx(made(name, tmp_path), tmp_path / "m.onnx", check=pictures, min_score=0.0)

    assert agreement is not None
    assert agreement.close, agreement
    assert agreement.detections >= 10
    if DETECTORS[name].masks:
        assert agreement.masks > 0


def test_a_program_that_knows_the_file_alone_finds_the_same(quick: Path, pictures: list[Path], tmp_path: Path) -> None:
    export_onnx(quick, tmp_path / "m.onnx")
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map

    assert json.loads(told["annotune.classes"]) == ["red", "green", "blue"]
    assert told["annotune.colour_order"] == "RGB"
    assert json.loads(told["annotune.input_size"]) == {
        "shorter_side": 96,
        "longest_side": 128,
        "keep_aspect_ratio": True,
    }
    assert json.loads(told["annotune.normalisation"])["mean"] == [0.485, 0.456, 0.406]
    pixels = np.asarray(Image.open(pictures[0])).transpose(2, 0, 1)
    boxes, labels, scores = session.run(None, {"image": pixels})
    assert boxes.shape == (len(labels), 4) == (len(scores), 4)
    assert set(labels.tolist()) <= {1, 2, 3}


def test_the_program_of_the_docs_runs(
    quick: Path,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export_onnx(quick, tmp_path / "model.onnx")
    Image.open(pictures[0]).resize((256, 192)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)

    exec(program, {})

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert {line.split()[0] for line in lines} <= {"red", "green", "blue"}
    assert max(float(number) for number in re.findall(r"[\d.]+(?=\])", "".join(lines))) > 128  # in the photo's pixels


def test_the_size_may_be_fixed(quick: Path, tmp_path: Path) -> None:
    export_onnx(quick, tmp_path / "m.onnx", size=(64, 96))

    (image,) = onnx.load(tmp_path / "m.onnx").graph.input
    assert [side.dim_value for side in image.type.tensor_type.shape.dim] == [3, 64, 96]
    told = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(told["annotune.input_size"]) == {"height": 64, "width": 96, "keep_aspect_ratio": False}


def test_a_classifier_answers_in_onnx_as_in_pytorch(tmp_path: Path, pictures: list[Path]) -> None:
    init = initial(tmp_path / "best.pt", "timm://test_resnet", fixed_size=(64, 48))
    agreement = export_onnx(init, tmp_path / "m.onnx", check=pictures)

    assert agreement is not None
    assert agreement.close, agreement
    assert agreement.detections == 2 * len(pictures)


@pytest.mark.parametrize("text", ["640", "640x", "axb", "0x64", "-64x64", "64x64x3"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ExportError, match="height and width in pixels"):
        parse_size(text)


def test_a_size_that_the_detector_cannot_have_is_refused(quick: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="multiples of 32"):
        export_onnx(quick, tmp_path / "m.onnx", size=(64, 90))
    assert not list(tmp_path.iterdir())


def test_a_file_that_does_not_agree_is_not_kept(
    quick: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = onnx.load

    def spoiled(path: str) -> Any:
        written = load(path)
        for weight in written.graph.initializer:
            if "yolo_output" in weight.name and "bias" in weight.name:
                weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + 1, weight.name))
        return written

    monkeypatch.setattr(onnx, "load", spoiled)
    (tmp_path / "m.onnx").write_text("an earlier file")

    with pytest.raises(ExportError, match="does not give what PyTorch gives"):
        export_onnx(quick, tmp_path / "m.onnx", check=pictures, min_score=0.0)

    assert (tmp_path / "m.onnx").read_text() == "an earlier file"
    assert len(list(tmp_path.iterdir())) == 1


def test_pictures_in_which_nothing_is_found_prove_nothing(quick: Path, pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nothing could be compared"):
        export_onnx(quick, tmp_path / "m.onnx", check=pictures, min_score=1.0)
    assert not list(tmp_path.iterdir())


def test_the_same_checkpoint_gives_the_same_bytes_without_a_path_of_this_machine(quick: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    export_onnx(quick, first)
    export_onnx(quick, second)
    assert first.read_bytes() == second.read_bytes()
    assert str(Path(export.__file__).parent).encode() not in first.read_bytes()
    assert b"site-packages" not in first.read_bytes()


def test_without_the_extra_the_remedy_is_named(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"annotune\[onnx\]"):
        export_onnx(quick, tmp_path / "m.onnx")


def test_the_command_tells_the_greatest_difference(quick: Path, pictures: list[Path], tmp_path: Path) -> None:
    program = "from flows.cli import main; main()"
    command = [sys.executable, "-c", program, "export", str(quick), "--onnx", str(tmp_path / "m.onnx")]
    checked = [part for one in pictures for part in ("--check", str(one))]

    done = subprocess.run([*command, *checked, "--min-score", "0"], capture_output=True, text=True, check=True)
    refused = subprocess.run([*command, "--size", "wide"], capture_output=True, text=True, check=False)

    assert "greatest differences" in done.stdout
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)


def test_an_agreement_on_answers_speaks_of_no_boxes() -> None:
    assert str(Agreement(1, 5, 0, 0.0, 2e-8, 0.0)) == (
        "5 results in 1 picture, 0 of them from one alone; greatest differences: scores 2e-08"
    )
