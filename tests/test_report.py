"""The report page: whole, self-contained, the same every time, and deaf to what labels tell it."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers_report import Page, bare, fake_run, renamed, rewrite
from PIL import Image

import converters.check
from models.report import ReportError, ReportInputs, compare, render
from models.report.inputs import presentable
from models.report.training import training_figures

SECTIONS = ["result", "data", "check", "weights", "training", "classes", "mistakes", "pictures", "setup"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    return fake_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture
def fresh(tmp_path: Path) -> ReportInputs:
    return fake_run(tmp_path / "run", images=6, train=4)


def rendered(inputs: ReportInputs, tmp_path: Path) -> Page:
    render(inputs, tmp_path / "report.html")
    return Page(tmp_path / "report.html")


def test_the_page_says_how_many_boxes_the_anchors_can_reach(fresh: ReportInputs, tmp_path: Path) -> None:
    assert fresh.history is not None
    first, *rest = fresh.history.read_text().splitlines()
    told = json.dumps({**json.loads(first), "best_possible_recall": 0.8754})
    fresh.history.write_text("\n".join([told, *rest]))

    assert "87.5% of the training boxes" in rendered(fresh, tmp_path).text


def test_a_whole_run_has_every_section(run: ReportInputs, tmp_path: Path) -> None:
    page = rendered(run, tmp_path)
    assert page.sections() == SECTIONS
    assert [link["href"] for link in page.every("a")] == [f"#{name}" for name in SECTIONS]
    ap = json.loads(run.metrics.read_text())["bbox"]["AP"]
    assert f"{ap * 100:.1f} AP" in page.text
    before = json.loads(run.baseline.read_text())["bbox"]["AP"] if run.baseline else 0.0
    assert f"{(ap - before) * 100:.1f} points more than training from scratch" in page.text
    assert "ssdlite320_mobilenet_v3_large from shore-best.pt reaches" in page.text
    assert "balloon" in page.text


def test_the_essentials_alone_make_a_page(run: ReportInputs, tmp_path: Path) -> None:
    page = rendered(bare(run), tmp_path)
    assert page.sections() == ["result", "data", "classes", "mistakes", "setup"]
    assert not page.every("image")


OPTIONAL = [field.name for field in fields(ReportInputs) if field.name in {
    "images", "train", "chosen_by", "detections", "history", "plan", "problems", "last", "baseline"}]  # fmt: skip


@pytest.mark.parametrize("name", OPTIONAL)
def test_each_optional_file_may_be_absent(run: ReportInputs, tmp_path: Path, name: str) -> None:
    for value in (None, tmp_path / "nowhere"):
        page = rendered(replace(run, **{name: value}), tmp_path)
        gone = {
            "history": "training",
            "plan": "weights",
            "problems": "check",
            "images": "pictures",
            "detections": "pictures",
        }
        assert page.sections() == [section for section in SECTIONS if section != gone.get(name)]


@pytest.mark.parametrize("name", ["val", "metrics"])
def test_an_essential_file_that_is_absent_is_an_error(run: ReportInputs, tmp_path: Path, name: str) -> None:
    with pytest.raises(ReportError, match=rf"gone\.json: no such file \({name}\)") as caught:
        render(replace(run, **{name: tmp_path / "gone.json"}), tmp_path / "report.html")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_split_that_chose_the_checkpoint_is_counted_too(fresh: ReportInputs, tmp_path: Path) -> None:
    evaluated = fresh.val.rename(fresh.val.with_name("test.json"))
    text = rendered(replace(fresh, val=evaluated, chosen_by=fresh.train), tmp_path).text
    assert [row in text for row in ("training4", "validation4", "test6")] == [True] * 3


@pytest.mark.parametrize(
    ("file", "called"), [("val.json", "validation"), ("test.json", "test"), ("fold-3.json", "evaluated")]
)
def test_the_split_that_was_evaluated_is_called_what_it_is(
    fresh: ReportInputs, tmp_path: Path, file: str, called: str
) -> None:
    inputs = replace(bare(fresh), val=fresh.val.rename(fresh.val.with_name(file)))
    page = rendered(inputs, tmp_path)
    compare([inputs, inputs], tmp_path / "both.html")
    both = Page(tmp_path / "both.html")

    assert f"On 6 {called} images" in page.text
    assert f"measures on the {called} images" in page.text
    assert both.text.count(f"6 {called}") == 2
    assert called == "validation" or "validation" not in page.text + both.text


@pytest.mark.parametrize("content", ["{", "[]", '{"images": 3}'])
def test_a_damaged_file_is_an_error_that_names_it(fresh: ReportInputs, tmp_path: Path, content: str) -> None:
    fresh.val.write_text(content)
    with pytest.raises(ReportError, match=r"val\.json: (not JSON|not an object|images: no list)"):
        render(fresh, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_same_inputs_give_the_same_bytes_wherever_they_lie(run: ReportInputs, tmp_path: Path) -> None:
    again = fake_run(tmp_path / "elsewhere" / "run")
    render(run, tmp_path / "a.html")
    render(again, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_page_loads_nothing(run: ReportInputs, tmp_path: Path) -> None:
    page = rendered(run, tmp_path)
    source = (tmp_path / "report.html").read_text()
    assert "http:" not in source
    assert "https:" not in source
    assert not re.search(r"@import|url\(|<script|<link|<iframe|<object", source)
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.every("meta"))
    for tag, attributes in page.elements:
        for name in ("href", "src", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:image/jpeg;base64,")), (tag, target)
    assert len(page.every("image")) == 8, "four of the worst pictures and four typical ones"


def test_no_absolute_path_appears(run: ReportInputs, tmp_path: Path) -> None:
    rendered(run, tmp_path)
    source = (tmp_path / "report.html").read_text()
    assert str(run.val.parent) not in source
    assert "root: …/scenes" in source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("root: /home/ada/data/bccd", "root: …/bccd"),
        ("root: '/home/ada/data/bccd/'", "root: '…/bccd'"),
        (r"root: C:\Users\ada\bccd", "root: …/bccd"),
        ("root:/srv/x,/srv/y", "root:…/x,…/y"),
        ("root: /data", "root: …/data"),
        ("https://example.org/a/b.pt and data/bccd/val.json", "https://example.org/a/b.pt and data/bccd/val.json"),
        ("torchvision://Weights.COCO_V1, 3/4 of 2/3, and/or, ../up/there", None),
        ("s: https://ada:pw@example.org/a.pt?Signature=abc&x=/y", "s: https://…@example.org/a.pt?…"),
        ("file:///srv/models/a.pt", "…/a.pt"),
    ],
)
def test_paths_and_credentials_are_left_out_and_nothing_else(text: str, expected: str | None) -> None:
    assert presentable(text) == (text if expected is None else expected)


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}</title></style>"


def test_labels_file_names_and_messages_stay_text(tmp_path: Path) -> None:
    inputs = renamed(fake_run(tmp_path / "run", images=6, train=4), {"balloon": HOSTILE})
    rewrite(inputs.problems, problems=[{"rule": HOSTILE, "severity": HOSTILE, "message": HOSTILE, "file": HOSTILE}])
    rewrite(inputs.plan, checkpoint=HOSTILE, notes=[HOSTILE], detector=HOSTILE)
    rewrite(inputs.metrics, errors={HOSTILE: 3}, suspects=[{"file_name": HOSTILE, "kind": HOSTILE, "score": 1}])
    assert inputs.history
    inputs.history.write_text(json.dumps({"event": "step", "step": 1, "loss": 1.0, "losses": {HOSTILE: 1.0}}))
    texts = {"config": HOSTILE, "environment": {HOSTILE: HOSTILE}, "baseline_title": HOSTILE}
    inputs = replace(inputs, title=HOSTILE, **texts)
    compare([inputs, inputs], tmp_path / "compare.html")
    for page in (rendered(inputs, tmp_path), Page(tmp_path / "compare.html")):
        assert not page.every("script")
        assert not page.every("img")
        assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
        assert page.text.count("alert(1)") >= 2, "hidden rather than shown"
        assert "{{ 7*7 }}" in page.text
        assert "49" not in page.text.replace("0.49", "")
    known = {"badge", "error", "warning", "info"}
    badges = [a["class"] for a in rendered(inputs, tmp_path).every("span") if "badge" in (a.get("class") or "")]
    assert badges
    assert all(set((classes or "").split()) <= known for classes in badges)


def test_a_run_without_a_detection(fresh: ReportInputs, tmp_path: Path) -> None:
    assert fresh.detections
    fresh.detections.write_text("[]")
    nothing = dict.fromkeys(("AP", "AP50", "AP75"), 0.0) | {"APs": -1.0}
    rewrite(fresh.metrics, bbox=nothing, per_class=[], curves={}, confusion={}, errors={}, suspects=[])
    rewrite(fresh.last, bbox=nothing, per_class=[])
    page = rendered(fresh, tmp_path)
    assert "0.0 AP" in page.text
    assert "AP small" not in page.text, "-1 is no measure"
    assert "pictures" not in page.sections()


def test_a_run_without_an_image(fresh: ReportInputs, tmp_path: Path) -> None:
    fresh.val.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    rewrite(fresh.metrics, bbox={"AP": -1.0})
    assert "nothing to measure" in rendered(fresh, tmp_path).text


def test_pictures_stay_below_the_image_root(fresh: ReportInputs, tmp_path: Path) -> None:
    assert fresh.images
    Image.new("RGB", (320, 240), "red").save(fresh.images.parent / "secret.jpg")
    content = json.loads(fresh.val.read_text())
    for image in content["images"]:
        image["file_name"] = "../secret.jpg"
    fresh.val.write_text(json.dumps(content))
    page = rendered(fresh, tmp_path)
    assert not page.every("image")


def test_a_picture_that_cannot_be_read_is_left_out(fresh: ReportInputs, tmp_path: Path) -> None:
    assert fresh.images
    for path in sorted(fresh.images.iterdir())[:3]:
        path.write_bytes(b"no picture")
    assert 0 < len(rendered(fresh, tmp_path).every("image")) <= 3
    for path in fresh.images.iterdir():
        path.write_bytes(b"")
    assert "pictures" not in rendered(fresh, tmp_path).sections()


@pytest.mark.parametrize(("annotated", "high"), [((240, 320), "640.0"), ((320, 240), "360.0")])
def test_boxes_follow_the_picture_when_exif_turns_it(
    fresh: ReportInputs, tmp_path: Path, annotated: tuple[int, int], high: str
) -> None:
    """A picture stored lying is shown standing, unless the annotated size is the stored one, as in training."""
    assert fresh.images
    content = json.loads(fresh.val.read_text())
    for image in content["images"]:
        image["width"], image["height"] = annotated
    fresh.val.write_text(json.dumps(content))
    for path in fresh.images.iterdir():
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (320, 240)).save(path, exif=exif)
    page = rendered(fresh, tmp_path)
    assert {image["height"] for image in page.every("image")} == {high}  # on a canvas of 480
    uri = page.every("image")[0]["href"] or ""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as embedded:
        assert embedded.size == annotated


def test_labels_of_boxes_in_one_place_do_not_cover_each_other(fresh: ReportInputs, tmp_path: Path) -> None:
    assert fresh.detections
    image = json.loads(fresh.val.read_text())["images"][0]["id"]
    found = [{"image_id": image, "category_id": 1, "bbox": [50, 60, 40, 40], "score": 0.99 - n / 100} for n in range(5)]
    fresh.detections.write_text(json.dumps(found))
    page = rendered(fresh, tmp_path)
    tags = [(float(r["x"] or 0), float(r["y"] or 0)) for r in page.every("rect") if r.get("class") == "tag"]
    mine = sorted(y for x, y in tags if x == 74.0)  # 50 pixels of 320 on a canvas of 480, and a little to the left
    assert len(mine) == 5
    assert all(below - above >= 17 for above, below in pairwise(mine))


def test_the_page_stays_small(tmp_path: Path) -> None:
    """Eighty classes, thousands of steps, big pictures: still a page to send by mail."""
    names = tuple(f"class number {number}" for number in range(80))
    inputs = fake_run(tmp_path / "run", images=12, train=4, classes=names)
    assert inputs.images
    for path in inputs.images.iterdir():
        with Image.open(path) as picture:
            picture.resize((2400, 1800)).save(path, quality=95)
    render(inputs, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


def test_tables_have_captions_charts_have_names_and_headings_descend(run: ReportInputs, tmp_path: Path) -> None:
    page = rendered(run, tmp_path)
    assert len(page.every("table")) == len(page.every("caption"))
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in page.every("svg"))
    assert all(cell.get("scope") in ("col", "row") for cell in page.every("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_poor_detector_gets_no_recommendation(fresh: ReportInputs, tmp_path: Path) -> None:
    assert fresh.detections
    image = json.loads(fresh.val.read_text())["images"][0]["id"]
    wrong = [{"image_id": image, "category_id": 1, "bbox": [0, 0, 9, 9 + n], "score": 0.2} for n in range(90)]
    fresh.detections.write_text(json.dumps(wrong))
    text = rendered(fresh, tmp_path).text
    assert "No score makes this detector useful yet" in text
    assert "Keep detections" not in text
    assert "a score of at least 0.50" in text, "ninety wrong boxes hide the picture"
    fresh.detections.write_text(json.dumps([{**wrong[0], "score": 0.01}]))
    assert "Which score" not in rendered(fresh, tmp_path).text


def test_a_resumed_run_counts_its_later_steps_and_a_torn_line_is_forgiven(fresh: ReportInputs, tmp_path: Path) -> None:
    def step(number: int, loss: float) -> dict[str, Any]:
        return {"event": "step", "step": number, "loss": loss, "lr": 0.1}

    events = [{"event": "start"}, step(1, 5.0), step(2, 9.0), {"event": "resume", "step": 1}, step(2, 4.0)]
    told = training_figures(events)
    assert told
    assert ("Resumed", "1 time") in told.facts
    assert training_figures([*events, {"event": "resume"}]).facts[-1] == ("Resumed", "2 times")  # type: ignore[union-attr]
    assert "loss from 5 to 4" in told.charts[0]
    assert fresh.history
    fresh.history.write_text("\n".join(map(json.dumps, events)) + '\n{"event": "st')
    assert "training" in rendered(fresh, tmp_path).sections()
    fresh.history.write_text('{"event": "st\n' + "\n".join(map(json.dumps, events)))
    with pytest.raises(ReportError, match=r"metrics\.jsonl:1: not JSON"):
        render(fresh, tmp_path / "report.html")


def contrast(first: str, second: str) -> float:
    """WCAG 2's contrast ratio of two ``#rrggbb``."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_in_both_colour_schemes(run: ReportInputs, tmp_path: Path) -> None:
    """WCAG AA: 4.5 for text, 3 for the lines of charts."""
    rendered(run, tmp_path)
    schemes = re.findall(r":root \{([^}]*--ink[^}]*)\}", (tmp_path / "report.html").read_text())
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
        for ground in ("paper", "card"):
            for name in ("ink", "soft", "accent", "good", "warn", "bad"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
            for name in ("s1", "s2", "s3", "s4", "s5", "s6"):
                assert contrast(colours[name], colours[ground]) >= 3, (name, ground)


def test_the_page_of_the_check_has_the_same_colours(run: ReportInputs, tmp_path: Path) -> None:
    rendered(run, tmp_path)
    check = Path(converters.check.__file__).parent / "page.html"
    same = {"error": "bad", "warning": "warn", "info": "accent", "track": "hush"}
    same |= {f"s{number}": f"s{number + 1}" for number in range(6)}
    ours, theirs = (
        [dict(re.findall(r"--(\w+): (#\w+)", scheme)) for scheme in re.findall(r":root \{([^}]*--ink[^}]*)\}", page)]
        for page in ((tmp_path / "report.html").read_text(), check.read_text())
    )
    for mine, its in zip(ours, theirs, strict=True):
        its.pop("mark")
        assert its == {name: mine[same.get(name, name)] for name in its}
