"""Being asked to stop: SIGTERM and SIGINT save and end the run, however it was launched.

``torchrun``, and ``accelerate launch`` over several processes, pass a signal on to their children, give them 30 seconds
and end with an error of their own. A scheduler that signals every process of a job, as SLURM does, reaches the
children as well, so they are asked twice. ``accelerate launch`` of a single process passes nothing on.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SAME_REQUEST = 5.0  # seconds in which a second signal is the first one, passed on by a launcher
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StopRequest:
    """Whether somebody asked the run to end; whoever asks again, seconds later, ends it at once.

    Attributes:
        by: name of the first signal, or None.
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


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGINT while inside, so that the loop can save before it ends."""
    request = StopRequest()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, request) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


def follow_launcher() -> bool:
    """Be sent SIGTERM when an ``accelerate launch`` of this one process ends; whether that was arranged.

    It starts the script and waits. Asked to end, it ends alone and would leave the training behind, with the GPU and
    without anybody who watches it. Linux only. A shell, ``nohup`` or a scheduler as the parent may end in peace.
    """
    if sys.platform != "linux" or "TORCHELASTIC_RUN_ID" in os.environ:
        return False
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")[:4]
    except OSError:
        return False
    if not any(os.path.basename(word).startswith(b"accelerate") for word in words):
        return False
    return bool(ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) == 0)
