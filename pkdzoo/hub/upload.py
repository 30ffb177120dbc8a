"""Writes the files of a repository on the Hub, checks them for private data, and uploads them.

    config.json, model.safetensors    what ``create_detector("hf-hub:...")`` reads
    preprocessor_config.json          sizes and pixel statistics in the format of other libraries
    metrics.json                      the result of the evaluation, without local paths
    recipe.json                       of a run: the recipe, for ``recipes/train.py``
    README.md, .eval_results/*.yaml   the card, and its AP in the format of newer Hub pages
    LICENSE                           licenses of the weights, the data and the teacher, one per line
    predictions.png                   an image with predictions (optional)
    ap_by_epoch.svg, ...              of a run: plots of its report

The folder is new and holds these files only: no optimizer states, no logs, no symbolic links. The image is written
anew from its pixels. Before the upload everything is searched for local paths and tokens. A commit on the Hub is
atomic, and the Hub keeps large files of a failed one: a second upload continues where the first one stopped.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from torch import Tensor

from pkdzoo.data.image_files import open_image
from pkdzoo.hub.card import Card
from pkdzoo.hub.card_facts import card_facts
from pkdzoo.hub.card_licenses import check_license_lines, check_licenses, licenses
from pkdzoo.hub.card_metrics import WEIGHTS, check_numbers, check_weights
from pkdzoo.hub.card_text import eval_results, render
from pkdzoo.hub.errors import UploadError, first_line, is_transient, lacks_xet, status_of, unwrap
from pkdzoo.hub.files import MAX_NAME, PREPROCESSOR, SETTINGS, TENSORS, is_repository, preprocessor, save_folder
from pkdzoo.hub.plot_files import check_svg
from pkdzoo.hub.saved_folder import CONFIG
from pkdzoo.utils.files import open_regular_file, refuse_links, sha256_of_file, write_json, write_text
from pkdzoo.utils.private_text import find_private, strip_local_paths
from pkdzoo.utils.retry import call_with_retries

METRICS_FILE, README, IMAGE, RECIPE, LICENSE = "metrics.json", "README.md", "predictions.png", "recipe.json", "LICENSE"
PLOTS = ("ap_by_epoch.svg", "precision_recall.svg")
ALLOWED = (CONFIG, TENSORS, PREPROCESSOR, METRICS_FILE, README, IMAGE, *PLOTS, RECIPE, LICENSE)
# Of a PNG file: what shows the pixels. Others hold text, times, locations or previews.
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
PNG_START = b"\x89PNG\r\n\x1a\n"

T = TypeVar("T")


# -- the folder ------------------------------------------------------------------------------------------------------


def write_repository(
    folder: str | Path,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    card: Card,
    image: Path | None = None,
    recipe: Mapping[str, Any] | None = None,
    plots: Mapping[str, str] | None = None,
) -> Path:
    """Write the files of a repository, and nothing else, into an empty folder.

    Args:
        folder: created if it is missing.
        state: tensors of the student alone, in pkdzoo's key layout.
        config: as ``pkdzoo.models._config.describe`` gives it.
        card: its metrics become ``metrics.json``, its provenance goes into the config.
        image: a PNG with predictions.
        recipe: the recipe of the training run, as JSON values.
        plots: SVG by file name, one of ``PLOTS``.

    Returns:
        The folder.

    Raises:
        ValueError: for an unknown license, a folder that is not empty, or private data in a file.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder, because all of its files would be published")
    check_licenses(card)
    check_license_lines(card)
    check_numbers(card)
    extras = eval_results(card)
    save_folder(folder, state, config, {PREPROCESSOR: preprocessor(config)})
    sha256 = sha256_of_file(folder / TENSORS)
    check_weights(card, sha256)
    write_json(folder / CONFIG, with_provenance(config, card, sha256))
    if card.metrics:
        numbers = {key: value for key, value in card.metrics.items() if key != WEIGHTS}  # the config has the hash
        write_json(folder / METRICS_FILE, {**strip_local_paths(numbers), "source": strip_local_paths(card.source)})
    if recipe is not None:
        write_json(folder / RECIPE, strip_local_paths(recipe))
    card = replace(card, megabytes=(folder / TENSORS).stat().st_size / 1e6)
    write_text(folder / README, render(card))
    write_text(folder / LICENSE, "".join(f"- {line}\n" for line in licenses(card)))
    if extras is not None:
        name, content = extras
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, content)
    if image is not None:
        write_pixels(image, folder / IMAGE)
    for plot, drawing in (plots or {}).items():
        write_text(folder / plot, drawing)
    check_private(folder)
    return folder


def write_pixels(image: Path, target: Path) -> None:
    """Write the pixels of an image as RGB PNG: nothing else of its file is kept, neither text nor EXIF data.

    Raises:
        ValueError: for a symbolic link.
        UnreadableImage: for a file that is no image, or too large.
    """
    with open_regular_file(image) as file:
        pixels = open_image(image, file)
    Image.frombytes("RGB", pixels.size, pixels.tobytes()).save(target, format="PNG")


def with_provenance(config: Mapping[str, Any], card: Card, sha256: str) -> dict[str, Any]:
    """The config with the hash, license and provenance of the tensors, and the facts on the card, in our settings."""
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
    own["card"] = strip_local_paths(card_facts(card))
    return {**config, SETTINGS: own}


def check_private(folder: Path) -> None:
    """Check that a folder holds no private data.

    Raises:
        ValueError: for an unexpected file and a symbolic link; for a local path or token, with its file and line.
    """
    for path in sorted(p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()):
        name = path.relative_to(folder).as_posix()
        refuse_links(path, within=folder)
        if name not in ALLOWED and not re.fullmatch(r"\.eval_results/[\w.-]+\.yaml", name):
            allowed = ", ".join(ALLOWED)
            raise ValueError(f"{name} cannot be published: remove it from {folder}; allowed files are {allowed}")
        for number, line in enumerate(text_of(path).splitlines(), 1):
            found = find_private(line)
            if found is not None:
                raise ValueError(private_data_message(name, number, *found))


def private_data_message(file: str, line: int, kind: str, path: str) -> str:
    """The error message for private data that :func:`find_private` found; a token must not be printed."""
    subject = "a token" if kind == "token" else f"{path!r}, a local path,"
    message = (
        f"nothing is published: {file} has {subject} in line {line}. It comes from the run's recipe.json, run.json or "
        "metrics.json, from the class names, or from an argument. Change it there and publish again into an empty "
        "folder"
    )
    return f"{message}, and revoke the token: others may have read it" if kind == "token" else message


def text_of(path: Path) -> str:
    """The text of a file; of safetensors the header, of a PNG the names of chunks that may hold text.

    Raises:
        ValueError: for a PNG file with more than pixels, an SVG file with more than lines and text, and a header of
            safetensors that is longer than the file.
    """
    with open_regular_file(path) as file:
        if path.suffix == ".safetensors":
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError(f"{path} is not a complete safetensors file: save the detector again")
            return file.read(length).decode("utf-8")
        if path.suffix == ".png":
            check_png(path.name, file.read())
            return ""
        text = file.read().decode("utf-8")
        if path.suffix == ".svg":
            check_svg(path.name, text)
        return text


def check_png(name: str, content: bytes) -> None:
    """Check that a PNG file holds its pixels and nothing else.

    Raises:
        ValueError: for other chunks, and for bytes after the end.
    """
    position = len(PNG_START)
    chunk = b""
    while content.startswith(PNG_START) and chunk != b"IEND" and position + 12 <= len(content):
        length, chunk = struct.unpack_from(">I4s", content, position)
        if chunk not in PNG_CHUNKS:
            break
        position += 12 + length
    if chunk != b"IEND" or position != len(content):
        raise ValueError(
            f"{name} holds more than the pixels of a PNG image, which could be private: give it to "
            "`pkdzoo push --image`, or save its pixels alone"
        )


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

    check_repository(repository)
    check_private(Path(folder))
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


def check_repository(name: str) -> None:
    """Check the name of a repository.

    Raises:
        ValueError: for anything else than ``ORGANIZATION/NAME``.
    """
    if "/" not in name or not is_repository(name):
        raise ValueError(
            f"{name[:MAX_NAME]!r} is no name of a repository: write ORGANIZATION/NAME, with letters, digits, '-', '_' "
            "and '.'"
        )


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
