"""Provenance of a trained student, without local paths: its teacher, its command, and the comparison it was part of."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pkdzoo.distill.adapters import is_of_other_library
from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.registry import method_options
from pkdzoo.distill.task import Task
from pkdzoo.hub.card import UNKNOWN
from pkdzoo.hub.card_metrics import WEIGHTS
from pkdzoo.hub.files import SETTINGS, TENSORS, fetch_repository
from pkdzoo.hub.saved_folder import CONFIG, find_saved_folder
from pkdzoo.hub.weights import Distilled
from pkdzoo.models._loading import file_of, is_saved
from pkdzoo.models._registry import find, folder_of
from pkdzoo.training.recipe import Distill, Recipe
from pkdzoo.training.run_table import FinishedRun, teacher_row
from pkdzoo.utils.files import sha256_of_file
from pkdzoo.utils.private_text import strip_local_paths


def about_teacher(distill: Distill, task: Task | None = None) -> dict[str, Any]:
    """The teacher and the methods of a recipe, without local paths.

    Args:
        distill: of the recipe; its teacher must have been loaded before.
        task: the trained task, if available: some methods choose their weight by the teacher.

    Returns:
        ``teacher`` and, if they are known, ``teacher_architecture``, ``teacher_revision``, ``teacher_sha256``,
        ``teacher_AP`` with ``teacher_AP_source`` and ``teacher_annotations_sha256``, ``teacher_license``; and
        ``methods`` with all their settings.
    """
    found = _of_library(distill, task) if is_of_other_library(distill.teacher) else _facts(distill)
    known = {key: value for key, value in found.items() if value not in (None, "")}
    facts = {key if key == "teacher" else f"teacher_{key}": value for key, value in known.items()}
    return {**facts, "methods": method_settings(distill, task)}


def _facts(distill: Distill) -> dict[str, Any]:
    name = distill.teacher
    folder = folder_of(name)
    if folder is not None:
        return _of_folder(find_saved_folder(folder) if folder.is_dir() else folder)
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        cached = fetch_repository(repository, local_files_only=True)
        return {**_of_folder(cached), "teacher": repository.partition("@")[0], "revision": cached.name}
    entry, row = find(name)
    row = row or entry.default
    if distill.teacher_weights == "random":
        return {"teacher": entry.name, "weights": "random"}
    digest = ""
    if distill.teacher_weights is not None:
        file = file_of(distill.teacher_weights)
        if is_saved(file):
            return _of_folder(file.parent)
        digest = sha256_of_file(file)
        row = next((row for row in entry.weights if row.sha256 and digest.startswith(row.sha256)), None)
        if row is None:
            return {"teacher": entry.name, "sha256": digest}
    if row is None:
        return {"teacher": entry.name}
    known = {
        "sha256": digest or row.sha256,
        "AP": row.metrics.get("AP"),
        "AP_source": row.source,
        "license": row.license,
    }
    return {"teacher": f"{entry.name}.{row.tag}", **known}


def _of_library(distill: Distill, task: Task | None) -> dict[str, Any]:
    """Facts of a model of another library: what it was loaded from; a folder is given by its name alone."""
    origin = getattr(task.teacher, "origin", None) if task is not None else None
    name = public_name(distill.teacher)
    if origin is None:
        return {"teacher": name, "weights": "random" if distill.teacher_weights == "random" else None}
    known = {"revision": origin.revision, "sha256": origin.sha256, "license": origin.license}
    return {"teacher": name if distill.teacher_weights else public_name(origin.name), **known}


def public_name(teacher: str) -> str:
    """The name of a model of another library without the path of a local folder."""
    library, _, name = teacher.partition(":")
    is_path = Path(name).is_dir() or name.partition("@")[0].count("/") > 1  # a revision may be refs/pr/1
    return f"{library}:{Path(name).resolve().name}" if is_path else teacher


def _of_folder(folder: Path) -> dict[str, Any]:
    """Facts of a saved teacher; its name is that of its run, not of its folder."""
    config, metrics = read_json_object(folder / CONFIG), read_json_object(folder / "metrics.json")
    own = config.get(SETTINGS, {})
    sha256 = sha256_of_file(folder / TENSORS) if (folder / TENSORS).is_file() else None
    if metrics.get(WEIGHTS, sha256) != sha256:  # they belong to earlier weights
        metrics = {}
    recipe = read_json_object(folder.parent / "recipe.json")
    return {
        "teacher": recipe.get("name") or config.get("architecture") or folder.name,
        "architecture": config.get("architecture"),
        "sha256": sha256,
        "config_sha256": sha256_of_file(folder / CONFIG) if (folder / CONFIG).is_file() else None,
        "AP": metrics.get("AP", own.get("AP")),
        "AP_source": source_of_metrics(metrics) if "AP" in metrics else None,
        "annotations_sha256": metrics.get("annotations_sha256") if "AP" in metrics else None,
        "license": own.get("license"),
    }


def method_settings(distill: Distill, task: Task | None = None) -> dict[str, dict[str, Any]]:
    """Every option of every method: from the recipe, chosen by the method, or its default."""
    result = {}
    for name, recipe_options in distill.methods.items():
        options = {**method_options(name), **recipe_options}
        method = cast(DistillMethod, task.methods[name]) if task is not None else None
        for key in options:
            chosen = len(method.paired_levels) if method is not None and key == "levels" else getattr(method, key, None)
            if options[key] is None and isinstance(chosen, (int, float, str)):
                options[key] = chosen
        result[name] = {key: value for key, value in options.items() if value is not None}
    return result


def launch_command(metrics: Mapping[str, Any]) -> str:
    """The command of a run or an evaluation without local paths; empty if it was not recorded."""
    text = str(metrics.get("command") or "")
    try:
        arguments = shlex.split(text)  # separately, because a folder's name may have spaces
    except ValueError:  # not written by a run
        return str(strip_local_paths(text))
    if arguments and Path(arguments[0]).name == "pkdzoo":
        arguments[0] = "pkdzoo"
    shortened = (re.sub(r"(?:[^=]*/)?(recipes/.+)", r"\1", argument) for argument in arguments)
    return shlex.join(strip_local_paths(argument, spaces=True) for argument in shortened)


def source_of_metrics(metrics: Mapping[str, Any]) -> str:
    """The command of an evaluation as code, for a card; empty if it was not recorded."""
    command = launch_command(metrics)
    return f"`{command}`" if command else ""


def speed(metrics: Mapping[str, Any]) -> str:
    """Latency per image and hardware, as text; empty if it was not measured.

    Raises:
        ValueError: for a latency that is not a number.
    """
    time = metrics.get("ms_per_image")
    if time is None:
        return ""
    if not (isinstance(time, (int, float)) and math.isfinite(time)):
        raise ValueError(
            f"ms_per_image is {time!r} in its metrics, which is no number: run `pkdzoo eval` again, or remove it there"
        )
    return f"{time:.3g} ms an image, one at a time, on {metrics.get('hardware', UNKNOWN)}"


def compared(run: Path, recipe: Recipe, teacher: str) -> Distilled | None:
    """AP of teacher, plain and distilled student of a comparison that a run was part of, from its ``comparison.json``.

    None unless a plain run trained by the same recipe and the teacher was evaluated on the same images.
    """
    rows = read_json(run.parent / "comparison.json")
    rows = rows if isinstance(rows, list) else []
    own: dict[str, Any] = next((row for row in rows if row["role"] == "distilled" and row["name"] == recipe.name), {})
    key = _key(FinishedRun(run, recipe.to_dict(), {}))
    plain_row: dict[str, Any] = next(
        (row for row in rows if row["role"] == "plain" and _key(_run_of(run.parent / row["name"])) == key), {}
    )
    aps = [row.get("AP") for row in (teacher_row(rows, own), plain_row, own)]
    if recipe.distill is None or not own or None in aps:
        return None
    first, plain, distilled = (round(float(part or 0), 3) for part in aps)
    launch = launch_command(read_json_object(run / "run.json"))
    source = f"measured after the last epoch of one run each, seed {recipe.seed}" + (f", `{launch}`" if launch else "")
    return Distilled(recipe.model, teacher, tuple(recipe.distill.methods), (first, plain, distilled), source)


def _run_of(folder: Path) -> FinishedRun:
    return FinishedRun(folder, read_json_object(folder / "recipe.json"), {})


def _key(run: FinishedRun) -> tuple[str, int]:
    """What a plain student has to share: all but the teacher, and the seed."""
    return run.key(with_teacher=False), run.seed


def read_json(path: Path) -> Any:
    """The content of a JSON file; an empty dict if there is no file.

    Raises:
        ValueError: naming the file, if it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty dict if there is no file.

    Raises:
        ValueError: naming the file, if it is not JSON or holds something else than an object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object but a {type(content).__name__}: it is not as a run wrote it")
    return content


def numbers_of(folder: Path) -> dict[str, Any]:
    """The metrics of the weights in a folder; empty if they were not evaluated.

    Raises:
        ValueError: if the metrics belong to other weights, because the run was killed between writing the two, or do
            not say to which.
    """
    metrics = read_json_object(folder / "metrics.json")
    if not metrics:
        return {}
    published = read_json_object(folder / CONFIG).get(SETTINGS, {}).get("sha256")  # in place of the metrics' own
    measured = metrics.pop(WEIGHTS, published)
    if measured != sha256_of_file(folder / TENSORS):
        reason = f"was measured with other weights than {TENSORS} beside it"
        if measured is None:
            reason = f"does not say by {WEIGHTS} that it was measured with {TENSORS} beside it"
        raise ValueError(
            f"{folder / 'metrics.json'} {reason}: continue the run with --resume, or measure "
            f"again, pkdzoo eval {folder} --data DIR --output {folder / 'metrics.json'}"
        )
    return metrics
