"""A saved detector: config and tensors in a folder or in a repository on the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pkdzoo.checkpoints.io import read_state_dict, save_safetensors
from pkdzoo.hub.errors import DownloadError, first_line, is_connection_error, is_transient
from pkdzoo.hub.saved_folder import CONFIG
from pkdzoo.utils.files import sha256_of_file, to_json, write_text
from pkdzoo.utils.retry import call_with_retries
from pkdzoo.utils.strict_json import read_strict_json

TENSORS, PREPROCESSOR = "model.safetensors", "preprocessor_config.json"
ACCESS = "check the name; a private one needs a token: run `hf auth login` or set HF_TOKEN"
REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*", re.ASCII)
MAX_NAME = 200  # characters
SETTINGS = "pkdzoo_cfg"  # our key in a config; other libraries take a config with pretrained_cfg for a timm model


def fetch_repository(
    repository: str,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Download config and tensors of a repository on the Hub into the cache of the Hub's client.

    If both are cached, one request remains, which looks for a newer config; a full commit hash as revision needs none.

    Args:
        repository: ``org/name`` or ``org/name@revision``.
        cache_dir: cache folder; None means the default of the Hub's client.
        token: for private repositories; None means the token of ``hf auth login``, or ``HF_TOKEN``.
        local_files_only: use the cache alone, without network.

    Returns:
        The folder that holds both files.

    Raises:
        ValueError: for a name or a revision that cannot exist, and for a repository of another library, whose tensors
            are not downloaded.
        FileNotFoundError: for a repository without config or safetensors.
        DownloadError: if it does not exist, is not accessible, is not cached while offline, or has a damaged file.
    """
    repo, revision = split_repository(repository)

    def get(name: str, commit: str | None) -> Path:
        return fetch_file(repository, repo, name, commit, cache_dir, token, local_files_only)

    # The Hub counts downloads of config.json. The folder of the config is named by its commit, and the tensors are
    # taken from the same commit. The config is checked first: another library's tensors may be gigabytes.
    config_path = get(CONFIG, revision or None)
    config = read_config(config_path)
    tensors = get(TENSORS, config_path.parent.name)
    expected = config.get(SETTINGS, {}).get("sha256")
    if expected is not None and sha256_of_file(tensors) != expected:
        for path in (tensors.resolve(), tensors):
            path.unlink(missing_ok=True)  # another process may remove it first
        raise DownloadError(f"{repository}: {TENSORS} does not have the hash in its config; it was deleted, try again")
    return tensors.parent


def split_repository(repository: str) -> tuple[str, str]:
    """Name and revision of ``org/name@revision``; the revision is empty if there is none.

    Both become parts of paths in the cache, so that only the characters of names on the Hub are allowed.

    Raises:
        ValueError: for other characters, and for two dots in a row.
    """
    repo, at, revision = repository.partition("@")
    valid = is_repository(repo) and (REVISION.fullmatch(revision) or not at)
    if not valid or ".." in repository or len(repository) > MAX_NAME:
        raise ValueError(
            f"{repository[:MAX_NAME]!r} is no repository on the Hub: write ORGANIZATION/NAME or "
            "ORGANIZATION/NAME@REVISION, with letters, digits, '-', '_', '.' (and '/' in a revision, as in refs/pr/1)"
        )
    return repo, revision


def is_repository(name: str) -> bool:
    """Whether a repository on the Hub can have this name."""
    return REPOSITORY.fullmatch(name) is not None and ".." not in name and len(name) <= MAX_NAME


def fetch_file(
    repository: str,
    repo: str,
    name: str,
    revision: str | None,
    cache_dir: str | Path | None,
    token: str | None,
    local_files_only: bool,
) -> Path:
    """Download one file of a repository with the Hub's client, see :func:`fetch_repository`."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    cache = None if cache_dir is None else str(cache_dir)
    settings: dict[str, Any] = {"cache_dir": cache, "token": token, "local_files_only": local_files_only}
    try:
        return Path(call_with_retries(lambda: hf_hub_download(repo, name, revision=revision, **settings), is_transient))
    except LocalEntryNotFoundError as error:
        raise DownloadError(
            f"{repository} is not in the cache, and the Hub is disabled or not reachable: {first_line(error)}"
        ) from error
    except EntryNotFoundError as error:
        note = "no saved detector of pkdzoo" if name == CONFIG else "pickled weights in it are never loaded"
        raise FileNotFoundError(f"{repository} has no {name}: {note}") from error
    except HfHubHTTPError as error:  # unknown repository or revision, no access, or a server error
        help = "the Hub is not available at the moment, try again later" if is_transient(error) else ACCESS
        raise DownloadError(
            f"{repository} could not be downloaded from the Hub ({type(error).__name__}, {first_line(error)}): {help}"
        ) from error
    except Exception as error:
        if is_connection_error(error):
            cached = try_to_load_from_cache(repo, name, cache, revision)
            if isinstance(cached, str):  # without the Hub, an older cached file is used
                return Path(cached)
            raise DownloadError(
                f"{repository}: the connection was lost while {name} was downloaded: {error!r}; try again"
            ) from error
        if isinstance(error, OSError):  # the disk
            folder = cache or constants.HF_HUB_CACHE
            raise DownloadError(
                f"{repository} cannot be stored in {folder}: {error.strerror or error}; set cache_dir= or HF_HOME to a "
                "writable folder with free space"
            ) from error
        raise


def save_folder(
    folder: str | Path,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write ``model.safetensors`` and ``config.json``, each of them atomically.

    Args:
        folder: created if it is missing; other files in it stay.
        state: tensors in pkdzoo's key layout.
        config: as ``pkdzoo.models._config.describe`` gives it; JSON values.
        others: content of further JSON files by name.

    Returns:
        The folder.

    Raises:
        ValueError: for content that is not JSON, e.g. NaN; nothing is written then.
    """
    folder = Path(folder)
    texts = {name: to_json(content) for name, content in {**(others or {}), CONFIG: config}.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(state, folder / TENSORS)
    for name, text in texts.items():
        write_text(folder / name, text)
    return folder


def preprocessor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing in the format of other libraries, which scale pixels to 0..1.

    A letterbox is described by the keys that other libraries have: the long side, and the canvas where it is a square.
    None of their classes places images as it does and pads with its gray, so that none is named; ``letterbox`` has the
    rest.
    """
    own = config[SETTINGS]
    short, long = own["resize"]
    letterbox = own.get("letterbox")
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
    if letterbox is not None:
        content |= {"size": {"max_height": long, "max_width": long}, "letterbox": letterbox}
        if letterbox["canvas"] == "square":
            content |= {"pad_size": {"height": long, "width": long}}
            del content["size_divisor"]
    if own["channel_order"] == "bgr":  # no type: transformers' DetrImageProcessor would not flip the channels
        content["do_flip_channel_order"] = True
    if letterbox is not None or own["channel_order"] == "bgr":
        return content
    return {**content, "image_processor_type": "DetrImageProcessor"}


def read_folder(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors of a folder that :func:`save_folder` wrote. Pickled files in it are never opened.

    Raises:
        FileNotFoundError: if the folder or one of the two files is missing.
        ValueError: if another library wrote it, or a file is damaged.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is no saved detector: it has no {CONFIG}")
    config = read_config(folder / CONFIG)
    if not (folder / TENSORS).is_file():
        raise FileNotFoundError(f"{folder} has no {TENSORS}{other_weights(folder)}")
    return config, read_state_dict(folder / TENSORS)


def other_weights(folder: Path) -> str:
    """What an error says of weights in a folder that has no ``model.safetensors``."""
    if (folder / f"{TENSORS}.index.json").is_file():
        return (
            f": its tensors are divided over several files, which {TENSORS}.index.json lists. Save it in one: "
            "save_pretrained(FOLDER, max_shard_size='100GB') in transformers"
        )
    return "; pickled weights beside it are never loaded"


def read_config(path: Path) -> dict[str, Any]:
    """The content of a ``config.json``.

    Raises:
        ValueError: if pkdzoo did not write it, or it is damaged.
    """
    config = read_strict_json(path)
    if not isinstance(config, dict) or config.get("library_name") != "pkdzoo":
        raise ValueError(f"{path} describes a model of another library, not of pkdzoo; load it with that library")
    kinds = {"args": dict, SETTINGS: dict, "label_names": list}
    wrong = [key for key, kind in kinds.items() if not isinstance(config.get(key, kind()), kind)]
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)} has the wrong type: save the detector again by save_pretrained()")
    return config
