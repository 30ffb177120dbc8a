"""The plan of ``pkdzoo distill``: which recipes are trained on what, in which folders, and how long it takes."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from pkdzoo.data import CocoDataset
from pkdzoo.distill import Distiller, list_methods
from pkdzoo.hub.files import find_saved_folder
from pkdzoo.models._registry import find, folder_of
from pkdzoo.training import build, checkpoint
from pkdzoo.training.log import duration
from pkdzoo.training.own_data import settings as choices
from pkdzoo.training.own_data.arguments import DistillArguments
from pkdzoo.training.own_data.data import OwnData, Say, look_at
from pkdzoo.training.own_data.settings import Machine, Settings, parse_time, with_epochs
from pkdzoo.training.own_data.timing import Seconds, measure
from pkdzoo.training.own_data.weights import Start, WeightsFinder, default_teacher, pkd_options
from pkdzoo.training.provenance import read_json_object
from pkdzoo.training.recipe import Distill, Recipe, override
from pkdzoo.training.task import SupervisedTask
from pkdzoo.utils.files import write_json
from pkdzoo.utils.suggest import did_you_mean

PLAN = "distill.json"
TEACHER, PLAIN, DISTILLED = "teacher", "plain", "distilled"
USED_TIME = 0.9  # share of --time that is planned; the rest is for building, checking and saving
MOST_EPOCHS = 300  # with --time


@dataclass(frozen=True)
class Plan:
    """What ``pkdzoo distill`` does, as far as it was decided before the first step.

    Attributes:
        data: of all runs.
        teacher_run: folder of the run that trains the teacher; None for a teacher that is used as it is.
        recipes: the teacher's, if it is trained, and those of the students; by name.
    """

    data: OwnData
    teacher_run: str | None
    recipes: Mapping[str, Recipe]

    @property
    def distill(self) -> Distill:
        """Teacher and methods of the distilled student."""
        return cast(Distill, self.recipes[DISTILLED].distill)

    def write(self, folder: Path, recipe_file: str) -> None:
        """Write the plan, and beside it the recipes as Python."""
        folder.mkdir(parents=True, exist_ok=True)
        recipes = {name: recipe.to_dict() for name, recipe in self.recipes.items()}
        (folder / "recipe.py").write_text(recipe_file, encoding="utf-8")
        write_json(folder / PLAN, {"data": asdict(self.data), "teacher_run": self.teacher_run, "recipes": recipes})

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan in a folder.

        Raises:
            ValueError: for a file that is no plan.
        """
        content = read_json_object(folder / PLAN)
        try:
            data: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content["data"].items()}
            recipes = {name: Recipe.from_dict(recipe) for name, recipe in content["recipes"].items()}
            return cls(OwnData(**data), content["teacher_run"], recipes)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / PLAN} is not as pkdzoo distill wrote it: {error}") from error


@dataclass
class Job:
    """A detector that is to be trained: its start and settings, and what a step of it takes."""

    name: str
    start: Start
    settings: Settings
    seconds: Seconds | None = None
    fixed: float = 0.0  # seconds of building and checking it

    def recipe(self, distill: Distill | None = None) -> Recipe:
        """Its recipe."""
        own = self.settings
        return Recipe(
            self.name, self.start.model, dict(self.start.model_args), self.start.init, own.data, own.optim,
            own.schedule, distill, own.logging,
        )  # fmt: skip


def check_request(args: DistillArguments) -> float | None:
    """Check what can be checked without the data; returns the seconds of ``--time``.

    Raises:
        ValueError: for an unknown student, teacher, method or recipe field, or a time that is none.
    """
    for name in (args.student, args.teacher):
        folder = None if name is None else folder_of(name)
        if folder is not None:
            find_saved_folder(folder)
        elif name is not None and not name.startswith("hf-hub:"):
            find(name)
    if args.method not in list_methods():
        raise ValueError(f"no distillation method {args.method!r}. {did_you_mean(args.method, list_methods())}")
    override(Recipe(DISTILLED, "retina_r50", distill=Distill("retina_r101", {args.method: {}})), args.set)
    return None if args.time is None else parse_time(args.time)


def assignments_for(name: str, assignments: Sequence[str]) -> list[str]:
    """The ``--set`` options of one recipe: only the distilled student has fields of ``distill``."""
    return [text for text in assignments if name == DISTILLED or not text.strip().startswith("distill.")]


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
    folder = args.folder
    data = look_at(args.data, folder / "data", say)
    finder = WeightsFinder(args.init, data.classes, say)
    student = finder.start("student", args.student)
    teacher = finder.start(TEACHER, args.teacher or default_teacher(student.model))
    jobs = [Job(name, student, choices.choose(data, student, machine)) for name in (PLAIN, DISTILLED)]
    if not args.baseline:
        jobs = jobs[1:]
    place, taught = teacher_place(folder, teacher, data)
    if taught:
        say(f"teacher   trained already in {place}, and reused")
    if place is not None and not taught:
        jobs.insert(0, Job(TEACHER, teacher, choices.choose(data, teacher, machine)))
    taught_by = str(teacher.init) if place is None else f"local-dir:{place / 'best'}"
    methods = time_jobs(jobs, teacher, args, data, machine, device, autocast)
    fit_time(jobs, data, machine, seconds, time.monotonic() - begin, say)
    recipes = {}
    for job in jobs:
        distill = Distill(taught_by, {args.method: methods}) if job.name == DISTILLED else None
        recipes[job.name] = override(job.recipe(distill), assignments_for(job.name, args.set))
    for line in choices.describe(recipes[DISTILLED], data, machine):
        say(line)
    return Plan(data, None if place is None else str(place), recipes)


def teacher_place(folder: Path, teacher: Start, data: OwnData) -> tuple[Path | None, bool]:
    """Folder of the run that trains the teacher on this data, beside the run itself, and whether it is finished.

    The folder is None for a teacher that has the classes of the data. Its name contains a hash of the data and of the
    teacher's start, so that the next run on the same data finds it.
    """
    if teacher.ready:
        return None, True
    start = json.dumps([data.digest, teacher.model, dict(teacher.model_args), teacher.init], sort_keys=True)
    key = hashlib.blake2b(start.encode(), digest_size=4).hexdigest()
    place = folder.parent / "teachers" / f"{teacher.model}-{key}"
    found = checkpoint.find_checkpoint(place) if (place / "checkpoints").is_dir() else None
    return place, found is not None and found[1].done


def time_jobs(
    jobs: Sequence[Job], teacher: Start, args: DistillArguments, data: OwnData, machine: Machine, device: torch.device,
    autocast: Any,
) -> dict[str, Any]:  # fmt: skip
    """Measure a step of each job, with a smaller batch where the GPU's memory is too small.

    Returns:
        Options of the distillation method.
    """
    dataset = training_images(jobs[-1].recipe(), data)
    settings = choices.choose(data, teacher, machine)
    taught = build.build_student(Job(TEACHER, teacher, settings).recipe(), data.classes)
    methods: dict[str, Any] = {}
    if args.method == "pkd":
        methods = pkd_options(build.build_student(replace(jobs[-1].recipe(), init=None), data.classes), taught)
    measured: dict[str, Seconds] = {}
    for job in jobs:
        begin = time.monotonic()
        while True:
            student = taught if job.name == TEACHER else build.build_student(job.recipe(), data.classes)
            distilled = job.name == DISTILLED
            task = Distiller(student, taught, {args.method: methods}) if distilled else SupervisedTask(student)
            if distilled:
                taught.to(device)
            try:
                measured[job.name] = measure(job.recipe(), task, dataset, machine.processes, device, autocast)
                job.fixed = time.monotonic() - begin
                break
            except torch.OutOfMemoryError:
                halve(jobs, machine)
    for job in jobs:
        job.seconds = measured[job.name]
    return methods


def halve(jobs: Sequence[Job], machine: Machine) -> None:
    """Halve the batch of all jobs, and their learning rates with it.

    Raises:
        ValueError: if a process has one image only.
    """
    for job in jobs:
        batch = job.settings.data.batch_size
        if batch <= machine.processes:
            raise ValueError(
                "one image per step does not fit into the GPU's memory: write --set data.short=..., --set "
                "data.long=... with smaller sides, --checkpoint-activations, or a smaller detector"
            )
        smaller = batch // 2 // machine.processes * machine.processes or machine.processes
        optim = replace(job.settings.optim, base_batch_size=smaller, lr=job.settings.optim.lr * smaller / batch)
        job.settings = replace(job.settings, data=replace(job.settings.data, batch_size=smaller), optim=optim)


def training_images(recipe: Recipe, data: OwnData) -> CocoDataset:
    """The training images as a recipe augments them."""
    paths = build.find_data(recipe.data, *data_places(data))
    return build.build_datasets(recipe, paths)[0]


def data_places(data: OwnData) -> tuple[str | None, str | None, str | None, str | None]:
    """Folder, training file, validation file and image folder, as ``build.find_data`` takes them."""
    held_out = data.train_json is not None
    return (None if held_out else data.folder, data.train_json, data.val_json, data.images)


def planned_seconds(job: Job, data: OwnData, machine: Machine) -> float:
    """Seconds that a job takes, from what was measured."""
    assert job.seconds is not None
    fields, schedule, logging = job.settings.data, job.settings.schedule, job.settings.logging
    images = schedule.epochs * data.train_images
    if schedule.max_steps is not None:
        images = min(images, schedule.max_steps * fields.batch_size)
    each = fields.batch_size // machine.processes
    evaluations = math.ceil(schedule.epochs / logging.eval_every)
    training = job.seconds.training(math.ceil(images / machine.processes), each, fields.workers)
    return (
        job.fixed + training + evaluations * job.seconds.evaluation(math.ceil(data.val_images / machine.processes), 0)
    )


def fit_time(
    jobs: Sequence[Job], data: OwnData, machine: Machine, seconds: float | None, spent: float, say: Say
) -> None:
    """Choose loader processes, and with a time budget the number of epochs, the same for all jobs.

    Args:
        jobs: measured; their settings are changed.
        data: of the run.
        machine: that trains.
        seconds: of ``--time``; None keeps the epochs.
        spent: seconds of it that are over already.
        say: is called with each line for the user.
    """
    for job in jobs:
        job.settings = replace(job.settings, data=replace(job.settings.data, workers=loaders(job, machine)))

    def total(epochs: int, max_steps: int | None = None) -> float:
        for job in jobs:
            job.settings = with_epochs(job.settings, data, job.start, machine, epochs, max_steps)
        return sum(planned_seconds(job, data, machine) for job in jobs)

    if seconds is None:
        needed = sum(planned_seconds(job, data, machine) for job in jobs)
    else:
        budget = USED_TIME * seconds - spent
        needed = total(1)
        if needed > budget:
            steps = shorter_than_an_epoch(jobs, data, machine, budget)
            least, needed = needed, total(1, steps)
            say(
                f"time      {duration(seconds)} are too short for an epoch of everything, which takes "
                f"{duration(least)}: {steps} steps each instead, so that a part of the images is never seen"
            )
        else:
            epochs = max(count for count in range(1, MOST_EPOCHS + 1) if count == 1 or total(count) <= budget)
            needed = total(epochs)
    parts = ", ".join(f"{job.name} {duration(planned_seconds(job, data, machine))}" for job in jobs)
    say(f"time      about {duration(needed)} ({parts}), from the measured time of a step")


def loaders(job: Job, machine: Machine) -> int:
    """Loader processes: none where loading is a small part of a step, else the cores that are left."""
    assert job.seconds is not None
    each = job.settings.data.batch_size // machine.processes
    if job.seconds.load * each < 0.1 * job.seconds.step or machine.cores < 2:
        return 0
    return min(8 if machine.kind == "gpu" else 2, machine.cores - 1)


def shorter_than_an_epoch(jobs: Sequence[Job], data: OwnData, machine: Machine, budget: float) -> int:
    """Steps of each job that fit into a budget of less than an epoch, beside one evaluation each; at least one."""
    per_epoch = math.ceil(data.train_images / jobs[0].settings.data.batch_size)
    whole = sum(planned_seconds(job, data, machine) for job in jobs)
    images = math.ceil(data.val_images / machine.processes)
    fixed = sum(job.fixed + job.seconds.evaluation(images, 0) for job in jobs if job.seconds)
    step = (whole - fixed) / per_epoch
    return max(1, min(per_epoch, int((budget - fixed) / step))) if step > 0 else 1
