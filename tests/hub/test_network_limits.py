"""Servers that never end, on the loopback interface: downloads stop in time, and locks are released."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from helpers.serving import Served

from pkdzoo.hub import download
from pkdzoo.hub.download import hold_lock, open_download
from pkdzoo.hub.errors import DownloadError
from pkdzoo.inference.web import fetch_image
from pkdzoo.utils import http, retry

FILE = "/zoo/file.pth"
CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(retry, "WAIT", 0.0)
    monkeypatch.setattr(download, "LIMITS", http.Limits(size=1 << 20, seconds=1.0, idle=0.6, slowest=4096))


def forever(handler: BaseHTTPRequestHandler, part: bytes, pause: float = 0.0) -> None:
    """Send until the other side has gone."""
    handler.close_connection = True
    with suppress(OSError):
        while True:
            handler.wfile.write(part)
            handler.wfile.flush()
            time.sleep(pause)


def raw(start: bytes, part: bytes, pause: float = 0.0) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer that starts in one way and goes on for ever in another."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        forever(handler, part, pause)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 0.0, "its headers have more than 256 KiB"),
    "interim answers, dripped": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02, "no whole headers arrived within 1 sec"),
    "headers, dripped": (OK + b"X-Long: ", b"x", 0.02, "no whole headers arrived within 1 seconds"),
    "a body": (OK + b"\r\n", b"\0" * 65536, 0.0, "it is larger than 1 MiB"),
    "a body, dripped": (OK + b"Content-Length: 100000\r\n\r\n", b"x", 0.02, r"only \d+ bytes arrived within 1 seconds"),
    "chunks, dripped": (CHUNKED, b"1\r\nx\r\n", 0.02, r"only \d+ bytes arrived within 1 seconds"),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\n", b"X: " + b"y" * 60000 + b"\r\n", 0.0, "bytes for a body of 3"),
    "trailers, dripped": (CHUNKED + b"3\r\nabc\r\n0\r\n", b"X: y\r\n", 0.02, "only 3 bytes arrived within 1 seconds"),
    "chunk extensions": (CHUNKED + b"3;", b"x" * 1000, 0.0, "could not be downloaded"),
    "silence": (OK + b"Content-Length: 100000\r\n\r\n", b"", 0.1, r"timed out|within 0\.\d+ seconds"),
}  # fmt: skip


# Before the headers, within them, in a body of stated and of unstated length.
USUAL = ("interim answers, dripped", "headers, dripped", "a body, dripped", "trailers")


@pytest.mark.parametrize("kind", [k if k in USUAL else pytest.param(k, marks=pytest.mark.slow) for k in ENDLESS])
def test_endless_answers_stop_in_time_and_release_the_lock(server: Served, tmp_path: Path, kind: str) -> None:
    start, part, pause, reason = ENDLESS[kind]
    url, digest = server.put(FILE, CONTENT)
    server.faults[:] = [raw(start, part, pause)] * 3
    started = time.monotonic()
    with pytest.raises(DownloadError, match=reason) as error, hold_lock(tmp_path, "file"), open_download(url, tmp_path):
        raise AssertionError("it was accepted")
    assert time.monotonic() - started < 8
    assert "load_checkpoint(model, 'the file')" in str(error.value)
    server.faults.clear()
    with hold_lock(tmp_path, "file"), open_download(url, tmp_path, digest) as file:
        assert file.path.read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


def test_a_slow_server_is_left_after_a_minute(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SPEED_AFTER", 0.3)
    monkeypatch.setattr(download, "LIMITS", replace(download.LIMITS, seconds=60.0))
    url, _ = server.put(FILE, CONTENT)
    server.faults[:] = [raw(OK + b"Content-Length: 100000\r\n\r\n", b"x", 0.02)]
    with pytest.raises(DownloadError, match=r"it is too slow: \d+ bytes in 0 seconds"), open_download(url, tmp_path):
        pass
    assert len(server.requests) == 1


def test_the_time_is_for_all_attempts_together(server: Served, tmp_path: Path) -> None:
    url, _ = server.put(FILE, CONTENT)
    server.faults[:] = [raw(OK + b"Content-Length: 100000\r\n\r\n", b"", 0.1)] * 3
    started = time.monotonic()
    with pytest.raises(DownloadError, match="could not be downloaded"), open_download(url, tmp_path):
        pass
    assert time.monotonic() - started < 4


def test_who_waits_for_a_lock_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LIMITS", replace(download.LIMITS, seconds=0.1))
    monkeypatch.setattr(download, "LOCK_SLACK", 0.1)
    problems: list[str] = []

    def wait() -> None:
        try:
            with hold_lock(tmp_path, "file"):
                problems.append("it got the lock")
        except DownloadError as error:
            problems.append(str(error))

    with hold_lock(tmp_path, "file"):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
    assert "another process has been downloading file for too long: end it, or delete" in problems[0]


# -- redirects -------------------------------------------------------------------------------------------------------


def redirect(target: str, body: bytes = b"") -> Callable[[BaseHTTPRequestHandler], None]:
    head = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\n\r\n".encode()
    return raw(head, body, 0.0 if body else 0.1)


def test_the_endless_body_of_a_redirect_is_not_read(server: Served, tmp_path: Path) -> None:
    url, digest = server.put(FILE, CONTENT)
    for body in (b"", b"x" * 65536):
        server.faults[:] = [redirect(url, body), redirect("file.pth", body)]
        started = time.monotonic()
        with open_download(url, tmp_path, digest) as file:
            assert file.path.read_bytes() == CONTENT
        assert time.monotonic() - started < 1
    server.faults[:] = [redirect(url, b"x")] * 11
    with pytest.raises(DownloadError, match="infinite loop"), open_download(url, tmp_path):
        pass


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/file.pth", "file:///etc/hostname", "data:text/plain,x"])
def test_redirects_stay_on_the_web(server: Served, tmp_path: Path, target: str) -> None:
    url, _ = server.put(FILE, CONTENT)
    server.faults[:] = [redirect(target)]
    with pytest.raises(DownloadError, match="which is not http or https"), open_download(url, tmp_path):
        pass
    assert len(server.requests) == 1


PARTS = {
    "part": (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nabc", "HTTP 206 is not an answer with a whole"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "HTTP 204 is not an answer with a whole file"),
    "two lengths": (OK + b"Content-Length: 3\r\nContent-Length: 9\r\n\r\nabcdefghi", "invalid Content-Length, '3, 9'"),
    "no link": (b"HTTP/1.1 302 Found\r\nLocation: http://[::1/\r\n\r\n", "it redirects to 'http://.::1/', which is no"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_is_not_taken_for_a_file(server: Served, tmp_path: Path, kind: str) -> None:
    """Where no hash is published, nothing else would show it."""
    answer, reason = PARTS[kind]
    url, _ = server.put(FILE, CONTENT)
    server.faults[:] = [raw(answer, b"", 0.1)] * 3
    with pytest.raises(DownloadError, match=reason), open_download(url, tmp_path):
        pass
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


@contextmanager
def encrypted(folder: Path, answer: bytes) -> Iterator[str]:
    """A server with TLS and a certificate of its own, ``folder/cert.pem``, which answers each request in one way."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(65536)
                    secure.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{listener.getsockname()[1]}/file.pth"
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_an_encrypted_link_does_not_lead_to_an_open_one(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = server.put(FILE, CONTENT)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    content = OK + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc"
    with encrypted(tmp_path, content) as url, open_download(url, tmp_path / "cache") as file:
        assert file.path.read_bytes() == b"abc"
    location = f"HTTP/1.1 302 Found\r\nLocation: {plain}\r\nContent-Length: 0\r\n\r\n".encode()
    refusal = pytest.raises(DownloadError, match="redirects from https to http")
    with encrypted(tmp_path, location) as url, refusal, open_download(url, tmp_path / "cache"):
        raise AssertionError("it was followed")
    assert not server.requests


@pytest.mark.parametrize("kind", [
    "headers, dripped", *(pytest.param(k, marks=pytest.mark.slow) for k in ("interim answers, dripped", "trailers")),
])  # fmt: skip
def test_images_behind_links_have_the_same_limits(server: Served, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    start, part, pause, _ = ENDLESS[kind]
    monkeypatch.setattr("pkdzoo.inference.web.TOTAL_TIMEOUT", 1.0)
    link, _ = server.put("/a.png", b"")
    server.faults[:] = [raw(start, part, pause)]
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"arrived within 1 seconds|bytes for a body of 3"):
        fetch_image(link)
    assert time.monotonic() - started < 4
