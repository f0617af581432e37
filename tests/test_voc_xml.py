"""The two parsers say the same, and hostile bytes get one clear error."""

import itertools
import pickle
from pathlib import Path

import pytest
from helpers_converters import real, voc_object, voc_xml
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import AnnotationError
from converters.voc_xml import VocFile, parse_fully, parse_regular, parse_voc

LABELIMG = """<annotation>
	<folder>images</folder>
	<filename>a.jpg</filename>
	<path>C:\\photos\\a.jpg</path>
	<source>
		<database>Unknown</database>
	</source>
	<size>
		<width>640</width>
		<height>480</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>
	<object>
		<name>traffic light</name>
		<pose>Unspecified</pose>
		<truncated>1</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>1</xmin>
			<ymin>2.5</ymin>
			<xmax>30</xmax>
			<ymax>40</ymax>
		</bndbox>
	</object>
</annotation>
"""


def same(data: bytes) -> bool:
    """Whether the fast parser took the file; it then agrees with the full one, or this fails."""
    regular = parse_regular(data)
    if regular is None:
        return False
    fast = regular.to_file()
    full = parse_fully(data, "x.xml")
    assert fast == full
    assert [type(value) for value in fast] == [type(value) for value in full]
    return True


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: '<?xml version="1.0" encoding="UTF-8"?>\n' + text,
        lambda text: "<?xml version='1.0' encoding='utf-8' ?>" + text,
        lambda text: text.replace("<annotation>", '<annotation verified="yes">'),
        lambda text: text.replace("traffic light", "信号灯"),
        lambda text: text.replace("\t", "").replace("\n", ""),
        lambda text: text.replace("<truncated>1</truncated>\n", ""),
        lambda text: text.replace("<name>traffic", "<name>  traffic"),
    ],
)
def test_the_common_layouts_take_the_fast_way_with_the_same_result(change) -> None:  # type: ignore[no-untyped-def]
    assert same(change(LABELIMG).encode())


@pytest.mark.parametrize(
    "order", [("xmin", "ymin", "xmax", "ymax"), ("xmin", "xmax", "ymin", "ymax"), ("xmax", "xmin", "ymax", "ymin")]
)
def test_corners_in_any_usual_order(order: tuple[str, ...]) -> None:
    values = {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}
    box = "".join(f"<{tag}>{values[tag]}</{tag}>" for tag in order)
    data = voc_xml(f"<object><name>cat</name><bndbox>{box}</bndbox></object>").encode()

    assert same(data)
    assert parse_voc(data, "x").objects[0].corners == (1, 2, 30, 40)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("<folder>", "<!-- a comment --><folder>"),
        lambda text: text.replace("traffic light", "cats &amp; dogs"),
        lambda text: text.replace("traffic light", "<![CDATA[cat]]>"),
        lambda text: text.replace("<annotation>", '<annotation xmlns="urn:x">'),
        lambda text: text.replace("</object>", "<part><name>x</name></part></object>"),
        lambda text: text.replace("<xmin>1<", "<xmin>1e0<"),
        lambda text: text.replace("<xmin>1<", "<xmin>50<"),
        lambda text: text.replace("<bndbox>", "<bndbox >"),
        lambda text: "\ufeff" + text,
        lambda text: text + "<!-- the end -->",
        lambda text: text.replace("<width>640</width>", "<width>640.0</width>"),
    ],
)
def test_everything_else_takes_the_full_way(change) -> None:  # type: ignore[no-untyped-def]
    data = change(LABELIMG).encode()

    assert not same(data)
    assert parse_voc(data, "x").objects[0].corners in {(1, 2.5, 30, 40), (30, 2.5, 50, 40)}


def test_an_object_without_a_name_is_for_the_full_parser() -> None:
    data = LABELIMG.replace("traffic light", " ").encode()

    assert parse_regular(data) is None
    assert parse_voc(data, "x").objects[0].problem == "<name> is missing or empty"


MUTANTS = st.sampled_from([
    "<", ">", "&", "&amp;", "</object>", "<object>", "<!--", "-->", "]]>", "1_0", "nan", "-", "<bndbox>", "<name>",
    "?>", "</annotation>", "<?x?>", "x", "9" * 12, ".5",
    "\x00", "\x0b", "\x7f", "\xe9", "\ufffe", "\u0661", " ", "\n", "\t",
])  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_is_done_to_a_file_the_fast_parser_never_says_otherwise(data: st.DataObject) -> None:
    text = LABELIMG
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + data.draw(MUTANTS | st.just("")) + text[end:]
    same(text.encode())  # a fast result for what the full parser refuses raises here


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_give_a_file_or_an_annotation_error(data: bytes) -> None:
    try:
        parsed = parse_voc(data, "x.xml")
    except AnnotationError:
        return
    assert isinstance(parsed, VocFile)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(LABELIMG.replace("><", ">\n<").split()), max_size=60).map("".join))
def test_shuffled_tags_give_a_file_or_an_annotation_error(text: str) -> None:
    data = f"<annotation>{text}</annotation>".encode()
    try:
        parse_voc(data, "x.xml")
    except AnnotationError:
        assert parse_regular(data) is None
    else:
        same(data)


# --- encodings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "gbk", "gb2312", "gb18030", "big5", "cp1252"]
)
def test_declared_encodings_are_honoured(encoding: str) -> None:
    name = "café" if encoding == "cp1252" else "車"
    if encoding == "gb2312":
        name = "车"
    declared = "utf-16" if encoding.startswith("utf-16") else encoding
    text = f'<?xml version="1.0" encoding="{declared}"?>' + voc_xml(voc_object(name))

    assert parse_voc(text.encode(encoding), "x").objects[0].name == name


def test_a_byte_order_mark_does_not_matter() -> None:
    assert parse_voc(b"\xef\xbb\xbf" + LABELIMG.encode(), "x") == parse_voc(LABELIMG.encode(), "x")


@pytest.mark.parametrize(("encoding", "name"), [("gb18030", "红灯"), ("latin-1", "caf\xe9")])
def test_undeclared_encodings_are_guessed_with_a_remark(encoding: str, name: str) -> None:
    parsed = parse_voc(voc_xml(voc_object(name)).encode(encoding), "x")

    assert parsed.objects[0].name == name
    assert parsed.remarks == (f"not in its declared encoding: read as {encoding}",)


@pytest.mark.parametrize("encoding", ["zip", "rot13", "idna", "punycode", "unicode_escape", "utf-7", "no-such"])
def test_a_codec_that_is_no_character_set_is_refused(encoding: str) -> None:
    with pytest.raises(AnnotationError, match="unknown encoding"):
        parse_voc(f'<?xml version="1.0" encoding="{encoding}"?>{LABELIMG}'.encode(), "x")


def test_blanks_before_the_declaration_are_forgiven() -> None:
    assert len(parse_voc(b'\n  <?xml version="1.0"?>' + LABELIMG.encode(), "x").objects) == 1


def test_a_bare_ampersand_is_read_as_one() -> None:
    parsed = parse_voc(voc_xml(voc_object("cats & dogs &lt; &#65;")).encode(), "x")

    assert parsed.objects[0].name == "cats & dogs < A"
    assert parsed.remarks == ("a bare & was read as &amp;",)


def test_namespaces_do_not_matter() -> None:
    plain = parse_voc(LABELIMG.encode(), "x")

    assert parse_voc(LABELIMG.replace("<annotation>", '<annotation xmlns="http://x.org/y">').encode(), "x") == plain


# --- hostile files -----------------------------------------------------------------------------------------------

BOMB = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in itertools.pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the file is empty"),
        (b" \n\x00", "the file is empty"),
        (LABELIMG.encode()[:300], "not XML"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not XML"),
        (b'{"shapes": []}', "not XML"),
        (b"<annotations><image/></annotations>", "root element is <annotations>"),
        (f"{BOMB}]>{voc_xml(voc_object('&j;'))}".encode(), "DTD"),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "DTD"),
        (voc_xml(voc_object("&x;")).encode(), "not XML"),
        ("<!DOCTYPE a []>".encode("utf-16") + b"", "DTD"),
        (b"<annotation>" + b"<a>" * 100_000, "not XML"),
        (b"<annotation>" + b"<object>" * 100_000 + b"</object>" * 100_000 + b"</annotation>", "not XML"),
    ],
)
def test_hostile_files_get_one_error_with_the_name_of_the_file(data: bytes, says: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        parse_voc(data, "folder/x.xml")

    assert says in str(caught.value)
    assert str(caught.value).startswith("folder/x.xml")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_regular_parser_takes_linear_time_on_what_nearly_matches() -> None:
    almost = LABELIMG.replace("</annotation>", "") + "<object><name>" + " " * 200_000
    assert parse_regular(almost.encode()) is None
    assert parse_regular(b"<annotation>" + b" " * 1_000_000) is None
    assert parse_regular(LABELIMG.replace("<xmin>1<", f"<xmin>{'1' * 100_000}<").encode()) is None


@pytest.mark.parametrize(
    "name", ["voc_bccd", "voc_microcontroller", "voc_fridge_mini", "vocdevkit_mini", "triple_tony607_fruits"]
)
def test_real_files_are_the_same_either_way(name: str) -> None:
    files = sorted(Path(real(name)).rglob("*.xml"))
    fast = [same(path.read_bytes()) for path in files]

    assert files
    assert name == "vocdevkit_mini" or all(fast)
