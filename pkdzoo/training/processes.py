"""What the main process does while the others wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from pkdzoo.training.errors import describe_error

T = TypeVar("T")


def run_on_main_process(work: Callable[[], T]) -> T:
    """Call a function on the main process alone, and return its result on every process.

    Without this, an error of the main process would leave the others waiting, and end them with an error of theirs.

    Args:
        work: called on the main process alone; the others wait for it. With several processes the result is pickled.

    Raises:
        ValueError: on every other process, with the message of an error of the main process, which stays as it is.

    Example:
        >>> from pkdzoo.training.processes import run_on_main_process
        >>> run_on_main_process(lambda: "read once")
        'read once'
    """
    answer: list[Any] = [None, None]
    problem = None
    if PartialState().is_main_process:
        try:
            answer[0] = work()
        except Exception as error:
            problem = error
            answer[1] = describe_error(error)
    result, message = broadcast_object_list(answer)
    if problem is not None:
        raise problem
    if message is not None:
        raise ValueError(message)
    answered: T = result
    return answered
