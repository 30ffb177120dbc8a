"""Several CPU processes on one machine for one command: what ``--cpu-processes N`` does.

The command starts itself N times, as ``torchrun`` does: each process gets its rank in the environment, and
DistributedDataParallel over gloo joins them. Two things differ from ``torchrun``. A stop signal is passed on and then
waited for as long as a step takes, not 30 seconds; and the exit status is that of the processes. Two processes of one
thread each can be faster on a CPU than one process of two threads, whose layers wait for the slower thread.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pkdzoo.training.compute import open_processes
from pkdzoo.training.signals import OWN_LAUNCHER, STOP_SIGNALS

GRACE = 30.0  # seconds that the other processes have when one of them fails
# Each of them is set by a launcher: torchrun, accelerate launch, or MPI.
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def is_started_here() -> bool:
    """Whether this process is one of those that :func:`run_processes` started."""
    return OWN_LAUNCHER in os.environ


def check_started(processes: int | None) -> None:
    """Check that the processes which a command line asks for were started; a program that trains does it first.

    Raises:
        ValueError: if they were not, e.g. because Python called the function that does the work.
    """
    if processes is not None and os.environ.get(OWN_LAUNCHER) != str(processes):
        raise ValueError(
            f"cpu_processes={processes} starts the command line again: train from the command line, with "
            f"--cpu-processes {processes}"
        )


def check_place(processes: int, cpu: bool) -> None:
    """Check that a command may start processes here.

    Args:
        processes: how many it wants to start.
        cpu: whether the command line has ``--cpu``.

    Raises:
        ValueError: inside another launcher, or where a GPU would train.
    """
    found = [name for name in LAUNCHERS if name in os.environ]
    if found:
        raise ValueError(
            f"--cpu-processes {processes}: the command runs inside another launcher already ({found[0]} is set): leave "
            "out one of them"
        )
    device = open_processes(cpu).device.type
    if device != "cpu":
        raise ValueError(
            f"--cpu-processes {processes} trains on the CPU, and this machine has a GPU ({device}): write --cpu too, "
            "or leave --cpu-processes out"
        )


def run_processes(program: Sequence[str], processes: int) -> int:
    """Run a program on several processes of one group, pass stop signals on to them, and wait for them.

    Args:
        program: command line; each process sees its rank in the environment.
        processes: how many.

    Returns:
        The exit status: 0 when all end with 0, else that of the first one that did not; 128 plus the number of the
        signal for a process that a signal ended.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # any free port
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store of this process; otherwise rank 0 would open another one
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "ACCELERATE_USE_CPU": "true",
        OWN_LAUNCHER: str(processes),
    }
    shared.setdefault("OMP_NUM_THREADS", "1")  # until the run sets its own number
    children: list[subprocess.Popen[bytes]] = []
    with passed_on(children):
        children += [start(program, shared, rank) for rank in range(processes)]
        code = first_failure(children)
        if code:
            end(children)
    return 128 - code if code < 0 else code


def start(program: Sequence[str], shared: Mapping[str, str], rank: int) -> subprocess.Popen[bytes]:
    """One process of the group."""
    sys.stdout.flush()
    return subprocess.Popen(list(program), env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})


@contextmanager
def passed_on(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Send stop signals to the children instead of ending; they save and end, and so does the parent then."""

    def send(number: int, frame: object) -> None:
        for child in children:
            child.send_signal(number)

    previous = [signal.signal(number, send) for number in STOP_SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(STOP_SIGNALS, previous):
            signal.signal(number, handler)


def first_failure(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all children end with 0, or one does not; returns its code, as ``Popen`` has it."""
    while True:
        codes = [child.poll() for child in children]
        failed = [code for code in codes if code]
        if failed or all(code == 0 for code in codes):
            return failed[0] if failed else 0
        time.sleep(0.1)


def end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the children that still run: they may wait for ever for the one that failed."""
    late = time.monotonic() + GRACE
    while any(child.poll() is None for child in children) and time.monotonic() < late:
        time.sleep(0.1)  # most failures, and all stops, are those of every process
    for child in children:
        if child.poll() is None:
            child.kill()
    for child in children:
        child.wait()
