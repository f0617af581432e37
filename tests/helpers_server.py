"""A real HTTP server on loopback that misbehaves as it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """The server as a test sees it.

    ``answer`` gets the request and its number, from 0. ``release`` frees every answer that waits for it.
    """

    url: str
    answer: Callable[[Request, int], None]
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.requests]


class Request(BaseHTTPRequestHandler):
    """One request and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    served: Served

    def do_GET(self) -> None:
        number = len(self.served.requests)
        self.served.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        self.served.answer(self, number)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        with suppress(ConnectionError, ValueError):  # the client has gone, or we closed on it
            super().handle()

    def finish(self) -> None:
        with suppress(ConnectionError, ValueError):
            super().finish()

    def head(self, status: int, **headers: str | int) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def send(self, status: int, body: bytes, **headers: str | int) -> None:
        self.head(status, **{"Content_Length": len(body), **headers})
        self.wfile.write(body)

    def hang_up(self) -> None:
        self.close_connection = True

    def serve(self, body: bytes, etag: str = '"v1"', only: int | None = None) -> None:
        """Answer as a good server does, ranges and all; ``only``: hang up after so many bytes."""
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") in {None, etag}:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send(416, b"", Content_Range=f"bytes */{len(body)}")
                return
            part = body[start:]
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.head(206, Content_Length=len(part), Content_Range=span, ETag=etag)
        else:
            part = body
            self.head(200, Content_Length=len(part), ETag=etag)
        self.wfile.write(part[:only])
        self.wfile.flush()
        if only is not None:
            self.hang_up()


@contextmanager
def serving(answer: Callable[[Request, int], None]) -> Iterator[Served]:
    """Serve on a free port of loopback until the block ends."""
    handler = type("Handler", (Request,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    served = Served(f"http://127.0.0.1:{server.server_port}", answer)
    handler.served = served
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
