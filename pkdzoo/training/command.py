"""What a program that trains does with its command line: train, and turn expected errors into one message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pkdzoo.data import TooManyUnreadable
from pkdzoo.hub.errors import DownloadError
from pkdzoo.training import load_recipes, signals
from pkdzoo.training.arguments import TrainArguments
from pkdzoo.training.compare import TrainedRun
from pkdzoo.training.errors import describe_error
from pkdzoo.training.log import Diverged
from pkdzoo.training.loop import train_recipes


class TrainingFailed(ValueError):
    """A run that could not start or ended with an expected error; the message says what to do."""


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
        return train_recipes(load_recipes(args.recipe, args.set, args.only, args.unlabeled), args)


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
