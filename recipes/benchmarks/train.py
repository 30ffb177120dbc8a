"""Training images per second of RTMDet-s and of its distillation, in bf16 and compiled, compared with eager float32.

The batch is on the device already, so decoding is not measured. Weights are random. Targets depend on predictions, so
the number of positives of a trained detector differs; it changes the time of a step by little.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

import pkdzoo
from recipes.benchmarks.measure import Row, Settings, in_turns, ratios
from recipes.benchmarks.step import batch_of, in_bf16, our_step

SIZE = (640, 640)


def rows(settings: Settings) -> Iterator[Row]:
    """A step of RTMDet-s alone, and one in which it learns from RTMDet-m."""
    gpu = settings.device.type == "cuda"
    size, count = (SIZE, 32 if gpu else 2) if not settings.quick else ((64, 96), 2)
    small: dict[str, Any] = {"width": 0.0625, "depth": 0.167} if settings.quick else {}
    student = pkdzoo.create_detector("rtmdet_s_yolo", **small)
    teacher = pkdzoo.create_detector("rtmdet_m_yolo", **small)
    tasks: dict[str, Any] = {
        "RTMDet-s": student,
        "RTMDet-s from RTMDet-m, norm_cwd": pkdzoo.Distiller(copy.deepcopy(student), teacher, {"norm_cwd": {}}),
    }
    batch = batch_of(size, count, settings.device)
    for name, task in tasks.items():
        task.to(settings.device).train()
        yield row(f"training step of {name}, {count} x {size[0]} x {size[1]}", task, batch, settings)


def row(name: str, task: Any, batch: pkdzoo.Batch, settings: Settings) -> Row:
    """One comparison: our fast settings and plain float32, from equal weights."""
    fast = copy.deepcopy(task)
    detector = getattr(fast, "student", fast)
    detector.to(memory_format=torch.channels_last)
    how = "bf16, channels last"
    if settings.compiled:
        torch.compiler.reset()
        for part in (detector, getattr(fast, "teacher", None)):
            if part is not None:
                part.backbone.compile()
                part.neck.compile()
        how += ", compiled"
    runs: dict[str, Callable[[], None]] = {
        "ours": our_step(in_bf16(fast, settings.device), detector, batch),
        "theirs": our_step(task, getattr(task, "student", task), batch),
    }
    times = in_turns(runs, settings, warmup=2)
    measured = ratios(times)
    note = f"{len(batch.images) / measured['ours']:.0f} images per second" if not settings.quick else ""
    return Row(2, f"{name}, {how}", "the same in float32, eager", note=note, **measured)
