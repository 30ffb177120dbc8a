"""``pkdzoo distill``: a teacher, a plain and a distilled student of one's own data, by the loop of ``pkdzoo train``."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from pkdzoo.training import checkpoint, run_folder, signals
from pkdzoo.training.arguments import MACHINE_OPTIONS, TrainArguments
from pkdzoo.training.command import expected_errors
from pkdzoo.training.compare import TrainedRun, compare
from pkdzoo.training.errors import describe_error
from pkdzoo.training.log import duration
from pkdzoo.training.loop import train
from pkdzoo.training.own_data.arguments import DistillArguments
from pkdzoo.training.own_data.plan import DISTILLED, PLAIN, PLAN, TEACHER, Plan, data_places, make_plan
from pkdzoo.training.own_data.recipe_text import recipe_file
from pkdzoo.training.own_data.result import Run
from pkdzoo.training.own_data.settings import Machine
from pkdzoo.training.provenance import read_json_object
from pkdzoo.training.recipe import Recipe
from pkdzoo.training.report.page import REPORT, update_report
from pkdzoo.training.signals import RunStopped
from pkdzoo.utils.files import write_json
from pkdzoo.utils.text import printable

OWN = ("data", "recipe.py", PLAN, PLAIN, DISTILLED, "comparison.json", "predictions.png", "report.html")


def distill_command(args: DistillArguments) -> Run:
    """Distill a detector as a command line says; all processes call it.

    Args:
        args: of the command line.

    Returns:
        The result.

    Raises:
        pkdzoo.training.command.TrainingFailed: for every expected error.
        RunStopped: for a stop request, after a checkpoint; the message that is printed says how to go on.
    """
    signals.follow_launcher()
    with expected_errors():
        begin = time.monotonic()
        plan = agree(args)
        try:
            runs = train_all(plan, args)
        except RunStopped:
            say_what_is_kept(plan, args)
            raise
        finish(plan, args, runs, time.monotonic() - begin)
    return Run(args.folder)


def say(line: str) -> None:
    """Print a line of the plan."""
    print(printable(line, keep="\n"), flush=True)


def agree(args: DistillArguments) -> Plan:
    """The plan, made by the main process, or read with ``--resume``; the same for all processes.

    Raises:
        ValueError: on every process, with the message of the main one.
    """
    state = PartialState(cpu=args.cpu)
    answer: list[Any] = [None, ""]
    if state.is_main_process:
        try:
            answer[0] = open_plan(args, state)
        except Exception as error:
            if state.num_processes == 1:
                raise
            answer[1] = describe_error(error)
    if state.num_processes > 1:
        answer = broadcast_object_list(answer)
    if answer[1]:
        raise ValueError(answer[1])
    plan: Plan = answer[0]
    return plan


def open_plan(args: DistillArguments, state: PartialState) -> Plan:
    """Read the plan of a run that is resumed, or make a new one and write it."""
    folder = args.folder
    check_place(folder, args.resume)
    if (folder / PLAN).is_file():
        plan = Plan.read(folder)
        say(f"plan      of {folder / PLAN}; options beside --resume and those of the machine have no effect")
        return plan
    machine = machine_of(state, args.threads)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.mixed_precision or "")
    autocast = torch.autocast(state.device.type, precision) if precision else None
    plan = make_plan(args, machine, state.device, say, autocast)
    plan.write(folder, recipe_file(list(plan.recipes.values()), head_of(plan, args)))
    say(f"recipe    {folder / 'recipe.py'}: edit it and train it by itself, its first lines say how")
    return plan


def machine_of(state: PartialState, threads: int | None) -> Machine:
    """The machine that trains; sets the number of threads, so that steps are timed as they will run."""
    if threads is not None:
        torch.set_num_threads(threads)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    kind = "cpu" if state.device.type == "cpu" else "gpu"
    return Machine(kind, threads or max(1, available // state.num_processes), state.num_processes)


def check_place(folder: Path, resume: bool) -> None:
    """Check that a folder is new, or holds a run of ``pkdzoo distill`` that is to be resumed; nothing is written.

    Raises:
        ValueError: naming what is there and what to do.
    """
    for name in OWN:
        if (folder / name).is_symlink():
            raise ValueError(f"{folder / name} is a symbolic link: put the file or folder itself there")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: --output takes a folder")
    if (folder / PLAN).is_file():
        if not resume:
            raise ValueError(
                f"{folder} holds a run of pkdzoo distill already: continue it with --resume, or choose another --output"
            )
        return
    if folder.is_dir() and any(entry.name not in ("data", run_folder.LOCK) for entry in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no run of pkdzoo distill: choose another --output")


def head_of(plan: Plan, args: DistillArguments) -> str:
    """The docstring of the recipe file: what it is and how each recipe is trained again."""
    data = shlex.join(plan.data.options)
    path = args.folder / "recipe.py"
    lines = [
        f"{Path(args.student).name} distilled on {Path(plan.data.folder).name}, with the settings that pkdzoo distill "
        "chose.",
        "",
        "Change what you like, and train each recipe by itself:",
        "",
        *(
            f"    pkdzoo train {shlex.quote(str(path))} --only {name} {data} --output "
            f"{shlex.quote(str(args.folder.with_name(f'{args.folder.name}-edited') / name))}"
            for name in plan.recipes
        ),
    ]
    return "\n".join(lines)


def train_all(plan: Plan, args: DistillArguments) -> list[TrainedRun]:
    """Train the teacher if it is not trained yet, then the students; compare them."""
    folder, runs = args.folder, []
    with ExitStack() as locks:
        for name, recipe in plan.recipes.items():
            place = Path(str(plan.teacher_run)) if name == TEACHER else folder / name
            if name == TEACHER and is_finished(place):
                continue
            run = train(with_same_teacher(recipe, place), train_arguments(args, plan, place), place, folder, locks)
            if name != TEACHER:
                runs.append(run)
                if run.accelerator.is_main_process:
                    update_report(folder, light=True)
        compare(runs, folder)
        if runs[0].accelerator.is_main_process:
            update_report(folder, light=False)
    return runs


def with_same_teacher(recipe: Recipe, place: Path) -> Recipe:
    """The recipe that an interrupted run in a folder began with, if there is one; otherwise the given one."""
    file = place / "recipe.json"
    if recipe.name == TEACHER and file.is_file():
        return Recipe.from_dict(read_json_object(file))
    return recipe


def is_finished(place: Path) -> bool:
    """Whether a run in a folder has reached its last step."""
    found = checkpoint.find_checkpoint(place) if (place / "checkpoints").is_dir() else None
    return found is not None and found[1].done


def train_arguments(args: DistillArguments, plan: Plan, place: Path) -> TrainArguments:
    """The options of one run: the machine's from the command line, the data's from the plan."""
    folder, train_json, val_json, images = (None if part is None else Path(part) for part in data_places(plan.data))
    own = {name: getattr(args, name) for name in MACHINE_OPTIONS}
    resume = (place / "recipe.json").is_file()
    return TrainArguments(
        place, data=folder, train_json=train_json, val_json=val_json, images=images, output=place, resume=resume, **own
    )


def say_what_is_kept(plan: Plan, args: DistillArguments) -> None:
    """After a stop request: what is there, and the command that continues."""
    if not PartialState().is_main_process:
        return
    places = {name: Path(str(plan.teacher_run)) if name == TEACHER else args.folder / name for name in plan.recipes}
    states = [
        f"{name} {'finished' if is_finished(place) else 'begun' if (place / 'recipe.json').is_file() else 'not begun'}"
        for name, place in places.items()
    ]
    words = ["--data", str(args.data), "--student", args.student, "--output", str(args.folder), "--resume"]
    say(f"kept in {args.folder}: {', '.join(states)}. Go on with: pkdzoo distill {shlex.join(words)}")


def finish(plan: Plan, args: DistillArguments, runs: list[TrainedRun], seconds: float) -> None:
    """Write what was run, and end the process group."""
    state = PartialState()
    if state.is_main_process:
        write_json(args.folder / "run.json", run_folder.about(state.num_processes))
        say(f"report    {(args.folder / REPORT).resolve()}\ntook      {duration(seconds)}")
    state.destroy_process_group()
