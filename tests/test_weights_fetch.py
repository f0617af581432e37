"""A file lands whole under its hash, once; other processes and full disks included."""

import http.client
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_fetch import BODY, HALF, SHA, check_whole, finals, first, good
from helpers_server import Request, Served, serving

from models.weights.fetch import FetchError, fetch
from models.weights.fetch_sources import hash_in_name

pytestmark = pytest.mark.usefixtures("plain_environment")


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


def test_the_server_helper_is_honest() -> None:
    """The good server speaks ranges as RFC 9110 says, or the tests above prove nothing."""
    with serving(good) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        connection.request("GET", "/", headers={"Range": "bytes=299990-"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (206, BODY[-10:])
        assert answer.headers["Content-Range"] == "bytes 299990-299999/300000"
        connection.close()
