"""One Pascal VOC XML file, from bytes to numbers as they are written there.

Two ways lead to the same :class:`VocFile`. Nearly every file in the world is written by a handful of programs in the
same few layouts; those are matched as a whole by regular expressions over the bytes, at the cost of libxml2 alone.
Whatever does not match to the last byte (comments, entities, namespaces, another order, another encoding, an error)
goes to :func:`parse_fully`, which is the definition of what a file means. A test holds the two equal.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from operator import gt
from sys import intern
from typing import Any, NamedTuple

from lxml import etree

from converters.decoding import decode_text
from converters.errors import AnnotationError

Corners = tuple[float, float, float, float]


class VocObject(NamedTuple):
    """One ``<object>``, numbers as written: the corner rule is not applied yet."""

    name: str
    corners: Corners | None  # xmin, ymin, xmax, ymax, sorted
    attributes: Mapping[str, Any]  # difficult, truncated, occluded, pose, where they say something
    ring: tuple[float, ...] | None = None  # x0, y0, x1, y1, ... of a <polygon> or <robndbox>
    problem: str = ""  # why the object cannot be used
    remark: str = ""  # what was repaired
    line: int = 0  # where that is
    parts: tuple[VocObject, ...] = ()


class VocFile(NamedTuple):
    """One ``<annotation>``; width and height are 0 where the file does not say."""

    filename: str
    path: str
    database: str
    width: int
    height: int
    objects: tuple[VocObject, ...]
    remarks: tuple[str, ...] = ()


class RegularFile(NamedTuple):
    """An ``<annotation>`` without anything unusual: what :class:`VocFile` holds, one column for each field."""

    filename: str
    path: str
    database: str
    width: int
    height: int
    labels: list[str]
    corners: list[Corners]  # none reversed
    attributes: list[Mapping[str, Any]]

    def to_file(self) -> VocFile:
        """The same file object by object."""
        return VocFile(*self[:5], tuple(map(VocObject, self.labels, self.corners, self.attributes)))


def parse_voc(data: bytes, file: str) -> VocFile:
    """Parse the bytes of a VOC file.

    Raises:
        AnnotationError: the file is empty, not XML, declares a DTD or entities, or is not a VOC annotation.
    """
    regular = parse_regular(data)
    return parse_fully(data, file) if regular is None else regular.to_file()


# --- the regular file --------------------------------------------------------------------------------------------
# Every quantifier is possessive (``*+``): matching never goes back, so the time is linear whatever the bytes are.

_S = rb"[ \t\r\n]*+"
_TEXT = rb"[^<>&\x00-\x1f\x7f]*+"
_NUMBER = rb"(-?[0-9]{1,9}+(?:\.[0-9]{1,20}+)?+)"
_SIDE = rb"([0-9]{1,9}+)"


def _leaf(tag: bytes, content: bytes = _TEXT) -> bytes:
    return b"<" + tag + b">" + content + b"</" + tag + b">" + _S


def _maybe(pattern: bytes) -> bytes:
    return b"(?:" + pattern + b")?+"


_HEAD = re.compile(
    _S
    + _maybe(rb"<\?xml version=[\"']1\.0[\"'](?: encoding=[\"'][uU][tT][fF]-8[\"'])? ?\?>" + _S)
    + rb"<annotation(?: verified=\"[a-z]*+\")?>"
    + _S
    + _maybe(_leaf(b"folder"))
    + _maybe(_leaf(b"filename", b"(" + _TEXT + b")"))
    + _maybe(_leaf(b"path", b"(" + _TEXT + b")"))
    + _maybe(
        b"<source>"
        + _S
        + _maybe(_leaf(b"database", b"(" + _TEXT + b")"))
        + b"".join(_maybe(_leaf(tag)) for tag in (b"annotation", b"image", b"flickrid"))
        + b"</source>"
        + _S
    )
    + _maybe(b"<owner>" + _S + _maybe(_leaf(b"flickrid")) + _maybe(_leaf(b"name")) + b"</owner>" + _S)
    + (b"<size>" + _S + _leaf(b"width", _SIDE) + _leaf(b"height", _SIDE) + _maybe(_leaf(b"depth")) + b"</size>" + _S)
    + _maybe(_leaf(b"segmented"))
)
_FLAG = re.compile(rb"<(pose|truncated|occluded|difficult)>(" + _TEXT + rb")</")
_FLAGS = b"(" + b"".join(_maybe(_leaf(tag)) for tag in (b"pose", b"truncated", b"occluded", b"difficult")) + b")"
_TAIL = re.compile(b"</annotation>" + _S)
_ORDERS = (
    (b"xmin", b"ymin", b"xmax", b"ymax"),  # LabelImg, VOC2007
    (b"xmin", b"xmax", b"ymin", b"ymax"),  # Roboflow
    (b"xmax", b"xmin", b"ymax", b"ymin"),  # VOC2012
)


def _object_pattern(order: tuple[bytes, ...]) -> re.Pattern[bytes]:
    """Groups: name, flags, the four corners in ``order``, flags."""
    name, corners = _leaf(b"name", b"(" + _TEXT + b")"), b"".join(_leaf(tag, _NUMBER) for tag in order)
    box = b"<bndbox>" + _S + corners + b"</bndbox>" + _S
    return re.compile(b"<object>" + _S + name + _FLAGS + box + _FLAGS + b"</object>" + _S)


_OBJECTS = tuple((_object_pattern(order), [order.index(tag) for tag in _ORDERS[0]]) for order in _ORDERS)


def parse_regular(data: bytes) -> RegularFile | None:
    """Parse a file in one of the common layouts; ``None``: it is not, and only the full parser can tell."""
    head = _HEAD.match(data)
    if head is None or not (data.isascii() or _is_plain_utf8(data)):
        return None
    pieces, order = _split_objects(data[head.end() :])
    labels = list(map(_label, pieces[1::8]))
    a, b, c, d = order  # one statement a side: a loop over them costs a tenth of the whole
    left, top = list(map(_number_of, pieces[3 + a :: 8])), list(map(_number_of, pieces[3 + b :: 8]))
    right, bottom = list(map(_number_of, pieces[3 + c :: 8])), list(map(_number_of, pieces[3 + d :: 8]))
    if not pieces or not all(labels) or any(map(gt, left, right)) or any(map(gt, top, bottom)):
        return None
    attributes = list(map(_flags_of, pieces[2::8], pieces[7::8]))
    filename, path, database, width, height = head.groups(b"")
    return RegularFile(
        filename.decode().strip(), path.decode().strip(), database.decode().strip(),
        int(width), int(height), labels, list(zip(left, top, right, bottom, strict=True)), attributes,
    )  # fmt: skip


def _split_objects(body: bytes) -> tuple[list[bytes], list[int]]:
    """What lies between the objects, and their groups: ``[gap, name, flags, 4 corners, flags, gap, name, ...]``.

    With it the places of left, top, right and bottom among the corners; nothing if the gaps are not empty.
    """
    for pattern, order in _OBJECTS:
        pieces = pattern.split(body)
        if _TAIL.fullmatch(pieces[-1]) and not any(pieces[:-1:8]):
            return pieces, order
    return [], [0, 1, 2, 3]


class _Numbers(dict[bytes, float]):
    """Numbers by how they are written; the short ones, which come again and again, are made once and shared."""

    def __missing__(self, written: bytes) -> float:
        number = float(written)
        if len(written) <= 4:
            self[written] = number
        return number


_number_of = _Numbers().__getitem__


def _is_plain_utf8(data: bytes) -> bool:
    """Valid UTF-8 without the code points around U+FFFE that XML forbids."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\xef\xbf" not in data


@functools.lru_cache(maxsize=4096)
def _label(name: bytes) -> str:
    return intern(name.decode().strip())


@functools.lru_cache(maxsize=4096)
def _flags_of(before: bytes, after: bytes) -> Mapping[str, Any]:
    """Attributes of the flags before and after the box; shared between objects, since few combinations exist."""
    texts: dict[str, str] = {}
    for tag, text in _FLAG.findall(before + after):
        texts.setdefault(tag.decode(), text.decode())
    return _attributes(texts)


# --- any file ----------------------------------------------------------------------------------------------------

_DECLARATION = re.compile(r"\s*<\?xml\b([^>]*)\?>")
_BARE_AMPERSAND = re.compile(r"&(?!(?:\w+|#[0-9]+|#x[0-9a-fA-F]+);)")


def parse_fully(data: bytes, file: str) -> VocFile:
    """Parse any VOC file with libxml2; see :func:`parse_voc`."""
    text, remark = decode_text(data, file)
    remarks = [remark] if remark else []
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise AnnotationError(file, "declares a DTD or entities", "Annotations need none: remove the declaration")
    root = _tree(text, file, remarks)
    if root.tag != "annotation":
        raise AnnotationError(file, f"the root element is <{root.tag}>, not <annotation>", "This is not a VOC file")
    width, height = (_side(root, f"size/{side}", remarks) for side in ("width", "height"))
    objects = tuple(_object(element) for element in root.iterchildren("object"))
    return VocFile(
        _text(root, "filename"), _text(root, "path"), _text(root, "source/database"),
        width, height, objects, tuple(remarks),
    )  # fmt: skip


def _tree(text: str, file: str, remarks: list[str]) -> etree._Element:
    body = _DECLARATION.sub("", text, count=1)
    try:
        root = _parse(body)
    except etree.XMLSyntaxError as error:
        repaired = _BARE_AMPERSAND.sub("&amp;", body)
        if repaired == body:
            raise _syntax_error(file, error) from error
        try:
            root = _parse(repaired)
        except etree.XMLSyntaxError as second:
            raise _syntax_error(file, second) from second
        remarks.append("a bare & was read as &amp;")
    if root.tag.startswith("{"):
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
    return root


def _parse(text: str) -> etree._Element:
    # A parser per file: one that has seen an error is not trusted again, and threads may not share one.
    # Without huge_tree libxml2 stops at 256 levels of nesting and 10 MB of text.
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True, encoding="utf-8"
    )
    return etree.fromstring(text.encode("utf-8", "surrogatepass"), parser)


def _syntax_error(file: str, error: etree.XMLSyntaxError) -> AnnotationError:
    return AnnotationError(file, f"not XML: {error.msg}", "Repair or remove the file", line=error.lineno or None)


def _text(element: etree._Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _side(root: etree._Element, path: str, remarks: list[str]) -> int:
    """A side of the image in whole pixels; 0 where it is absent or nonsense."""
    text = _text(root, path)
    value = _finite(text)
    if value is None or not 0 <= value < 1e9:
        remarks.append(f"{path.partition('/')[2]} is missing or not a size")
        return 0
    return round(value)


def _finite(text: str) -> float | None:
    """The number a text says; ``None`` for words, NaN, infinities and what no picture can hold."""
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None


# --- objects -----------------------------------------------------------------------------------------------------


class _UnusableError(Exception):
    """What is wrong with an object, and in which line."""


def _object(element: etree._Element) -> VocObject:
    """Read an object; a problem is kept with it, for the reader of the set to judge."""
    name, line = intern(_text(element, "name")), _line(element)
    texts = {tag: _text(element, tag) for tag in ("pose", "truncated", "occluded", "difficult")}
    attributes = _attributes(texts)
    parts = tuple(_object(part) for part in element.iterchildren("part"))
    try:
        if not name:
            raise _UnusableError("<name> is missing or empty", line)
        ring = _ring(element)
        corners, remark = _corners(element, ring)
    except _UnusableError as error:
        return VocObject(name, None, attributes, None, error.args[0], "", error.args[1], parts)
    return VocObject(name, corners, attributes, ring, "", remark, line if remark else 0, parts)


def _line(element: etree._Element) -> int:
    line: Any = element.sourceline
    return int(line or 0)


def _corners(element: etree._Element, ring: tuple[float, ...] | None) -> tuple[Corners | None, str]:
    """Sorted corners of ``<bndbox>``, and a remark if they had to be sorted."""
    box = element.find("bndbox")
    if box is None:
        if ring is None and element.find("point") is None:
            raise _UnusableError("neither <bndbox> nor <polygon> nor <robndbox>", _line(element))
        return None, ""
    left, top, right, bottom = (_coordinate(box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    reversed_ = left > right or top > bottom
    corners = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
    return corners, "reversed corners were sorted" if reversed_ else ""


def _coordinate(box: etree._Element, tag: str) -> float:
    field = box.find(tag)
    if field is None:
        raise _UnusableError(f"<{tag}> is missing in <{box.tag}>", _line(box))
    return _number(field)


def _number(field: etree._Element) -> float:
    text = (field.text or "").strip()
    value = _finite(text)
    if value is None:
        raise _UnusableError(f"<{field.tag}> is {text[:40]!r}, not a coordinate", _line(field))
    return value


def _ring(element: etree._Element) -> tuple[float, ...] | None:
    """Vertices of a ``<polygon>`` or of a roLabelImg ``<robndbox>``."""
    polygon = element.find("polygon")
    if polygon is not None:
        points = _vertices(polygon)
        if len(set(points)) < 3:
            raise _UnusableError(f"<polygon> has {len(set(points))} distinct points", _line(polygon))
        return tuple(value for point in points for value in point)
    rotated = element.find("robndbox")
    if rotated is None:
        return None
    x, y, width, height, angle = (_coordinate(rotated, tag) for tag in ("cx", "cy", "w", "h", "angle"))
    cosine, sine = math.cos(angle), math.sin(angle)  # radians, clockwise on the screen
    corners = ((-width, -height), (width, -height), (width, height), (-width, height))
    return tuple(
        value
        for dx, dy in corners
        for value in (x + dx / 2 * cosine - dy / 2 * sine, y + dx / 2 * sine + dy / 2 * cosine)
    )


def _vertices(polygon: etree._Element) -> list[tuple[float, float]]:
    """CVAT writes ``<pt><x/><y/></pt>``, Roboflow ``<x1/><y1/><x2/>...``."""
    points = [(_coordinate(pt, "x"), _coordinate(pt, "y")) for pt in polygon.iterchildren("pt")]
    fields = {child.tag: child for child in polygon}
    for count in range(1, len(fields) // 2 + 1):
        x, y = fields.get(f"x{count}"), fields.get(f"y{count}")
        if x is None or y is None:
            break
        points.append((_number(x), _number(y)))
    return points


def _attributes(texts: Mapping[str, str]) -> Mapping[str, Any]:
    """What the flags say, leaving out what says nothing: 0, empty, "Unspecified"."""
    found: dict[str, Any] = {}
    if _flag(texts.get("difficult", "")):
        found["difficult"] = 1
    for tag in ("truncated", "occluded"):
        value = _flag(texts.get(tag, ""))
        if value:
            found[tag] = value
    pose = texts.get("pose", "").strip()
    if pose and pose.casefold() != "unspecified":
        found["pose"] = pose
    return found


def _flag(text: str) -> int | float:
    """A flag as people write them: 0, 1, a fraction (KITTI), a word, nothing."""
    text = text.strip()
    value = _finite(text)
    if value is None:
        return int(text.casefold() in {"true", "yes", "y", "t"})
    return max(0, int(value) if value.is_integer() else value)
