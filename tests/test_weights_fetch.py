import hashlib
import http.client
import json
import os
import pickle
import random
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest
from helpers_server import Request, Served, serving

from models.weights.fetch import Fetched, FetchError, NetworkError, Patience, fetch
from models.weights.fetch_http import _client
from models.weights.fetch_sources import hash_in_name, resolve

BODY = random.Random(3).randbytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2
QUICK = Patience(timeout=5, attempts=3, backoff=0)
IMPATIENT = Patience(timeout=0.2, attempts=3, backoff=0)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANNOTUNE_OFFLINE", "ANNOTUNE_WEIGHTS_MIRROR", "HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def good(request: Request, number: int) -> None:
    request.serve(BODY)


def first(odd: object, then: object = good) -> object:
    """``odd`` answers the first request, ``then`` every other."""
    return lambda request, number: (odd if number == 0 else then)(request, number)  # type: ignore[operator]


def drops(request: Request, number: int) -> None:
    request.serve(BODY, only=HALF)


def finals(folder: Path) -> list[Path]:
    """Everything that has a final name."""
    return sorted(path for path in folder.glob("*/*") if len(path.parent.name) == 64 and path.name[0] != ".")


def check_whole(fetched: Fetched, folder: Path, name: str = "net.pth") -> None:
    assert fetched.path == folder / SHA / name
    assert fetched.path.read_bytes() == BODY
    assert (fetched.sha256, fetched.size) == (SHA, len(BODY))
    assert [path for path in (folder / ".parts").iterdir() if path.suffix != ".lock"] == []


def test_a_file_lands_whole_under_its_hash_and_tells_its_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving(good) as server:
        fetched = fetch(f"{server.url}/a/net.pth?x=1", tmp_path, progress=lambda *now: seen.append(now))
    check_whole(fetched, tmp_path)
    assert fetched.source == f"{server.url}/a/net.pth"
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)


def test_a_warm_cache_asks_nothing_even_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(good) as server:
        fetch(f"{server.url}/net.pth", tmp_path)
        monkeypatch.setenv("ANNOTUNE_OFFLINE", "1")
        again = fetch(f"{server.url}/net.pth", tmp_path)
        by_hash = fetch("https://elsewhere.invalid/net.pth", tmp_path, sha256=SHA)
        by_name = fetch(f"https://elsewhere.invalid/x-{SHA[:8]}.pth", tmp_path)
        assert len(server.requests) == 1
    check_whole(again, tmp_path)
    assert by_hash.path == by_name.path == again.path


def test_offline_with_a_cold_cache_asks_nothing_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANNOTUNE_OFFLINE", "1")
    with serving(good) as server:
        for source in (f"{server.url}/net.pth", "memory://there/net.pth"):
            with pytest.raises(FetchError, match="ANNOTUNE_OFFLINE forbids"):
                fetch(source, tmp_path)
        assert server.requests == []


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("cascade_mAP-0.408__segm_mAP-0.37_20200504_163245-42aa3d00.pth", "42aa3d00"),
        ("resnet20-12fca82f.th", "12fca82f"),
        ("vgg16_features-amdegroot-88682ab5.pth", "88682ab5"),
        ("best-464e36ba.pth.tar", "464e36ba"),
        (f"x-{SHA}.bin", SHA),
        ("model-20200504.pth", None),
        ("model-0.408.pth", None),
        ("model-42aa3d0.pth", None),
        ("model-42AA3D00.pth", None),
        ("42aa3d00.pth", None),
    ],
)
def test_the_hash_in_a_name_is_the_last_one_before_the_suffix(name: str, prefix: str | None) -> None:
    assert hash_in_name(name) == prefix


def test_a_wrong_hash_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with serving(good) as server:
        for name, sha256 in (("net-00000000.pth", None), ("net.pth", "0" * 64)):
            with pytest.raises(FetchError, match=f"has the sha256 {SHA}, expected 0000"):
                fetch(f"{server.url}/{name}", tmp_path, sha256=sha256)
        assert finals(tmp_path) == []
        right = fetch(f"{server.url}/net-00000000.pth", tmp_path, sha256=SHA)
        check_whole(right, tmp_path, "net-00000000.pth")
    with pytest.raises(FetchError, match="not 64 hexadecimal digits"):
        fetch("x", tmp_path, sha256="abc")


def test_the_first_use_is_recorded_and_another_content_refused(tmp_path: Path) -> None:
    with serving(lambda request, number: request.serve(BODY if number == 0 else BODY[::-1])) as server:
        path = fetch(f"{server.url}/net.pth", tmp_path).path
        assert (tmp_path / "weights.lock").read_text() == f"{SHA}  {len(BODY)}  {server.url}/net.pth\n"
        path.unlink()
        with pytest.raises(FetchError, match=r"expected .*as first fetched.*remove the line from weights.lock"):
            fetch(f"{server.url}/net.pth", tmp_path)
        assert finals(tmp_path) == []
    (tmp_path / "weights.lock").write_text("what\n")
    with pytest.raises(FetchError, match=r"weights.lock:1: not '<sha256>"):
        fetch(f"{server.url}/net.pth", tmp_path)


def test_a_login_stays_out_of_the_lock_and_the_messages(tmp_path: Path) -> None:
    with serving(first(good, lambda request, _: request.send(404, b""))) as server:
        url = server.url.replace("//", "//me:secret@")
        assert "secret" not in str(fetch(f"{url}/net.pth", tmp_path))
        assert "secret" not in (tmp_path / "weights.lock").read_text()
        with pytest.raises(FetchError) as caught:
            fetch(f"{url}/other.pth?token=secret", tmp_path)
        assert "secret" not in str(caught.value)


def test_a_cached_file_is_hashed_again_only_when_it_looks_changed(tmp_path: Path) -> None:
    with serving(good) as server:
        path = fetch(f"{server.url}/net.pth", tmp_path).path
        status = path.stat()
        os.utime(path, ns=(0, 0))
        fetch(f"{server.url}/net.pth", tmp_path)
        assert len(server.requests) == 1  # only the time had changed
        assert json.loads((path.parent / ".verified").read_text())["mtime_ns"] == 0

        damaged = bytes([BODY[0] ^ 1]) + BODY[1:]
        path.write_bytes(damaged)
        assert path.stat().st_size == status.st_size
        check_whole(fetch(f"{server.url}/net.pth", tmp_path), tmp_path)
        assert len(server.requests) == 2

        path.write_bytes(BODY[:10])
        (path.parent / ".verified").write_text("{")
        check_whole(fetch(f"{server.url}/net.pth", tmp_path), tmp_path)
        assert len(server.requests) == 3


# A server that misbehaves once and is good then: the file is whole, and no byte was asked for twice without need.


def test_a_drop_is_resumed_from_where_it_was(tmp_path: Path) -> None:
    with serving(first(drops)) as server:
        check_whole(fetch(f"{server.url}/net.pth", tmp_path, patience=QUICK), tmp_path)
        assert server.ranges() == [None, f"bytes={HALF}-"]
        assert server.requests[1][1]["if-range"] == '"v1"'


def test_as_long_as_bytes_come_drops_do_not_count(tmp_path: Path) -> None:
    with serving(lambda request, _: request.serve(BODY, only=20_000)) as server:
        check_whole(fetch(f"{server.url}/net.pth", tmp_path, patience=Patience(5, 2, 0)), tmp_path)
        assert len(server.requests) == len(BODY) // 20_000


def test_a_stall_ends_with_the_timeout_and_is_resumed(tmp_path: Path) -> None:
    def stalls(request: Request, number: int) -> None:
        request.head(200, Content_Length=len(BODY), ETag='"v1"')
        request.wfile.write(BODY[:HALF])
        request.wfile.flush()
        request.served.release.wait()
        request.hang_up()

    with serving(first(stalls)) as server:
        check_whole(fetch(f"{server.url}/net.pth", tmp_path, patience=IMPATIENT), tmp_path)
        assert server.ranges() == [None, f"bytes={HALF}-"]


def _drips(request: Request, _: int) -> None:
    """A byte at a time, for as long as anybody listens: no read ever waits for long."""
    asked = request.headers.get("Range")
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
    length = 1 << 30
    span = {"Content_Range": f"bytes {start}-{length - 1}/{length}"} if asked else {}
    request.head(206 if asked else 200, Content_Length=length - start, ETag='"v1"', **span)
    while True:
        request.wfile.write(b"x")
        request.wfile.flush()


def _a_byte_and_good_bye(request: Request, _: int) -> None:
    request.serve(BODY, only=1)


@pytest.mark.parametrize(
    ("answer", "words"), [(_drips, "the server drips, "), (_a_byte_and_good_bye, "disconnected|closed")]
)
def test_a_server_that_drips_for_ever_is_given_up_and_its_bytes_are_kept(
    tmp_path: Path, answer: object, words: str
) -> None:
    patience = Patience(timeout=5, attempts=3, backoff=0, least_rate=1e9, window=0.05)
    with serving(answer) as server:  # type: ignore[arg-type]
        with pytest.raises(NetworkError, match=words):
            fetch(f"{server.url}/net.pth", tmp_path, patience=patience)
        assert len(server.requests) == 3
        assert server.ranges()[1] is not None
    assert finals(tmp_path) == []


def test_after_a_drip_the_file_is_gone_on_with(tmp_path: Path) -> None:
    def drips_the_file(request: Request, _: int) -> None:
        request.head(200, Content_Length=len(BODY), ETag='"v1"')
        for byte in BODY:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()

    with serving(first(drips_the_file)) as server:
        patience = Patience(timeout=5, attempts=3, backoff=0, least_rate=1e9, window=0.02)
        check_whole(fetch(f"{server.url}/net.pth", tmp_path, patience=patience), tmp_path)
        assert len(server.requests) == 2
        assert server.ranges()[1] is not None


def test_a_server_that_ignores_ranges_starts_over(tmp_path: Path) -> None:
    with serving(first(drops, lambda request, _: request.send(200, BODY, ETag='"v1"'))) as server:
        check_whole(fetch(f"{server.url}/net.pth", tmp_path, patience=QUICK), tmp_path)


def test_a_file_that_changed_meanwhile_starts_over(tmp_path: Path) -> None:
    def old(request: Request, _: int) -> None:
        request.serve(BODY[::-1], etag='"v0"', only=HALF)

    with serving(first(old)) as server:
        check_whole(fetch(f"{server.url}/net.pth", tmp_path, patience=QUICK), tmp_path)


def test_two_versions_are_never_mixed_though_the_server_ignores_if_range(tmp_path: Path) -> None:
    def old(request: Request, _: int) -> None:
        request.serve(BODY[::-1], etag='"v0"', only=HALF)

    def careless(request: Request, _: int) -> None:
        request.headers.replace_header("If-Range", '"v1"') if "If-Range" in request.headers else None
        request.serve(BODY, etag='"v1"')

    with serving(first(old, careless)) as server:
        check_whole(fetch(f"{server.url}/net.pth", tmp_path, patience=QUICK), tmp_path)
        assert server.ranges() == [None, f"bytes={HALF}-", None]


def test_without_a_strong_validator_nothing_is_resumed(tmp_path: Path) -> None:
    def weak(request: Request, number: int) -> None:
        request.serve(BODY, etag='W/"v1"', only=HALF if number == 0 else None)

    with serving(weak) as server:
        check_whole(fetch(f"{server.url}/net.pth", tmp_path, patience=QUICK), tmp_path)
        assert server.ranges() == [None, None]


def test_a_range_that_was_not_asked_for_is_not_taken(tmp_path: Path) -> None:
    def elsewhere(request: Request, _: int) -> None:
        request.send(206, BODY[:100], Content_Range=f"bytes 0-99/{len(BODY)}", ETag='"v1"')

    def answer(request: Request, number: int) -> None:
        (drops, elsewhere, good)[number](request, number)

    with serving(answer) as server:
        check_whole(fetch(f"{server.url}/net.pth", tmp_path, patience=QUICK), tmp_path)
        assert server.ranges() == [None, f"bytes={HALF}-", None]


def test_416_for_a_part_that_is_whole_is_the_end(tmp_path: Path) -> None:
    """The connection ends right after the last byte, before the program could finish."""
    with serving(good) as server:
        url = f"{server.url}/net.pth"
        part = part_of(tmp_path, url, BODY)
        check_whole(fetch(url, tmp_path, patience=QUICK), tmp_path)
        assert server.ranges() == [f"bytes={len(BODY)}-"]
        assert not part.exists()


def test_416_for_any_other_part_starts_over(tmp_path: Path) -> None:
    with serving(good) as server:
        url = f"{server.url}/net.pth"
        part_of(tmp_path, url, BODY + b"more")
        check_whole(fetch(url, tmp_path, patience=QUICK), tmp_path)
        assert len(server.requests) == 2


def test_a_resumed_part_with_the_wrong_hash_is_fetched_once_more_whole(tmp_path: Path) -> None:
    with serving(good) as server:
        url = f"{server.url}/net-{SHA[:8]}.pth"
        part_of(tmp_path, url, b"0" * HALF)
        check_whole(fetch(url, tmp_path, patience=QUICK), tmp_path, f"net-{SHA[:8]}.pth")
        assert server.ranges() == [f"bytes={HALF}-", None]


def part_of(folder: Path, url: str, content: bytes) -> Path:
    """What an earlier run left of ``url``."""
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{url.rpartition('/')[2]}"
    part = folder / ".parts" / name
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    part.with_name(f"{name}.version").write_text('"v1"')
    return part


def test_busy_servers_are_asked_again_and_redirects_followed(tmp_path: Path) -> None:
    def answer(request: Request, number: int) -> None:
        if number == 0:
            request.send(503, b"", Retry_After="0")
        elif request.path == "/net.pth":
            request.send(302, b"", Location="/really/here.bin")
        else:
            request.serve(BODY)

    with serving(answer) as server:
        check_whole(fetch(f"{server.url}/net.pth", tmp_path, patience=QUICK), tmp_path)


# A server that keeps misbehaving: one line that says how, and nothing under a final name.


def _html(request: Request, _: int) -> None:
    request.send(200, b"<!DOCTYPE html><html><title>Sign\n in</title>" + b" " * 9000, Content_Type="text/html")


def _short(request: Request, _: int) -> None:
    """Content-Length is less than the file: HTTP gives no way to see it, a zip file does."""
    request.send(200, b"PK\x03\x04" + BODY[:1000])


LASTING = {
    "404": (lambda request, _: request.send(404, b"no"), "HTTP 404 Not Found"),
    "401": (lambda request, _: request.send(401, b"no"), "HTTP 401 Unauthorized. The file needs a login"),
    "400": (lambda request, _: request.send(400, b"no"), "HTTP 400"),
    "page": (_html, r'answered with a web page \("Sign in"\)'),
    "pointer": (
        lambda request, _: request.send(200, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"),
        "git-LFS pointer to a file of 12,345 bytes",
    ),
    "bucket's message": (
        lambda request, _: request.send(200, b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'),
        "an XML message .*AccessDenied",
    ),
    "empty": (lambda request, _: request.send(200, b""), "is an empty file"),
    "short zip": (_short, "truncated or damaged zip file"),
    "compressed": (lambda request, _: request.send(200, b"x", Content_Encoding="gzip"), "compresses"),
    "loop": (lambda request, _: request.send(302, b"", Location="/net.pth"), "redirects"),
    "other scheme": (lambda request, _: request.send(302, b"", Location="ftp://127.0.0.1/x"), "ftp"),
    "no room": (lambda request, _: request.head(200, Content_Length=10**18), "bytes to come and"),
}


@pytest.mark.parametrize("kind", LASTING)
def test_what_does_not_heal_is_told_at_once(tmp_path: Path, kind: str) -> None:
    answer, words = LASTING[kind]
    with serving(answer) as server:
        with pytest.raises(FetchError, match=words) as caught:
            fetch(f"{server.url}/net.pth", tmp_path, patience=QUICK)
        assert kind == "loop" or len(server.requests) == 1
    assert not isinstance(caught.value, OSError)  # so nobody tries again
    assert finals(tmp_path) == []


PASSING = {
    "busy": (lambda request, _: request.send(503, b""), "HTTP 503"),
    "silent": (lambda request, _: request.served.release.wait(), "Timeout"),
    "hangs up": (lambda request, _: request.hang_up(), "disconnected"),
    "nonsense": (lambda request, _: request.wfile.write(b"\0\1\2 nonsense\r\n\r\n"), "RemoteProtocolError"),
    "promises too much": (lambda request, _: request.serve(BODY[:9], etag="", only=4), "RemoteProtocolError"),
}


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_heal_is_an_os_error_after_some_attempts(tmp_path: Path, kind: str) -> None:
    answer, words = PASSING[kind]
    with serving(answer) as server:
        with pytest.raises(NetworkError, match=words) as caught:
            fetch(f"{server.url}/net.pth", tmp_path, patience=IMPATIENT)
        assert isinstance(caught.value, OSError)
        assert len(server.requests) >= IMPATIENT.attempts
    assert finals(tmp_path) == []


def test_nobody_there_is_a_network_error(tmp_path: Path) -> None:
    with serving(good) as server:
        pass
    with pytest.raises(NetworkError, match="ConnectError"):
        fetch(f"{server.url}/net.pth", tmp_path, patience=QUICK)


def test_a_captive_portal_does_not_cost_what_is_here_already(tmp_path: Path) -> None:
    with serving(first(drops, _html)) as server:
        with pytest.raises(FetchError, match="Sign in"):
            fetch(f"{server.url}/net.pth", tmp_path, patience=QUICK)
        server.answer = good
        check_whole(fetch(f"{server.url}/net.pth", tmp_path), tmp_path)
        assert server.ranges()[-1] == f"bytes={HALF}-"


def test_https_is_never_left_for_http() -> None:
    with serving(good) as server, _client("https://example.org/net.pth", None, QUICK) as client:
        with pytest.raises(FetchError, match="redirected from https to http"):
            client.get(server.url)
        assert server.requests == []


@pytest.mark.parametrize("kind", [FetchError, NetworkError])
def test_errors_survive_pickling(kind: type[FetchError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it broke", "mend it")))
    assert (type(error), str(error)) == (kind, "it broke. mend it")


# Several processes, and processes that end too early.

PROGRAM = """
import resource, sys
from pathlib import Path
from models.weights.fetch import fetch
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
print("ready", flush=True)
try:
    print(fetch(sys.argv[1], Path(sys.argv[2]), progress=lambda done, total: print(done, flush=True)).path)
except ValueError as error:
    print(type(error).__name__, error)
"""


def start(server: Served, folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, f"{server.url}/net.pth", str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def waits_half_way(request: Request, number: int) -> None:
    request.head(200, Content_Length=len(BODY), ETag='"v1"')
    request.wfile.write(BODY[:HALF])
    request.wfile.flush()
    request.served.release.wait()
    request.wfile.write(BODY[HALF:])


def read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for text in process.stdout:
        if text.strip() == line:
            return
    raise AssertionError(f"the process ended without saying {line!r}")


def test_two_processes_at_once_make_one_request(tmp_path: Path) -> None:
    with serving(waits_half_way) as server, start(server, tmp_path) as one:
        read_until(one, str(HALF))
        with start(server, tmp_path) as other:
            read_until(other, "ready")
            server.release.set()
            paths = {process.communicate(timeout=60)[0].splitlines()[-1] for process in (one, other)}
        assert paths == {str(tmp_path / SHA / "net.pth")}
        assert len(server.requests) == 1


def test_a_killed_process_frees_the_lock_and_its_part_is_gone_on_with(tmp_path: Path) -> None:
    with serving(first(waits_half_way)) as server:
        with start(server, tmp_path) as process:
            read_until(process, str(HALF))
            process.kill()
        assert finals(tmp_path) == []
        check_whole(fetch(f"{server.url}/net.pth", tmp_path), tmp_path)
        assert server.ranges() == [None, f"bytes={HALF}-"]


def test_a_full_disk_is_named_and_what_came_is_gone_on_with(tmp_path: Path) -> None:
    with serving(good) as server:
        with start(server, tmp_path, "100000") as process:
            said = process.communicate(timeout=60)[0].splitlines()[-1]
        assert said.startswith("FetchError")
        assert "no room for the file (File too large)" in said
        assert finals(tmp_path) == []
        check_whole(fetch(f"{server.url}/net.pth", tmp_path), tmp_path)
        start_of_second = server.ranges()[1]
        assert start_of_second is not None
        assert 0 < int(start_of_second.removeprefix("bytes=").removesuffix("-")) <= 100_000


def test_a_full_disk_is_named_for_local_files_too(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(BODY)
    served = Served(str(tmp_path), good)
    with start(served, tmp_path / "store", "100000") as process:
        said = process.communicate(timeout=60)[0].splitlines()[-1]
    assert said.startswith("FetchError")
    assert "no room" in said
    assert finals(tmp_path / "store") == []
    assert [path for path in (tmp_path / "store" / ".parts").iterdir() if path.suffix != ".lock"] == []


# The other sources.


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


def test_the_server_helper_is_honest() -> None:
    """The good server speaks ranges as RFC 9110 says, or the tests above prove nothing."""
    with serving(good) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        connection.request("GET", "/", headers={"Range": "bytes=299990-"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (206, BODY[-10:])
        assert answer.headers["Content-Range"] == "bytes 299990-299999/300000"
        connection.close()
