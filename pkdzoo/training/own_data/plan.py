"""The plan of ``pkdzoo distill``: which recipes are trained on what, in which folders, and how long it takes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from pkdzoo.data.unlabeled import image_files_in
from pkdzoo.distill import list_methods
from pkdzoo.distill.adapters import is_of_other_library
from pkdzoo.hub.saved_folder import DISTILL_PLAN, find_saved_folder
from pkdzoo.models._registry import find, folder_of
from pkdzoo.training import build, checkpoint
from pkdzoo.training.own_data import settings as choices
from pkdzoo.training.own_data.arguments import DistillArguments
from pkdzoo.training.own_data.budget import DISTILLED, PLAIN, TEACHER, Job, fit_time, planned_seconds
from pkdzoo.training.own_data.data import OwnData, Say, look_at
from pkdzoo.training.own_data.settings import Machine, parse_time
from pkdzoo.training.own_data.timer import Timer
from pkdzoo.training.own_data.weights import WeightsFinder, default_teacher, pkd_options
from pkdzoo.training.provenance import read_json_object
from pkdzoo.training.recipe import Distill, Recipe, Unlabeled, override
from pkdzoo.utils.files import write_json, write_text
from pkdzoo.utils.suggest import did_you_mean
from pkdzoo.utils.text import counted

PLAN = DISTILL_PLAN
LENGTH = ("schedule.epochs", "schedule.max_steps")  # fields that --time chooses


@dataclass(frozen=True)
class Plan:
    """What ``pkdzoo distill`` does, as far as it was decided before the first step.

    Attributes:
        data: of all runs.
        teacher_run: folder of the run that trains the teacher; None for a teacher that is used as it is.
        recipes: the teacher's, if it is trained, and those of the students; by name.
        assignments: ``--set`` options.
        seconds: of ``--time``; None without it.
        spent: seconds of earlier commands that this one continues.
        planned: seconds that each recipe takes, as planned.
        measured: what :class:`Seconds` has of each recipe, and ``fixed``, as ``Job``.
        threads: CPU threads of each recipe, where they were measured.
    """

    data: OwnData
    teacher_run: str | None
    recipes: Mapping[str, Recipe]
    assignments: tuple[str, ...] = ()
    seconds: float | None = None
    spent: float = 0.0
    planned: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    threads: Mapping[str, int] = field(default_factory=dict)

    @property
    def distill(self) -> Distill:
        """Teacher and methods of the distilled student."""
        return cast(Distill, self.recipes[DISTILLED].distill)

    @property
    def students(self) -> list[str]:
        """Names of the recipes that are not the teacher's."""
        return [name for name in self.recipes if name != TEACHER]

    def with_jobs(self, jobs: Sequence[Job], distill: Distill, machine: Machine) -> Plan:
        """The plan with the recipes of jobs that were measured; those of other names stay."""
        recipes, planned, measured = dict(self.recipes), dict(self.planned), dict(self.measured)
        threads = {**self.threads, **{job.name: job.threads for job in jobs if job.threads is not None}}
        for job in jobs:
            assert job.seconds is not None
            recipes[job.name] = job.recipe(distill if job.name == DISTILLED else None)
            planned[job.name] = planned_seconds(job, self.data, machine)
            measured[job.name] = {**asdict(job.seconds), "fixed": job.fixed}
        return replace(self, recipes=recipes, planned=planned, measured=measured, threads=threads)

    def write(self, folder: Path, recipe_file: str | None = None) -> None:
        """Write the plan, and beside it the recipes as Python, if they are given.

        Raises:
            OSError: e.g. for a full disk; then a new plan leaves no file.
        """
        content = {name: getattr(self, name) for name in ("teacher_run", "assignments", "seconds", "spent")}
        recipes = {name: recipe.to_dict() for name, recipe in self.recipes.items()}
        content |= {"data": asdict(self.data), "recipes": recipes}
        content |= {"planned": dict(self.planned), "measured": {k: dict(v) for k, v in self.measured.items()}}
        content["threads"] = dict(self.threads)
        new = not (folder / PLAN).exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if recipe_file is not None:
                write_text(folder / "recipe.py", recipe_file)
            write_json(folder / PLAN, content)
        except OSError:
            if new:
                (folder / "recipe.py").unlink(missing_ok=True)
            raise

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan in a folder.

        Raises:
            ValueError: for a file that is no plan.
        """
        content = read_json_object(folder / PLAN)
        try:
            data: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.pop("data").items()}
            recipes = {name: Recipe.from_dict(recipe) for name, recipe in content.pop("recipes").items()}
            assignments = tuple(content.pop("assignments", ()))
            return cls(data=OwnData(**data), recipes=recipes, assignments=assignments, **content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / PLAN} is not as pkdzoo distill wrote it: {error}") from error


def check_request(args: DistillArguments) -> float | None:
    """Check what can be checked without the data; returns the seconds of ``--time``.

    Raises:
        ValueError: for an unknown student, teacher, method or recipe field, or a time that is none.
    """
    if is_of_other_library(args.student):
        raise ValueError(
            f"--student {args.student}: students of other libraries are trained by a recipe, pkdzoo train RECIPE --set "
            f"model={args.student}, see docs/other_libraries.md; as --teacher such a model works here"
        )
    for name in (args.student, args.teacher):
        folder = None if name is None else folder_of(name)
        if folder is not None:
            find_saved_folder(folder)
        elif name is not None and not name.startswith("hf-hub:") and not is_of_other_library(name):
            find(name)
    if args.method not in list_methods():
        raise ValueError(f"no distillation method {args.method!r}. {did_you_mean(args.method, list_methods())}")
    draft = Distill("retina_r101", {args.method: {}}, unlabeled=unlabeled_images(args))
    override(Recipe(DISTILLED, "retina_r50", distill=draft), args.set)
    if args.unlabeled is not None:
        image_files_in(args.unlabeled)  # raises for a folder without images
    if args.time is None:
        return None
    twice = [text for text in args.set if text.partition("=")[0].strip() in LENGTH]
    if twice:
        raise ValueError(f"--time chooses the number of epochs and steps: leave out --time, or --set {twice[0]}")
    return parse_time(args.time)


def make_plan(args: DistillArguments, machine: Machine, device: torch.device, say: Say, autocast: Any = None) -> Plan:
    """Look at data, weights and machine, and choose everything.

    Args:
        args: of the command line.
        machine: that trains.
        device: of the training.
        say: is called with each line for the user.
        autocast: of forward passes that are timed; None for full precision.

    Raises:
        ValueError: for what cannot be trained; the message says what to do.
        pkdzoo.hub.errors.DownloadError: for weights that were asked for and cannot be downloaded.
    """
    begin, seconds = time.monotonic(), check_request(args)
    folder, assignments = args.folder, tuple(args.set)
    data = look_at(args.data, folder / "data", say)
    finder = WeightsFinder(args.init, data.classes, say)
    student = finder.start("student", args.student)
    teacher = finder.start(TEACHER, args.teacher or default_teacher(student.model))
    names = (PLAIN, DISTILLED) if args.baseline else (DISTILLED,)
    jobs = [Job(name, student, choices.choose(data, student, machine), assignments=assignments) for name in names]
    trains = Job(TEACHER, teacher, choices.choose(data, teacher, machine), assignments=assignments)
    place, taught = teacher_place(folder, trains, data)
    if taught and place is not None:
        say(f"teacher   {describe_trained(place, None if seconds else trains.recipe().schedule.epochs)}")
    if place is not None and not taught:
        jobs.insert(0, trains)
    draft = Distill(str(teacher.init) if place is None else f"local-dir:{place / 'best'}", {args.method: {}})
    draft = replace(draft, unlabeled=unlabeled_images(args))
    timer = Timer(data, machine, device, autocast, seconds)
    if teacher.ready:
        draft = cast(Distill, jobs[-1].recipe(draft).distill)
        model = build.build_teacher(draft, data.classes)
    else:
        model = build.build_student(trains.recipe(), data.classes)
    if args.method == "pkd":
        student_model = build.build_student(replace(jobs[-1].recipe(), init=None), data.classes)
        draft = replace(draft, methods={"pkd": pkd_options(student_model, model)})
    timer.measure_all(jobs, model, draft)
    fit_time(jobs, data, machine, seconds, time.monotonic() - begin, say)
    if place is not None and not taught:
        place = other_place(place, trains.recipe())
        draft = replace(draft, teacher=f"local-dir:{place / 'best'}")
    plan = Plan(data, None if place is None else str(place), {}, assignments, seconds)
    plan = plan.with_jobs(jobs, draft, machine)
    for line in choices.describe(plan.recipes[DISTILLED], data, machine):
        say(line)
    if plan.threads:
        counts = ", ".join(f"{name} {count}" for name, count in plan.threads.items())
        say(f"threads   {counts}, of up to {machine.cores}: measured (--threads N to choose)")
    return plan


def other_place(place: Path, recipe: Recipe) -> Path:
    """The folder for a teacher's run, or another one if a run with other settings is in it, unfinished or cut short.

    Args:
        place: where the teacher would be trained.
        recipe: with which it would be.
    """
    file = place / "recipe.json"
    if not file.is_file() or Recipe.from_dict(read_json_object(file)) == recipe:
        return place
    text = json.dumps(recipe.to_dict(), sort_keys=True)
    return place.with_name(f"{place.name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}")


def unlabeled_images(args: DistillArguments) -> Unlabeled | None:
    """The unlabeled images of the distilled student; by an absolute path, so that the recipe works elsewhere."""
    return None if args.unlabeled is None else Unlabeled(str(args.unlabeled.absolute()))


def describe_trained(place: Path, epochs: int | None) -> str:
    """How a teacher was trained that is used again.

    Args:
        place: folder of its run.
        epochs: for which this data would train it now; None where a time limit decides.
    """
    own = Recipe.from_dict(read_json_object(place / "recipe.json")).schedule.epochs
    found = checkpoint.find_checkpoint(place)
    assert found is not None  # it is finished
    progress = found[1]
    length = counted(progress.step, "step") if step_limit(place, progress) else counted(progress.epoch, "epoch")
    ap = read_json_object(place / "metrics.json").get("AP") if (place / "metrics.json").is_file() else None
    reached = "" if ap is None else f", AP {float(ap):.1f}"
    short = (
        f" It would be trained for {counted(epochs, 'epoch')} now." if epochs is not None and own < epochs / 2 else ""
    )
    worth = ", which is worth it" if short else ""
    return f"used again from {place} ({length}{reached}).{short} To train it again, delete this folder{worth}"


def teacher_place(folder: Path, trains: Job, data: OwnData) -> tuple[Path | None, bool]:
    """Folder of the run that trains the teacher on this data, beside the run itself, and whether it is finished.

    The folder is None for a teacher that has the classes of the data. Its name contains a hash of the data and of the
    teacher's start, so that the next run on the same data finds it. A teacher that ``schedule.max_steps`` cut short, as
    in a trial of the command, serves no run that would train it for longer.

    Args:
        folder: of the run.
        trains: how the teacher would be trained now.
        data: of the run.
    """
    teacher = trains.start
    if teacher.ready:
        return None, True
    start = json.dumps([data.digest, teacher.model, dict(teacher.model_args), teacher.init], sort_keys=True)
    key = hashlib.blake2b(start.encode(), digest_size=4).hexdigest()
    place, max_steps = folder.parent / "teachers" / f"{teacher.model}-{key}", trains.recipe().schedule.max_steps
    for folder in (place, *sorted(place.parent.glob(f"{place.name}-*"))):  # see other_place
        found = checkpoint.find_checkpoint(folder) if (folder / "checkpoints").is_dir() else None
        if found is None or not found[1].done:
            continue
        limit = step_limit(folder, found[1])
        if limit is None or (max_steps is not None and max_steps <= limit):
            return folder, True
    return place, False


def step_limit(place: Path, progress: checkpoint.Progress) -> int | None:
    """The steps after which ``schedule.max_steps`` cut a finished run short; None for a run that was not cut."""
    schedule = Recipe.from_dict(read_json_object(place / "recipe.json")).schedule
    limit = schedule.max_steps
    return limit if limit is not None and progress.step >= limit and progress.epoch < schedule.epochs else None
