"""``pkdzoo distill``: a teacher, a plain and a distilled student of one's own data, by the loop of ``pkdzoo train``."""

from __future__ import annotations

import errno
import shlex
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from pkdzoo.training import checkpoint, cpu_processes, run_folder, signals
from pkdzoo.training.arguments import MACHINE_OPTIONS, TrainArguments
from pkdzoo.training.command import expected_errors
from pkdzoo.training.compare import TrainedRun, compare
from pkdzoo.training.compute import open_processes, own_accelerators
from pkdzoo.training.log import Diverged, duration
from pkdzoo.training.loop import train
from pkdzoo.training.own_data.arguments import DistillArguments, own_name
from pkdzoo.training.own_data.budget import DISTILLED, PLAIN, TEACHER
from pkdzoo.training.own_data.data import check_unchanged, data_places
from pkdzoo.training.own_data.plan import PLAN, Plan, make_plan
from pkdzoo.training.own_data.recipe_text import recipe_file
from pkdzoo.training.own_data.replan import replan, say_if_late
from pkdzoo.training.own_data.result import Run
from pkdzoo.training.own_data.settings import Machine
from pkdzoo.training.processes import run_on_main_process
from pkdzoo.training.report.page import REPORT, update_report, verdict_of
from pkdzoo.training.threads import share_of_cores
from pkdzoo.utils.files import write_json
from pkdzoo.utils.text import printable

OWN = ("data", "recipe.py", PLAN, PLAIN, DISTILLED, "comparison.json", "predictions.png", "report.html")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a full quota, a file that is too large


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
    with expected_errors(), own_accelerators():
        begin = time.monotonic()
        cpu_processes.check_started(args.cpu_processes)
        state = open_processes(args.cpu)
        plan = run_on_main_process(lambda: open_plan(args, state))
        work = Work(plan, args, state, begin)
        try:
            runs = work.train_all()
        except (Exception, KeyboardInterrupt) as error:
            say_what_is_kept(work, error)
            raise
        finish(args, runs, time.monotonic() - begin)
    return Run(args.folder)


def say(line: str) -> None:
    """Print a line of the plan."""
    print(printable(line, keep="\n"), flush=True)


def open_plan(args: DistillArguments, state: PartialState) -> Plan:
    """Read the plan of a run that is resumed, or make a new one and write it.

    Raises:
        ValueError: for a folder or data that cannot be used, data that changed since the run began, and a full disk.
    """
    folder = args.folder
    check_place(folder, args.resume)
    if (folder / PLAN).is_file():
        plan = Plan.read(folder)
        check_unchanged(plan.data, folder)
        say(f"plan      of {folder / PLAN}; options beside --resume and those of the machine have no effect")
        return plan
    try:
        plan = make_plan(args, machine_of(state, args.threads), state.device, say, autocast_of(args, state))
        plan.write(folder, recipe_file(list(plan.recipes.values()), head_of(plan, args)))
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ValueError(
            f"{folder} could not be written: {error.strerror}. Nothing is trained yet: free some space, or choose "
            "another --output, and give the same command again"
        ) from error
    except KeyboardInterrupt:
        say("stopped while preparing: nothing is trained yet, and the same command begins anew")
        raise
    say(f"recipe    {folder / 'recipe.py'}: edit it and train it by itself, its first lines say how")
    return plan


def autocast_of(args: DistillArguments, state: PartialState) -> Any:
    """The mixed precision of the training, for steps that are timed."""
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.mixed_precision or "")
    return torch.autocast(state.device.type, precision) if precision else None


def machine_of(state: PartialState, threads: int | None) -> Machine:
    """The machine that trains; sets the number of threads, so that steps are timed as they will run."""
    kind, share = "cpu" if state.device.type == "cpu" else "gpu", share_of_cores(state.num_processes, threads)
    if threads is not None or kind == "cpu":
        torch.set_num_threads(share)
    return Machine(kind, share, state.num_processes, threads)


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
        f"{own_name(args.student)} distilled on {own_name(plan.data.folder)}, with the settings that pkdzoo distill "
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


@dataclass
class Work:
    """The training of a plan.

    Attributes:
        plan: is replaced when the students are planned again.
        args: of the command line.
        state: of the processes.
        begin: monotonic time at which this command began.
    """

    plan: Plan
    args: DistillArguments
    state: PartialState
    begin: float

    @property
    def elapsed(self) -> float:
        """Seconds that this command and the ones that it continues have taken."""
        return self.plan.spent + time.monotonic() - self.begin

    def place(self, name: str) -> Path:
        """The folder of a run."""
        return Path(str(self.plan.teacher_run)) if name == TEACHER else self.args.folder / name

    def train_all(self) -> list[TrainedRun]:
        """Train the teacher if it is not trained yet, then the students; compare them."""
        folder, runs = self.args.folder, []
        with ExitStack() as locks:
            took = self._train_teacher(locks)
            if self.plan.seconds is not None and TEACHER in self.plan.recipes and not self._is_begun():
                self.plan = run_on_main_process(lambda: self._replan(took))
            for name in self.plan.students:
                begin = time.monotonic()
                runs.append(self._train(name, locks))
                if self.state.is_main_process:
                    update_report(folder, light=True)
                    if name == PLAIN:
                        say_if_late(self.plan, self.elapsed, time.monotonic() - begin, say)
            compare(runs, folder)
            if self.state.is_main_process:
                update_report(folder, light=False)
        return runs

    def _train_teacher(self, locks: ExitStack) -> float | None:
        """Train the teacher; returns the seconds that it took, if it was trained from its first step to its last."""
        if TEACHER not in self.plan.recipes or is_finished(self.place(TEACHER)):
            return None
        whole, begin = not (self.place(TEACHER) / "recipe.json").is_file(), time.monotonic()
        self._train(TEACHER, locks)
        return time.monotonic() - begin if whole else None

    def _train(self, name: str, locks: ExitStack) -> TrainedRun:
        place = self.place(name)
        args = train_arguments(self.args, self.plan, name, place, self.state)
        return train(self.plan.recipes[name], args, place, self.args.folder, locks)

    def _is_begun(self) -> bool:
        return any((self.place(name) / "recipe.json").is_file() for name in self.plan.students)

    def _replan(self, took: float | None) -> Plan:
        machine, autocast = machine_of(self.state, self.args.threads), autocast_of(self.args, self.state)
        plan = replan(self.plan, self.elapsed, took, machine, self.state.device, say, autocast)
        folder = self.args.folder
        plan.write(folder, recipe_file(list(plan.recipes.values()), head_of(plan, self.args)))
        return plan


def is_finished(place: Path) -> bool:
    """Whether a run in a folder has reached its last step."""
    found = checkpoint.find_checkpoint(place) if (place / "checkpoints").is_dir() else None
    return found is not None and found[1].done


def train_arguments(args: DistillArguments, plan: Plan, name: str, place: Path, state: PartialState) -> TrainArguments:
    """The options of one run: the machine's from the command line, the data's from the plan.

    Threads that the plan has measured are those of one process; it may be resumed on several, or on fewer cores.
    """
    folder, train_json, val_json, images = (None if part is None else Path(part) for part in data_places(plan.data))
    own = {option: getattr(args, option) for option in MACHINE_OPTIONS}
    measured = plan.threads.get(name)
    alone = state.num_processes == 1 and state.device.type == "cpu"
    if args.threads is None and measured is not None and alone and measured <= share_of_cores(1, None):
        own["threads"] = measured
    resume = (place / "recipe.json").is_file()
    return TrainArguments(
        place, data=folder, train_json=train_json, val_json=val_json, images=images, output=place, resume=resume, **own
    )


def say_what_is_kept(work: Work, error: BaseException) -> None:
    """After a stop request or an error: what is there, and the command that continues."""
    if not work.state.is_main_process:
        return
    args, plan = work.args, work.plan
    with suppress(OSError):  # a full disk
        replace(plan, spent=work.elapsed).write(args.folder)
    states = []
    for name in plan.recipes:
        place = work.place(name)
        begun = "begun" if (place / "recipe.json").is_file() else "not begun"
        states.append(f"{name} {'finished' if is_finished(place) else begun}")
    go_on = f"Go on with: {command_to_go_on(args, work.state.num_processes)}"
    if getattr(error, "errno", None) in FULL:
        go_on = f"Free some space first. {go_on}"
    elif isinstance(error, (Diverged, ValueError)):
        go_on = "For other options begin again in another --output: a finished teacher is used again"
    say(f"kept in {args.folder}: {', '.join(states)}. {go_on}")


def command_to_go_on(args: DistillArguments, processes: int) -> str:
    """The command that continues a run, with the same options of the machine."""
    words = ["--data", str(args.data), "--student", args.student, "--output", str(args.folder), "--resume"]
    defaults = DistillArguments(args.data, args.student)
    for name in MACHINE_OPTIONS:
        value = getattr(args, name)
        if value != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    launched = processes > 1 and args.cpu_processes is None
    launcher = f"accelerate launch --num_processes {processes} -m " if launched else ""
    return f"{launcher}pkdzoo distill {shlex.join(words)}"


def finish(args: DistillArguments, runs: list[TrainedRun], seconds: float) -> None:
    """Write what was run, and end the process group."""
    state = PartialState()
    if state.is_main_process:
        write_json(args.folder / "run.json", run_folder.about(state.num_processes))
        said = verdict_of(args.folder)
        say(f"{said}\nreport    {(args.folder / REPORT).resolve()}\ntook      {duration(seconds)}".lstrip())
    state.destroy_process_group()
