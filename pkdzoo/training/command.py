"""What a program that trains does with its command line: train, and turn expected errors into one message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pkdzoo.data import TooManyUnreadable
from pkdzoo.hub.errors import DownloadError
from pkdzoo.training import cpu_processes, load_recipes, loaders, signals
from pkdzoo.training.arguments import MachineArguments, TrainArguments
from pkdzoo.training.compare import TrainedRun
from pkdzoo.training.errors import describe_error
from pkdzoo.training.log import Diverged
from pkdzoo.training.loop import train_recipes


class TrainingFailed(ValueError):
    """A run that could not start or ended with an expected error; the message says what to do."""


def run_on_processes(args: MachineArguments, program: Sequence[str]) -> int | None:
    """Run a command on the processes that ``--cpu-processes`` asks for.

    Args:
        args: of the command line.
        program: the command line itself, with the interpreter.

    Returns:
        The exit status; None where this process does the work itself.

    Raises:
        TrainingFailed: where processes cannot be started, and for a batch that they cannot share.
    """
    if args.cpu_processes is None or cpu_processes.is_started_here():
        return None
    with expected_errors():
        cpu_processes.check_place(args.cpu_processes, args.cpu)
        if isinstance(args, TrainArguments):
            for recipe in load_recipes(args.recipe, args.set, args.only, args.unlabeled):
                loaders.batch_per_process(recipe, args.cpu_processes)
        return cpu_processes.run_processes(program, args.cpu_processes)


def train_command(args: TrainArguments) -> list[TrainedRun]:
    """Train the recipes that a command line names.

    Args:
        args: of the command line.

    Returns:
        The finished runs.

    Raises:
        TrainingFailed: for every expected error.
        pkdzoo.training.signals.RunStopped: for a run that was stopped, after a checkpoint.
    """
    signals.follow_launcher()
    with expected_errors():
        cpu_processes.check_started(args.cpu_processes)
        recipes = load_recipes(args.recipe, args.set, args.only, args.unlabeled)
        if args.check_teacher and not any(recipe.distill for recipe in recipes):
            raise ValueError(f"--check-teacher: no teacher in {args.recipe} to check; leave the option out")
        return train_recipes(recipes, args)


@contextmanager
def expected_errors() -> Iterator[None]:
    """Turn errors that need no traceback into :class:`TrainingFailed`; all others stay as they are."""
    try:
        yield
    except (ValueError, OSError, DownloadError, Diverged, TooManyUnreadable) as error:
        raise TrainingFailed(describe_error(error)) from error
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise TrainingFailed(f"{error} Continue with --resume; if memory ran out, set fewer data.workers") from error
