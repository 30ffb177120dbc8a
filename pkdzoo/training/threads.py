"""CPU threads of a run: how many cores each process takes."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator

from pkdzoo.models.detector import Detector

# In the demo (0.7 million parameters, passes of 0.16 million pixels) a second thread made each step slower, not faster.
TINY_PARAMETERS = 1_000_000
TINY_PIXELS = 1_000_000  # of one pass


def limit_threads(accelerator: Accelerator, threads: int | None, student: Detector, pixels: int) -> str | None:
    """Train a tiny detector on small images with one thread, unless ``--threads`` says otherwise; CPU only.

    Its layers are so small that threads wait for one another longer than they compute. The other cores load data.

    Args:
        accelerator: of the run.
        threads: of the command line; None leaves the choice to this function.
        student: the detector that is trained.
        pixels: of all images of one forward pass together.

    Returns:
        What was chosen and why, as text; None if nothing was changed.
    """
    small = sum(parameter.numel() for parameter in student.parameters()) < TINY_PARAMETERS and pixels < TINY_PIXELS
    if threads is not None or accelerator.device.type != "cpu" or not small or torch.get_num_threads() == 1:
        return None
    torch.set_num_threads(1)
    return "1, because more would slow this tiny detector down (--threads N to choose)"


def share_cores(accelerator: Accelerator, threads: int | None) -> None:
    """Without a GPU, let the processes share all cores: ``accelerate launch`` gives each of them one thread."""
    if threads is not None:
        torch.set_num_threads(threads)
    elif accelerator.device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // accelerator.num_processes))
