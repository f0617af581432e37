"""What a person meets at the command line: help that suffices, one message for what is wrong, no traceback."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from helpers_converters import real
from helpers_flow import tiny_recipe, tiny_scenes

from flows.cli import main
from flows.config import load_config
from models.zoo import DetectorOptions, build_detector, zoo_table


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def annotune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command in this process: the same entry point without waiting for torch each time."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["annotune", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    return call


ROOT = Path(__file__).parents[1]
Command = Callable[..., Result]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    return tiny_recipe(folder, tiny_scenes(folder / "data"))


def refused(result: Result, *says: str, code: int = 2) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    flat = " ".join(result.stderr.split())
    for text in says:
        assert text in flat
    assert flat.count("error:") == 1


def test_help_and_single_stages_do_not_import_prefect(recipe: Path) -> None:
    code = (
        "import sys; from flows.cli import app\n"
        "try: app(['convert', sys.argv[1]])\n"
        "finally: assert 'prefect' not in sys.modules\n"
    )

    result = subprocess.run([sys.executable, "-c", code, recipe], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr


def test_convert_prints_what_it_found(annotune: Command, recipe: Path) -> None:
    result = annotune("convert", recipe)

    assert result.returncode == 0
    assert "train 24 images 85 instances, val 8 images 29 instances" in result.stdout


def test_processes_that_a_list_cannot_use_are_not_ignored_in_silence(annotune: Command, tmp_path: Path) -> None:
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 9, "height": 9} for number in range(20)]
    listed = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "all.json").write_text(json.dumps(listed))
    (tmp_path / "my.yaml").write_text("workspace: made\nsource: {format: coco, root: all.json, jobs: 4}")

    result = annotune("convert", tmp_path / "my.yaml")

    assert "source.jobs 4: coco is one list, which one process reads" in result.stdout


def test_config_prints_values_with_their_origins(annotune: Command, recipe: Path) -> None:
    result = annotune("config", recipe, "-o", "train.epochs=7")

    assert result.returncode == 0
    assert any(line.split() == ["epochs:", "7", "#", "-o", "train.epochs=7"] for line in result.stdout.splitlines())
    assert any("batch_size: 8" in line and "tiny.yaml:" in line for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.epoch=3", ["-o train.epoch=3: train.epoch: unknown key; did you mean epochs?"]),
        ("train.epochs=many", ["train.epochs", "a whole number", "'many'"]),
        ("detector.name=fasterrcnn_resnet50", ["fasterrcnn_resnet50", "fasterrcnn_resnet50_fpn"]),
        ("source.format=vox", ["source.format: no format 'vox' (did you mean 'voc'?)"]),
        ("source.options={corner: edges}", ["corner", "corners"]),
        ("source.categories=[Balloons]", ["categories: none is in", "'Balloons' (did you mean 'balloon'?)"]),
        ("source.root=/nowhere/at/all", ["/nowhere/at/all"]),
        ("source.splits={train: train, val: nosuchsplit}", ["nosuchsplit"]),
        ("weights={source: /nowhere/weights.pth}", ["/nowhere/weights.pth"]),
    ],
)
def test_a_wrong_value_is_one_message_with_the_remedy(
    annotune: Command, recipe: Path, override: str, says: list[str]
) -> None:
    refused(annotune("adapt", recipe, "-o", override), *says)


def test_the_check_tells_what_and_where(annotune: Command, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"), check={"policy": {"category-few": "warn"}})
    xml = sorted((tmp_path / "data/Annotations").glob("train*.xml"))[0]
    xml.write_text(xml.read_text().replace("<object>", "<object><name>odd</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>9</xmax><ymax>9</ymax></bndbox></object><object>", 1))  # fmt: skip

    result = annotune("check", recipe)

    assert "| category-few |" in result.stdout
    assert "odd" in result.stdout
    page = Path(next(line for line in result.stdout.splitlines() if line.startswith("page ")).split()[1])
    assert page.name == "problems.html"
    assert page.is_file()


def test_a_run_is_called_after_its_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "my cells, v2.yaml"
    recipe.write_text("source: {format: voc, root: data}")

    assert load_config(recipe)[0].name == "my-cells-v2"
    assert load_config(recipe, ["name=other"])[0].name == "other"


def test_a_plan_lists_what_is_not_copied_one_line_each(annotune: Command, tmp_path: Path) -> None:
    state = build_detector(DetectorOptions(name="yolov3_mobilenet_v3"), 4).state_dict()
    torch.save({"model": state, "optimizer": {}}, tmp_path / "theirs.pth")
    call = ("weights", "plan", "--model", "yolov3_mobilenet_v3", "--classes", "a,b", tmp_path / "theirs.pth")

    lines = annotune(*call).stdout.splitlines()

    assert any(line.startswith("rows") and "yolo_output.0.weight" in line for line in lines)
    assert not [line for line in lines if line.startswith("copied")]
    assert len(annotune(*call, "--all").stdout.splitlines()) > len(lines) + 200


def test_a_plan_takes_the_rules_of_a_recipe(annotune: Command, tmp_path: Path) -> None:
    state = build_detector(DetectorOptions(name="yolov3_mobilenet_v3"), 4).state_dict()
    torch.save({f"theirs.{key}": value for key, value in state.items()}, tmp_path / "theirs.pth")
    rules = {"rename": [[r"^theirs\.", ""]], "exclude": ["glob:neck*"], "source": "elsewhere.pth"}
    source = {"format": "voc", "root": "nowhere", "categories": ["a", "b"]}
    detector = {"name": "yolov3_mobilenet_v3"}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({"source": source, "detector": detector, "weights": rules}))
    plan = ("weights", "plan", tmp_path / "theirs.pth")
    alone = ("--model", detector["name"], "--classes", "a,b", "--exclude", "glob:neck*")

    by_recipe = annotune(*plan, "--recipe", tmp_path / "my.yaml")
    by_options = annotune(*plan, *alone, "-o", r"weights.rename=[['^theirs\.', '']]")

    assert by_recipe.returncode == 0, by_recipe.stderr
    assert "excluded by 'glob:neck*'" in by_recipe.stdout
    assert by_options.stdout == by_recipe.stdout
    refused(annotune(*plan, *alone, "-o", "weights.key_mop=paddle"), "did you mean key_map?")
    refused(annotune(*plan, "--classes", "a"), "which model? Give --model")
    refused(annotune(*plan, "--model", detector["name"]), "which classes? Give --classes")


def test_models_are_listed_with_what_a_load_asks(annotune: Command) -> None:
    table = annotune("models").stdout
    one = annotune("models", "cascade_rcnn_resnet50_fpn").stdout
    dense = annotune("models", "yolov3_darknet53").stdout

    for detector in zoo_table():
        (line,) = (line.split() for line in table.splitlines() if line.split()[:1] == [detector.name])
        assert line[1] == (f"{detector.box_ap:.1f}" if detector.box_ap else "-")
        assert line[3:] == [f"{detector.parameters / 1e6:.1f}", str(len(detector.weights) or "-"), *detector.fields]
    assert "e9872a90.pth  box AP 41.0" in one
    assert "roi_heads.box_predictor.0.cls_score.weight  classes + 1  cls_score" in one
    assert "roi_heads.box_predictor.2.bbox_pred.bias    4            bbox_pred" in one
    assert "yolo_output.1.bias    3 x (5 + classes)  yolo_output" in dense


def test_a_missing_recipe(annotune: Command, tmp_path: Path) -> None:
    refused(annotune("convert", tmp_path / "none.yaml"), "none.yaml", "cannot be read")


def test_a_malformed_xml_names_file_and_line(annotune: Command, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"))
    victim = sorted((tmp_path / "data/Annotations").glob("*.xml"))[0]
    victim.write_text(victim.read_text().replace("</annotation>", "</annotatio>"))

    refused(annotune("convert", recipe), victim.name)

    assert not list((tmp_path / "workspace/store").glob("convert-*"))


def test_a_missing_image_names_it(annotune: Command, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"))
    victim = sorted((tmp_path / "data/JPEGImages").glob("*.jpg"))[0]
    victim.unlink()

    refused(annotune("check", recipe, "-o", "check.repair=false"), victim.stem, "problems.html")


def test_a_validation_picture_that_cannot_be_decoded_is_named_before_the_training(
    annotune: Command, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"), check={"repair": False})
    picture = sorted((tmp_path / "data/JPEGImages").glob("val*.jpg"))[0]
    picture.write_bytes(picture.read_bytes().replace(b"\xff\xdb", b"\xff\xfe"))  # without the tables to decode by

    refused(annotune("adapt", recipe), "image-unreadable", picture.name)


def test_a_checkpoint_of_another_architecture(annotune: Command, recipe: Path, tmp_path: Path) -> None:
    foreign = real("checkpoints/resnet20-12fca82f.th")

    refused(annotune("adapt", recipe, "-o", f"weights.source={foreign}"), "resnet20-12fca82f.th")


def test_a_wrong_hash(annotune: Command, recipe: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"x" * 100)

    refused(
        annotune("fetch", recipe, "-o", f"weights={{source: {weights}, sha256: {'0' * 64}}}"), "weights.pth", "0000"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted by root only")
def test_a_full_disk_leaves_nothing_half_written(annotune: Command, recipe: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        refused(annotune("adapt", recipe, "-o", f"workspace={small}"), "No space left", "Free some space", code=1)
        assert not list((small / "store").glob("adapt-*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_another_converter_source_converts_again(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, tiny_scenes(tmp_path / "data"))
    for package in ("converters", "models", "tasks", "flows"):
        shutil.copytree(ROOT / package, tmp_path / "code" / package)

    def convert() -> set[str]:
        command = [sys.executable, "-c", "from flows.cli import main; main()", "convert", str(recipe)]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "code")}
        subprocess.run(command, env=environment, cwd=tmp_path, check=True)
        return {path.name for path in (tmp_path / "workspace/store").glob("convert-*")}

    once, twice = convert(), convert()
    with (tmp_path / "code/converters/coco.py").open("a") as source:
        source.write("\n# a touch\n")
    touched = convert()

    assert len(once) == 1
    assert twice == once
    assert len(touched) == 2
