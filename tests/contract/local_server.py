"""A web server on this machine for tests: each path is a function of the request."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Asked:
    """One request as the server saw it."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Answer:
    """What the server sends; ``cut`` closes the connection after that many bytes."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass
class Site:
    """A running server."""

    url: str
    asked: list[Asked]
    routes: dict[str, Callable[[Asked], Answer]]


def with_ranges(body: bytes, asked: Asked, *, cut: int | None = None) -> Answer:
    """Answer as file servers do: 206 for a range, 416 beyond the end, 200 otherwise."""
    span = asked.headers.get("range")
    if span is None:
        return Answer(body, cut=cut)
    start = int(span.removeprefix("bytes=").rstrip("-"))
    if start >= len(body):
        return Answer(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
    headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
    return Answer(body[start:], 206, headers, cut)


@contextmanager
def serve(routes: dict[str, Callable[[Asked], Answer]]) -> Iterator[Site]:
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            headers = {key.lower(): value for key, value in self.headers.items()}
            request = Asked(parts.path, query, headers)
            asked.append(request)
            route = site.routes.get(parts.path)
            answer = route(request) if route else Answer(b"nothing here", 404)
            try:
                self.send_response(answer.status)
                for key, value in answer.headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body[: answer.cut])
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up waiting, as it should

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site = Site(f"http://127.0.0.1:{server.server_port}", asked, routes)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
