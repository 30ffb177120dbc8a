"""Finds the tensors of published weights: in the package, the cache, a repository on the Hub, or behind a link.

    PKDZOO_CACHE           folder of converted weights (default: pkdzoo in the user's cache folder)
    PKDZOO_HUB_NAMESPACE   try the repository ``NAMESPACE/arch.tag`` on the Hub before the link
    PKDZOO_MIRROR          replaces the host of links: another host, or a folder, with the same paths

The cache holds complete converted files only: a download goes to a temporary file, and the converted tensors replace
it after its hash and its keys are checked.
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
from pkdzoo.hub.download import downloaded, locked
from pkdzoo.hub.errors import DownloadError, first_line
from pkdzoo.hub.files import fetch_repository, read_folder
from pkdzoo.hub.weights import Weights

PACKAGED = Path(__file__).parent.parent / "weights"

log = logging.getLogger("pkdzoo")


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Folder of converted weights: ``cache_dir``, else ``PKDZOO_CACHE``, else ``pkdzoo`` in the user's cache folder."""
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
    """The tensors of a set of weights, in pkdzoo's key layout.

    Tries the package, the cache, the Hub and the link, in this order. A file behind the link is converted and kept in
    the cache, so that the next call needs no network.

    Args:
        name: ``arch.tag``.
        row: the weights.
        convert: turns the content of a downloaded file into our layout; raises ValueError if it does not fit.
        cache_dir: see :func:`cache_folder`.

    Returns:
        The state dict, and a description of its source.

    Raises:
        ValueError: if the link can only be opened in a browser, or the file does not fit.
        DownloadError: if no source has a complete file with the right hash.
    """
    if row.file and (PACKAGED / row.file).is_file():
        return read_state_dict(PACKAGED / row.file), "the package"
    folder = cache_folder(cache_dir)
    path = folder / f"{name}-{row.sha256[:8] or 'unhashed'}.safetensors"
    state = read_cached(path)
    if state is not None:
        return state, str(path)
    failures = []
    for repository in hub_repositories(name, row):
        try:
            return read_folder(fetch_repository(repository, cache_dir))[1], f"the Hub, {repository}"
        except Exception as error:  # the Hub's client raises errors of three libraries
            failures.append(f"{repository}: {first_line(error)}")
            log.info("not on the Hub: %s", failures[-1])
    if row.url is None:
        raise DownloadError(f"the weights of {name!r} could not be loaded from {'; '.join(failures) or 'the package'}")
    if not row.direct:
        arch = name.partition(".")[0]
        labels = f", label_names={row.labels!r}" if isinstance(row.labels, str) else ""
        raise ValueError(
            f"the weights of {name!r} are on a page that only a browser can open: {row.url} - save the file, then "
            f"write pkdzoo.load_checkpoint(pkdzoo.create_detector({arch!r}{labels}), 'the file')"
        )
    with locked(folder, path.name):
        state = read_cached(path)  # another process may have written it
        if state is not None:
            return state, str(path)
        with downloaded(mirrored(row.url), folder, row.sha256) as file:
            state = convert(read_state_dict(file))
        try:
            save_safetensors(state, path, {"source": row.url})
        except (OSError, SafetensorError) as error:
            log.warning("%s is loaded, but cannot be kept in %s: %s", name, folder, error)
    return state, row.url


def read_cached(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a converted file; None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        return read_state_dict(path)
    except ValueError as error:
        log.warning("downloading again: %s", error)
        return None


def hub_repositories(name: str, row: Weights) -> list[str]:
    """Repositories on the Hub that may hold ``arch.tag``."""
    namespace = os.environ.get("PKDZOO_HUB_NAMESPACE")
    repositories = [f"{namespace}/{name}" if namespace else None, row.hub_id]
    return [repository for repository in repositories if repository]


def mirrored(url: str) -> str:
    """The link, or its path below ``PKDZOO_MIRROR``."""
    mirror = os.environ.get("PKDZOO_MIRROR")
    if not mirror:
        return url
    if "://" not in mirror:
        mirror = Path(mirror).absolute().as_uri()
    return mirror.rstrip("/") + urlsplit(url).path
