import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest
from helpers_converters import photo, real, voc_object, voc_xml, write_voc

from converters.cli import main


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]
PATHS = {"PYTHONPATH": str(Path(__file__).parents[1])}
STARTS = """
import signal, sys
if sys.argv.pop(1) == "listens":
    signal.signal(signal.SIGINT, signal.default_int_handler)
else:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
from concurrent import futures
from converters.cli import main
submit = futures.ProcessPoolExecutor.submit
def told(self, *arguments):
    future = submit(self, *arguments)
    if not self.__dict__.setdefault("told", False):
        self.told = True
        print("reading", flush=True)
    return future
futures.ProcessPoolExecutor.submit = told
if __name__ == "__main__":
    main()
"""  # the command, which says when its processes have been started


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command as its entry point runs it, in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["annotune-convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return run


def test_the_command_stands_alone_without_torch_or_prefect(dataset: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from converters.cli import main\ntry: main()\n"
        "except SystemExit: print(sorted(name.partition('.')[0] for name in sys.modules)); raise"
    )
    command = [sys.executable, "-W", "error", "-c", code, "voc", dataset, "-o", tmp_path / "out.json", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    for heavy in ("torch", "torchvision", "prefect", "yaml", "matplotlib", "numpy", "typer", "pydantic", "rich", "PIL"):
        assert f"'{heavy}'" not in done.stdout


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_voc(tmp_path / "set" / "Annotations", name, voc_xml(voc_object("cat"), voc_object("dog", (1, 1, 1, 5))))
        photo(tmp_path / "set" / "JPEGImages" / f"{name}.jpg")
    return tmp_path / "set"


def test_a_dataset_is_converted_and_summarised(run: Run, dataset: Path, tmp_path: Path) -> None:
    done = run("voc", dataset, "-o", tmp_path / "out.json")

    assert (done.returncode, done.stderr) == (0, "")
    assert len(orjson.loads((tmp_path / "out.json").read_bytes())["annotations"]) == 2
    for said in ("images", "cat", "left out: 2 x no width or no height", "2 x corners read as edges", "wrote"):
        assert said in done.stdout


def test_several_splits_are_several_files(run: Run, dataset: Path, tmp_path: Path) -> None:
    refused = run("voc", dataset, "-o", tmp_path / "out.json", "--split", "train=0.5", "--split", "val=0.5")
    done = run("voc", dataset, "-o", tmp_path / "{split}.json", "--split", "train=0.5", "--split", "val=0.5")

    assert refused.returncode == 2
    assert "out_{split}.json" in refused.stderr
    assert done.returncode == 0
    assert {path.name for path in tmp_path.glob("*.json")} == {"train.json", "val.json"}


def test_categories_from_the_line_or_a_file(run: Run, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\ufeffdog\n\ncat\n")
    for given in ("dog,cat", tmp_path / "labels.txt"):
        assert run("voc", dataset, "-o", tmp_path / "out.json", "--categories", given).returncode == 0
        coco = orjson.loads((tmp_path / "out.json").read_bytes())
        assert [category["name"] for category in coco["categories"]] == ["dog", "cat"]


def test_categories_that_match_nothing_are_an_error(run: Run, dataset: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("Cat\nDog\n")
    for given, says in (("Cat", "error: --categories: none is in"), (labels, "labels.txt: categories: none")):
        done = run("voc", dataset, "-o", tmp_path / "out.json", "--categories", given)
        assert done.returncode == 2
        assert says in done.stderr
        assert "'Cat' (did you mean 'cat'?)" in done.stderr
        assert "It has cat" in done.stderr
    assert not (tmp_path / "out.json").exists()

    some = run("voc", dataset, "-o", tmp_path / "out.json", "--categories", "Dog,cat")
    assert some.returncode == 0
    assert "noted: 1 x categories without any object: 'Dog' (did you mean 'dog'?) (as in all)" in some.stdout


def test_the_output_may_be_the_standard_output_a_pipe_or_a_link(run: Run, dataset: Path, tmp_path: Path) -> None:
    run("voc", dataset, "-o", tmp_path / "plain.json")
    plain = (tmp_path / "plain.json").read_bytes()
    command = [sys.executable, "-m", "converters.cli", "voc", str(dataset), "-o", "-"]
    done = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path, env={**os.environ, **PATHS})
    assert (done.returncode, done.stdout) == (0, plain)
    assert b"instances" in done.stderr
    assert not (tmp_path / "-").exists()

    (tmp_path / "link.json").symlink_to("plain.json")
    (tmp_path / "plain.json").write_text("before")
    assert run("voc", dataset, "-o", tmp_path / "link.json").returncode == 0
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "plain.json").read_bytes() == plain

    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
    assert run("voc", dataset, "-o", tmp_path / "pipe").returncode == 0
    assert reader.communicate()[0] == plain
    assert (tmp_path / "pipe").is_fifo()


def test_an_output_that_is_a_folder_is_named(run: Run, dataset: Path, tmp_path: Path) -> None:
    done = run("voc", dataset, "-o", tmp_path)
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path}: is a folder; name a file in it\n")


def test_strict_writes_nothing_if_anything_is_lost(run: Run, dataset: Path, tmp_path: Path) -> None:
    done = run("voc", dataset, "-o", tmp_path / "out.json", "--strict")

    assert done.returncode == 1
    assert "2 objects or files had to be left out" in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_bad_files_stop_or_are_skipped(run: Run, dataset: Path, tmp_path: Path) -> None:
    write_voc(dataset / "Annotations", "c", "<annotation>")
    stopped = run("voc", dataset, "-o", tmp_path / "out.json")
    skipped = run("voc", dataset, "-o", tmp_path / "out2.json", "--skip-bad")

    assert stopped.returncode == 2
    assert stopped.stderr.startswith("error: ")
    assert "c.xml:1: not XML" in stopped.stderr
    assert stopped.stderr.count("\n") == 1
    assert not (tmp_path / "out.json").exists()
    assert skipped.returncode == 0
    assert "skipped: 1 files" in skipped.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["voc", "nowhere", "-o", "x.json"], "nowhere is not a folder"),
        (["voc", ".", "-o", "x.json", "--split", "a=1", "--split", "a=2"], "two splits have one name"),
        (["voc", ".", "-o", "x.json", "--shard", "2"], "not I/N"),
        (["voc", ".", "-o", "x.json", "--corners", "zero"], "'zero'"),
        (["voc", ".", "-o", "x.json", "--min-visibility", "much"], "--min-visibility"),
        (["voc", "."], "--output"),
        (["voc", ".", "-o", "x.json", "--jobs", "0"], "--jobs: '0' is not a number from 1"),
        (["voc", ".", "-o", "x.json", "--corner", "auto"], "--corner"),
        (["coco", ".", "-o", "x.json", "--jobs", "2"], "unrecognized arguments: --jobs 2"),
        (["widerface", ".", "-o", "x.json", "--jobs", "2"], "unrecognized arguments: --jobs 2"),
        (["check", "x.json", "--max-drop", "2"], "--max-drop"),
        (["coco", "nowhere.json", "-o", "x.json"], "no COCO file"),
        (["merge", "nowhere.json", "-o", "x.json"], "cannot be read"),
        (["vco"], "vco"),
    ],
)
def test_user_errors_are_one_message_and_exit_code_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)

    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_shards_are_merged_into_the_bytes_of_one_run(run: Run, dataset: Path, tmp_path: Path) -> None:
    run("voc", dataset, "-o", tmp_path / "one.json")
    for i in range(3):
        assert run("voc", dataset, "-o", tmp_path / f"part{i}.json", "--shard", f"{i}/3").returncode == 0
    done = run("merge", *sorted(tmp_path.glob("part*.json")), "-o", tmp_path / "merged.json")

    assert done.returncode == 0
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def test_names_that_are_not_utf8_are_said_not_a_traceback(run: Run, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    Path(os.fsdecode(folder + b"/\xff.xml")).write_text(voc_xml(voc_object()))
    write_voc(tmp_path, "a", voc_xml(voc_object()))
    stopped = run("voc", tmp_path, "-o", tmp_path / "out" / "x.json")
    skipped = run("voc", tmp_path, "-o", tmp_path / "out" / "x.json", "--skip-bad")

    assert stopped.returncode == 2
    assert "not UTF-8" in stopped.stderr
    assert (skipped.returncode, "Traceback" in skipped.stderr) == (0, False)


def test_a_folder_or_a_pipe_named_like_an_annotation_is_an_error(run: Run, dataset: Path, tmp_path: Path) -> None:
    (dataset / "Annotations" / "x.xml").mkdir()
    os.mkfifo(dataset / "Annotations" / "y.xml")
    done = run("voc", dataset, "-o", tmp_path / "out.json", "--skip-bad")

    assert done.returncode == 0
    assert "skipped: 2 files" in done.stdout
    assert "x.xml: not a file" in done.stdout


def test_link_loops_end(run: Run, dataset: Path, tmp_path: Path) -> None:
    (dataset / "Annotations" / "loop").symlink_to(dataset, target_is_directory=True)
    (dataset / "Annotations" / "self.xml").symlink_to("self.xml")
    done = run("voc", dataset, "-o", tmp_path / "out.json", "--skip-bad")

    assert done.returncode == 0
    assert "self.xml: cannot be read" in done.stdout


def test_markup_in_labels_is_only_text(run: Run, tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_xml(voc_object("[bold]x[/] [link=http://x]")))
    done = run("voc", tmp_path, "-o", tmp_path / "out.json")

    assert done.returncode == 0
    assert "[bold]x[/] [link=http://x]" in done.stdout


def test_control_characters_in_labels_do_not_reach_the_terminal(run: Run, tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_xml(voc_object("cat\x9b2J")))
    done = run("voc", tmp_path, "-o", tmp_path / "out.json")

    assert done.returncode == 0
    assert "cat\\x9b2J" in done.stdout


def test_a_label_that_the_console_cannot_show_stops_nothing(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_xml(voc_object("信号灯")))
    command = [sys.executable, "-m", "converters.cli", "voc", tmp_path, "-o", tmp_path / "out.json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u4fe1" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["voc", "--help"], "--min-visibility FLOAT"),
        (["labelme", "--help"], "--groups, --no-groups"),
        (["cityscapes", "--help"], "{auto,png,json}"),
        (["yolo", "--help"], "--names PATH"),
        (["check", "--help"], "--max-drop"),
        (["--help"], "imagefolder"),
    ],
)
def test_the_options_are_those_of_the_reader(run: Run, arguments: list[str], says: str) -> None:
    done = run(*arguments)

    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout


def test_a_folder_that_cannot_be_written_is_an_error_of_the_machine(run: Run, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("voc", dataset, "-o", tmp_path / "file" / "out.json")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_real_set_by_its_image_sets(run: Run, tmp_path: Path) -> None:
    splits = [argument for name in ("train", "val", "test") for argument in ("--split", name)]
    done = run("voc", real("voc_bccd"), "-o", tmp_path / "bccd_{split}.json", *splits)

    assert done.returncode == 0
    counts = [len(orjson.loads((tmp_path / f"bccd_{s}.json").read_bytes())["images"]) for s in ("train", "val", "test")]
    assert counts == [205, 87, 72]


def interrupted(tmp_path: Path, manner: str, wait: float) -> tuple[int, str]:
    """Convert 4,000 files in three processes, with Ctrl-C as a terminal sends it, to the whole group."""
    for number in range(4000):
        (tmp_path / f"{number}.xml").write_text(voc_xml(f"{number}.jpg"))
    command = [
        sys.executable,
        "-c",
        STARTS,
        manner,
        "voc",
        str(tmp_path),
        "-o",
        str(tmp_path / "x.json"),
        "--jobs",
        "3",
    ]
    environment = {**os.environ, **PATHS}
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "reading\n"
    select.select([started.stdout], [], [], wait)  # as long as nothing is said
    os.killpg(started.pid, signal.SIGINT)

    said = started.communicate(timeout=60)[1]
    return started.returncode, said


@pytest.mark.parametrize("wait", [0.0, 0.1])
def test_ctrl_c_ends_all_processes_with_one_line(tmp_path: Path, wait: float) -> None:
    """While they start, or a little later."""
    assert interrupted(tmp_path, "listens", wait) == (130, "error: stopped; nothing was written\n")
    assert not list(tmp_path.glob("*.json*"))


def test_ctrl_c_is_not_for_a_command_in_the_background(tmp_path: Path) -> None:
    """A shell starts those with the signal ignored; so do the processes that read."""
    assert interrupted(tmp_path, "ignores", 0.1)[0] == 0
    assert (tmp_path / "x.json").exists()
