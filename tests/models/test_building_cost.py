"""What ``import pkdzoo`` and building a detector take: time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pkdzoo
from pkdzoo.models._registry import find
from pkdzoo.models.backbones.timm_networks import is_timm

IMPORTS = {
    "base": "import torch, torchvision",
    "ours": "import torch, torchvision, pkdzoo",
}


@pytest.mark.slow
def test_import_takes_little_longer_than_torch() -> None:
    def seconds(statement: str) -> float:
        code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
        folder = Path(pkdzoo.__file__).parent.parent
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder).stdout)

    taken: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(5):  # alternately, so that a busy machine slows both
        for name, statement in IMPORTS.items():
            taken[name].append(seconds(statement))
    base, ours = (sorted(taken[name])[2] for name in ("base", "ours"))
    assert ours <= 1.3 * base, f"{ours:.2f} s against {base:.2f} s"


PEAK = """
import ctypes, gc, sys, pkdzoo
pkdzoo.create_detector("retina_r10w16")
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
for name in sys.argv[1:]:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the previous detector has left would be taken again, unseen
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    model = pkdzoo.create_detector(name)
    peak = status("VmHWM")
    size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    print(name, peak - before, size)
    del model
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_building_takes_no_more_memory_than_the_detector() -> None:
    kinds = {(find(name)[0].family, find(name)[0].args["backbone"]): name for name in pkdzoo.list_detectors()}
    names = [name for name in kinds.values() if not name.endswith(("r10w16", "r18w24"))]  # too small to be measured
    names = [name for name in names if not is_timm(find(name)[0].args["backbone"])]  # timm builds those
    run = subprocess.run(
        [sys.executable, "-c", PEAK, *names],
        capture_output=True,
        text=True,
        cwd=Path(pkdzoo.__file__).parent.parent,
        env={
            **os.environ,
            "MALLOC_MMAP_THRESHOLD_": "65536",
        },  # freed memory is returned to the system, so that the peak is measured
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == len(names)
    for line in run.stdout.splitlines():
        name, peak, size = line.split()
        assert int(peak) >= 0.9 * int(size), f"{name}: only {int(peak) / 1e6:.0f} MB were seen"
        assert int(peak) <= 1.2 * int(size), f"{name}: {int(peak) / 1e6:.0f} MB for {int(size) / 1e6:.0f} MB"
