"""Writes the files of a repository on the Hub, checks them for private data, and uploads them.

    config.json, model.safetensors    what ``create_detector("hf-hub:...")`` reads
    preprocessor_config.json          sizes and pixel statistics in the format of other libraries
    metrics.json                      the result of the evaluation, without local paths
    recipe.json                       of a run: the recipe, for ``recipes/train.py``
    README.md, .eval_results/*.yaml   the card, and its AP in the format of newer Hub pages
    LICENSE                           licenses of the weights, the data and the teacher, one per line
    predictions.png                   an image with predictions (optional)

The folder is new and holds these files only: no optimizer states, no logs. Before the upload it is searched for local
paths, user names and tokens. A commit on the Hub is atomic, and the Hub keeps large files of a failed one: a second
upload continues where the first one stopped.
"""

from __future__ import annotations

import getpass
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from pkdzoo.hub.card import Card
from pkdzoo.hub.card_text import check_licenses, check_numbers, eval_results, licenses, render
from pkdzoo.hub.errors import UploadError, first_line, is_transient, lacks_xet, status_of, unwrap
from pkdzoo.hub.files import CONFIG, PREPROCESSOR, SETTINGS, TENSORS, preprocessor, save_folder
from pkdzoo.utils.files import read_json, sha256_of_file, write_json, write_text
from pkdzoo.utils.retry import call_with_retries

METRICS, README, IMAGE, RECIPE, LICENSE = "metrics.json", "README.md", "predictions.png", "recipe.json", "LICENSE"
ALLOWED = (CONFIG, TENSORS, PREPROCESSOR, METRICS, README, IMAGE, RECIPE, LICENSE)
# User names that identify nobody.
COMMON_USERS = (
    *("root", "user", "runner", "ubuntu", "admin", "nobody", "jovyan", "docker"),
    *("data", "model", "student", "teacher", "train", "training", "torch", "research"),  # frequent in cards
)
# Local paths of two or more parts: /a/b, C:\a\b, ~/a, local-dir:/a/b. The path of a link follows a host: no match.
PART = r"[^\s\"',;)]"
LOCAL_PATH = re.compile(
    rf"(?:(?<![\w./:<~>\\])|(?<=\bfile://)|(?<=:)(?!//))(?:~?/[\w.~-]+/{PART}*|~/{PART}+|(?:\.\./)+{PART}+|[A-Za-z]:\\+{PART}+)"
)
LOCAL_PATH_WITH_SPACES = re.compile(
    LOCAL_PATH.pattern.replace(PART, ".").replace(r"[\w.~-]+", r"[^/\s][^/]*")
)  # up to the end of the text
TOKEN = re.compile(r"\b(?:hf|ghp|gho|github_pat|sk|glpat)[_-][A-Za-z0-9_-]{16,}|//[^/\s@\"']+:[^/\s@\"']+@")

T = TypeVar("T")


# -- the folder ------------------------------------------------------------------------------------------------------


def write_repository(
    folder: str | Path,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    card: Card,
    image: Path | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Path:
    """Write the files of a repository, and nothing else, into an empty folder.

    Args:
        folder: created if it is missing.
        state: tensors of the student alone, in pkdzoo's key layout.
        config: as ``pkdzoo.models._config.describe`` gives it.
        card: its metrics become ``metrics.json``, its provenance goes into the config.
        image: a PNG with predictions.
        recipe: the recipe of the training run, as JSON values.

    Returns:
        The folder.

    Raises:
        ValueError: for an unknown license, a folder that is not empty, or private data in a file.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder, because all of its files would be published")
    check_licenses(card)
    check_numbers(card)
    extras = eval_results(card)
    save_folder(folder, state, config, {PREPROCESSOR: preprocessor(config)})
    write_json(folder / CONFIG, with_provenance(config, card, sha256_of_file(folder / TENSORS)))
    if card.metrics:
        write_json(
            folder / METRICS, {**strip_local_paths(dict(card.metrics)), "source": strip_local_paths(card.source)}
        )
    if recipe is not None:
        write_json(folder / RECIPE, strip_local_paths(recipe))
    card = replace(card, megabytes=(folder / TENSORS).stat().st_size / 1e6)
    write_text(folder / README, render(card))
    write_text(folder / LICENSE, licenses(card) + "\n")
    if extras is not None:
        name, content = extras
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, content)
    if image is not None:
        shutil.copyfile(image, folder / IMAGE)
    check_private(folder, {word for label in card.labels for word in label.split()})
    return folder


def with_provenance(config: Mapping[str, Any], card: Card, sha256: str) -> dict[str, Any]:
    """The config with the hash, license and provenance of the tensors added to our settings."""
    about: dict[str, Any] = {**card.provenance}
    pair = card.pair
    if pair is not None:
        about |= {"teacher": pair.teacher, "student": pair.student, "methods": about.get("methods", list(pair.methods))}
    if pair is not None and pair.triple is not None:
        keys = ("teacher", "plain", "distilled")
        about |= {"AP": dict(zip(keys, pair.triple)), "gap_closed": pair.gap_closed, "source": pair.source}
    own = {**config.get(SETTINGS, {}), "sha256": sha256, "license": card.license}
    own |= {"AP": card.metrics["AP"]} if card.metrics.get("AP") is not None else {}
    own |= {"provenance": strip_local_paths(about)} if about else {}
    return {**config, SETTINGS: own}


def strip_local_paths(value: Any, spaces: bool = False) -> Any:
    """Replace local paths by their last part.

    Args:
        value: text, or nested lists and mappings of texts.
        spaces: paths in the text contain spaces and end with the text, as in one argument of a command.
    """
    if isinstance(value, str):
        pattern = LOCAL_PATH_WITH_SPACES if spaces else LOCAL_PATH
        return pattern.sub(lambda match: re.split(r"[/\\]", match[0].rstrip("/\\"))[-1], value)
    if isinstance(value, Mapping):
        return {str(strip_local_paths(key)): strip_local_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strip_local_paths(item) for item in value]
    return value


def check_private(folder: Path, harmless: set[str] | frozenset[str] = frozenset()) -> None:
    """Check that a folder holds no private data.

    Args:
        folder: with all files to upload.
        harmless: words, e.g. of class names, that are allowed even if they equal the user's name.

    Raises:
        ValueError: for an unexpected file; for a local path, user name or token, with its file and line.
    """
    user = current_user()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in ALLOWED and not re.fullmatch(r"\.eval_results/[\w.-]+\.yaml", name):
            allowed = ", ".join(ALLOWED)
            raise ValueError(f"{name} cannot be published: remove it from {folder}; allowed files are {allowed}")
        for number, line in enumerate(text_of(path).splitlines(), 1):
            match = TOKEN.search(line) or LOCAL_PATH.search(line)
            if match is None and user and user not in harmless:
                match = re.search(rf"(?<![\w-]){re.escape(user)}(?![\w-])", line)
            if match is not None:
                raise ValueError(private_data_message(name, number, None if TOKEN.search(line) else match[0]))


def private_data_message(file: str, line: int, text: str | None) -> str:
    """The error message for private data; ``text`` is None for a token, which must not be printed."""
    kind = "a token" if text is None else f"{text!r}, a local path or user name,"
    message = (
        f"nothing is published: {file} has {kind} in line {line}. It comes from the run's recipe.json, run.json or "
        "metrics.json, from the class names, or from an argument. Change it there and publish again into an empty "
        "folder"
    )
    return f"{message}, and revoke the token: others may have read it" if text is None else message


def current_user() -> str:
    """The user's name; empty if it is unknown or identifies nobody."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # users of containers may have no name
        return ""
    return user if len(user) > 3 and user not in COMMON_USERS else ""


def text_of(path: Path) -> str:
    """The text of a file; of safetensors the header, of an image nothing."""
    if path.suffix == ".safetensors":
        with open(path, "rb") as file:
            return file.read(int.from_bytes(file.read(8), "little")).decode("utf-8")
    return "" if path.suffix == ".png" else path.read_text(encoding="utf-8")


def listing(folder: Path) -> str:
    """The files of a folder with their sizes, one per line."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return "\n".join(f"{p.stat().st_size:>12,}  {p.relative_to(folder).as_posix()}" for p in files)


# -- upload ----------------------------------------------------------------------------------------------------------


def push_folder(
    folder: str | Path,
    repository: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder to the Hub in one commit; the repository is created if it is missing.

    Args:
        folder: written by :func:`write_repository`.
        repository: ``org/name``.
        private: visibility of a new repository; None means the default of the organization.
        token: access token; None means the token of ``hf auth login``, or ``HF_TOKEN``.
        revision: branch, created if it is missing; None means the main branch.
        message: commit message.
        create_pr: open a pull request instead of committing.

    Returns:
        The link of the commit.

    Raises:
        ValueError: for an invalid name, or private data in a file.
        UploadError: if the Hub refuses the upload or is not reachable.
    """
    from huggingface_hub import HfApi

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is no name of a repository: write ORGANIZATION/NAME")
    check_private(Path(folder), words_of_labels(Path(folder)) | {repository.partition("/")[0]})
    api = HfApi(token=token)
    call_hub(repository, lambda: api.create_repo(repository, private=private, exist_ok=True))
    if revision is not None:
        call_hub(repository, lambda: api.create_branch(repository, branch=revision, exist_ok=True))
    commit = call_hub(
        repository,
        lambda: api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message or "Weights, config and card from pkdzoo",
            create_pr=create_pr,
            allow_patterns=[*ALLOWED, ".eval_results/*.yaml"],
        ),
    )
    return str(commit.commit_url)


def words_of_labels(folder: Path) -> set[str]:
    """The words of the class names in a folder's config."""
    config = read_json(folder / CONFIG)
    return {word for label in config.get("label_names", ()) for word in str(label).split()}


def call_hub(repository: str, function: Callable[[], T]) -> T:
    """Call a function of the Hub's client, again after transient errors.

    Raises:
        UploadError: with the reason and what to do.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return call_with_retries(function, is_transient)
    except OfflineModeIsEnabled as error:
        raise UploadError(f"{repository} was not written: HF_HUB_OFFLINE disables the Hub, unset it") from error
    except Exception as error:
        cause, retryable = unwrap(error), is_transient(error)
        if isinstance(cause, HfHubHTTPError):
            reason = http_error_message(repository, status_of(cause), cause)
        elif lacks_xet(cause):
            reason = f"{repository} was not written: this Hub has no Xet storage, set HF_HUB_DISABLE_XET=1"
        elif retryable:
            reason = f"{repository} was not written, the connection was lost: {cause!r}"
        else:
            raise
        advice = "; run it again, uploaded files are not sent twice" if retryable else ""
        raise UploadError(f"{reason}{advice}") from error


def http_error_message(repository: str, code: int, error: Exception) -> str:
    """The reason of an HTTP error and what to do."""
    help = {
        401: "the token is missing or not valid: run `hf auth login`, or set HF_TOKEN",
        403: "the token has no write access: create one that has, or choose another name",
        404: "there is no such repository, or the token has no access to it",
        409: "another commit is being written at this moment",
        429: "too many requests",
    }.get(code, "")
    return f"{repository} was not written (HTTP {code or 'error'}): {help or first_line(error)}"
