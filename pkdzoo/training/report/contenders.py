"""Reads what runs have left: recipes, logs, metrics and detections, for one column of a report each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pkdzoo.evaluation.saved_detections import DETECTIONS, SavedDetections
from pkdzoo.hub.saved_folder import find_saved_folder
from pkdzoo.models._counting import count_costs
from pkdzoo.models.detector import Detector
from pkdzoo.training.compare import TEACHER_DETECTIONS
from pkdzoo.training.evaluate import open_detector
from pkdzoo.training.provenance import read_json, read_json_object
from pkdzoo.training.run_table import FinishedRun, is_teacher, saved_teacher, teacher_row

TEACHER, PLAIN, DISTILLED = "teacher", "plain", "distilled"
ORDER = {TEACHER: 0, PLAIN: 1, DISTILLED: 2}


@dataclass
class Contender:
    """One detector of a report.

    Attributes:
        title: name of the run, or of the teacher.
        role: ``teacher``, also of a run that taught another one of the report; ``plain`` or ``distilled``.
        folder: of the run; of the teacher the folder that it was loaded from, if any.
        metrics: of the last evaluation; empty before it.
        recipe: as JSON values; empty for a published teacher.
        facts: of ``run.json``.
        log: lines of ``log.jsonl``.
        detections: of the last evaluation; None without any.
        costs: millions of parameters, and billions of multiply-adds of an image of ``size``.
        size: (height, width) in pixels of the image of ``costs``.
    """

    title: str
    role: str
    folder: Path | None
    metrics: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    detections: SavedDetections | None = None
    costs: tuple[float, float] | None = None
    size: tuple[int, int] | None = None

    @property
    def run(self) -> FinishedRun:
        """What the rules of ``pkdzoo compare`` read of it."""
        return FinishedRun(self.folder or Path(self.title), self.recipe, self.metrics)

    def curve(self, key: str, x: str = "step") -> list[tuple[float, float]]:
        """The values of a key of the log, by step or epoch."""
        return [(float(line[x]), float(line[key])) for line in self.log if line.get(key) is not None and x in line]

    def keys(self, prefix: str) -> list[str]:
        """The keys of the log that begin with a text."""
        return sorted({key for line in self.log for key in line if key.startswith(prefix)})


def read_contenders(folders: Iterable[str | Path], light: bool = False) -> list[Contender]:
    """The detectors of runs, teachers first, then plain and distilled students.

    Args:
        folders: of runs, or of several runs together as ``pkdzoo distill`` and a recipe file with several leave them.
        light: without detections and costs, which takes no time in a run that is going on.

    Raises:
        ValueError: for a folder without a run, and files that are not as a run wrote them.
    """
    found: list[Contender] = []
    for folder in map(Path, folders):
        own = [folder] if (folder / "recipe.json").is_file() else [p.parent for p in folder.glob("*/recipe.json")]
        teachers = _teachers(folder, own, light)
        if not own and not teachers:
            raise ValueError(f"{folder} holds no run (no recipe.json): write the folder of a run, e.g. runs/mine")
        found += teachers
        found += [_run(run, light) for run in sorted(own)]
    seen: set[Path] = set()
    unique = []
    for contender in found:
        place = (contender.folder or Path(contender.title)).resolve()
        if place not in seen:
            unique.append(contender)
            seen.add(place)
    taught = {path for contender in unique if (path := contender.run.teacher_folder) is not None}
    for contender in unique:
        if contender.folder is not None and is_teacher(contender.folder, taught):
            contender.role = TEACHER
    return sorted(unique, key=lambda contender: ORDER[contender.role])


def _run(folder: Path, light: bool) -> Contender:
    recipe = read_json_object(folder / "recipe.json")
    role = DISTILLED if (recipe.get("distill") or {}).get("methods") else PLAIN
    contender = Contender(
        str(recipe.get("name") or folder.name), role, folder, read_json_object(folder / "metrics.json"), recipe,
        read_json_object(folder / "run.json"), read_log(folder / "log.jsonl"),
    )  # fmt: skip
    if light:
        return contender
    contender.detections = _detections(folder / DETECTIONS)
    with suppress(FileNotFoundError):  # before the first evaluation
        add_costs(contender, open_detector(find_saved_folder(folder)))
    return contender


def _teachers(folder: Path, runs: Sequence[Path], light: bool) -> list[Contender]:
    """The teachers that were evaluated beside the runs of a folder; detections are saved of the first one."""
    rows = read_json(folder / "comparison.json")
    rows = rows if isinstance(rows, list) else []
    recorded, found = list(map(_recorded, runs)), []
    for number, row in enumerate(row for row in rows if row.get("role") == TEACHER):
        taught = next((run for run in recorded if _taught_by(run, row, rows)), None)
        if taught is None:
            continue
        found.append(_teacher(row, taught, light))
        if number == 0 and not light:
            found[-1].detections = _detections(folder / TEACHER_DETECTIONS)
    return found


def _teacher(row: dict[str, Any], taught: FinishedRun, light: bool) -> Contender:
    """The teacher of a row and of a run, with the curves of its own run."""
    name = str(taught.recipe["distill"]["teacher"])
    metrics = {key: value for key, value in row.items() if key not in ("name", "role", "gap_closed")}
    contender = Contender(str(row.get("name")), TEACHER, None, metrics)
    saved = taught.teacher_folder
    if saved is not None:
        run = next((path for path in (saved, saved.parent) if (path / "recipe.json").is_file()), saved)
        contender.folder, contender.log = run, read_log(run / "log.jsonl")
        contender.recipe, contender.facts = read_json_object(run / "recipe.json"), read_json_object(run / "run.json")
        contender.metrics = {**_own_metrics(taught), **metrics}
    if light:
        return contender
    with suppress(ValueError, OSError, RuntimeError):  # it was moved, or has to be downloaded and cannot
        add_costs(contender, open_detector(name))
    return contender


def _recorded(folder: Path) -> FinishedRun:
    return FinishedRun(folder, read_json_object(folder / "recipe.json"), read_json_object(folder / "metrics.json"))


def _taught_by(run: FinishedRun, teacher: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a row of a comparison is that of a run's teacher."""
    name = run.recipe.get("name") or run.folder.name
    own = [row for row in rows if row.get("role") == DISTILLED and row.get("name") == name]
    return bool((run.recipe.get("distill") or {}).get("teacher")) and any(teacher_row(rows, r) is teacher for r in own)


def _own_metrics(taught: FinishedRun) -> dict[str, Any]:
    """What the files of a run's teacher add to its row: AP by class of the same images, and the time for an image."""
    teacher = saved_teacher(taught)
    if teacher is None:
        return {}
    other_images = taught.has_same_images(teacher) is False
    kept = ("ms_per_image", "hardware") if other_images else teacher.metrics
    return {key: value for key, value in teacher.metrics.items() if key in kept}


def add_costs(contender: Contender, model: Detector) -> None:
    """Count parameters and multiply-adds at the size of its evaluation."""
    short, long = model.resize
    contender.size = (short, long)
    try:
        contender.costs = count_costs(model, contender.size)
    except (AttributeError, RuntimeError, NotImplementedError):  # a detector of another library
        contender.costs = None


def _detections(path: Path) -> SavedDetections | None:
    return SavedDetections.read(path) if path.is_file() else None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last one may be incomplete, in a run that is going on.

    Raises:
        ValueError: naming a line that is none of a log.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    result: list[dict[str, Any]] = []
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            result.append({key: value for key, value in line.items() if isinstance(value, (int, float, dict))})
        except (ValueError, AttributeError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not a line of a run's log: {text[:60]!r}") from error
    return result
