"""The log of a run (progress bar, JSON lines, trackers) and its check for losses and gradients that are not finite."""

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
from pkdzoo.utils.text import counted, printable

MAX_OVERFLOWS = 50  # consecutive steps that a gradient scaler may skip: its factor, 65536 at first, is then about 0
ESTIMATE_STEPS = 10  # steps, after the first, from which the total time is estimated
SHOW_SECONDS = 30.0  # between two printed lines where there is no terminal, and so no progress bar
BAR_SECONDS = 1.0  # between two changes of the numbers beside the progress bar


class Diverged(RuntimeError):
    """A loss or a gradient is not finite any more."""


class Monitor:
    """Logs means over the last ``every`` optimizer steps of all processes, and checks that each step is finite.

    Args:
        accelerator: of the run.
        folder: of the run; ``log.jsonl`` is written there.
        every: optimizer steps between two log lines.
        steps: optimizer steps of the whole run.
        progress: of the run, as its checkpoint has it; later lines are removed from the log of a resumed run.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, every: int, steps: int, progress: Progress) -> None:
        self.accelerator, self.every = accelerator, every
        window = progress.window
        # float64, so that sums read back from a checkpoint's JSON are equal to the last bit
        self.zero = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        self.sums: dict[str, Tensor] = {k: self.zero + v for k, v in window.get("sums", {}).items()}
        self.counts: dict[str, int] = dict(window.get("counts", {}))
        self.skipped: int = window.get("skipped", 0)  # steps that the gradient scaler skipped since the last line
        self.overflows = 0  # consecutive steps, up to the last one, with an overflowing gradient
        self.passes: list[tuple[dict[str, Tensor], str]] = []  # of the current step: losses, and names of the images
        self.images, self.loading_seconds, self.interval_start = 0, 0.0, time.perf_counter()
        self.interval_start_cpu = time.process_time()  # of this process with all its threads
        self.step_seconds: list[float] = []  # mean seconds per step of each line so far
        self.paused_seconds, self.steps_done, self.first_step_end = 0.0, 0, 0.0  # of this process
        self.last_shown: float | None = None  # monotonic time at which numbers were shown last
        self.ap: float | None = None  # of the last evaluation
        self.path = folder / "log.jsonl"
        main = accelerator.is_main_process
        if main:
            _forget_later_lines(self.path, progress)
        self.bar = tqdm(
            total=steps,
            initial=progress.step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0,  # estimates the remaining time from the whole run, not from its last steps
            disable=None if main else True,
        )

    def time_loading(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of a loader; the time spent waiting for them is logged as ``data_wait``.

        Raises:
            RuntimeError: for a worker process that died.
        """
        iterator = iter(loader)
        while True:
            before = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except (ConnectionError, EOFError) as error:  # torch reports a worker that dies while it sends like this
                raise RuntimeError(f"DataLoader worker (pid unknown) died while it sent a batch: {error}.") from error
            self.loading_seconds += time.perf_counter() - before
            yield batch

    def add_pass(self, batch: Batch, losses: Mapping[str, Tensor], logs: Mapping[str, Any]) -> None:
        """Add one forward and backward pass.

        Args:
            batch: of the pass; error messages name its images.
            losses: weighted, by name.
            logs: further numbers by name, e.g. a Pearson r for each level.
        """
        both = [batch, *([] if batch.unlabeled is None else [batch.unlabeled])]
        self.images += sum(map(len, both))
        names = ", ".join(str(meta.get("file_name", "?")) for part in both for meta in part.meta or [])
        self.passes.append(({key: value.detach() for key, value in losses.items()}, names))
        total = torch.stack([value.detach().float() for value in losses.values()]).sum()
        numbers = {"loss": total, **losses, **{f"log/{key}": value for key, value in logs.items()}}
        for key, value in numbers.items():
            self._sum(key, torch.as_tensor(value))

    def check_step(self, grad_norm: Tensor, stop: bool, last_checkpoint: str) -> bool:
        """Between the backward passes and the optimizer's step: check that the step is finite, and share stop requests.

        All processes call it and get the same answer; processes that disagreed would wait for each other forever. All
        passes since the last step are checked. Under fp16 an overflowing gradient is not an error, because the scaler
        skips that step; only more than ``MAX_OVERFLOWS`` in a row are.

        Args:
            grad_norm: gradient norm over all processes.
            stop: whether this process has a stop request.
            last_checkpoint: named in the error message.

        Returns:
            Whether any process has a stop request.

        Raises:
            Diverged: naming the values that are not finite and the images of the pass or the step.
        """
        passes, self.passes = self.passes, []
        values = torch.stack([value.float().mean() for losses, _ in passes for value in losses.values()])
        overflow = not bool(torch.isfinite(grad_norm))
        self.overflows = self.overflows + 1 if overflow else 0
        flags = torch.tensor([float(not torch.isfinite(values).all()), float(stop)], device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            flags = self.accelerator.reduce(flags, "sum")
        max_overflows = MAX_OVERFLOWS if self.accelerator.scaler is not None else 0
        if not flags[0] and self.overflows <= max_overflows:
            return bool(flags[1])
        bad = [
            f"{key} became {float(value.float().mean())} for images {names}"
            for losses, names in passes
            for key, value in losses.items()
            if not torch.isfinite(value).all()
        ]
        if not flags[0]:
            times = f" in {counted(self.overflows, 'consecutive step')}" if max_overflows else ""
            names = ", ".join(names for _, names in passes)
            bad = [f"the gradient's norm became {float(grad_norm)}{times} for images {names}"]
        raise Diverged(
            f"{'; '.join(gather_object(bad))}. Last checkpoint: {last_checkpoint}. A lower learning rate, a longer "
            "warm-up or gradient clipping usually helps, e.g. --set optim.clip=35"
        )

    def any_process(self, flag_here: bool) -> bool:
        """Whether the flag is set on any process; all processes call it."""
        flag = torch.tensor(float(flag_here), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") if self.accelerator.num_processes > 1 else flag)

    def end_step(self, progress: Progress, lr: float, grad_norm: Tensor) -> None:
        """After an optimizer step: update the bar and, every ``every`` steps, write a log line.

        Args:
            progress: with this step counted.
            lr: learning rate of the step.
            grad_norm: gradient norm over all processes.
        """
        self.bar.update(1)
        self._print_estimate(progress.step)
        if self.overflows:
            self.skipped += 1  # its gradient norm is not finite and has no place in a mean
        else:
            self._sum("grad_norm", grad_norm)
        self._show(progress.step, lr)
        if progress.step % self.every:
            return
        elapsed = time.perf_counter() - self.interval_start
        self.step_seconds.append(elapsed / self.every)
        line: dict[str, Any] = {"step": progress.step, "epoch": progress.epoch, "lr": lr, "grad_norm": None}
        line |= self._means()
        if self.accelerator.scaler is not None:
            line["skipped_steps"] = self.skipped
        line["seconds"] = round(elapsed, 3)
        line["cpu_seconds"] = round(time.process_time() - self.interval_start_cpu, 3)
        line["images_per_s"] = round(self.images * self.accelerator.num_processes / elapsed, 2)
        line["data_wait"] = round(self.loading_seconds / elapsed, 3)
        line["memory_gb"] = peak_memory(self.accelerator.device)
        self.write_line(line)
        self.sums, self.counts, self.skipped, self.images, self.loading_seconds = {}, {}, 0, 0, 0.0
        self.interval_start, self.interval_start_cpu = time.perf_counter(), time.process_time()

    def _print_estimate(self, step: int) -> None:
        """Print the estimated time of the whole run once, after a few steps; the first step is never typical."""
        self.steps_done += 1
        if self.steps_done == 1:
            self.first_step_end = time.perf_counter()
        elif self.steps_done == 1 + ESTIMATE_STEPS:
            seconds = (time.perf_counter() - self.first_step_end) / ESTIMATE_STEPS
            remaining = self.bar.total - step
            self.print(
                f"time      {duration(seconds * remaining)} remaining: {counted(remaining, 'step')} of "
                f"{seconds:.2g} s, "
                f"measured over {ESTIMATE_STEPS} steps; without evaluations"
            )

    def remaining_seconds(self, step: int) -> float:
        """Estimated seconds after ``step``, with pauses as frequent as so far; NaN before enough steps are measured.

        The time of a step is the median over the lines of the log, without the first one, which includes compiling and
        filling caches. Before there are any, it is the mean since the first step.
        """
        measured, times = self.steps_done - 1, self.step_seconds[1:]
        if not times and measured >= ESTIMATE_STEPS:
            times = [(time.perf_counter() - self.first_step_end) / measured]
        pause = self.paused_seconds / self.steps_done if self.steps_done else 0.0
        return (statistics.median(times) + pause) * (self.bar.total - step) if times else math.nan

    def _sum(self, key: str, value: Tensor) -> None:
        self.sums[key] = self.sums.get(key, self.zero) + value.detach().to(self.zero).mean()
        self.counts[key] = self.counts.get(key, 0) + 1

    def _means(self) -> dict[str, float]:
        keys = sorted(self.sums)
        sums = torch.stack([self.sums[key] for key in keys])
        if self.accelerator.num_processes > 1:  # before dividing: sums are exact, so a resumed run gets the same ones
            sums = self.accelerator.reduce(sums, "mean")
        return {key: value / self.counts[key] for key, value in zip(keys, sums.tolist())}

    def unfinished_sums(self) -> dict[str, Any]:
        """Sums since the last log line, for the checkpoint; all processes call it.

        Each process replaces its sums by the mean over all, so that one process can save what all of them resume with.
        """
        keys = sorted(self.sums)
        if keys and self.accelerator.num_processes > 1:
            means = self.accelerator.reduce(torch.stack([self.sums[key] for key in keys]), "mean")
            self.sums = dict(zip(keys, means.unbind()))
        sums = {key: float(self.sums[key]) for key in keys}
        return {"sums": sums, "counts": dict(self.counts), "skipped": self.skipped}

    def write_line(self, line: Mapping[str, Any]) -> None:
        """Write a line to ``log.jsonl`` and the trackers; JSON has no NaN, so it becomes null, as does infinity."""
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        self.ap = line.get("AP", self.ap)
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        numbers = {key: value for key, value in line.items() if isinstance(value, (int, float))}
        self.accelerator.log(numbers, step=int(line["step"]))

    def _show(self, step: int, lr: float) -> None:
        """Show the means since the last line of the log, of this process alone, beside the bar or as a printed line.

        It is done at times, not at steps: a step may take a millisecond or a minute.
        """
        if not self.accelerator.is_main_process:
            return
        now, last = time.monotonic(), step >= self.bar.total
        period = SHOW_SECONDS if self.bar.disable else BAR_SECONDS
        if self.last_shown is not None and now - self.last_shown < period and not last:
            return
        self.last_shown = now
        line = {key: float(value) / self.counts[key] for key, value in sorted(self.sums.items())}
        numbers = {k.removeprefix("loss_"): f"{v:.3f}" for k, v in line.items() if k.startswith("loss")}
        numbers |= {k.removeprefix("log/"): f"{v:.2f}" for k, v in line.items() if k.startswith("log/")}
        if self.ap is not None:
            numbers["AP"] = f"{self.ap:.1f}"
        if not self.bar.disable:
            self.bar.set_postfix({"lr": f"{lr:.2e}", **numbers}, refresh=False)
            return
        text = " ".join(f"{key} {number}" for key, number in numbers.items())
        elapsed, remaining = time.perf_counter() - self.interval_start, self.remaining_seconds(step)
        speed = f"{self.images * self.accelerator.num_processes / max(elapsed, 1e-9):.3g} img/s"
        left = f", {duration(remaining)} remaining" if math.isfinite(remaining) else ""
        print(f"step {step}/{self.bar.total} lr {lr:.2e} {text} {speed}{left}", flush=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside the context from the images per second and from the times of a log line."""
        before, before_cpu = time.perf_counter(), time.process_time()
        yield
        self.interval_start_cpu += time.process_time() - before_cpu
        pause = time.perf_counter() - before
        self.interval_start, self.first_step_end = self.interval_start + pause, self.first_step_end + pause
        self.paused_seconds += pause

    def print(self, text: str) -> None:
        """Print a line above the progress bar, on the main process only."""
        if self.accelerator.is_main_process:
            tqdm.write(printable(text, keep="\n\t"))

    def close(self, text: str = "") -> None:
        """Print a last line, close the progress bar and flush the trackers.

        Accelerate's ``end_training`` would also destroy the process group, which the next recipe may need.
        """
        if text:
            self.print(text)
        self.bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()


def duration(seconds: float) -> str:
    """A length of time in seconds, as text with the unit that fits it."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}" if unit == "min" else f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def peak_memory(device: torch.device) -> float | None:
    """Peak memory of this process in GiB, of the GPU or of the host; None if the system does not report it."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def _forget_later_lines(path: Path, progress: Progress) -> None:
    """Remove what an interrupted run logged after its checkpoint; the resumed run will log it again."""
    if not path.is_file():
        return
    kept = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
            # An evaluation follows a step that is saved before it and after it. It will be repeated if the checkpoint
            # is the first of the two, which counts neither its epoch nor, where max_steps cut that, the run as done.
            last = "AP" in line and line["step"] == progress.step
            repeated = last and line["epoch"] > progress.epoch and not progress.done
            if line["step"] <= progress.step and not repeated:
                kept.append(text)
        except (json.JSONDecodeError, KeyError):
            continue  # the last line of a killed run may be cut
    write_text(path, "".join(f"{line}\n" for line in kept))
