"""Finds the tensors of published weights: in the package, the cache, a repository on the Hub, or behind a link.

    PKDZOO_CACHE           folder of converted weights (default: pkdzoo in the user's cache folder)
    PKDZOO_HUB_NAMESPACE   try the repository ``NAMESPACE/arch.tag`` on the Hub before the link
    PKDZOO_MIRROR          replaces the host of links: another host, or a folder, with the same paths
    PKDZOO_REQUIRE_SHA256  1: refuse files of which the source does not publish the whole hash

The first digits of a hash detect damage, but a forged file with the same 8 digits can be made in minutes. The cache's
index therefore records the whole hash of each file at its first download.

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
from pkdzoo.hub.download import hold_lock, open_download
from pkdzoo.hub.errors import DownloadError, first_line
from pkdzoo.hub.files import fetch_repository, is_repository, read_folder
from pkdzoo.hub.weights import Weights
from pkdzoo.utils.files import read_json, write_json

INDEX = "index.json"  # in the cache: whole hashes by link
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
        ValueError: if the link can only be opened in a browser, the file does not fit, or ``PKDZOO_HUB_NAMESPACE`` is
            no name.
        DownloadError: if no source has a complete file with the right hash, or ``PKDZOO_REQUIRE_SHA256`` forbids it.
    """
    if row.file and (PACKAGED / row.file).is_file():
        return read_state_dict(PACKAGED / row.file), "the package"
    check_hash_is_full(name, row)
    path = cache_folder(cache_dir) / f"{name}-{row.sha256[:8] or 'unhashed'}.safetensors"
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
        raise ValueError(browser_message(name, row))
    return from_link(name, row.url, row.sha256, convert, path)


def from_link(
    name: str, url: str, sha256: str, convert: Callable[[dict[str, Any]], dict[str, Tensor]], path: Path
) -> tuple[dict[str, Tensor], str]:
    """Download and convert a file, and keep the result in the cache; returns it and its source.

    The first download of a link records the whole hash of the file in the cache's index. Later downloads are compared
    with it.

    Args:
        name: ``arch.tag``.
        url: link of the file.
        sha256: the published first digits of its hash.
        convert: see :func:`find_weights`.
        path: of the converted file in the cache.
    """
    folder = path.parent
    with hold_lock(folder, path.name):
        state = read_cached(path)  # another process may have written it
        if state is not None:
            return state, str(path)
        recorded = recorded_hash(folder, url, sha256)
        with open_download(mirror_link(url), folder, sha256) as file:
            if recorded not in (None, file.sha256):
                raise DownloadError(
                    f"{url} has the SHA-256 {file.sha256}, but its first download had {recorded}. The file was "
                    "deleted. If its publisher has replaced it and you trust the new one, remove its line from "
                    f"{folder / INDEX}"
                )
            state = convert(read_state_dict(file.path))
        try:
            save_safetensors(state, path, {"source": url})
            record_hash(folder, url, file.sha256)
        except (OSError, SafetensorError) as error:
            log.warning("%s is loaded, but cannot be kept in %s: %s", name, folder, error)
    return state, url


def browser_message(name: str, row: Weights) -> str:
    """The error message for weights that only a browser can download."""
    arch = name.partition(".")[0]
    labels = f", label_names={row.labels!r}" if isinstance(row.labels, str) else ""
    return (
        f"the weights of {name!r} are on a page that only a browser can open: {row.url} - save the file, then "
        f"write pkdzoo.load_checkpoint(pkdzoo.create_detector({arch!r}{labels}), 'the file')"
    )


def full_hash_required() -> bool:
    """Whether ``PKDZOO_REQUIRE_SHA256`` is set."""
    return os.environ.get("PKDZOO_REQUIRE_SHA256", "").lower() not in ("", "0", "off", "no", "false")


def check_hash_is_full(name: str, row: Weights) -> None:
    """Raise DownloadError if a whole hash is required, and the source of the weights does not publish it."""
    if full_hash_required() and len(row.sha256) < 64:
        raise DownloadError(
            f"PKDZOO_REQUIRE_SHA256 is set, and the source of {name!r} publishes {row.hash_digits} of the 64 of its "
            "hash: unset it, or download the file yourself, check it, and write "
            "pkdzoo.load_checkpoint(model, 'the file')"
        )


def recorded_hash(folder: Path, url: str, digits: str) -> str | None:
    """The whole hash that the file of a link had at its first download into this cache.

    Args:
        folder: of the cache.
        url: the link.
        digits: the published first digits.

    Returns:
        64 digits; None if there is no record, or one of a file with other published digits.
    """
    try:
        content = read_json(folder / INDEX)
        if not isinstance(content, dict):
            raise ValueError(f"{folder / INDEX} holds no JSON object")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DownloadError(f"the cache's index is damaged: {error}. Delete it; it records hashes anew") from error
    recorded = content.get(url)
    return recorded if isinstance(recorded, str) and recorded.startswith(digits.lower()) else None


def record_hash(folder: Path, url: str, sha256: str) -> None:
    """Write the hash of a link's file into the cache's index.

    Raises:
        OSError: e.g. for a full disk.
    """
    with hold_lock(folder, INDEX):
        content = read_json(folder / INDEX) if (folder / INDEX).is_file() else {}
        write_json(folder / INDEX, {**content, url: sha256})


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
    """Repositories on the Hub that may hold ``arch.tag``; ValueError for a namespace that cannot exist."""
    if full_hash_required():  # the published hash is the link's, not the repository's
        return []
    namespace = os.environ.get("PKDZOO_HUB_NAMESPACE")
    if namespace and ("/" in namespace or not is_repository(f"{namespace}/name")):
        raise ValueError(
            f"PKDZOO_HUB_NAMESPACE={namespace!r}: write the name of a user or an organization on the Hub, with "
            "letters, digits, '-', '_' and '.', or unset it"
        )
    repositories = [f"{namespace}/{name}" if namespace else None, row.hub_id]
    return [repository for repository in repositories if repository]


def mirror_link(url: str) -> str:
    """The link, or its path below ``PKDZOO_MIRROR``."""
    mirror = os.environ.get("PKDZOO_MIRROR")
    if not mirror:
        return url
    if "://" not in mirror:
        mirror = Path(mirror).absolute().as_uri()
    return mirror.rstrip("/") + urlsplit(url).path
