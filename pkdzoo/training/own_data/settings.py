"""Chooses the fields of recipes from the data, the device and the time: sizes, batch, learning rate, schedule.

The numbers are starting points from the published schedules (pkdzoo/training/schedules.py) and from the experiments on
small data sets in recipes/experiments/; each choice is printed, and stands in the recipe file for everybody to change.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from pkdzoo.training.own_data.data import OwnData
from pkdzoo.training.own_data.weights import Start
from pkdzoo.training.recipe import Data, Logging, Mix, Optim, Recipe, Schedule, Warmup
from pkdzoo.training.threads import candidates
from pkdzoo.utils.text import counted

OBJECT_SIDE = 16  # pixels that half of the objects should have after the resize
CPU_SIDES, GPU_SIDES = (256, 320, 448, 640), (640, 960, 1333)  # candidates for the long side
BATCH = {"cpu": 4, "gpu": 16}
IMAGES = {"cpu": 3000, "gpu": 60_000}  # trained images of a run without --time; from scratch twice as many
EPOCHS = (12, 100)  # fewest and most epochs of a run without --time
EVALUATIONS = 5  # of a run, on a CPU
MOSAIC_EPOCHS = 40  # from which on mosaic and mixup help


@dataclass(frozen=True)
class Machine:
    """What the choices need to know of a machine.

    Attributes:
        kind: ``cpu`` or ``gpu``.
        cores: of the CPU, for one process.
        processes: of the training.
        threads: CPU threads of a process, where they are given; None leaves them to be measured.
    """

    kind: str
    cores: int
    processes: int = 1
    threads: int | None = None

    @property
    def thread_counts(self) -> list[int]:
        """Numbers of threads that are worth a measurement; empty where the number is given or there is a GPU."""
        measured = self.kind == "cpu" and self.processes == 1 and self.threads is None
        return candidates(self.cores) if measured else []


@dataclass(frozen=True)
class Settings:
    """Fields that teacher, plain and distilled student share in one run of ``pkdzoo distill``."""

    data: Data
    optim: Optim
    schedule: Schedule
    logging: Logging


def parse_time(text: str) -> float:
    """Seconds of a duration such as ``30m``, ``2h``, ``90s`` or ``1h30m``.

    Raises:
        ValueError: for anything else.

    Example:
        >>> from pkdzoo.training.own_data.settings import parse_time
        >>> parse_time("30m"), parse_time("1h30m"), parse_time("90s")
        (1800.0, 5400.0, 90.0)
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    seconds = sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1))) if match else 0.0
    if seconds <= 0:
        raise ValueError(f"{text!r} is no time: write e.g. 30m, 2h, 90s or 1h30m")
    return seconds


def choose(data: OwnData, start: Start, machine: Machine) -> Settings:
    """All fields for one detector, for as many epochs as its images need without a time budget.

    Args:
        data: of the run.
        start: the detector and its initial weights.
        machine: that trains.
    """
    square = start.family == "rtmdet"
    batch = choose_batch(data.train_images, machine)
    short, long = choose_sides(data, machine.kind, square)
    images = IMAGES[machine.kind] * (1 if start.pretrained else 2)
    epochs = min(max(round(images / data.train_images), EPOCHS[0]), EPOCHS[1])
    fields = Data(
        short=short, long=long, batch_size=batch, eval_batch_size=1 if machine.kind == "gpu" else 4, workers=0,
        mix=choose_mix(epochs) if square else None, min_image_size=0,
    )  # fmt: skip
    settings = Settings(fields, choose_optim(start, batch), Schedule(), Logging())
    return with_epochs(settings, data, start, machine, epochs)


def choose_sides(data: OwnData, kind: str, square: bool) -> tuple[int, int]:
    """(short, long) side in pixels: the smallest at which half of the objects are large enough, in the data's shape."""
    width, height = data.size
    sides = CPU_SIDES if kind == "cpu" else GPU_SIDES
    needed = OBJECT_SIDE / max(data.box_side, 1.0) * max(width, height)
    long = next((side for side in sides if side >= needed), sides[-1])
    longest = max(128, math.ceil(max(width, height) / 32) * 32)
    long = min(long, longest) if needed <= longest else long
    if kind == "gpu":  # there is time for the size of the images
        long = max(long, next((side for side in sides if side >= max(width, height)), sides[-1]))
    if square:
        return long, long
    short = max(32, math.ceil(long * min(width, height) / max(width, height) / 32) * 32)
    return min(short, long), long


def choose_batch(images: int, machine: Machine) -> int:
    """Images per step over all processes; at least one of each process, and four steps per epoch."""
    each = max(1, min(BATCH[machine.kind] // machine.processes, images // (4 * machine.processes)))
    return each * machine.processes


def choose_mix(epochs: int) -> Mix:
    """RTMDet's augmentation: random scales and colors, and mosaic and mixup for runs that are long enough."""
    if epochs < MOSAIC_EPOCHS:
        return Mix((0.8, 1.25), mosaic=0.0, mixup=0.0, last_epochs=0)
    return Mix((0.5, 2.0), mixup=0.5, last_epochs=max(1, epochs // 10))


def choose_optim(start: Start, batch: int) -> Optim:
    """AdamW for RTMDet, else SGD; the published rates for pretrained weights, larger ones from scratch."""
    if start.family == "rtmdet":
        lr = 0.0005 if start.pretrained else 0.003
        return Optim("adamw", lr=lr, base_batch_size=batch, weight_decay=0.05, bias_decay_mult=0.0, norm_decay_mult=0.0)
    lr = 0.01 * batch / 16 if start.pretrained else 0.01
    return Optim(lr=round(lr, 6), base_batch_size=batch, clip=10.0)


def with_epochs(
    settings: Settings, data: OwnData, start: Start, machine: Machine, epochs: int, max_steps: int | None = None
) -> Settings:
    """The settings for another length of the run: schedule, warm-up, moving average, evaluations.

    Args:
        settings: of the run.
        data: of the run.
        start: the detector and its initial weights.
        machine: that trains.
        epochs: passes over the images.
        max_steps: last step, of a run that is shorter than an epoch.
    """
    per_epoch = max(1, math.ceil(data.train_images / settings.data.batch_size))
    steps = max_steps or epochs * per_epoch
    warmup = Warmup(steps=max(1, min(500 if start.pretrained else 100, steps // 8)))
    rtmdet = start.family == "rtmdet"
    if rtmdet:
        warmup = replace(warmup, factor=1e-5)
    schedule = Schedule(
        epochs, warmup=warmup, max_steps=max_steps, decay="flat_cosine" if rtmdet else "cosine", final=0.05
    )
    optim = settings.optim
    if rtmdet:  # the average spans the last tenth of the run, as in 300 epochs of COCO
        optim = replace(optim, ema=round(1 - min(max(10 / steps, 2e-4), 0.1), 5), ema_warmup=max(1, steps // 10))
    every = max(1, math.ceil(epochs / EVALUATIONS)) if machine.kind == "cpu" else 1
    logging = Logging(eval_every=every, log_every=max(1, min(50, per_epoch // 2)))
    mix = choose_mix(epochs) if settings.data.mix is not None else None
    return Settings(replace(settings.data, mix=mix), optim, schedule, logging)


def describe(recipe: Recipe, data: OwnData, machine: Machine) -> list[str]:
    """What a recipe does with the data, one line each."""
    fields, optim, schedule = recipe.data, recipe.optim, recipe.schedule
    width, height = data.size
    short = fields.short if isinstance(fields.short, int) else max(fields.short)
    after = data.box_side * min(fields.long / max(width, height), short / min(width, height))
    mosaic = fields.mix is not None and fields.mix.mosaic > 0
    augmentation = "flips" if fields.mix is None else "flips, random scales and colors" + ", mosaic, mixup" * mosaic
    devices = counted(machine.processes, "process") if machine.processes > 1 else f"one {machine.kind.upper()}"
    every, per_epoch = recipe.logging.eval_every, math.ceil(data.train_images / fields.batch_size)
    length, evaluated = counted(schedule.epochs, "epoch"), f"after every {every} of them and at the end"
    if schedule.max_steps is not None and schedule.max_steps < per_epoch:
        length, evaluated = f"{counted(schedule.max_steps, 'step')}, less than an epoch", "at the end"
    elif schedule.max_steps is not None and schedule.max_steps < schedule.epochs * per_epoch:
        length, evaluated = counted(schedule.max_steps, "step"), f"after every {counted(every, 'epoch')} and at the end"
    return [
        f"images    {short} x {fields.long} pixels of {height} x {width}: the median object has {after:.0f} "
        f"pixels; {augmentation}",
        f"batch     {counted(fields.batch_size, 'image')} on {devices}; "
        f"{optim.kind} with learning rate {optim.lr:g}, {schedule.decay}",
        f"schedule  {length} of {counted(data.train_images, 'image')}, evaluated {evaluated}",
    ]
