"""Timing and comparison for the benchmark.

Both sides run alternately, and each round gives one ratio, so other load on the machine slows both and cancels. The
median of the ratios is reported with its quartiles. The ratio of processor times is recorded as well; it depends
less on other load.
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
    """Settings of all parts.

    Attributes:
        device: where everything runs.
        quick: small sizes and few rounds, to check that everything runs and that results agree; ratios mean nothing.
        compiled: measure ``torch.compile``, too.
        images: folder of JPEG files for the loading part, instead of generated images.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    quick: bool = False
    compiled: bool = True
    images: Path | None = None

    @property
    def rounds(self) -> int:
        """How often each side is timed."""
        return 1 if self.quick else 5

    @property
    def student(self) -> str:
        """Backbone of the compared detectors."""
        return "r18" if self.quick else "r50"

    @property
    def teacher(self) -> str:
        """Backbone of the teacher."""
        return "r18" if self.quick else "r101"


@dataclass
class Row:
    """One comparison.

    Attributes:
        target: number of the target that it belongs to.
        name: what was measured.
        against: what it was compared with.
        ratio: theirs divided by ours (median over rounds); None where it was not measured.
        low: lower quartile of the ratio.
        high: upper quartile of the ratio.
        want: target of the ratio; None for rows without a target.
        ours: median, in ``unit``.
        theirs: median, in ``unit``.
        unit: ``s`` or ``MB``.
        cpu_ratio: the ratio of processor times.
        differences: differences of results that should be equal, by name, relative to the largest value.
        tolerance: the largest allowed difference.
        wider: the largest allowed difference of single results, by name.
        note: explanation for the reader.
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
        """Whether all differences are within their tolerance."""
        return all(value <= self.wider.get(name, self.tolerance) for name, value in self.differences.items())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, numbers to four digits."""
        rounded = {
            key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in asdict(self).items()
        }
        rounded["differences"] = {key: float(f"{value:.2g}") for key, value in self.differences.items()}
        return {**rounded, "equal": self.equal}


def unmeasured(target: int, name: str, against: str, want: float | None, why: str) -> Row:
    """A row that cannot be measured on this machine."""
    return Row(target, name, against, want=want, note=f"unmeasured: {why}")


@dataclass
class Times:
    """Seconds of each round: wall-clock time and processor time."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def in_turns(
    runs: Mapping[str, Run], settings: Settings, rounds: int | None = None, warmup: int = 1
) -> dict[str, Times]:
    """Time several calls alternately: one after the other in each round, in reverse order in every second round.

    Args:
        runs: the calls, by name.
        settings: device, and the default of ``rounds``.
        rounds: how often each is timed.
        warmup: calls of each that are not timed, before the first round.
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
    """Wait until a GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(times: Mapping[str, Times], ours: str = "ours", theirs: str = "theirs") -> dict[str, Any]:
    """The fields of a :class:`Row` that follow from times; a single round has no quartiles."""
    by_round = sorted(t / o for o, t in zip(times[ours].wall, times[theirs].wall))
    low, _, high = statistics.quantiles(by_round, n=4, method="inclusive") if len(by_round) > 1 else (None,) * 3
    return {
        "ratio": statistics.median(by_round),
        "low": low,
        "high": high,
        "ours": statistics.median(times[ours].wall),
        "theirs": statistics.median(times[theirs].wall),
        "cpu_ratio": statistics.median(t / max(o, 1e-9) for o, t in zip(times[ours].cpu, times[theirs].cpu)),
    }


def peak_memory(run: Run, device: torch.device) -> float:
    """Peak memory of a call in MB of tensors, beyond what was allocated before it.

    Read from the allocator: from its counters on a GPU, from the profiler's events on a CPU. The resident size of the
    process would miss allocations in pages that were freed before.
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
    allocated = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(allocated, default=0) / 2**20


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference, relative to the largest absolute value of ``b``; infinite for other shapes."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) if a.numel() else 0.0


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolve in full float32 precision on a GPU while results are compared; timing keeps torch's default, TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def about(settings: Settings) -> dict[str, Any]:
    """Hardware and versions."""
    machine: dict[str, Any] = {
        "machine": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "device": str(settings.device),
    }
    if settings.device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(settings.device)
        machine["cuda"] = torch.version.cuda
    machine |= packages()
    machine[LOAD] = load()
    return machine


def packages() -> dict[str, str | None]:
    """Versions of the packages that influence the results; None for packages that are not installed."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def load() -> float | None:
    """Load average of the last minute: processes that ran or waited for a core; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def other_facts(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Keys of :func:`about` in which an earlier run differs, without its load."""
    return [key for key in now if key != LOAD and now[key] != before.get(key)]


def commit(clone: Path = Path(__file__).parent) -> str:
    """The commit of this code, or of another clone, with ``+`` if Python files have uncommitted changes."""
    git = ["git", "-C", str(clone)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    changes = [*git, "status", "--porcelain", "-uno", "--", ":(top)*.py"]  # not the result files, which this run writes
    changed = subprocess.run(changes, capture_output=True, text=True).stdout.strip()
    return f"{head.stdout.strip() or 'unknown'}{'+' if changed else ''}"


def cpu_name() -> str:
    """Model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
        return platform.processor()
    except OSError:
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.processor()
