"""A saved detector: config and tensors in a folder, or in a repository on the Hub. Files and tensors, no models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pkdzoo.checkpoints.io import read_state_dict, save_safetensors
from pkdzoo.hub.download import DownloadError
from pkdzoo.utils.files import sha256_of_file, to_json, write_text
from pkdzoo.utils.retry import call_with_retries, connection_failed, first_line, is_transient

CONFIG, TENSORS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
ACCESS = "check the name; a private one needs a token, by `hf auth login` or HF_TOKEN"
SETTINGS = "pkdzoo_cfg"  # our own key in a config; one called pretrained_cfg would make it a timm model to others


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
    repo, _, revision = repository.partition("@")

    def get(name: str, commit: str | None) -> Path:
        return fetch_file(repository, repo, name, commit, cache_dir, token, local_files_only)

    # The Hub counts downloads of config.json, and its folder names the commit: the tensors come from the same one.
    found = get(CONFIG, revision or None)
    config = read_config(found)  # before gigabytes of another library's are fetched
    tensors = get(TENSORS, found.parent.name)
    wanted = config.get(SETTINGS, {}).get("sha256")
    if wanted is not None and sha256_of_file(tensors) != wanted:
        tensors.resolve().unlink()
        tensors.unlink(missing_ok=True)
        raise DownloadError(f"{repository}: {TENSORS} is not the file its config speaks of; it was not kept, try again")
    return tensors.parent


def fetch_file(
    repository: str,
    repo: str,
    name: str,
    revision: str | None,
    cache_dir: str | Path | None,
    token: str | None,
    local_files_only: bool,
) -> Path:
    """One file of a repository, by the Hub's own client; its errors in sentences. See :func:`fetch_repository`."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    place = None if cache_dir is None else str(cache_dir)
    settings: dict[str, Any] = {"cache_dir": place, "token": token, "local_files_only": local_files_only}
    try:
        return Path(call_with_retries(lambda: hf_hub_download(repo, name, revision=revision, **settings)))
    except LocalEntryNotFoundError as error:
        raise DownloadError(
            f"{repository} is not in the cache, and the Hub was not asked or did not answer: {first_line(error)}"
        ) from error
    except EntryNotFoundError as error:
        note = "no saved detector of pkdzoo" if name == CONFIG else "pickled weights in it are never loaded"
        raise FileNotFoundError(f"{repository} has no {name}: {note}") from error
    except HfHubHTTPError as error:  # no such repository or revision, no access, a Hub that is out of order
        help = "the Hub is busy or out of order, try again later" if is_transient(error) else ACCESS
        raise DownloadError(
            f"{repository} could not be had from the Hub ({type(error).__name__}, {first_line(error)}): {help}"
        ) from error
    except Exception as error:
        if connection_failed(error):
            kept = try_to_load_from_cache(repo, name, place, revision)
            if isinstance(kept, str):  # what was had once is had without a Hub
                return Path(kept)
            raise DownloadError(f"{repository}: the line broke while {name} came: {error!r}; try again") from error
        if isinstance(error, OSError):  # the disk
            folder = place or constants.HF_HUB_CACHE
            raise DownloadError(
                f"{repository} cannot be kept in {folder}: {error.strerror or error}; set cache_dir= or HF_HOME to a "
                "folder with room that may be written to"
            ) from error
        raise


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
    texts = {name: to_json(content) for name, content in {**(others or {}), CONFIG: config}.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(state, folder / TENSORS)
    for name, text in texts.items():
        write_text(folder / name, text)
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
    kinds = {"args": dict, SETTINGS: dict, "label_names": list}
    wrong = [key for key, kind in kinds.items() if not isinstance(config.get(key, kind()), kind)]
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)} holds something else than save_pretrained() writes")
    return config
