"""A web server on the loopback interface for tests: files in memory, planned faults, and a list of all requests."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Served:
    """State of a running server; as long as there are ``faults``, each request gets the next one as its answer."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Answer] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def put(self, path: str, content: bytes) -> tuple[str, str]:
        """Serve a file; returns its link and its SHA-256."""
        self.files[path] = content
        return self.url + path, hashlib.sha256(content).hexdigest()


def status(code: int) -> Answer:
    """Answer with an HTTP error."""
    return lambda handler: handler.send_error(code)


def cut(content: bytes, share: float = 0.5) -> Answer:
    """Announce the whole file, send a part of it, and close the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: int(len(content) * share)])
        handler.close_connection = True

    return answer


@contextmanager
def serving() -> Iterator[Served]:
    """Run a server inside the context."""
    served = Served()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bool) -> None:
            with lock:
                served.requests.append(f"{self.command} {self.path}")
                fault = served.faults.pop(0) if served.faults else None
            if fault is not None:
                return fault(self)
            content = served.files.get(self.path)
            if content is None:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            for key, value in served.headers.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
