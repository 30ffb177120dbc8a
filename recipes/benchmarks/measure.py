"""The clockwork of the benchmark: things that ought to be equal are run in turns, timed, and compared.

Ours and theirs alternate, and each round gives one ratio: what else the machine does slows both and cancels. The
median of the ratios is reported with its quartiles, and beside the wall clock the processor time, which a busy machine
falsifies less.
"""

from __future__ import annotations

import gc
import itertools
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "pycocotools", "faster-coco-eval", "numpy", "pillow")
LOAD = "load before"
Run = Callable[[], Any]


@dataclass(frozen=True)
class Settings:
    """What every row is told.

    Attributes:
        device: where it runs.
        quick: small sizes and few rounds: shows that the instrument works and that numbers agree, not how fast it is.
        compiled: measure ``torch.compile`` too.
        images: folder of JPEG files for the loading row, instead of generated ones.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    quick: bool = False
    compiled: bool = True
    images: Path | None = None

    @property
    def rounds(self) -> int:
        """How often each thing is timed."""
        return 1 if self.quick else 5

    @property
    def student(self) -> str:
        """Backbone of the detectors that are compared."""
        return "r18" if self.quick else "r50"

    @property
    def teacher(self) -> str:
        """Backbone of the teacher."""
        return "r18" if self.quick else "r101"


@dataclass
class Row:
    """One comparison.

    Attributes:
        target: number of the target it belongs to.
        name: what was measured.
        against: what it was compared with.
        ratio: how many times better ours is (median over rounds); None where it was not measured.
        low: lower quartile of the ratio.
        high: upper quartile.
        want: the ratio that was aimed at; None for rows that are reported without a target.
        ours: median, in ``unit``.
        theirs: median, in ``unit``.
        unit: ``s`` or ``MB``.
        cpu_ratio: the ratio of processor times.
        differences: how far results are apart that ought to be equal, by what they are, relative to the largest value.
        tolerance: the largest difference that passes.
        wider: the largest that passes for single ones among them.
        note: what a reader has to know.
    """

    target: int
    name: str
    against: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    want: float | None = None
    ours: float | None = None
    theirs: float | None = None
    unit: str = "s"
    cpu_ratio: float | None = None
    differences: dict[str, float] = field(default_factory=dict)
    tolerance: float = 1e-5
    wider: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def equal(self) -> bool:
        """Whether everything compared is within its tolerance."""
        return all(value <= self.wider.get(name, self.tolerance) for name, value in self.differences.items())

    def to_dict(self) -> dict[str, Any]:
        """For JSON, numbers to four digits."""
        rounded = {
            key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in asdict(self).items()
        }
        rounded["differences"] = {key: float(f"{value:.2g}") for key, value in self.differences.items()}
        return {**rounded, "equal": self.equal}


def unmeasured(target: int, name: str, against: str, want: float | None, why: str) -> Row:
    """A row that this machine cannot fill."""
    return Row(target, name, against, want=want, note=f"unmeasured: {why}")


@dataclass
class Times:
    """Seconds of each round, by the wall clock and of the processor."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def in_turns(
    runs: Mapping[str, Run], settings: Settings, rounds: int | None = None, warmup: int = 1
) -> dict[str, Times]:
    """Time several things, one after the other in each round, every second round in reverse order.

    Args:
        runs: what to time, by name.
        settings: device and, unless told otherwise, rounds.
        rounds: how often.
        warmup: untimed calls of each before.
    """
    for run in runs.values():
        for _ in range(warmup):
            run()
    times = {name: Times() for name in runs}
    for number in range(rounds or settings.rounds):
        gc.collect()
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            wait(settings.device)
            wall, cpu = time.perf_counter(), time.process_time()
            runs[name]()
            wait(settings.device)
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(time.process_time() - cpu)
    return times


def wait(device: torch.device) -> None:
    """Let a GPU finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(times: Mapping[str, Times], ours: str = "ours", theirs: str = "theirs") -> dict[str, Any]:
    """The fields of a :class:`Row` that come from times; no spread of a single round."""
    found = sorted(t / o for o, t in zip(times[ours].wall, times[theirs].wall))
    low, _, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else (None,) * 3
    return {
        "ratio": statistics.median(found),
        "low": low,
        "high": high,
        "ours": statistics.median(times[ours].wall),
        "theirs": statistics.median(times[theirs].wall),
        "cpu_ratio": statistics.median(t / max(o, 1e-9) for o, t in zip(times[ours].cpu, times[theirs].cpu)),
    }


def peak_memory(run: Run, device: torch.device) -> float:
    """Megabytes of tensors that a call needs beyond what was held before it, at its highest.

    The allocator says so itself, on a GPU by its counters, on a CPU by the profiler's events: the resident size of
    a process hides what goes into pages that were freed before.
    """
    run()
    gc.collect()
    if device.type == "cuda":
        wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        run()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(held, default=0) / 2**20


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) if a.numel() else 0.0


@contextmanager
def full_precision() -> Iterator[None]:
    """While numbers are compared, a GPU convolves in float32 to the last digit; times keep torch's default, TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def about(settings: Settings) -> dict[str, Any]:
    """Hardware and versions."""
    found: dict[str, Any] = {
        "machine": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "device": str(settings.device),
    }
    if settings.device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(settings.device)
        found["cuda"] = torch.version.cuda
    found |= packages()
    found[LOAD] = load()
    return found


def packages() -> dict[str, str | None]:
    """Versions of what decides about numbers; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def load() -> float | None:
    """How many processes wanted a core in the last minute, on average."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def commit() -> str:
    """The commit of this code; ``+`` marks Python files with changes that were not committed."""
    git = ["git", "-C", str(Path(__file__).parent)]
    told = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    changes = [*git, "status", "--porcelain", "-uno", "--", ":(top)*.py"]  # results are written while it runs
    changed = subprocess.run(changes, capture_output=True, text=True).stdout.strip()
    return f"{told.stdout.strip() or 'unknown'}{'+' if changed else ''}"


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
        return platform.processor()
    except OSError:
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.processor()
