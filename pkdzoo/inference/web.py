"""Images behind links: downloaded into memory with limits of size and time, and decoded only as images."""

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
TOTAL_TIMEOUT = 120.0  # seconds for the whole image, so that a very slow server cannot block a stream
BLOCK = 1 << 16  # bytes read at a time


def is_link(text: object) -> bool:
    """Whether the value is a link that :func:`fetch_image` opens."""
    return isinstance(text, str) and text.lower().startswith(("http://", "https://"))


def path_in(link: str) -> str:
    """The path part of a link; empty for an invalid link, which :func:`fetch_image` reports."""
    try:
        return urlsplit(link).path
    except ValueError:
        return ""


def _quote(link: str) -> str:
    """A link in ASCII: other characters and spaces are percent-encoded, those of the host name by IDNA."""
    if link.isascii() and " " not in link:
        return link
    scheme, host, *rest = urlsplit(link)
    host = host if host.isascii() else host.encode("idna").decode()
    return urlunsplit((scheme, host, *(quote(part, safe="!#$%&'()*+,/:;=?@[]~") for part in rest)))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only; urllib also follows those to ftp."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if not is_link(newurl):
            raise ValueError(f"it redirects to {urlsplit(newurl).scheme}, which is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_image(link: str, limit: int | None = None, timeout: float | None = None) -> Image.Image:
    """Download an image in 8-bit RGB, turned as its EXIF tag says. Nothing is written to the disk.

    Args:
        link: ``http`` or ``https``, also after redirects. Proxies are taken from the environment, as urllib does.
        limit: maximum size in bytes; None means 64 MiB.
        timeout: seconds without a byte after which the download fails; None means 20. The whole download may take 120
            seconds.

    Raises:
        UnreadableImage: the download failed, or the content is no image.
    """
    limit, timeout = LIMIT if limit is None else limit, TIMEOUT if timeout is None else timeout
    opener = urllib.request.build_opener(_Redirects)
    try:
        request = urllib.request.Request(_quote(link), headers={"User-Agent": f"pkdzoo/{__version__}"})
        with opener.open(request, timeout=timeout) as response:
            content = _read_all(response, limit)
    except urllib.error.HTTPError as error:
        error.close()
        raise UnreadableImage(
            link, " ".join(f"HTTP {error.code} {error.reason}".split())
        ) from None  # may have several lines
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnreadableImage(link, str(getattr(error, "reason", error)) or type(error).__name__) from None
    return open_image(link, io.BytesIO(content))


def _read_all(response: Any, limit: int) -> bytes:
    announced = response.headers.get("Content-Length")
    size = int(announced) if announced and announced.isdigit() else None
    started, blocks, received = time.monotonic(), [], 0
    too_large = ValueError(f"it is larger than {limit / 2**20:g} MiB: download it and pass the file")
    if size is not None and size > limit:
        raise too_large
    while block := response.read1(BLOCK):  # read() would wait until the block is full
        blocks.append(block)
        received += len(block)
        if received > limit:
            raise too_large
        if time.monotonic() - started > TOTAL_TIMEOUT:
            raise ValueError(
                f"only {received} bytes arrived within {TOTAL_TIMEOUT:g} seconds: download it and pass the file"
            )
    if size is not None and received < size:
        raise ValueError(f"the connection ended after {received} of {size} bytes: try it again")
    return b"".join(blocks)
