"""One table of any runs: seeds side by side, and what distillation gained over the plain student.

Reads the files of the runs and needs no torch. A difference to the plain student is taken between runs of the same
seed, because such runs begin with the same weights and see the same images in the same order. intervals.py gives the
interval of such differences.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pkdzoo.hub.saved_folder import CONFIG, NoSavedDetector, find_saved_folder
from pkdzoo.models._registry import folder_of
from pkdzoo.training.intervals import Summary, interval, summarize
from pkdzoo.utils.files import read_json

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
STUDENT = ("model", "model_args", "init", "data", "optim", "schedule", "sync_norms")  # what a plain student shares
EVALUATED = ("val_sha256", "val_masks_sha256", "val_truth_sha256")  # of run.json; older runs lack some


@dataclass(frozen=True)
class FinishedRun:
    """The content of a run's files.

    Attributes:
        folder: of the run.
        recipe: as JSON values.
        metrics: of the last evaluation.
    """

    folder: Path
    recipe: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Seed of the recipe."""
        return int(self.recipe.get("seed", 0))

    @property
    def finished(self) -> bool:
        """Whether the run has ended; True where no checkpoint is left to tell."""
        manifests = map(read_json, (self.folder / "checkpoints").glob("step_*/manifest.json"))
        states = [manifest.get("progress", {}) for manifest in manifests]
        return max(((state.get("step", 0), state.get("done", True)) for state in states), default=(0, True))[1]

    @property
    def methods(self) -> list[str]:
        """Names of the distillation methods; none for a plain student."""
        return list((self.recipe.get("distill") or {}).get("methods") or {})

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """What ``run.json`` says of the data; empty without that file."""
        path = self.folder / "run.json"
        return (read_json(path).get("data") or {}) if path.is_file() else {}

    @property
    def teacher_folder(self) -> Path | None:
        """Folder of the teacher, if it is one: of a run, that of the saved detector that is loaded from it."""
        name = str((self.recipe.get("distill") or {}).get("teacher", ""))
        folder = folder_of(name) if name else None
        try:
            return None if folder is None else find_saved_folder(folder)
        except NoSavedDetector:  # its weights were deleted or moved
            return folder

    def key(self, *, with_teacher: bool = True) -> str:
        """Text that is equal for runs that differ in nothing but their seed (and teacher)."""
        content = {name: self.recipe.get(name) for name in STUDENT}
        content["data"] = {k: v for k, v in (content["data"] or {}).items() if k not in ("workers", "eval_batch_size")}
        content["sync_norms"] = content["sync_norms"] or False
        taught = {k: v for k, v in (self.recipe.get("distill") or {}).items() if v is not None}  # older runs lack some
        text = json.dumps([content, taught if with_teacher else None], sort_keys=True)
        return json.dumps(json.loads(text, parse_float=_number_of))  # 8 and 8.0 are one number

    def differences(self, other: FinishedRun) -> list[str]:
        """Those of the fields that two runs of one student share in which these two differ."""
        own, others = (json.loads(run.key(with_teacher=False))[0] for run in (self, other))
        return [name for name in STUDENT if own[name] != others[name]]

    def has_same_student(self, other: FinishedRun) -> bool:
        """Whether two runs differ in nothing but seed and teacher, as far as is known of their validation images."""
        same_recipe = self.key(with_teacher=False) == other.key(with_teacher=False)
        return same_recipe and self.has_same_images(other) is not False

    def has_same_images(self, other: FinishedRun) -> bool | None:
        """Whether two runs were evaluated on the same images and objects; None where their files do not tell.

        Annotations in several files, as those of YOLO, have no hash in ``metrics.json``: that of ``run.json`` decides.
        """
        files = [run.metrics.get("annotations_sha256") for run in (self, other)]
        if None not in files:
            return bool(files[0] == files[1])
        shared = [key for key in EVALUATED if key in self.data and key in other.data]
        if "val_sha256" in shared:
            return all(self.data[key] == other.data[key] for key in shared)
        return None if files == [None, None] else False  # a single file, and none


def _number_of(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() else number


@dataclass
class Variant:
    """Runs that differ only in their seed.

    Attributes:
        name: of the first run.
        role: ``teacher``, ``plain`` or ``distilled``.
        runs: by seed.
        difference: in AP to the plain student, paired by seed, with its interval; None without one.
        gap_closed: share of the gap from plain student to teacher; None if one of them is missing.
    """

    name: str
    role: str
    runs: dict[int, FinishedRun] = field(default_factory=dict)
    difference: Summary | None = None
    gap_closed: float | None = None

    @property
    def gain(self) -> float | None:
        """Mean difference in AP to the plain student; None without one."""
        return None if self.difference is None else self.difference.mean

    def values(self, metric: str, finished: bool = False) -> dict[int, float]:
        """One metric by seed, of finished runs alone if so wanted; seeds without a number are left out."""
        found = {seed: run.metrics.get(metric) for seed, run in self.runs.items() if run.finished or not finished}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def mean(self, metric: str) -> float | None:
        """Mean of one metric over the seeds."""
        values = self.values(metric)
        return statistics.mean(values.values()) if values else None


@dataclass
class RunTable:
    """Variants in the order in which they were given, and warnings."""

    variants: list[Variant]
    warnings: list[str] = field(default_factory=list)


def find_runs(folders: Iterable[str | Path]) -> tuple[list[FinishedRun], list[str]]:
    """Read the runs in folders; a folder without a recipe.json may hold several runs, one folder each.

    Returns:
        The finished runs, and a sentence for each folder that was left out.

    Raises:
        ValueError: if no folder holds an evaluated run.
    """
    runs: list[FinishedRun] = []
    left_out: list[str] = []
    for folder in map(Path, folders):
        inside = sorted(path.parent for path in folder.glob("*/recipe.json")) if folder.is_dir() else []
        own = [folder] if (folder / "recipe.json").is_file() else inside
        if not folder.exists():
            left_out.append(f"there is no folder {folder}")
        elif not own and folder.is_dir():  # runs/* names the files beside the runs as well
            left_out.append(f"{folder} holds no run (no recipe.json)")
        for run in own:
            if (run / "metrics.json").is_file():
                runs.append(FinishedRun(run, read_json(run / "recipe.json"), read_json(run / "metrics.json")))
            else:
                left_out.append(f"{run} was not evaluated yet (no metrics.json): continue it with --resume")
    if not runs:
        raise ValueError(f"no evaluated run to compare: {'; '.join(left_out)}. Write the folders of runs, e.g. runs/*")
    return runs, left_out


def compare_runs(runs: Sequence[FinishedRun]) -> RunTable:
    """Group runs by everything but the seed, and compare distilled students with their plain students.

    Args:
        runs: finished runs, of any recipes.
    """
    table = RunTable([])
    warnings = table.warnings
    taught = {path for run in runs if (path := run.teacher_folder) is not None}
    for run in runs:
        role = "distilled" if run.methods else "plain"
        if is_teacher(run.folder, taught):
            role = "teacher"
        if not run.finished:
            warnings.append(not_finished(run))
        variant = next((v for v in table.variants if _is_repeated(_first_run(v), run)), None)
        if variant is None:
            variant = Variant(str(run.recipe.get("name", run.folder.name)), role)
            table.variants.append(variant)
        if run.seed in variant.runs:
            warnings.append(f"{run.folder} repeats {variant.runs[run.seed].folder} (seed {run.seed}); it is left out")
            continue
        variant.runs[run.seed] = run
    if any(one.has_same_images(other) is False for one, other in itertools.combinations(runs, 2)):
        warnings.append("these runs were evaluated on different annotations: their APs cannot be compared")
    for variant in table.variants:
        if variant.role == "distilled":
            _add_gain(table, variant)
    return table


def _is_repeated(run: FinishedRun, other: FinishedRun) -> bool:
    """Whether two runs differ in nothing but their seed."""
    return run.key() == other.key() and run.has_same_images(other) is not False


def is_teacher(folder: Path, teachers: Iterable[Path]) -> bool:
    """Whether one of the teachers lies in the folder of a run, e.g. in its ``best``."""
    own = folder.resolve()
    return any(own in (teacher, *teacher.parents) for teacher in (path.resolve() for path in teachers))


def _add_gain(table: RunTable, variant: Variant) -> None:
    first = _first_run(variant)
    alike = [v for v in table.variants if v.role == "plain" and first.has_same_student(_first_run(v))]
    if not alike:
        table.warnings.append(no_plain_student(variant.name))
        return
    plain, ours = alike[0].values("AP", finished=True), variant.values("AP", finished=True)
    if not plain or not ours:
        return  # a warning names the runs that are not finished
    seeds = sorted(plain.keys() & ours.keys())
    if not seeds:
        table.warnings.append(no_shared_seed(variant.name))
        return
    for seed in seeds:
        table.warnings += doubts(variant.runs[seed], alike[0].runs[seed])
    difference = summarize([ours[seed] - plain[seed] for seed in seeds])
    variant.difference = difference
    if len(seeds) > 1 and difference.low <= 0 <= difference.high:
        table.warnings.append(
            f"{variant.name} and its plain student differ by {interval(difference)} AP over {len(seeds)} seeds: the "
            "interval of 95 % contains 0, so this many seeds show no difference; train more, --set seed=N"
        )
    if len(seeds) == 1:
        table.warnings.append(f"{variant.name}: one seed shows no difference for certain; train more, --set seed=N")
    teacher, doubt = _teacher_ap(first)
    base = statistics.mean(plain[seed] for seed in seeds)
    if teacher is not None and teacher > base:
        variant.gap_closed = difference.mean / (teacher - base)
        table.warnings += [doubt] if doubt else []


def no_plain_student(name: str) -> str:
    """The sentence on a distilled student that cannot be compared with any run."""
    return f"{name} has no plain student among these runs: train the same recipe with distill=None and the same --data"


def doubts(distilled: FinishedRun, plain: FinishedRun) -> list[str]:
    """Sentences on why the difference of two runs of one student may have another cause than the teacher."""
    name, found = distilled.recipe.get("name", distilled.folder.name), []
    steps, plain_steps = distilled.metrics.get("step"), plain.metrics.get("step")
    if None not in (steps, plain_steps) and steps != plain_steps:
        found.append(
            f"{name} was trained for {steps} steps and its plain student for {plain_steps} (seed {distilled.seed}): "
            "the difference may be that of the steps; train both without logging.patience"
        )
    if len({run.data["train_sha256"] for run in (distilled, plain) if "train_sha256" in run.data}) > 1:
        found.append(
            f"{name} and its plain student (seed {distilled.seed}) were trained on different images or boxes: train "
            "both with the same --data"
        )
    if distilled.has_same_images(plain) is None:
        found.append(
            f"{name} and its plain student (seed {distilled.seed}) may have been evaluated on different images: their "
            "metrics.json and run.json do not tell; run pkdzoo eval on both with the same --data"
        )
    return found


def no_shared_seed(name: str) -> str:
    """The sentence on a distilled student whose plain student has other seeds."""
    return f"{name} and its plain student share no seed: train both with the same ones, --set seed=N"


def of_unknown_size(run: FinishedRun) -> str:
    """The sentence on a teacher that an earlier version evaluated, which did it at the student's image size."""
    return (
        f"{run.folder.parent / 'comparison.json'} is of an earlier version, which evaluated teachers at the student's "
        "image size, where they may find less: the gap that was closed may be smaller than this share"
    )


def not_finished(run: FinishedRun) -> str:
    """The sentence on a run whose AP is not its last one."""
    epoch = run.metrics.get("epoch")
    return f"{run.folder} is not finished: its AP is that of epoch {epoch}; continue it with --resume"


def _first_run(variant: Variant) -> FinishedRun:
    return next(iter(variant.runs.values()))


def teacher_ap(run: FinishedRun) -> float | None:
    """AP of the detector that taught a run, if nothing shows that it was measured on other images."""
    return _teacher_ap(run)[0]


def _teacher_ap(run: FinishedRun) -> tuple[float | None, str]:
    """AP of a run's teacher, and a sentence on what makes it doubtful; empty where nothing does."""
    own = saved_teacher(run)
    same = None if own is None else run.has_same_images(own)
    if own is not None and same:
        return float(own.metrics["AP"]), ""
    row = _compared_teacher(run)
    if row.get("AP") is not None:
        return float(row["AP"]), "" if "image_size" in row else of_unknown_size(run)
    if own is None or same is False:
        return None, ""
    return float(own.metrics["AP"]), (
        f"{run.folder} and its teacher may have been evaluated on different images: their metrics.json and run.json do "
        "not tell; run pkdzoo eval on both with the same --data"
    )


def saved_teacher(run: FinishedRun) -> FinishedRun | None:
    """The teacher of a run, with the metrics of the detector that taught as its folder has them; None without any."""
    folder = run.teacher_folder
    if folder is None or not (folder / "metrics.json").is_file():
        return None
    if (folder / "recipe.json").is_file() and not (folder / CONFIG).is_file():
        return None  # a run whose detector is gone: these metrics are of its last epoch
    metrics = read_json(folder / "metrics.json")
    return None if metrics.get("AP") is None else FinishedRun(folder.parent, {}, metrics)


def _compared_teacher(run: FinishedRun) -> Mapping[str, Any]:
    """The teacher's row in the ``comparison.json`` beside a run, if the run as it is now was part of it; else empty."""
    path = run.folder.parent / "comparison.json"
    rows = read_json(path) if path.is_file() else []
    own = [row for row in rows if row.get("role") == "distilled" and row.get("name") == run.recipe.get("name")]
    if len(own) != 1 or run.folder.name != own[0]["name"] or own[0].get("AP") != run.metrics.get("AP"):
        return {}
    return teacher_row(rows, own[0])


def teacher_row(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of a student's teacher in a comparison; empty where the teacher was not evaluated.

    Rows of earlier versions do not name their teacher: then it is the only one of the comparison.
    """
    teachers = [other for other in rows if other.get("role") == "teacher"]
    if "teacher" not in row:
        return teachers[0] if len(teachers) == 1 else {}
    return next((other for other in teachers if other["name"] == row["teacher"]), {})


def format_table(table: RunTable) -> str:
    """The table as aligned text, with the AP of each seed, and the warnings below it."""
    head = ["", "role", "seeds", *COLUMNS, "gain", "gap closed", "AP by seed"]
    rows = [head]
    for variant in table.variants:
        aps = variant.values("AP")
        spread = f" ± {statistics.stdev(aps.values()):.1f}" if len(aps) > 1 else ""
        numbers = [_number(variant.mean(column)) + (spread if column == "AP" else "") for column in COLUMNS]
        gap = "" if variant.gap_closed is None else f"{variant.gap_closed:.0%}"
        by_seed = " ".join(f"{seed}: {ap:.1f}" for seed, ap in sorted(aps.items())) if len(aps) > 1 else ""
        rows.append(
            [variant.name, variant.role, str(len(variant.runs)), *numbers, interval(variant.difference), gap, by_seed]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    left = (0, 1, len(head) - 1)
    lines = [
        "  ".join(
            text.ljust(width) if at in left else text.rjust(width) for at, (text, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), *(f"warning: {line}" for line in table.warnings)])


def table_rows(table: RunTable) -> list[dict[str, Any]]:
    """The table as JSON values, one object for each variant."""
    return [
        {
            "name": variant.name,
            "role": variant.role,
            "runs": {str(seed): str(run.folder) for seed, run in variant.runs.items()},
            **{column: variant.mean(column) for column in COLUMNS},
            "AP_by_seed": {str(seed): ap for seed, ap in variant.values("AP").items()},
            "gain": variant.gain,
            "gain_interval": _ends(variant.difference),
            "gap_closed": variant.gap_closed,
        }
        for variant in table.variants
    ]


def _ends(difference: Summary | None) -> list[float] | None:
    """The interval of 95 % of a difference; None for fewer than two seeds."""
    return None if difference is None or difference.half is None else [difference.low, difference.high]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
