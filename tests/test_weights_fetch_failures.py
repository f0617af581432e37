"""A server that keeps misbehaving: one line that says how, and nothing under a final name."""

import pickle
from pathlib import Path

import pytest
from helpers_fetch import BODY, HALF, IMPATIENT, QUICK, check_whole, drops, finals, first, good
from helpers_server import Request, serving

from models.weights.fetch import FetchError, NetworkError, fetch
from models.weights.fetch_http import _client

pytestmark = pytest.mark.usefixtures("plain_environment")


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
