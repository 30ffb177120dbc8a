"""Machine options of a run (threads, memory layout, compilation), its moving average, and plain error messages."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from pkdzoo.models.detector import Detector


def count(text: str) -> int:
    """A whole number of at least 1; a type for argparse."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{number} is less than 1")
    return number


def check(accelerator: Accelerator, tracker: str | None) -> None:
    """Raise for options that Accelerate would ignore silently.

    Raises:
        ValueError: for fp16 on a CPU, or a tracker whose package is not installed.
    """
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:
        raise ValueError(
            f"--mixed-precision fp16: on {accelerator.device.type} Accelerate would train in full precision "
            "silently; write bf16"
        )
    if tracker and not accelerator.log_with:
        package = '"pkdzoo[tensorboard]"' if tracker == "tensorboard" else tracker
        raise ValueError(f"--tracker {tracker}: its package is not installed, pip install {package}")


TINY_PARAMETERS = 1_000_000  # in the demo (0.7 million) a second thread made each step slower, not faster


def limit_threads(accelerator: Accelerator, threads: int | None, student: Detector) -> None:
    """Train a tiny detector on a CPU with one thread, unless ``--threads`` says otherwise.

    Its layers are so small that threads wait for one another longer than they compute. The other cores load data.
    """
    tiny = sum(parameter.numel() for parameter in student.parameters()) < TINY_PARAMETERS
    if threads is None and accelerator.device.type == "cpu" and tiny and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        accelerator.print("one thread: more would slow this tiny detector down (--threads N to choose)")


def share_cores(accelerator: Accelerator, threads: int | None) -> None:
    """Without a GPU, let the processes share all cores: ``accelerate launch`` gives each of them one thread."""
    if threads is not None:
        torch.set_num_threads(threads)
    elif accelerator.device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // accelerator.num_processes))


def apply(
    student: Detector, channels_last: bool, checkpoint_activations: bool, teacher: Detector | None = None
) -> None:
    """Change how student and teacher compute, without changing their results.

    Args:
        student: not wrapped yet.
        channels_last: keep convolutions in NHWC, faster on tensor cores.
        checkpoint_activations: recompute the backbone's stages in the backward pass instead of keeping their maps.
        teacher: of the task; it is frozen, so its norms are folded into its convolutions.

    Raises:
        ValueError: for a backbone without stages.
    """
    if channels_last:
        student.to(memory_format=torch.channels_last)
    if teacher is not None:
        teacher.optimize(channels_last)
    if checkpoint_activations:
        stages = getattr(student.backbone, "stages", None)
        if not stages:
            raise ValueError(f"--checkpoint-activations: {student.name}'s backbone has no stages to recompute")
        for stage in stages:
            # The wrapped forward is an attribute, so the names in the state dict do not change.
            stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)


def compile_body(student: Detector) -> None:
    """Compile backbone and neck in place; shapes in heads and losses change with every batch."""
    student.backbone.compile()
    student.neck.compile()


def average(student: Detector, decay: float | None) -> Any:
    """An exponential moving average of the student's parameters and buffers, or None without a decay."""
    if decay is None:
        return None
    averaged = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    return averaged.requires_grad_(False)


def plainly(error: BaseException) -> str:
    """The message of an error; for an error from a loader process, without that process's traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("Caught ") or ": Caught " in lines[0]:
        last = lines[-1]
        return last.split(": ", 1)[1] if ": " in last else last
    return "\n".join(lines)
