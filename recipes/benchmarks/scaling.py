"""How time and memory of a training step grow with pixels, images, boxes and classes, each varied alone.

The detector is narrow, so that assignment and losses are not hidden by convolutions. Growth is the slope between the
last two points on logarithmic axes: 1 is linear. A fixed cost lowers it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import pkdzoo
from pkdzoo.structures import Batch, Instances
from recipes.benchmarks.measure import Settings, in_turns, peak_memory
from recipes.benchmarks.step import batch_of

DETECTORS = ("retina_r10w16", "fcos_r10w16")


@dataclass
class Curve:
    """Time and memory of a step over one quantity.

    Attributes:
        name: detector and varied quantity.
        x: values of the quantity.
        seconds: time of a step at each value.
        megabytes: memory of a step at each value, beyond what is allocated before it.
    """

    name: str
    x: list[float]
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with the growth of both."""
        return {
            **asdict(self),
            "seconds": [float(f"{s:.4g}") for s in self.seconds],
            "megabytes": [round(m, 1) for m in self.megabytes],
            "growth of time": log_slope(self.x, self.seconds),
            "growth of memory": log_slope(self.x, self.megabytes),
        }


def log_slope(x: list[float], y: list[Any]) -> float | None:
    """Slope between the last two points on logarithmic axes."""
    if len(x) < 2 or min(y[-2:]) <= 0:
        return None
    return round(math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2]), 2)


def curves(settings: Settings) -> Iterator[Curve]:
    """Four curves per detector."""
    for name in DETECTORS[:1] if settings.quick else DETECTORS:
        yield from curves_of(name, settings)


def curves_of(name: str, settings: Settings) -> Iterator[Curve]:
    """The curves of one detector: pixels, images, boxes and classes."""
    device = settings.device
    side, objects_of_classes = (64, 8) if settings.quick else (256, 100)
    sides = (64, 96) if settings.quick else (320, 640, 960, 1280)
    batches = (1, 2) if settings.quick else (1, 4, 8, 16)
    boxes = (1, 8) if settings.quick else (1, 20, 100, 250, 500)
    classes = (1, 40) if settings.quick else (1, 80, 400, 800, 1200)
    model = pkdzoo.create_detector(name).to(device)
    pixels = [s * s for s in sides]
    yield measure(f"{name}: pixels", pixels, lambda i: (model, scene(sides[i], 1, 7, device)), settings)
    yield measure(f"{name}: images", batches, lambda i: (model, scene(side, batches[i], 7, device)), settings)
    yield measure(f"{name}: boxes", boxes, lambda i: (model, scene(side, 2, boxes[i], device)), settings)

    def with_classes(i: int) -> tuple[pkdzoo.Detector, Batch]:
        batch = scene(side, 1, objects_of_classes, device)
        assert batch.instances is not None
        for objects in batch.instances:
            objects.labels %= classes[i]
        return pkdzoo.create_detector(name, num_classes=classes[i]).to(device), batch

    yield measure(f"{name}: classes", classes, with_classes, settings)


def scene(side: int, count: int, boxes: int, device: torch.device) -> Batch:
    """``count`` square images with ``boxes`` objects each."""
    batch = batch_of((side, side), count, device, boxes)
    assert batch.instances is not None
    batch.instances = [Instances(o.boxes, o.labels) for o in batch.instances]
    return batch


def measure(name: str, x: Any, case: Callable[[int], tuple[pkdzoo.Detector, Batch]], settings: Settings) -> Curve:
    """Measure a step, forward and backward, at each value."""
    curve = Curve(name, [float(value) for value in x])
    for i in range(len(curve.x)):
        model, batch = case(i)
        model.train()

        def step(model: pkdzoo.Detector = model, batch: Batch = batch) -> None:
            model.zero_grad()
            torch.stack(list(model(batch).values())).sum().backward()  # type: ignore[no-untyped-call]

        times = in_turns({"step": step}, settings, rounds=1 if settings.quick else 3)
        curve.seconds.append(statistics.median(times["step"].wall))
        curve.megabytes.append(peak_memory(step, settings.device))
    return curve


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    """Draw all curves, time above memory; needs matplotlib."""
    from matplotlib.figure import Figure

    kinds = sorted({curve["name"].partition(": ")[2] for curve in curves})
    figure = Figure(figsize=(3.2 * len(kinds), 5.5), layout="constrained")
    axes = figure.subplots(2, len(kinds), squeeze=False)
    for curve in curves:
        detector, _, kind = curve["name"].partition(": ")
        for row, (key, unit) in enumerate((("seconds", "s"), ("megabytes", "MB"))):
            axis = axes[row][kinds.index(kind)]
            axis.set(xlabel=kind, ylabel=unit)
            if min(curve[key]) <= 0:
                continue
            axis.loglog(curve["x"], curve[key], marker="o", label=f"{detector}, slope {curve[GROWTH[key]]}")
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)


GROWTH = {"seconds": "growth of time", "megabytes": "growth of memory"}
