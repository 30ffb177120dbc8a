"""What the main process does while the others wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from pkdzoo.training.errors import describe_error

T = TypeVar("T")


def run_on_main_process(accelerator: Accelerator, work: Callable[[], T]) -> T | None:
    """Call a function on the main process alone and return its result; the others wait for it and return None.

    Without this, an error of the main process would leave the others waiting, and end them with an error of theirs.

    Args:
        accelerator: of the run.
        work: called on the main process alone.

    Raises:
        ValueError: on every other process, with the message of an error of the main process, which stays as it is.
    """
    result, problem = None, None
    if accelerator.is_main_process:
        try:
            result = work()
        except Exception as error:
            problem = error
    (message,) = broadcast_object_list([None if problem is None else describe_error(problem)])
    if problem is not None:
        raise problem
    if message is not None:
        raise ValueError(message)
    return result
