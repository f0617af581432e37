"""Look for files that a reader cannot bear: `python tests/fuzz_readers.py voc --minutes 10`.

Not collected by pytest. A small dataset of the format is spoiled in a few places and converted. Whatever was done to
it, the conversion ends soon, with a dataset that pycocotools loads and draws or with one of our errors, which names the
file. Anything else is a find: its files and its traceback are kept in a folder, to become a test and a fix. The same
`--seed` spoils the same files again.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers_converters import photo, voc_object, voc_xml, write_voc
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from test_formats_agree import as_coco, as_kitti, as_widerface, as_yolo

from converters import AnnotationError, ConversionLog, DatasetError, convert, merge_coco, write_coco

SECONDS = 20  # for one case
MEMORY = 4 * 2**30  # bytes of address space
NUMBERS = [
    *("0", "-0", "1", "-1", "2", "0.5", "1e-9", "100", "80", "65535", "65536", "2147483648", "1e9", "-1e9", "1e18"),
    *("1e308", "-1e308", "1e999", "nan", "NaN", "-NaN", "inf", "Infinity", "-Infinity", "5e-324", "9007199254740993"),
    *("9" * 23, "+5", "0x10", "1_000", "1,5", ".5", "5."),
    *("\N{ARABIC-INDIC DIGIT FIVE}", "\N{SUPERSCRIPT TWO}", "true", "null", '""'),
]  # fmt: skip
WORDS = [
    *("", " ", "..", "../../etc/passwd", "/etc/passwd", "C:\\x.jpg", "\\\\host\\x.jpg", "a\0b", "\ud800"),
    *("\ufeff", "é", "猫"),
    *("__proto__", "__ignore__", "_background_", "cargroup", "group", "polygon", "mask", "circle"),
    *("x" * 5000, "<b>", "&", "%s", "{}"),
    *("a.png", "a", "b.png", "\n", "\r", "\u2028", "\x1b[31m", ".", "~", "*", "data:image/png;base64,", "."),
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, 2**31, 2**53, 2**70, 1e9, 1e308, math.nan, math.inf, "", "1", [], [[]], {}, [1],
    [1, 2],
    [[1, 2]], [[1, 2], [1, 2]], [[1, 2], [3, 4], [5, 6]], [[math.nan, 1], [2, 3], [4, 5]], [[1, 2, 3]], ["1", "2"],
    {"a": 1}, "polygon", "mask", "circle", "linestrip", "oriented_rectangle", "points",
    {"size": [80, 100], "counts": "0"}, {"size": [80, 100], "counts": [8000]},
    {"size": [2**31, 2**31], "counts": "PPPP"},
]  # fmt: skip


class Find(Exception):  # noqa: N818 - what was looked for
    """A promise that was broken."""


# --- datasets ----------------------------------------------------------------------------------------------------


def voc_set(root: Path) -> None:
    robot = "<robndbox><cx>50</cx><cy>40</cy><w>20</w><h>10</h><angle>0.7</angle></robndbox>"
    ring = "<polygon><x1>10</x1><y1>10</y1><x2>40</x2><y2>10</y2><x3>20</x3><y3>30</y3></polygon>"
    points = "<polygon><pt><x>1</x><y>2</y></pt><pt><x>30</x><y>2</y></pt><pt><x>9</x><y>30</y></pt></polygon>"
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    rich = [
        voc_object("cat", (10, 20, 30, 50), "<difficult>1</difficult><truncated>0.5</truncated><pose>Left</pose>"),
        voc_object("dog", (1, 1, 100, 80), ring), voc_object("dog", None, robot), voc_object("cat", None, points),
        voc_object("cat", (3.5, 4.25, 60, 70), part),
    ]  # fmt: skip
    write_voc(root / "Annotations", "a", '<?xml version="1.0" encoding="utf-8"?>\n' + voc_xml(*rich, filename="a.png"))
    write_voc(root / "Annotations", "b", voc_xml(voc_object(), voc_object("dog"), size=None, database="The VOC2012"))
    for name in "ab":
        photo(root / "JPEGImages" / f"{name}.png")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("a 1\nb -1\n")
    for folder, values in (("SegmentationObject", (1, 2)), ("SegmentationClass", (8, 12))):
        drawn = Image.new("P", (100, 80))
        drawn.putpalette([value for index in range(256) for value in (index, index, index)])
        for value, box in zip(values, ((10, 20, 30, 50), (40, 10, 90, 70)), strict=True):
            ImageDraw.Draw(drawn).rectangle(box, fill=value, outline=255)
        (root / folder).mkdir()
        drawn.save(root / folder / "b.png")


def labelme_set(root: Path) -> None:
    patch = io.BytesIO()
    Image.new("1", (11, 6), 1).save(patch, "PNG")
    whole = io.BytesIO()
    Image.new("RGB", (100, 80)).save(whole, "PNG")
    drawn: list[tuple[str, Any, dict[str, Any]]] = [
        ("polygon", [[10, 10], [60, 10], [10.5, 60]], {"group_id": 1}),
        ("polygon", [[50, 50], [90, 50], [70, 75]], {"group_id": 1}),
        ("rectangle", [[30, 40], [10, 20]], {}), ("circle", [[50, 40], [60, 40]], {"flags": {"hard": True}}),
        ("mask", [[20, 20], [30, 25]], {"mask": base64.b64encode(patch.getvalue()).decode()}),
        ("line", [[1, 1], [50, 60]], {}),
        ("linestrip", [[1, 1], [50, 60], [90, 3]], {}), ("point", [[5, 5]], {}), ("points", [[5, 5], [9, 9]], {}),
        ("oriented_rectangle", [[10, 10], [40, 20], [35, 35], [5, 25]], {"description": "x"}),
    ]  # fmt: skip
    shapes = [
        {"label": f"class-{number % 3}", "points": points, "shape_type": kind, "group_id": None, **more}
        for number, (kind, points, more) in enumerate(drawn)
    ]
    root.mkdir(parents=True, exist_ok=True)
    about = {"version": "5.4.1", "flags": {"day": True}, "imageHeight": 80, "imageWidth": 100}
    data = {**about, "shapes": shapes, "imagePath": "a.png", "imageData": None}
    (root / "a.json").write_text(json.dumps(data))
    photo(root / "a.png")
    inside = base64.b64encode(whole.getvalue()).decode()
    (root / "b.json").write_text(json.dumps({"shapes": shapes[:3], "imagePath": "..\\b.png", "imageData": inside}))


def cityscapes_set(root: Path) -> None:
    ring = [[10, 10], [60, 10], [60.5, 60], [10, 60]]
    labels = ("road", "car", "person", "cargroup", "license plate", "polegroup", "bicycle")
    objects = [{"label": label, "polygon": [[x + 5 * n, y] for x, y in ring]} for n, label in enumerate(labels)]
    for city, png in (("aachen", True), ("bonn", False)):
        stem = f"{city}_000000_000019"
        photo(root / "leftImg8bit/train" / city / f"{stem}_leftImg8bit.png")
        folder = root / "gtFine/train" / city
        folder.mkdir(parents=True)
        data = {"imgWidth": 100, "imgHeight": 80, "objects": [*objects, {**objects[1], "deleted": 1}]}
        (folder / f"{stem}_gtFine_polygons.json").write_text(json.dumps(data))
        if png:
            ids = Image.new("I;16", (100, 80))
            for number, value in enumerate((7, 24000, 26001, 26, 33000)):
                ids.paste(value, (number * 15, 10, number * 15 + 20, 60))
            ids.save(folder / f"{stem}_gtFine_instanceIds.png")


def yolo_set(root: Path) -> None:
    as_yolo(root)
    lines = ["0 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6", "1 0.1 0.1 0.5 0.1 0.3 0.3 0.2 0.5 0.1 0.2", "1 0.5 0.5 0.2 0.2"]
    (root / "b.txt").write_text("\n".join(lines))


SETS: dict[str, tuple[Callable[[Path], None], tuple[dict[str, Any], ...]]] = {
    "voc": (voc_set, ({}, {"masks": True}, {"corners": "devkit", "difficult": "drop"})),
    "labelme": (labelme_set, ({}, {"strokes": True, "groups": False}, {"rectangles": "box", "numbered_labels": True})),
    "cityscapes": (cityscapes_set, ({}, {"source": "json", "classes": "all"}, {"verify": True})),
    "yolo": (yolo_set, ({},)), "kitti": (as_kitti, ({},)), "widerface": (as_widerface, ({},)), "coco": (as_coco, ({},)),
}  # fmt: skip


# --- spoiling them -----------------------------------------------------------------------------------------------


def spoil(data: bytes, name: str, draw: random.Random) -> bytes:
    """The bytes of a file, broken in up to four places."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        ways = (
            [flip, cut, repeat, insert] if name.endswith(".png") else [number, number, word, cut, repeat, flip, insert]
        )
        if name.endswith(".json"):
            ways += [node, node, node, node]
        data = draw.choice(ways)(data, draw)
    return data


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 8))):
        if changed:
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.randrange(len(data) + 1) for _ in "ab")
    return draw.choice((data[:start], data[start:], data[:start] + data[end:]))


def repeat(data: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.randrange(len(data) + 1) for _ in "ab")
    return data[:start] + data[start:end] * draw.choice((2, 3, 50)) + data[end:]


def insert(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    odd = [b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"<!DOCTYPE a>", b"&amp;", b"&x;", b"<![CDATA[", b"<!--"]
    odd += [b"]" * 9, b"[" * 3000]
    return data[:at] + draw.choice(odd) + data[at:]


def number(data: bytes, draw: random.Random) -> bytes:
    return _replace(rb"-?\d+(\.\d+)?", data, draw.choice(NUMBERS), draw)


def word(data: bytes, draw: random.Random) -> bytes:
    return _replace(rb"[A-Za-z_][\w.-]*", data, draw.choice(WORDS), draw)


def _replace(pattern: bytes, data: bytes, text: str, draw: random.Random) -> bytes:
    found = list(re.finditer(pattern, data))
    if not found:
        return data
    match = draw.choice(found)
    return data[: match.start()] + text.encode("utf-8", "surrogatepass") + data[match.end() :]


def node(data: bytes, draw: random.Random) -> bytes:
    """One value of a JSON document is another, missing, or twice there."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return flip(data, draw)
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        at = waiting.pop()
        keys = list(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
        places += [(at, key) for key in keys]
        waiting += [at[key] for key in keys]
    if places:
        parent, key = draw.choice(places)
        way = draw.randrange(5)
        if way == 0:
            del parent[key]
        elif way == 1 and isinstance(parent, list):
            parent += [parent[key]] * draw.choice((1, 30))
        elif way == 2:
            other, there = draw.choice(places)
            parent[key] = other.get(there) if isinstance(other, dict) else (other[there : there + 1] or [None])[0]
        else:
            parent[key] = draw.choice(VALUES)
    try:
        return json.dumps(document).encode()
    except (ValueError, RecursionError):  # it holds itself by now
        return data


# --- what must hold ----------------------------------------------------------------------------------------------


def holds(name: str, root: Path, options: dict[str, Any], stems: list[str]) -> None:
    """Raise where the dataset breaks a promise."""
    try:
        convert(name, root, options=options)
    except (AnnotationError, DatasetError) as error:
        if not any(part in str(error) for part in (str(root), *stems)):
            raise Find(f"the error names no file: {error}") from error
    log = ConversionLog(skip_bad=True)
    try:
        result = convert(name, root, options=options, log=log)
    except (AnnotationError, DatasetError) as error:
        str(error)
        return
    path = root.parent / "out.json"
    write_coco(result.splits["all"], path)
    drawable(path, boxes_inside=name != "coco")  # what is COCO already keeps its boxes
    if name not in ("coco", "widerface"):
        parts = [convert(name, root, options=options, shard=(i, 2), log=ConversionLog(True)) for i in range(2)]
        merged = root.parent / "merged.json"
        categories = result.splits["all"]["categories"]
        write_coco(merge_coco([part.splits["all"] for part in parts], categories), merged)
        if path.read_bytes() != merged.read_bytes():
            raise Find("two shards are not the whole")


def drawable(path: Path, *, boxes_inside: bool = True) -> None:
    """Everything in the file loads and draws with pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    for annotation in coco.dataset["annotations"]:
        image = coco.imgs[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        inside = x >= 0 and y >= 0 and x + width <= image["width"] + 1e-6 and y + height <= image["height"] + 1e-6
        if not ((inside or not boxes_inside) and width > 0 and height > 0 and 0 < annotation["area"] < math.inf):
            raise Find(f"no box of an object: {annotation} in {image}")
        if annotation["segmentation"] and image["width"] * image["height"] < 10**8:
            mask = coco.annToMask(annotation)
            if mask.shape != (image["height"], image["width"]):
                raise Find(f"a mask of the shape {mask.shape}: {annotation}")


# --- the search --------------------------------------------------------------------------------------------------


def search(name: str, seed: int, deadline: float, place: Path, keep: Path, seen: set[str]) -> int:
    """Try cases until the deadline; the number of the last one. A case is on disk before it is tried."""
    fill, variants = SETS[name]
    shutil.rmtree(place, ignore_errors=True)
    fill(place / "set")
    files = {path: path.read_bytes() for path in sorted((place / "set").rglob("*")) if path.is_file()}
    targets = [path for path in files if path.suffix != ".png" or "Segm" in path.parent.name or "Ids" in path.name]
    while time.monotonic() < deadline:
        draw = random.Random(f"{name} {seed}")
        chosen = draw.sample(targets, draw.choice((1, 1, 2)) if len(targets) > 1 else 1)
        for path in chosen:
            path.write_bytes(spoil(files[path], path.name, draw))
        options = draw.choice(variants)
        (place / "case.json").write_text(json.dumps({"format": name, "seed": seed, "options": options}))
        try:
            signal.alarm(SECONDS)
            holds(name, place / "set", options, [path.stem for path in files])
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} {Path(last.filename).name}:{last.lineno}"
            if where not in seen:
                seen.add(where)
                save(place, keep / f"{name}-{seed}", traceback.format_exc())
        finally:
            signal.alarm(0)
        for path in chosen:
            path.write_bytes(files[path])
        seed += 1
    return seed


def save(place: Path, folder: Path, said: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place, folder)
    (folder / "error.txt").write_text(said, errors="backslashreplace")
    sys.stdout.write(f"{folder}: {said.strip().splitlines()[-1][:200]}\n")
    sys.stdout.flush()


def late(*_: object) -> None:
    raise Find(f"takes more than {SECONDS} s")


def guarded(name: str, seed: int, deadline: float, place: Path, keep: Path) -> int:
    """Search in a child process with little memory; 0 at the end, or the seed after the case that killed it."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.signal(signal.SIGALRM, late)
        tried = search(name, seed, deadline, place, keep, set())
        sys.stdout.write(f"{name}: {tried - seed:,} cases\n")
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        return 0
    case = json.loads((place / "case.json").read_text())
    save(place, keep / f"{name}-{case['seed']}", f"the process died: {os.waitstatus_to_exitcode(status)}")
    return int(case["seed"]) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=SETS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1, help="number of the first case")
    parser.add_argument("--keep", type=Path, default=Path("finds"), help="folder for what was found")
    given = parser.parse_args()
    deadline = time.monotonic() + given.minutes * 60
    memory = Path("/dev/shm")  # every case is written, and every result is synced
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        seed = given.seed
        while seed and time.monotonic() < deadline:
            seed = guarded(given.format, seed, deadline, Path(place) / "work", given.keep)


if __name__ == "__main__":
    main()
