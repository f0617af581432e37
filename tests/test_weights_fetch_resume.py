"""A server that misbehaves once and is good then: the file is whole, and no byte was asked for twice without need."""

from pathlib import Path

import pytest
from helpers_fetch import BODY, HALF, IMPATIENT, QUICK, SHA, check_whole, drops, finals, first, good, part_of
from helpers_server import Request, serving

from models.weights.fetch import NetworkError, Patience, fetch

pytestmark = pytest.mark.usefixtures("plain_environment")


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
