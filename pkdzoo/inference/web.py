"""Images behind links: fetched into memory with a limit of size and of time, and decoded as images only."""

from __future__ import annotations

import http.client
import io
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from PIL import Image

from pkdzoo.data.image_files import UnreadableImage, open_image
from pkdzoo.version import __version__

LIMIT = 64 * 2**20  # bytes; a JPEG of 12,000 x 9,000 pixels has about 40 MB
TIMEOUT = 20.0  # seconds without a byte
PATIENCE = 120.0  # seconds for the whole image, so that a drip does not hold a stream up for ever
BLOCK = 1 << 16


def is_link(text: object) -> bool:
    """Whether it is a link that :func:`fetch_image` opens."""
    return isinstance(text, str) and text.lower().startswith(("http://", "https://"))


def path_in(link: str) -> str:
    """The path in a link; empty where it cannot be read, which :func:`fetch_image` will say."""
    try:
        return urlsplit(link).path
    except ValueError:
        return ""


def _quoted(link: str) -> str:
    """A link as it is sent: blanks and letters beyond ASCII in their %XX form, those of a host's name by IDNA."""
    if link.isascii() and " " not in link:
        return link
    scheme, host, *rest = urlsplit(link)
    host = host if host.isascii() else host.encode("idna").decode()
    return urlunsplit((scheme, host, *(quote(part, safe="!#$%&'()*+,/:;=?@[]~") for part in rest)))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirection only where a link may lead: urllib would go on to ftp too."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if not is_link(newurl):
            raise ValueError(f"it leads to {urlsplit(newurl).scheme}, which is neither http nor https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_image(link: str, limit: int | None = None, timeout: float | None = None) -> Image.Image:
    """The image behind a link, 8-bit RGB, turned as its EXIF tag says. Nothing is written to the disk.

    Args:
        link: ``http`` or ``https``; so are redirections. Proxies are taken from the environment, as urllib does.
        limit: bytes from which on it is refused; None means 64 MiB.
        timeout: seconds without a byte after which it is given up; None means 20. The whole takes 120 at most.

    Raises:
        UnreadableImage: for everything that kept an image from arriving, and for what is no image.
    """
    limit, timeout = LIMIT if limit is None else limit, TIMEOUT if timeout is None else timeout
    opener = urllib.request.build_opener(_Redirects)
    try:
        request = urllib.request.Request(_quoted(link), headers={"User-Agent": f"pkdzoo/{__version__}"})
        with opener.open(request, timeout=timeout) as response:
            content = _read(response, limit)
    except urllib.error.HTTPError as error:
        error.close()
        raise UnreadableImage(link, " ".join(f"HTTP {error.code} {error.reason}".split())) from None  # of several lines
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnreadableImage(link, str(getattr(error, "reason", error)) or type(error).__name__) from None
    return open_image(link, io.BytesIO(content))


def _read(response: Any, limit: int) -> bytes:
    promised = response.headers.get("Content-Length")
    size = int(promised) if promised and promised.isdigit() else None
    started, blocks, arrived = time.monotonic(), [], 0
    too_large = ValueError(f"it is larger than {limit / 2**20:g} MiB: save it, then give the file")
    if size is not None and size > limit:
        raise too_large
    while block := response.read1(BLOCK):  # read() would wait for a whole block of a drip
        blocks.append(block)
        arrived += len(block)
        if arrived > limit:
            raise too_large
        if time.monotonic() - started > PATIENCE:
            raise ValueError(f"only {arrived} bytes came in {PATIENCE:g} seconds")
    if size is not None and arrived < size:
        raise ValueError(f"the line broke after {arrived} of {size} bytes")
    return b"".join(blocks)
