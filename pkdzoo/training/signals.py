"""Stop requests: after SIGTERM or SIGINT a run saves and ends, with any launcher.

``torchrun``, and ``accelerate launch`` with several processes, forward a signal to their children, wait 30 seconds and
end with an error of their own. A scheduler that signals every process of a job, such as SLURM, reaches the children
directly, too, so they receive the signal twice. ``accelerate launch`` with a single process forwards nothing.
"""

from __future__ import annotations

import copy
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.util import Finalize
from pathlib import Path
from types import FrameType
from typing import Any

import torch

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST = 5.0  # seconds within which a second signal counts as the first one, forwarded by a launcher
PR_SET_PDEATHSIG = 1  # linux/prctl.h
OWN_LAUNCHER = "PKDZOO_CPU_PROCESSES"  # is set in the processes of --cpu-processes


class StopRequest:
    """Signal handler that records a stop request; a second signal, more than ``SAME_REQUEST`` later, ends at once.

    Attributes:
        by: name of the first signal; None without a stop request.
        when: monotonic time of that signal in seconds.
    """

    def __init__(self) -> None:
        self.by: str | None = None
        self.when = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.by is None:
            self.by, self.when = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self.when > SAME_REQUEST:
            if number == signal.SIGINT:
                signal.default_int_handler(number, frame)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class RunStopped(Exception):
    """A run was stopped by a signal, after it had saved a checkpoint.

    Attributes:
        exit_code: of the program: 128 plus the number of the signal, 143 for SIGTERM and 130 for SIGINT (Ctrl-C).
    """

    def __init__(self, signal_name: str | None) -> None:
        number = signal.Signals[signal_name or "SIGTERM"]  # None: another process had the signal
        super().__init__(f"stopped by {number.name}")
        self.exit_code = 128 + number


class LoaderSignals:
    """A ``worker_init_fn`` that keeps a loader process running after a stop signal, until the training process ends it.

    Otherwise SIGTERM to the process group, or Ctrl-C, would end the loader first, and the run could not finish its step
    and save. When the training process exits it raises a flag that it shares with its loaders; they then end at once.
    """

    def __init__(self) -> None:
        self.ending = torch.zeros(1, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        Finalize(None, self.ending.fill_, args=(1,), exitpriority=100)  # before multiprocessing terminates the loaders

    def __call__(self, worker: int) -> None:
        """Called in each loader process; ``worker`` is its number."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._end_if_asked)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _end_if_asked(self, number: int, frame: FrameType | None) -> None:
        if self.ending[0]:
            os._exit(0)  # not by the signal, which torch would report as a failed loader of the ending process


def loader_context() -> BaseContext | None:
    """How a ``DataLoader`` forks its processes when they use :class:`LoaderSignals`; None where processes do not fork.

    Stop signals are blocked from the fork until the loader's own handlers are set. In between, torch's handler of
    SIGTERM would end the loader, and the run with it.
    """
    if multiprocessing.get_start_method() != "fork" or not hasattr(signal, "pthread_sigmask"):
        return None
    from multiprocessing.context import ForkProcess  # not on Windows

    class BlockedProcess(ForkProcess):
        def start(self) -> None:
            previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    context: Any = copy.copy(multiprocessing.get_context("fork"))
    context.Process = BlockedProcess
    return context  # type: ignore[no-any-return]


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Record SIGTERM and SIGINT inside the context instead of ending, so that the loop can save first."""
    request = StopRequest()
    previous_handlers = [signal.signal(number, request) for number in STOP_SIGNALS]
    try:
        yield request
    finally:
        for number, handler in zip(STOP_SIGNALS, previous_handlers):
            signal.signal(number, handler)


def follow_launcher() -> bool:
    """Ask the system to send SIGTERM to this process when the launcher that started it ends; Linux only.

    The launchers are ``accelerate launch`` and the command with ``--cpu-processes``. With one process, ``accelerate
    launch`` starts the script and waits. When it is terminated, it ends alone and would leave the training running on
    the GPU unattended. Other parents (a shell, ``nohup``, a scheduler) are not followed.

    Returns:
        Whether the parent is followed.
    """
    if sys.platform != "linux" or "TORCHELASTIC_RUN_ID" in os.environ:
        return False
    try:
        arguments = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")[:4]
    except OSError:
        return False
    accelerate = any(os.path.basename(argument).startswith(b"accelerate") for argument in arguments)
    if not accelerate and OWN_LAUNCHER not in os.environ:
        return False
    return bool(ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) == 0)
