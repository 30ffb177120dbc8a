"""Where weights come from: the package, the cache, a repository on the Hub, a link. Files and tensors, no models.

    PKDZOO_CACHE           folder of converted weights (default: pkdzoo in the user's cache folder)
    PKDZOO_HUB_NAMESPACE   look for ``NAMESPACE/arch.tag`` on the Hub before following links
    PKDZOO_MIRROR          take links' files from here instead: same path, another host or a folder

A file that arrives is hashed while it is written and lies beside its place until everything about it is right, so
that whatever goes wrong, the cache holds whole converted files or nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from safetensors import SafetensorError
from torch import Tensor

from pkdzoo.checkpoints.io import read_state_dict, save_safetensors
from pkdzoo.hub.download import DownloadError, downloaded, locked
from pkdzoo.hub.files import fetch_repository, read_folder
from pkdzoo.hub.weights import Weights
from pkdzoo.utils.retry import first_line

PACKAGED = Path(__file__).parent.parent / "weights"

log = logging.getLogger("pkdzoo")


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder of converted weights: as given, or ``PKDZOO_CACHE``, or ``pkdzoo`` in the user's cache folder."""
    if cache_dir is not None:
        return Path(cache_dir)
    if os.environ.get("PKDZOO_CACHE"):
        return Path(os.environ["PKDZOO_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pkdzoo"


def find_weights(
    name: str,
    row: Weights,
    convert: Callable[[dict[str, Any]], dict[str, Tensor]],
    cache_dir: str | Path | None = None,
) -> tuple[dict[str, Tensor], str]:
    """The tensors of a row, in our own key layout.

    Looks into the package, the cache, the Hub and behind the link, in this order. What came by a link is converted
    and kept in the cache, so that the next call needs no network.

    Args:
        name: ``arch.tag``.
        row: its weights.
        convert: from what a foreign file holds to our layout; raises where the file does not fit.
        cache_dir: see :func:`cache_folder`.

    Returns:
        The state dict, and where it came from in words.

    Raises:
        ValueError: when the row's link has to be opened by hand, or the file does not fit.
        DownloadError: when no place gave a whole file of the right hash.
    """
    if row.file and (PACKAGED / row.file).is_file():
        return read_state_dict(PACKAGED / row.file), "the package"
    folder = cache_folder(cache_dir)
    place = folder / f"{name}-{row.sha256[:8] or 'unhashed'}.safetensors"
    state = cached(place)
    if state is not None:
        return state, str(place)
    failures = []
    for repository in hub_repositories(name, row):
        try:
            return read_folder(fetch_repository(repository, cache_dir))[1], f"the Hub, {repository}"
        except Exception as error:  # the Hub's client raises errors of three libraries
            failures.append(f"{repository}: {first_line(error)}")
            log.info("not on the Hub: %s", failures[-1])
    if row.url is None:
        raise DownloadError(f"weights for {name!r} could not be had from {'; '.join(failures) or 'the package'}")
    if not row.direct:
        arch = name.partition(".")[0]
        labels = f", label_names={row.labels!r}" if isinstance(row.labels, str) else ""
        raise ValueError(
            f"the weights of {name!r} lie on a page that only a browser can fetch: {row.url} - save the file, then "
            f"write pkdzoo.load_checkpoint(pkdzoo.create_detector({arch!r}{labels}), 'the file')"
        )
    with locked(folder, place.name):
        state = cached(place)  # another process may have been faster
        if state is not None:
            return state, str(place)
        with downloaded(mirrored(row.url), folder, row.sha256) as path:
            state = convert(read_state_dict(path))
        try:
            save_safetensors(state, place, {"source": row.url})
        except (OSError, SafetensorError) as error:
            log.warning("%s is loaded, but %s has no room to keep it: %s", name, folder, error)
    return state, row.url


def cached(place: Path) -> dict[str, Tensor] | None:
    """The tensors of a converted file, or None where there is none or it was damaged since."""
    if not place.is_file():
        return None
    try:
        return read_state_dict(place)
    except ValueError as error:
        log.warning("fetching again: %s", error)
        return None


def hub_repositories(name: str, row: Weights) -> list[str]:
    """Repositories on the Hub that may hold ``arch.tag``."""
    namespace = os.environ.get("PKDZOO_HUB_NAMESPACE")
    places = [f"{namespace}/{name}" if namespace else None, row.hub_id]
    return [place for place in places if place]


def mirrored(url: str) -> str:
    """The link, or the same path below ``PKDZOO_MIRROR``."""
    mirror = os.environ.get("PKDZOO_MIRROR")
    if not mirror:
        return url
    if "://" not in mirror:
        mirror = Path(mirror).absolute().as_uri()
    return mirror.rstrip("/") + urlsplit(url).path
