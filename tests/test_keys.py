import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel

from tasks import keys
from tasks.keys import code_digest, content_key
from tasks.store import make_product


class Options(BaseModel):
    root: Path
    rate: float = 0.1
    names: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True)
class Seen:
    digest: str


def key(**inputs: object) -> str:
    return content_key("convert", "tasks.store", inputs)


def test_a_path_says_where_not_what() -> None:
    assert key(options=Options(root=Path("/here"))) == key(options=Options(root=Path("/there")))


def test_a_value_counts() -> None:
    assert key(options=Options(root=Path("/x"))) != key(options=Options(root=Path("/x"), rate=0.2))
    assert key(seen=Seen("1")) != key(seen=Seen("2"))


def test_two_stages_with_equal_inputs_share_no_key() -> None:
    assert content_key("convert", "tasks.store", {}) != content_key("check", "tasks.store", {})


def test_a_product_counts_by_its_content(tmp_path: Path) -> None:
    def make(text: str, place: str) -> object:
        return make_product(tmp_path / place, "x", "k" * 64, lambda folder: (folder / "a").write_text(text) and None)

    assert key(a=make("one", "p")) == key(a=make("one", "q"))
    assert key(a=make("one", "r")) != key(a=make("two", "s"))


def test_what_has_no_stable_content_is_refused() -> None:
    with pytest.raises(TypeError, match="set has no stable content"):
        key(names={"a", "b"})


def test_keys_are_equal_in_every_process() -> None:
    code = (
        "from pathlib import Path; from tasks.keys import content_key;"
        "print(content_key('convert', 'tasks.store', {'a': ('x', 1, 2.5, None, {'k': [True]}), 'p': Path('/x')}))"
    )

    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }

    assert len(seen) == 1


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "ourpackage"
    (root / "templates").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "work.py").write_text("def f():\n    from ourpackage import helper\n")
    (root / "helper.py").write_text("import ourpackage.deep\n")
    (root / "deep.py").write_text("")
    (root / "other.py").write_text("")
    (root / "templates" / "page.html.j2").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(keys, "OURS", ("ourpackage",))
    return root


@pytest.mark.parametrize(
    ("changed", "counts"),
    [("work.py", True), ("helper.py", True), ("deep.py", True), ("other.py", False), ("templates/page.html.j2", True)],
)
def test_code_counts_as_far_as_imports_reach(package: Path, changed: str, counts: bool) -> None:
    before = code_digest.__wrapped__("ourpackage.work")
    (package / changed).write_text("x = 1\n")

    assert (code_digest.__wrapped__("ourpackage.work") != before) is counts


def test_a_converter_does_not_depend_on_the_models() -> None:
    reached = {path.parts[-2] for path in keys._source_files("converters.formats")}

    assert not reached & {"models", "training", "zoo", "weights", "tasks", "flows"}
