"""CPU threads of a run: ``--threads``, those that it began with, or the number with which a step is fastest.

How many are fastest depends on the detector and the machine: in the demo (0.7 million parameters) a second thread made
each step slower, a RetinaNet-R50 gains from it. So a step is measured, on a copy of the task. The number of threads
can change the last bits of a sum. Therefore ``run.json`` keeps it, and a resumed run takes it from there.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import torch
from accelerate import Accelerator

from pkdzoo.data import CocoDataset, UnlabeledImages
from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.task import Task
from pkdzoo.models.detector import Detector
from pkdzoo.training import build, loaders
from pkdzoo.training.cpu_processes import is_started_here
from pkdzoo.training.preflight import largest_image
from pkdzoo.training.provenance import read_json_object
from pkdzoo.training.recipe import Recipe
from pkdzoo.training.timed_step import first_batch, train_step

TINY_PARAMETERS = 1_000_000
TINY_PIXELS = 1_000_000  # of one pass
FEWEST_STEPS = 100  # of a run whose steps are measured; for a shorter one it would take too long
SLOW_STEP = 20.0  # seconds of a step that is so large that all threads have work
REPEATS = 2  # measured steps for each number of threads; the fastest one counts
GAIN = 1.05  # factor by which more threads have to be faster: the other cores load data


def share_of_cores(processes: int, threads: int | None) -> int:
    """Threads of one process before anything is measured.

    Args:
        processes: of the run, on this machine.
        threads: of the command line, or None.
    """
    if threads is not None:
        return threads
    if is_started_here():
        return 1  # --cpu-processes N has N processes because one thread each is fastest
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def share_cores(accelerator: Accelerator, threads: int | None) -> None:
    """Without a GPU, let the processes share all cores: ``accelerate launch`` gives each of them one thread."""
    if threads is not None or accelerator.device.type == "cpu":
        torch.set_num_threads(share_of_cores(accelerator.num_processes, threads))


def choose_threads(
    recipe: Recipe, task: Task, dataset: CocoDataset, steps: int, accelerator: Accelerator, threads: int | None,
    folder: Path | None = None, unlabeled: UnlabeledImages | None = None,
) -> str | None:  # fmt: skip
    """Set the number of threads of a run on a CPU, unless ``--threads`` says it.

    Nothing that the run computes with is changed: steps are measured on a copy of the task, and random states are put
    back.

    Args:
        recipe: of the run.
        task: not wrapped.
        dataset: training images.
        steps: optimizer steps of the whole run.
        accelerator: of the run.
        threads: of the command line; None leaves the choice to this function.
        folder: of a run that is resumed.
        unlabeled: images without annotations beside each batch.

    Returns:
        What was chosen and why, as text; None if there was nothing to choose.
    """
    share = torch.get_num_threads()
    if threads is not None or accelerator.device.type != "cpu":
        return None
    recorded = None if folder is None else read_json_object(folder / "run.json").get("threads")
    if isinstance(recorded, int) and 0 < recorded <= share and accelerator.num_processes == 1:
        torch.set_num_threads(recorded)
        return f"{recorded}, as the run began (--threads N to choose)"
    if share == 1 or accelerator.num_processes > 1:
        return None
    if steps >= FEWEST_STEPS and (note := _measure(recipe, task, dataset, unlabeled, accelerator, share)):
        return note
    return limit_threads(task.student, dataset_pixels(recipe, task.student))


def _measure(
    recipe: Recipe, task: Task, dataset: CocoDataset, unlabeled: UnlabeledImages | None, accelerator: Accelerator,
    share: int,
) -> str | None:  # fmt: skip
    """Measure steps of a copy of the task and set the best number of threads; None where a copy cannot be measured."""
    waits = [getattr(type(method), "on_epoch_start", None) for method in task.methods.values()]
    if any(prepare is not DistillMethod.on_epoch_start for prepare in waits):
        return None  # such a method has nothing to compare before it has seen all images
    with torch.random.fork_rng(devices=[]):
        try:
            measured = copy.deepcopy(task)
        except (TypeError, RuntimeError):
            return None  # e.g. a module of another library that holds a lock
        build.train_mode(measured, recipe)
        batch = first_batch(recipe, dataset, accelerator.num_processes, unlabeled)
        step = train_step(measured, batch, accelerator.autocast)
        seconds = set_fastest(step, candidates(share))
    return describe(seconds)


def candidates(share: int) -> list[int]:
    """Numbers of threads that are worth a measurement: all, half of them, and one.

    Example:
        >>> from pkdzoo.training.threads import candidates
        >>> candidates(8), candidates(2), candidates(1)
        ([8, 4, 1], [2, 1], [1])
    """
    return sorted({share, *([share // 2] if share >= 4 else []), 1}, reverse=True)


def set_fastest(step: Callable[[], None], counts: Sequence[int]) -> dict[int, float]:
    """Measure a step with each number of threads, and set the number with which it is fastest.

    A step of more than ``SLOW_STEP`` seconds keeps the first number: its layers are large enough for all threads.

    Args:
        step: is called once without a measurement, then ``REPEATS`` times with each number.
        counts: numbers of threads, most of them first.

    Returns:
        Seconds of a step by number of threads; empty where nothing was compared.
    """
    torch.set_num_threads(counts[0])
    if len(counts) == 1 or _seconds(step) > SLOW_STEP:
        return {}
    seconds = {}
    for count in counts:
        torch.set_num_threads(count)
        seconds[count] = min(_seconds(step) for _ in range(REPEATS))
    torch.set_num_threads(fastest(seconds))
    return seconds


def fastest(seconds: dict[int, float]) -> int:
    """The fewest threads whose step is at most ``GAIN`` times as long as the fastest one.

    Example:
        >>> from pkdzoo.training.threads import fastest
        >>> fastest({8: 1.0, 4: 1.02, 1: 3.0}), fastest({2: 0.9, 1: 0.8})
        (4, 1)
    """
    return min(count for count, value in seconds.items() if value <= GAIN * min(seconds.values()))


def describe(seconds: dict[int, float]) -> str | None:
    """What was measured, as text; None where nothing was compared."""
    if not seconds:
        return None
    steps = ", ".join(f"{value:.3g} s with {count}" for count, value in sorted(seconds.items()))
    return f"{torch.get_num_threads()}: a step was measured, {steps} (--threads N to choose)"


def _seconds(step: Callable[[], None]) -> float:
    start = perf_counter()
    step()
    return perf_counter() - start


def dataset_pixels(recipe: Recipe, student: Detector) -> int:
    """Pixels of all images of one forward pass of a run on one process."""
    height, width = largest_image(recipe.data, student.letterbox)
    return height * width * (loaders.batch_per_process(recipe, 1) + loaders.unlabeled_per_pass(recipe, 1))


def limit_threads(student: Detector, pixels: int) -> str | None:
    """Without a measurement: one thread for a tiny detector on small images, else all.

    Its layers are so small that threads wait for one another longer than they compute.

    Args:
        student: the detector that is trained.
        pixels: of all images of one forward pass together.

    Returns:
        What was chosen and why, as text; None if nothing was changed.
    """
    small = sum(parameter.numel() for parameter in student.parameters()) < TINY_PARAMETERS and pixels < TINY_PIXELS
    if not small or torch.get_num_threads() == 1:
        return None
    torch.set_num_threads(1)
    return "1, because more would slow this tiny detector down (--threads N to choose)"
