"""What people see of a run while it goes on: a progress bar, JSON lines, trackers; and the guard against NaN."""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from pkdzoo.structures import Batch
from pkdzoo.training.checkpoint import Progress
from pkdzoo.utils.files import write_text

OVERFLOWS = 50  # steps in a row that a gradient scaler may skip; from 65536 it has halved its factor to nothing by then
MEASURED = 10  # steps, after the first, that a run's time is first told from
TIMING = ("seconds", "images_per_s", "data_wait", "memory_gb")  # keys of a log line that differ from run to run


class Diverged(RuntimeError):
    """A loss or a gradient stopped being a number."""


class Monitor:
    """Means over the last ``every`` optimiser steps, over all processes.

    Args:
        accelerator: of the run.
        folder: the run's; ``log.jsonl`` is written there.
        every: optimiser steps between two lines.
        steps: optimiser steps of the whole run.
        progress: where the run stands; lines after it are dropped from the log.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, every: int, steps: int, progress: Progress) -> None:
        self.accelerator, self.every = accelerator, every
        window = progress.window
        # float64, so that sums read back from a checkpoint's JSON are the same to the last bit
        self.zero = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        self.sums: dict[str, Tensor] = {k: self.zero + v for k, v in window.get("sums", {}).items()}
        self.counts: dict[str, int] = dict(window.get("counts", {}))
        self.skipped: int = window.get("skipped", 0)  # steps without one, by the gradient scaler
        self.overflows = 0  # of them the last ones in a row
        self.passes: list[tuple[dict[str, Tensor], str]] = []  # of the step under way: losses, and images' names
        self.images, self.waited, self.started = 0, 0.0, time.perf_counter()
        self.paces: list[float] = []  # seconds a step of each line so far
        self.pauses, self.done, self.first = 0.0, 0, 0.0  # seconds; steps of this process; when its first one ended
        self.path = folder / "log.jsonl"
        main = accelerator.is_main_process
        if main:
            _forget_later_lines(self.path, progress)
        self.bar = tqdm(
            total=steps,
            initial=progress.step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0,  # what is left is told from the whole run, not from its last steps
            disable=None if main else True,
        )

    def timed(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of a loader; waiting for them is counted."""
        before = time.perf_counter()
        for batch in loader:
            self.waited += time.perf_counter() - before
            yield batch
            before = time.perf_counter()

    def add(self, batch: Batch, losses: Mapping[str, Tensor], logs: Mapping[str, Any]) -> None:
        """Take in one pass.

        Args:
            batch: its images, named if something goes wrong.
            losses: weighted, by name.
            logs: further numbers by name, e.g. a Pearson r for each level.
        """
        self.images += len(batch)
        names = ", ".join(str(meta.get("file_name", "?")) for meta in batch.meta or [])
        self.passes.append(({key: value.detach() for key, value in losses.items()}, names))
        total = torch.stack([value.detach().float() for value in losses.values()]).sum()
        numbers = {"loss": total, **losses, **{f"log/{key}": value for key, value in logs.items()}}
        for key, value in numbers.items():
            self._sum(key, torch.as_tensor(value))

    def guard(self, grad_norm: Tensor, stop: bool, last_good: str) -> bool:
        """After the backward passes and before the optimiser steps: stop on NaN, and agree on whether to stop at all.

        Processes that did not agree would wait for each other for ever, so both questions are put to all of them. All
        passes since the last step are looked at. A gradient that overflows under fp16 is not an error: the scaler skips
        that step; only when it does nothing else any more the run ends.

        Args:
            grad_norm: of all processes.
            stop: whether this process was asked to stop.
            last_good: what to resume from.

        Returns:
            Whether any process was asked to stop.

        Raises:
            Diverged: naming what was not finite, and the images of the pass or the step.
        """
        passes, self.passes = self.passes, []
        values = torch.stack([value.float().mean() for losses, _ in passes for value in losses.values()])
        overflow = not bool(torch.isfinite(grad_norm))
        self.overflows = self.overflows + 1 if overflow else 0
        flags = torch.tensor([float(not torch.isfinite(values).all()), float(stop)], device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            flags = self.accelerator.reduce(flags, "sum")
        allowed = OVERFLOWS if self.accelerator.scaler is not None else 0
        if not flags[0] and self.overflows <= allowed:
            return bool(flags[1])
        bad = [
            f"{key} became {float(value.float().mean())} for images {names}"
            for losses, names in passes
            for key, value in losses.items()
            if not torch.isfinite(value).all()
        ]
        if not flags[0]:
            times = f" in {self.overflows} steps one after the other" if allowed else ""
            names = ", ".join(names for _, names in passes)
            bad = [f"the gradient's norm became {float(grad_norm)}{times} for images {names}"]
        raise Diverged(
            f"{'; '.join(gather_object(bad))}. The weights of before this step are in {last_good}. A lower learning "
            "rate, a longer warm-up or clipping usually helps, e.g. --set optim.clip=35"
        )

    def agreed(self, stop: bool) -> bool:
        """Whether any process was asked to stop; all of them call it."""
        flag = torch.tensor(float(stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") if self.accelerator.num_processes > 1 else flag)

    def step(self, progress: Progress, lr: float, grad_norm: Tensor) -> None:
        """After an optimiser step: write a line if it is time."""
        self.bar.update(1)
        self._tell_time(progress.step)
        if self.overflows:
            self.skipped += 1  # no number to take a mean with
        else:
            self._sum("grad_norm", grad_norm)
        if progress.step % self.every:
            return
        elapsed = time.perf_counter() - self.started
        self.paces.append(elapsed / self.every)
        line: dict[str, Any] = {"step": progress.step, "epoch": progress.epoch, "lr": lr, "grad_norm": None}
        line |= self._means()
        if self.accelerator.scaler is not None:
            line["skipped_steps"] = self.skipped
        line["seconds"] = round(elapsed, 3)
        line["images_per_s"] = round(self.images * self.accelerator.num_processes / elapsed, 2)
        line["data_wait"] = round(self.waited / elapsed, 3)
        line["memory_gb"] = peak_memory(self.accelerator.device)
        self.write(line)
        self._show(line)
        self.sums, self.counts, self.skipped, self.images, self.waited = {}, {}, 0, 0, 0.0
        self.started = time.perf_counter()

    def _tell_time(self, step: int) -> None:
        """What the whole run will take, once, as soon as a few steps were measured; the first is never like others."""
        self.done += 1
        if self.done == 1:
            self.first = time.perf_counter()
        elif self.done == 1 + MEASURED:
            pace = (time.perf_counter() - self.first) / MEASURED
            self.say(
                f"time      {duration(pace * (self.bar.total - step))} to go: {self.bar.total - step} steps of "
                f"{pace:.2g} s, measured over {MEASURED} steps; evaluations come on top"
            )

    def left(self, step: int) -> float:
        """Seconds to go after ``step``: by the median pace of the lines so far, and pauses as frequent as so far."""
        paces = self.paces[1:] or self.paces  # while the first one was measured, things were compiled and cached
        pause = self.pauses / self.done if self.done else 0.0
        return (statistics.median(paces) + pause) * (self.bar.total - step) if paces else math.nan

    def _sum(self, key: str, value: Tensor) -> None:
        self.sums[key] = self.sums.get(key, self.zero) + value.detach().to(self.zero).mean()
        self.counts[key] = self.counts.get(key, 0) + 1

    def _means(self) -> dict[str, float]:
        keys = sorted(self.sums)
        sums = torch.stack([self.sums[key] for key in keys])
        if self.accelerator.num_processes > 1:  # before dividing: sums are exact, so a resumed run has the same ones
            sums = self.accelerator.reduce(sums, "mean")
        return {key: value / self.counts[key] for key, value in zip(keys, sums.tolist())}

    def window(self) -> dict[str, Any]:
        """Unfinished sums, for the checkpoint; all processes call it.

        They exchange their sums for the mean of all, so that one process can write what each of them resumes with.
        """
        keys = sorted(self.sums)
        if keys and self.accelerator.num_processes > 1:
            means = self.accelerator.reduce(torch.stack([self.sums[key] for key in keys]), "mean")
            self.sums = dict(zip(keys, means.unbind()))
        sums = {key: float(self.sums[key]) for key in keys}
        return {"sums": sums, "counts": dict(self.counts), "skipped": self.skipped}

    def write(self, line: Mapping[str, Any]) -> None:
        """One line of the log, and the trackers'; JSON has no NaN, so what is not finite becomes null."""
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        numbers = {key: value for key, value in line.items() if isinstance(value, (int, float))}
        self.accelerator.log(numbers, step=int(line["step"]))

    def _show(self, line: Mapping[str, Any]) -> None:
        words = {k.removeprefix("loss_"): f"{v:.3f}" for k, v in line.items() if k.startswith("loss")}
        words |= {k.removeprefix("log/"): f"{v:.2f}" for k, v in line.items() if k.startswith("log/")}
        if not self.bar.disable:
            self.bar.set_postfix(words, refresh=False)
        elif self.accelerator.is_main_process:
            shown = " ".join(f"{key} {word}" for key, word in words.items())
            speed = f"{line['images_per_s']} img/s, {duration(self.left(line['step']))} left"
            print(f"step {line['step']}/{self.bar.total} lr {line['lr']:.2e} {shown} {speed}", flush=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside out of the images a second."""
        before = time.perf_counter()
        yield
        pause = time.perf_counter() - before
        self.started, self.first, self.pauses = self.started + pause, self.first + pause, self.pauses + pause

    def say(self, text: str) -> None:
        """A line above the bar, once."""
        if self.accelerator.is_main_process:
            tqdm.write(text)

    def close(self, text: str = "") -> None:
        """Say a last line, take the bar away and let the trackers write what they still hold.

        Accelerate's ``end_training`` would end the processes' group, too, and another arm may follow.
        """
        if text:
            self.say(text)
        self.bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()


def duration(seconds: float) -> str:
    """A length of time as people say it."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}" if unit == "min" else f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def peak_memory(device: torch.device) -> float | None:
    """GiB that this process has had at most: of the GPU's memory, or of the machine's; None where nobody says."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def _forget_later_lines(path: Path, progress: Progress) -> None:
    """Drop what an interrupted run logged after its checkpoint: the resumed run will say it again."""
    if not path.is_file():
        return
    kept = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
            # An evaluation comes after its step; if the epoch is still under way, it is going to be repeated.
            repeated = "AP" in line and line["epoch"] > progress.epoch
            if line["step"] <= progress.step and not repeated:
                kept.append(text)
        except (json.JSONDecodeError, KeyError):
            continue  # the last line of a killed run may be cut
    write_text(path, "".join(f"{line}\n" for line in kept))
