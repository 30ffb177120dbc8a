"""Images behind links: downloaded into memory with limits of size and time, and decoded only as images."""

from __future__ import annotations

import http.client
import io
import urllib.error
from urllib.parse import quote, urlsplit, urlunsplit

from PIL import Image

from pkdzoo.data.image_files import UnreadableImage, open_image
from pkdzoo.utils.http import LimitExceeded, Limits, open_link
from pkdzoo.version import __version__

LIMIT = 64 * 2**20  # bytes; a JPEG of 12,000 x 9,000 pixels has about 40 MB
TIMEOUT = 20.0  # seconds without a byte
TOTAL_TIMEOUT = 120.0  # seconds for the whole image, so that a very slow server cannot block a stream


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
    try:
        with open_link(_quote(link), Limits(limit, TOTAL_TIMEOUT, timeout), f"pkdzoo/{__version__}") as answer:
            content = b"".join(answer.blocks())
    except urllib.error.HTTPError as error:
        error.close()
        reason = " ".join(f"HTTP {error.code} {error.reason}".split())  # the host's reason may have several lines
        raise UnreadableImage(link, reason) from None
    except (OSError, ValueError, http.client.HTTPException, LimitExceeded) as error:
        raise UnreadableImage(link, str(getattr(error, "reason", error)) or type(error).__name__) from None
    return open_image(link, io.BytesIO(content))
