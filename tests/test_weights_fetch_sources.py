"""Where checkpoints come from: files, folders, mirrors, hubs, buckets, and names that mean them."""

import re
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest
from helpers_fetch import BODY, HALF, SHA, check_whole, finals, good, part_of
from helpers_server import serving

from models.weights.fetch import FetchError, fetch
from models.weights.fetch_sources import resolve

pytestmark = pytest.mark.usefixtures("plain_environment")


def test_a_local_file_is_copied_and_an_edited_one_is_another(tmp_path: Path) -> None:
    (tmp_path / "my net.pth").write_bytes(BODY)
    store = tmp_path / "store"
    for source in (str(tmp_path / "my net.pth"), (tmp_path / "my net.pth").as_uri()):
        check_whole(fetch(source, store), store, "my_net.pth")
    (tmp_path / "my net.pth").write_bytes(b"other")
    assert fetch(str(tmp_path / "my net.pth"), store).path.read_bytes() == b"other"
    assert len(finals(store)) == 2
    kept = store / SHA / "my_net.pth"
    assert fetch(str(kept), store).path == kept
    with pytest.raises(FetchError, match="no such file"):
        fetch(str(tmp_path / "absent.pth"), store)
    with pytest.raises(FetchError, match="has the sha256"):
        fetch(str(kept), store, sha256="0" * 64)


def test_a_folder_becomes_the_same_tar_wherever_and_whenever(tmp_path: Path) -> None:
    hashes = set()
    for place, names in (("a", ("x", "y/z")), ("b", ("y/z", "x"))):
        folder = tmp_path / place / "net"
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        hashes.add(fetch(str(folder), tmp_path / "store").sha256)
    assert len(hashes) == 1
    assert [path.name for path in finals(tmp_path / "store")] == ["net.tar"]


def test_a_mirror_is_asked_first_and_the_origin_for_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(good) as origin, serving(lambda request, _: request.send(404, b"")) as mirror:
        monkeypatch.setenv("ANNOTUNE_WEIGHTS_MIRROR", mirror.url + "/base/")
        host = origin.url.removeprefix("http://")
        fetch(f"{origin.url}/a/net.pth", tmp_path / "one")
        assert [path for path, _ in mirror.requests] == [f"/base/{host}/a/net.pth"]
        assert len(origin.requests) == 1
        mirror.answer = good
        fetched = fetch(f"{origin.url}/a/net.pth", tmp_path / "two")
        assert len(origin.requests) == 1
        assert f"  {origin.url}/a/net.pth\n" in (tmp_path / "two" / "weights.lock").read_text()
    check_whole(fetched, tmp_path / "two")


def test_a_mirror_may_be_a_folder_and_works_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "mirror" / "host.invalid" / "a" / "net.pth"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(BODY)
    monkeypatch.setenv("ANNOTUNE_WEIGHTS_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("ANNOTUNE_OFFLINE", "1")
    check_whole(fetch("https://host.invalid/a/net.pth", tmp_path / "store"), tmp_path / "store")


def test_the_hub_token_goes_to_the_hub_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(good) as storage:
        with serving(lambda request, _: request.send(302, b"", Location=f"{storage.url}/blob")) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            check_whole(fetch("hf://owner/repo/sub/net.pth@v1", tmp_path), tmp_path)
            path, headers = hub.requests[0]
        assert (path, headers["authorization"]) == ("/owner/repo/resolve/v1/sub/net.pth", "Bearer hf_secret")
        assert "authorization" not in storage.requests[0][1]


def test_buckets_through_fsspec_resume_the_same_version_only(tmp_path: Path) -> None:
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/bucket/net.pth", BODY)
    check_whole(fetch("memory://bucket/net.pth", tmp_path / "one"), tmp_path / "one")
    part = part_of(tmp_path / "two", "memory://bucket/net.pth", b"0" * HALF)
    assert part.exists()
    check_whole(fetch("memory://bucket/net.pth", tmp_path / "two"), tmp_path / "two")
    part = part_of(tmp_path / "three", "memory://bucket/net.pth", BODY[:HALF])
    part.with_name(part.name + ".version").write_text(bucket.ukey("/bucket/net.pth"))
    seen: list[int] = []
    fetch("memory://bucket/net.pth", tmp_path / "three", progress=lambda done, _: seen.append(done))
    assert seen[0] > HALF
    with pytest.raises(FetchError, match="no such object"):
        fetch("memory://bucket/absent.pth", tmp_path)


@pytest.mark.parametrize(("scheme", "plug_in", "extra"), [("s3", "s3fs", "[s3]"), ("gs", "gcsfs", "[gs]")])
def test_a_bucket_without_its_plug_in_says_what_to_install(
    tmp_path: Path, scheme: str, plug_in: str, extra: str
) -> None:
    if find_spec(plug_in):
        pytest.skip(f"{plug_in} is installed")
    with pytest.raises(FetchError, match=rf"Install annotune{re.escape(extra)}") as caught:
        fetch(f"{scheme}://bucket/net.pth", tmp_path)
    assert not isinstance(caught.value, OSError)


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("FasterRCNN_ResNet50_FPN_Weights.COCO_V1", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"),
        ("torchvision://ResNet50_Weights.DEFAULT", "resnet50-11ad3fa6.pth"),
        ("timm://resnet50d.ra2_in1k", "/resnet50d_ra2-464e36ba.pth"),
        ("timm://resnet50d.ra4_e3600_r224_in1k", "timm/resnet50d.ra4_e3600_r224_in1k/resolve/main/model.safetensors"),
        ("hf://a/b/c/d.bin", "https://huggingface.co/a/b/resolve/main/c/d.bin"),
        ("hf://a/b@refs/pr/1/d.bin", "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/d.bin"),
        ("HTTP://host/x", "http://host/x"),
    ],
)
def test_names_resolve_without_the_network(source: str, url: str) -> None:
    assert resolve(source).url.endswith(url)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("torchvision://resnet50", "Say which: torchvision://ResNet50_Weights.IMAGENET1K_V1, "),
        ("No_Weights.X", "torchvision has no weights"),
        ("ResNet50_Weights.NOPE", "torchvision has no weights"),
        ("timm://resnet50d.nope", "timm.list_models"),
        ("hf://onlyowner", "not of the form"),
        ("weird://x", "unknown scheme 'weird'"),
        ("http:///x", "names no host"),
        ("https://host:port/x", "not a URL"),
        ("file://server/share/x", "file:///absolute/path"),
    ],
)
def test_sources_that_are_none_say_how_they_should_look(source: str, words: str) -> None:
    with pytest.raises(FetchError, match=words):
        resolve(source)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/..%2f..%2fetc%2fpasswd", "passwd"),
        ("https://h/%2e%2e", "checkpoint"),
        ("https://h/", "checkpoint"),
        ("https://h/a%00b c.pth", "a_b_c.pth"),
        ("https://h/.hidden", "hidden"),
        ("https://h/" + "x" * 500, "x" * 120),
    ],
)
def test_names_from_a_url_are_one_plain_component(url: str, name: str) -> None:
    assert resolve(url).name == name
