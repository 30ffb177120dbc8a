"""Scripts in processes of their own that start in a tenth of a second: forked from one that has imported everything.

What a launcher would do is done here: each process gets its rank in the environment, a session of its own and a file
for what it says. Nothing else is shared with the test, so processes can be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed

from helpers.scripts import ROOT, script
from pkdzoo.evaluation import CocoEvaluator
from pkdzoo.training import loop
from pkdzoo.training.log import Monitor

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["processes", "pkdzoo", "accelerate", "torch.distributed", "pkdzoo.training.evaluate"])


@contextmanager
def happening(place: int | str, what: Callable[[], None]) -> Iterator[None]:
    """Call ``what`` inside a training run: after the optimizer step of this number, or in the first ``evaluation``."""
    after, compute = Monitor.end_step, CocoEvaluator.compute

    def step(self, progress, *args) -> None:
        after(self, progress, *args)
        if progress.step == place:
            what()

    def evaluation(self, *args):
        if place == "evaluation":
            what()
        return compute(self, *args)

    with mock.patch.object(Monitor, "end_step", step), mock.patch.object(CocoEvaluator, "compute", evaluation):
        yield


def on_each(work: Callable[[], Any], folder: Path, processes: int = 2) -> list[Any]:
    """What a function returns on each of several processes of one group, in the order of their ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    children = [
        CONTEXT.Process(target=_member, args=(work, rank, processes, port, folder)) for rank in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert all(child.exitcode == 0 for child in children), "it failed on a process, see above"
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


def _member(work: Callable[[], Any], rank: int, processes: int, port: int, folder: Path) -> None:
    _join(rank, processes, port)
    torch.distributed.init_process_group("gloo")
    torch.save(work(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _join(rank: int, processes: int, port: int) -> None:
    """What a launcher says to a process."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
    torch.set_num_threads(1)


class Run:
    """A script on one or several processes.

    Args:
        name: of the script in recipes/.
        argv: its command line.
        said: file that all processes write to.
        processes: how many.
        signal_at: (process, place, signal): this process sends itself the signal there; places are those of
            :func:`happening`.
        places: working folder of each process, as on machines with disks of their own; None: that of the test.
    """

    def __init__(
        self,
        name: str,
        *argv: object,
        said: Path,
        processes: int = 1,
        signal_at: tuple[int, int | str, int] | None = None,
        places: Sequence[Path] | None = None,
    ) -> None:
        self.said = said
        said.parent.mkdir(parents=True, exist_ok=True)
        words = [str(word) for word in argv]
        port = free_port()
        self.processes: list[BaseProcess] = [
            CONTEXT.Process(target=_work, args=(name, words, rank, processes, port, str(said), signal_at, place))
            for rank, place in enumerate(places or [Path.cwd()] * processes)
        ]
        for process in self.processes:
            process.start()

    @property
    def alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def text(self) -> str:
        """What it said so far."""
        return self.said.read_text() if self.said.exists() else ""

    def send(self, number: int) -> None:
        """A signal to all processes and what they have started."""
        for process in self.processes:
            if process.is_alive():
                os.killpg(process.pid, number)  # type: ignore[arg-type]

    def kill(self) -> None:
        """SIGKILL, and wait until they are gone."""
        self.send(signal.SIGKILL)
        for process in self.processes:
            process.join()

    def wait(self, seconds: float = 300) -> list[int | None]:
        """Exit codes; a process that fails takes the others with it, as launchers have it."""
        end = time.monotonic() + seconds
        while self.alive and time.monotonic() < end:
            if any(process.exitcode for process in self.processes):
                time.sleep(1)
                break
            time.sleep(0.01)
        if self.alive:
            self.kill()
        for process in self.processes:
            process.join()
        return [process.exitcode for process in self.processes]

    def students(self) -> list[dict[str, torch.Tensor]]:
        """The trained student of each process, once they have finished."""
        return [torch.load(f"{self.said}.{rank}.pt") for rank in range(len(self.processes))]

    def finish(self, seconds: float = 300) -> None:
        """Wait, and fail with what it said if it did not end well."""
        codes = self.wait(seconds)
        assert codes == [0] * len(codes), f"exit codes {codes}\n{self.text()}"


def _work(
    name: str,
    argv: list[str],
    rank: int,
    processes: int,
    port: int,
    said: str,
    signal_at: tuple[int, int | str, int] | None,
    place: Path,
) -> None:
    os.setsid()
    os.chdir(place)
    multiprocessing.set_start_method("fork", force=True)  # of loader processes; here it would be this file's own
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if processes > 1:
        _join(rank, processes, port)
    torch.set_num_threads(1)
    sys.argv = [f"{name}.py", *argv]
    who, place, number = signal_at or (None, "", 0)
    with happening(place if who == rank else "nowhere", lambda: os.kill(os.getpid(), number)):
        if name != "train":
            runpy.run_path(str(ROOT / "recipes" / f"{name}.py"), run_name="__main__")
            return
        with mock.patch.object(loop, "train", _keeping(loop.train, f"{said}.{rank}.pt")):
            script(name).main(argv)


def _keeping(train: Callable[..., Any], path: str) -> Callable[..., Any]:
    """The training loop, which then saves the student of this process."""

    def run(*args: Any) -> Any:
        finished = train(*args)
        if finished is not None:
            torch.save(finished.student.state_dict(), path)
        return finished

    return run
