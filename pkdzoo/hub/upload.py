"""A repository on the Hub: the files that go into one, what must not, and the way there. Files only, no models.

    config.json, model.safetensors    what ``create_detector("hf-hub:...")`` reads
    preprocessor_config.json          sizes and pixel statistics in the words of other libraries
    metrics.json                      what the evaluation wrote, without places on somebody's disk
    recipe.json                       of a run: what ``recipes/train.py`` repeats it with
    README.md, .eval_results/*.yaml   the card, and its AP for newer pages
    LICENSE                           of the weights, their data and their teacher, in a line each
    predictions.png                   an image, where there is one

A folder is written from nothing and holds these files alone: no optimiser states, no logs. Before it is sent it is
searched for local paths, user names and tokens. The Hub takes a commit as a whole or not at all, and keeps large files
that arrived before one failed: sending a second time goes on where the first one broke.
"""

from __future__ import annotations

import getpass
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from pkdzoo.hub.card import Card
from pkdzoo.hub.card_text import check_licenses, check_numbers, eval_results, licences, render
from pkdzoo.hub.files import CONFIG, PREPROCESSOR, SETTINGS, TENSORS, preprocessor, save_folder
from pkdzoo.utils.files import sha256_of_file, write_json
from pkdzoo.utils.retry import call_with_retries, first_line, is_transient, lacks_xet, status_of, unwrapped

METRICS, README, IMAGE, RECIPE, LICENSE = "metrics.json", "README.md", "predictions.png", "recipe.json", "LICENSE"
ALLOWED = (CONFIG, TENSORS, PREPROCESSOR, METRICS, README, IMAGE, RECIPE, LICENSE)
# Names everybody has, and nobody is recognised by.
COMMON_USERS = (
    *("root", "user", "runner", "ubuntu", "admin", "nobody", "jovyan", "docker"),
    *("data", "model", "student", "teacher", "train", "training", "torch", "research"),  # words of every card
)
# Two folders deep and more: /a/b and on, C:\a\b, ~/a, local-dir:/a/b. A link's path comes after a host and is none.
REST = r"[^\s\"',;)]"
PLACE = re.compile(
    rf"(?:(?<![\w./:<~>\\])|(?<=\bfile://)|(?<=:)(?!//))(?:~?/[\w.~-]+/{REST}*|~/{REST}+|(?:\.\./)+{REST}+|[A-Za-z]:\\+{REST}+)"
)
SPACED = re.compile(
    PLACE.pattern.replace(REST, ".").replace(r"[\w.~-]+", r"[^/\s][^/]*")
)  # a place to the end of the text
TOKEN = re.compile(r"\b(?:hf|ghp|gho|github_pat|sk|glpat)[_-][A-Za-z0-9_-]{16,}|//[^/\s@\"']+:[^/\s@\"']+@")

T = TypeVar("T")


class UploadError(RuntimeError):
    """A repository could not be written; the message says why and what to do."""


# -- the folder ------------------------------------------------------------------------------------------------------


def write_repository(
    folder: str | Path,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    card: Card,
    image: Path | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Path:
    """Write everything that is published, and nothing else, into an empty folder.

    Args:
        folder: made when missing; refused when something lies in it.
        state: of the student alone, in our key layout.
        config: as ``describe`` gives it.
        card: its metrics become ``metrics.json``, its provenance goes into the config.
        image: a PNG with predictions.
        recipe: that trained it, as JSON.

    Raises:
        ValueError: for an unknown licence, a folder that is not empty, or something in it that is nobody's business.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder, everything in it would be published")
    check_licenses(card)  # before anything is written
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
    (folder / README).write_text(render(card), encoding="utf-8")
    (folder / LICENSE).write_text(licences(card) + "\n", encoding="utf-8")
    if extras is not None:
        name, content = extras
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    if image is not None:
        shutil.copyfile(image, folder / IMAGE)
    check_private(folder, {word for label in card.labels for word in label.split()})
    return folder


def with_provenance(config: Mapping[str, Any], card: Card, sha256: str) -> dict[str, Any]:
    """The config, with the tensors' hash, their licence and where they come from beside our other settings."""
    about: dict[str, Any] = {**card.provenance}
    pair = card.pair
    if pair is not None:
        about |= {"teacher": pair.teacher, "student": pair.student, "methods": about.get("methods", list(pair.methods))}
    if pair is not None and pair.triple is not None:
        words = ("teacher", "plain", "distilled")
        about |= {"AP": dict(zip(words, pair.triple)), "gap_closed": pair.gap_closed, "source": pair.source}
    own = {**config.get(SETTINGS, {}), "sha256": sha256, "license": card.license}
    own |= {"AP": card.metrics["AP"]} if card.metrics.get("AP") is not None else {}
    own |= {"provenance": strip_local_paths(about)} if about else {}
    return {**config, SETTINGS: own}


def strip_local_paths(value: Any, spaces: bool = False) -> Any:
    """A value without places: of each path on this disk only the last name stays.

    Args:
        value: text, or text in lists and mappings.
        spaces: of one text: a path in it goes on after a space, as one word of a command does.
    """
    if isinstance(value, str):
        place = SPACED if spaces else PLACE
        return place.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], value)
    if isinstance(value, Mapping):
        return {str(strip_local_paths(key)): strip_local_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strip_local_paths(item) for item in value]
    return value


def check_private(folder: Path, words: set[str] | frozenset[str] = frozenset()) -> None:
    """Make sure that a folder may be seen by everybody.

    Args:
        folder: with every file that is to be sent.
        words: known words, e.g. of class names, that may be like a user's name.

    Raises:
        ValueError: for a file of another name, and for a path, user name or token, with the line it stands in.
    """
    user = current_user()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in ALLOWED and not re.fullmatch(r"\.eval_results/[\w.-]+\.yaml", name):
            raise ValueError(f"{name} is not published: take it out of {folder}; there may be {', '.join(ALLOWED)}")
        for number, line in enumerate(text_of(path).splitlines(), 1):
            found = TOKEN.search(line) or PLACE.search(line)
            if found is None and user and user not in words:
                found = re.search(rf"(?<![\w-]){re.escape(user)}(?![\w-])", line)
            if found is not None:
                kind = "a token" if TOKEN.search(line) else f"{found[0]!r}, a place or a user of this machine"
                raise ValueError(f"nothing is published: {name} has {kind} in line {number}; {cure(kind)}")


def cure(kind: str) -> str:
    """What to do about something private."""
    told = (
        "it comes from the run's recipe.json, run.json or metrics.json, from the class names, or from what was given "
        "here. Change it there and publish again into an empty folder"
    )
    return f"{told}, and revoke the token: others may have read it" if kind == "a token" else told


def current_user() -> str:
    """The user's name, if it tells who that is."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have none
        return ""
    return user if len(user) > 3 and user not in COMMON_USERS else ""


def text_of(path: Path) -> str:
    """What can be read of a file: all of it, or the head of a file of tensors; nothing of an image."""
    if path.suffix == ".safetensors":
        with open(path, "rb") as file:
            return file.read(int.from_bytes(file.read(8), "little")).decode("utf-8")
    return "" if path.suffix == ".png" else path.read_text(encoding="utf-8")


def listing(folder: Path) -> str:
    """The files of a folder with their sizes, for people."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return "\n".join(f"{p.stat().st_size:>12,}  {p.relative_to(folder).as_posix()}" for p in files)


# -- the way there ---------------------------------------------------------------------------------------------------


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
    """Send a folder to the Hub in one commit; the repository is made when it is missing.

    Args:
        folder: as :func:`write_repository` left it.
        repository: ``org/name``.
        private: of a new repository; None leaves it to the organisation.
        token: of the Hub; None takes the one that ``hf auth login`` left, or ``HF_TOKEN``.
        revision: branch, made when missing; None means the main one.
        message: of the commit.
        create_pr: propose the commit instead of making it.

    Returns:
        The commit's address.

    Raises:
        ValueError: for a name that is none, or a folder that may not be seen.
        UploadError: when the Hub said no, or did not answer.
    """
    from huggingface_hub import HfApi

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is no repository: write ORGANISATION/NAME")
    check_private(Path(folder), known_words(Path(folder)) | {repository.partition("/")[0]})
    api = HfApi(token=token)
    sent(repository, lambda: api.create_repo(repository, private=private, exist_ok=True))
    if revision is not None:
        sent(repository, lambda: api.create_branch(repository, branch=revision, exist_ok=True))
    commit = sent(
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


def known_words(folder: Path) -> set[str]:
    """Words of the class names in a folder's config."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return {word for label in config.get("label_names", ()) for word in str(label).split()}


def sent(repository: str, act: Callable[[], T]) -> T:
    """Do something on the Hub.

    Raises:
        UploadError: with the Hub's reason in words.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return call_with_retries(act)
    except OfflineModeIsEnabled as error:
        raise UploadError(f"{repository} was not written: HF_HUB_OFFLINE forbids to reach the Hub") from error
    except Exception as error:
        cause, again = unwrapped(error), is_transient(error)
        if isinstance(cause, HfHubHTTPError):
            reason = refusal(repository, status_of(cause), cause)
        elif lacks_xet(cause):
            reason = f"{repository} was not written: this Hub has no Xet storage, set HF_HUB_DISABLE_XET=1"
        elif again:
            reason = f"{repository} was not written, the line broke: {cause!r}"
        else:
            raise
        advice = "; run it again, files that arrived are not sent twice" if again else ""
        raise UploadError(f"{reason}{advice}") from error


def refusal(repository: str, code: int, error: Exception) -> str:
    """Why the Hub said no, and what helps."""
    help = {
        401: "the token is missing or not valid: run `hf auth login`, or set HF_TOKEN",
        403: "the token may not write there: make one with the right to write, or choose another name",
        404: "there is no such repository, or the token may not see it",
        409: "somebody else writes to it at this moment",
        429: "the Hub asks to wait",
    }.get(code, "")
    return f"{repository} was not written (HTTP {code or 'error'}): {help or first_line(error)}"
