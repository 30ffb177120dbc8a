"""Where weights come from: the package, the cache, a repository on the Hub, a link. Files and tensors, no models.

    PKDZOO_CACHE           folder of converted weights (default: pkdzoo in the user's cache folder)
    PKDZOO_HUB_NAMESPACE   look for ``NAMESPACE/arch.tag`` on the Hub before following links
    PKDZOO_MIRROR          take links' files from here instead: same path, another host or a folder

A file that arrives is hashed while it is written and lies beside its place until everything about it is right, so
that whatever goes wrong, the cache holds whole converted files or nothing.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from safetensors import SafetensorError
from torch import Tensor

from pkdzoo.checkpoints.io import read_state_dict, save_safetensors
from pkdzoo.registry import Weights
from pkdzoo.version import __version__

PACKAGED = Path(__file__).parent / "weights"
CONFIG, TENSORS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
SETTINGS = "pkdzoo_cfg"  # our own key in a config; one called pretrained_cfg would make it a timm model to others
ATTEMPTS = 3
WAIT = 1.0  # seconds before the second attempt; doubles
TIMEOUT = 30.0  # seconds without a byte
ARRIVING = ".arriving-"  # begins the names of unfinished files

log = logging.getLogger("pkdzoo")


class DownloadError(RuntimeError):
    """Weights exist but could not be had; the message says what was tried."""


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
            failures.append(f"{repository}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
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


# -- one file over the network ---------------------------------------------------------------------------------------


@contextmanager
def downloaded(url: str, folder: Path, sha256: str = "") -> Iterator[Path]:
    """A file behind a link, whole and of the right hash, for as long as the context lasts.

    Args:
        url: ``http``, ``https`` or ``file``.
        folder: where it may lie meanwhile; made when missing.
        sha256: start of the hash in hexadecimal digits; empty for unknown.

    Raises:
        ValueError: for another scheme.
        DownloadError: for everything that kept the file from arriving.
    """
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        raise ValueError(f"{url}: links begin with http, https or file")
    if scheme != "file" and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DownloadError(f"{url} is not in {folder}, and HF_HUB_OFFLINE forbids to fetch it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        forget_old_pieces(folder)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=ARRIVING)
    except OSError as error:
        raise no_room(url, folder, error) from error
    os.close(handle)
    try:
        digest = with_patience(url, Path(temporary))
        if not digest.startswith(sha256.lower()):
            raise DownloadError(
                f"{url} is not the file it should be: its SHA-256 begins with {digest[: len(sha256)]} and not with "
                f"{sha256}; nothing was kept. Try again, or set PKDZOO_MIRROR to a host you trust"
            )
        yield Path(temporary)
    finally:
        os.remove(temporary)


def with_patience(url: str, target: Path) -> str:
    """Fetch into ``target``, again if the line breaks; the file's SHA-256."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with open(target, "wb", buffering=0) as file:
                return fetch(url, file)
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {error.reason}"
            again = error.code in (408, 429) or error.code >= 500
            error.close()
        except (OSError, http.client.HTTPException) as error:
            problem, again = str(getattr(error, "reason", error)) or type(error).__name__, True
        if not again or attempt == ATTEMPTS:
            break
        time.sleep(WAIT * 2 ** (attempt - 1))
    raise DownloadError(
        f"{url} could not be fetched: {problem} ({attempt} {'attempt' if attempt == 1 else 'attempts'}). Fetch it by "
        "hand and write pkdzoo.load_checkpoint(model, 'the file'), or set PKDZOO_MIRROR"
    )


def fetch(url: str, file: FileIO) -> str:
    """Copy what is behind a link into ``file`` with a progress bar; its SHA-256.

    Raises:
        ConnectionError: when fewer bytes came than were promised.
        DownloadError: when they do not fit on the disk.
    """
    from tqdm import tqdm

    request = urllib.request.Request(url, headers={"User-Agent": f"pkdzoo/{__version__}"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        promised = response.headers.get("Content-Length")
        size = int(promised) if promised else None
        folder = Path(file.name).parent
        free = shutil.disk_usage(folder).free
        if size is not None and size > free:
            raise no_room(url, folder, f"{size / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free")
        digest, arrived = hashlib.sha256(), 0
        with tqdm(total=size, unit="B", unit_scale=True, desc=Path(urlsplit(url).path).name, leave=False) as bar:
            while block := response.read(1 << 20):
                rest = memoryview(block)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError as error:
                    raise no_room(url, folder, error) from error
                digest.update(block)
                arrived += len(block)
                bar.update(len(block))
    if size is not None and arrived != size:
        raise ConnectionError(f"the line broke after {arrived} of {size} bytes")
    return digest.hexdigest()


def no_room(url: str, folder: Path, problem: OSError | str) -> DownloadError:
    """The error for a disk that is full or may not be written to."""
    reason = problem if isinstance(problem, str) else problem.strerror or str(problem)
    return DownloadError(
        f"{url} cannot be kept in {folder}: {reason}; set PKDZOO_CACHE or cache_dir= to a folder with room"
    )


def forget_old_pieces(folder: Path) -> None:
    """Remove what killed processes left of files that were arriving more than a day ago."""
    for piece in folder.glob(f"{ARRIVING}*"):
        with suppress(OSError):  # another process may remove it first
            if time.time() - piece.stat().st_mtime > 24 * 3600:
                piece.unlink()


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """One process at a time, so that eight ranks of one machine fetch a file once."""
    from filelock import FileLock

    locks = folder / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise no_room(name, folder, error) from error
    with FileLock(locks / f"{name}.lock"):
        yield


# -- a detector as a folder ------------------------------------------------------------------------------------------


def fetch_repository(
    repository: str,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Config and tensors of a repository on the Hub, in the Hub's own cache.

    The one request of a warm load asks for the newest config; a revision that is a whole commit needs none.

    Args:
        repository: ``org/name`` or ``org/name@revision``.
        cache_dir: folder to keep them in; None means the Hub client's own cache.
        token: for private repositories; None takes the one that ``hf auth login`` left, or ``HF_TOKEN``.
        local_files_only: ask nobody, take what the cache has.

    Returns:
        The folder of both files.

    Raises:
        ValueError: for a repository of another library; its tensors are not fetched.
        FileNotFoundError: for one without config or safetensors.
        DownloadError: not found, no access, not cached and offline, or another file than was published.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    repo, _, revision = repository.partition("@")
    place = None if cache_dir is None else str(cache_dir)

    def get(name: str, commit: str | None) -> Path:
        try:
            return Path(
                hf_hub_download(
                    repo, name, revision=commit, cache_dir=place, token=token, local_files_only=local_files_only
                )
            )
        except LocalEntryNotFoundError as error:
            raise DownloadError(
                f"{repository} is not in the cache, and the Hub was not asked or did not answer: {first_line(error)}"
            ) from error
        except EntryNotFoundError as error:
            note = "no saved detector of pkdzoo" if name == CONFIG else "pickled weights in it are never loaded"
            raise FileNotFoundError(f"{repository} has no {name}: {note}") from error
        except HfHubHTTPError as error:  # no such repository or revision, no access, a Hub that is out of order
            raise DownloadError(
                f"{repository} could not be had from the Hub ({type(error).__name__}, {first_line(error)}): check the "
                "name; a private one needs a token, by `hf auth login` or HF_TOKEN"
            ) from error

    # The Hub counts downloads of config.json, and its folder names the commit: the tensors come from the same one.
    found = get(CONFIG, revision or None)
    config = read_config(found)  # before gigabytes of another library's are fetched
    tensors = get(TENSORS, found.parent.name)
    wanted = config.get(SETTINGS, {}).get("sha256")
    if wanted is not None and sha256_of(tensors) != wanted:
        tensors.resolve().unlink()
        tensors.unlink(missing_ok=True)
        raise DownloadError(f"{repository}: {TENSORS} is not the file its config speaks of; it was not kept, try again")
    return tensors.parent


def first_line(error: Exception) -> str:
    """What an error says first."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def sha256_of(path: Path) -> str:
    """Hash of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_folder(
    folder: str | Path,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write ``model.safetensors`` and ``config.json``, each whole or not at all.

    Args:
        folder: made when missing; other files in it stay.
        state: tensors in our key layout.
        config: what :func:`read_folder` and ``create_detector("local-dir:...")`` need; JSON values.
        others: further JSON files by name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        name: json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        for name, content in {**(others or {}), CONFIG: config}.items()
    }
    save_safetensors(state, folder / TENSORS)
    for name, text in texts.items():
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o644)
            os.replace(temporary, folder / name)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return folder


def preprocessor(config: Mapping[str, Any]) -> dict[str, Any]:
    """What happens to pixels before the network, in the words of other libraries, which count them from 0 to 1."""
    own = config[SETTINGS]
    short, long = own["resize"]
    content = {
        "do_resize": True,
        "size": {"shortest_edge": short, "longest_edge": long},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in own["pixel_mean"]],
        "image_std": [value / 255 for value in own["pixel_std"]],
        "do_pad": True,
        "size_divisor": 32,
    }
    if own["channel_order"] == "bgr":  # their processor of that name would not flip: no name, so none is misled
        return {**content, "do_flip_channel_order": True}
    return {**content, "image_processor_type": "DetrImageProcessor"}


def read_folder(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors of a folder that :func:`save_folder` wrote. Pickles in it are never opened.

    Raises:
        FileNotFoundError: when the folder or one of the two files is missing.
        ValueError: when it is another library's, or damaged.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is no saved detector: it has no {CONFIG}")
    config = read_config(folder / CONFIG)
    if not (folder / TENSORS).is_file():
        raise FileNotFoundError(f"{folder} has no {TENSORS}; pickled weights beside it are never loaded")
    return config, read_state_dict(folder / TENSORS)


def read_config(path: Path) -> dict[str, Any]:
    """A ``config.json`` of ours; ValueError for another library's."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("library_name") != "pkdzoo":
        raise ValueError(f"{path} describes a model of another library, not of pkdzoo; load it with that library")
    return config
