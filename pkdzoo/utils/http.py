"""Opening of links with limits of size and time that hold for everything a server can send.

Time-outs of a socket start again with every byte, and ``urllib`` reads the bodies of redirects, interim answers (1xx)
and trailers without a limit. A server that sends a byte now and then could therefore hold a caller forever. Here every
byte is counted where it leaves the socket: status lines and headers, bodies and trailers.
"""

from __future__ import annotations

import http.client
import io
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

BLOCK = 1 << 16  # bytes read at a time
MAX_REDIRECTS = 10
MAX_VISITS = 4  # of one link
MAX_HEADERS = 1 << 18  # bytes of all status lines and headers
HEADER_SECONDS = 60.0  # from the first request to the body
MAX_OVERHEAD = 1 << 24  # bytes of the framing of a body, besides as many as the body has
SPEED_AFTER = 60.0  # seconds of a body after which its speed is checked


class LimitExceeded(RuntimeError):  # not a ValueError, which http.client would take for a damaged chunk
    """An answer is too large, too slow or not allowed; another attempt would end in the same way."""


@dataclass(frozen=True)
class Limits:
    """Limits of one answer.

    Attributes:
        size: bytes of the body.
        seconds: for the whole exchange, from the first request to the last byte.
        idle: seconds without a byte.
        slowest: mean bytes per second of the body, checked from its first minute on; 0 for no limit.
    """

    size: int
    seconds: float
    idle: float = 30.0
    slowest: float = 0.0


class Answer:
    """The body of an answer.

    Attributes:
        size: number of bytes that the server announced; None if it announced none.
    """

    def __init__(self, response: Any, clock: _Clock) -> None:
        self._response, self._clock = response, clock
        self.size = content_length(response.headers.get_all("Content-Length") or [])
        clock.check_size(self.size or 0)

    def blocks(self) -> Iterator[bytes]:
        """The body in parts.

        Raises:
            LimitExceeded: if it is too large or too slow.
            ConnectionError: for fewer bytes than announced.
        """
        clock = self._clock
        while block := self._response.read1(BLOCK):  # read() would wait until the block is full
            clock.received += len(block)
            clock.check_size(clock.received)
            clock.check()
            yield block
        if self.size is not None and clock.received != self.size:
            raise ConnectionError(f"the connection ended after {clock.received} of {self.size} bytes")


@contextmanager
def open_link(link: str, limits: Limits, agent: str) -> Iterator[Answer]:
    """Open a link; redirects are followed, from https to https only.

    Args:
        link: ``http``, ``https`` or ``file``. Proxies are taken from the environment, as urllib does.
        limits: of size and time.
        agent: name of the program, for the server.

    Yields:
        The answer.

    Raises:
        LimitExceeded: for an answer beyond the limits, and for a redirect that is not followed.
        urllib.error.HTTPError: for an error of the server.
        OSError: if the connection fails.
        http.client.HTTPException: for an answer that is not HTTP.
    """
    clock = _Clock(limits)
    with _follow(link, clock, agent) as response:
        if response.status not in (None, 200):  # None: a file; 206 is a part, and 204 has no content
            raise LimitExceeded(f"HTTP {response.status} is not an answer with a whole file")
        clock.begin_body()
        yield Answer(response, clock)


def content_length(headers: Sequence[str]) -> int | None:
    """The number of bytes that ``Content-Length`` announces; None without the header.

    Raises:
        ConnectionError: if it is not one number; then a complete file cannot be told from a part of it.
    """
    if not headers:
        return None
    header = headers[0]
    if len(set(headers)) > 1 or not (header.isascii() and header.strip().isdigit() and len(header) < 20):
        raise ConnectionError(f"the host sent an invalid Content-Length, {', '.join(headers)[:50]!r}")
    return int(header)


def _follow(link: str, clock: _Clock, agent: str) -> Any:
    """The response behind all redirects, whose own bodies are not read."""
    opener, visited = _opener(link, clock), [link]
    while len(visited) <= MAX_REDIRECTS and visited.count(visited[-1]) <= MAX_VISITS:
        request = urllib.request.Request(visited[-1], headers={"User-Agent": agent})
        try:
            return opener.open(request, timeout=clock.limits.idle)
        except urllib.error.HTTPError as error:
            target = error.headers.get("Location") if error.code in (301, 302, 303, 307, 308) else None
            if target is None:
                raise
            error.close()
            visited.append(redirect_target(visited[-1], target))
    raise LimitExceeded(f"its redirects lead to an infinite loop, or there are more than {MAX_REDIRECTS}")


def redirect_target(link: str, target: str) -> str:
    """The absolute link that a redirect leads to.

    Raises:
        LimitExceeded: for another scheme than http and https, for what is no link, and for a redirect from https to
            http, which anybody on the way could change.
    """
    try:
        absolute = urljoin(link, target)
        scheme = urlsplit(absolute).scheme
    except ValueError:  # e.g. http://[::1/
        raise LimitExceeded(f"it redirects to {target[:100]!r}, which is no link") from None
    if scheme not in ("http", "https"):
        raise LimitExceeded(f"it redirects to {scheme}, which is not http or https")
    if scheme == "http" and urlsplit(link).scheme == "https":
        raise LimitExceeded("it redirects from https to http, which is not encrypted")
    return quote(absolute, safe="%!#$&'()*+,/:;=?@[]~")


class _Clock:
    """Counts the bytes and the time of one exchange."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.started = time.monotonic()
        self.body_started: float | None = None
        self.raw = self.received = 0  # bytes from the socket, and of the body

    def begin_body(self) -> None:
        self.body_started, self.raw = time.monotonic(), 0

    def remaining(self) -> float:
        """Seconds that are left for the current part."""
        left = self.limits.seconds - (time.monotonic() - self.started)
        if self.body_started is None:
            left = min(left, HEADER_SECONDS - (time.monotonic() - self.started))
        return left

    def check(self) -> None:
        """Raise LimitExceeded if the time is over or too many bytes arrived."""
        if self.remaining() <= 0:
            raise self.too_late()
        if self.body_started is None:
            if self.raw > MAX_HEADERS:
                raise LimitExceeded(f"its headers have more than {MAX_HEADERS >> 10} KiB")
            return
        if self.raw > 2 * self.received + MAX_OVERHEAD:
            raise LimitExceeded(f"it sent {self.raw} bytes for a body of {self.received}")
        seconds = time.monotonic() - self.body_started
        if seconds > SPEED_AFTER and self.received < self.limits.slowest * seconds:
            raise LimitExceeded(f"it is too slow: {self.received} bytes in {seconds:.0f} seconds")

    def too_late(self) -> LimitExceeded:
        """The error for an exchange whose time is over."""
        if self.body_started is None:
            seconds = min(self.limits.seconds, HEADER_SECONDS)
            return LimitExceeded(f"no whole headers arrived within {seconds:.3g} seconds")
        return LimitExceeded(f"only {self.received} bytes arrived within {self.limits.seconds:.3g} seconds")

    def check_size(self, size: int) -> None:
        """Raise LimitExceeded for a body of this size."""
        if size > self.limits.size:
            raise LimitExceeded(f"it is larger than {self.limits.size / 2**20:g} MiB")


class _CountedSocket(io.RawIOBase):
    """A socket's file that checks a clock before and after every read."""

    def __init__(self, raw: Any, socket: Any, clock: _Clock) -> None:
        self.raw, self.socket, self.clock = raw, socket, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.clock.check()
        left, idle = self.clock.remaining(), self.clock.limits.idle
        self.socket.settimeout(max(min(idle, left), 0.001))
        try:
            number: int | None = self.raw.readinto(buffer)
        except TimeoutError:
            if left <= idle:
                raise self.clock.too_late() from None
            raise
        self.clock.raw += number or 0
        self.clock.check()
        return number

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, clock: _Clock, socket: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(socket, *args, **kwargs)
        self.fp = io.BufferedReader(_CountedSocket(self.fp.detach(), socket, clock))


def _opener(link: str, clock: _Clock) -> urllib.request.OpenerDirector:
    """An opener for the scheme of a link, whose redirects raise HTTPError."""
    opener = urllib.request.OpenerDirector()
    handlers: list[Any] = [urllib.request.ProxyHandler(), urllib.request.UnknownHandler()]
    if urlsplit(link).scheme == "file":
        handlers.append(urllib.request.FileHandler())
    else:
        handlers += [_HttpHandler(clock), _HttpsHandler(clock)]
        handlers += [urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()]
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def _connect(connection: Callable[..., Any], clock: _Clock) -> Callable[..., Any]:
    """A class of connections whose responses are counted."""

    def connect(*args: Any, **kwargs: Any) -> Any:
        opened = connection(*args, **kwargs)
        opened.response_class = partial(_Response, clock)
        return opened

    return connect


class _HttpHandler(urllib.request.HTTPHandler):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self.clock = clock

    def http_open(self, req: Any) -> Any:
        return self.do_open(_connect(http.client.HTTPConnection, self.clock), req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self.clock = clock

    def https_open(self, req: Any) -> Any:
        context: Any = getattr(self, "_context", None)
        return self.do_open(_connect(http.client.HTTPSConnection, self.clock), req, context=context)
