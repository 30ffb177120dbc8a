"""Where the time of a training step goes: convolutions, norms, the rest of the network, assignment and losses, update.

One image of 640 x 640, forward and backward pass without a teacher. The network is run up to the outputs of its head
under torch's profiler, which tells its operators apart; the other parts are timed alone, in turns with the network.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import pkdzoo
from pkdzoo.models.dense import DenseDetector
from pkdzoo.structures import Batch
from pkdzoo.training.optim import build_optimizer
from recipes.benchmarks.assign import TITLES, losses_alone, step_of
from recipes.benchmarks.measure import Settings, in_turns
from recipes.benchmarks.step import OPTIM, batch_of

DETECTORS = {**TITLES, "retina_r10w16": "RetinaNet, tiny", "rtmdet_tiny": "RTMDet-tiny"}
BOXES = (20, 500)


@dataclass(frozen=True)
class Profile:
    """A training step and the shares of its parts, which add up to 1 without ``many``.

    Attributes:
        name: detector and size of the image.
        seconds: network, assignment and losses, and update of one step.
        convolutions: share of convolutions, with their backward passes.
        norms: share of norms.
        network: share of everything else in the network.
        losses: share of assignment and losses with 20 boxes.
        many: assignment and losses with 500 boxes, divided by ``seconds``.
        update: share of the optimizer.
    """

    name: str
    seconds: float
    convolutions: float
    norms: float
    network: float
    losses: float
    many: float
    update: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, numbers to four digits."""
        return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(self).items()}


def rows(settings: Settings) -> Iterator[Profile]:
    """One profile for each detector."""
    side, names = (96, list(DETECTORS)[-2:]) if settings.quick else (640, list(DETECTORS))
    for name in names:
        model = pkdzoo.create_detector(name).to(settings.device).train()
        assert isinstance(model, DenseDetector)
        yield profile(model, f"{DETECTORS[name]}, 1 x {side} x {side}", side, settings)


def profile(model: DenseDetector, name: str, side: int, settings: Settings) -> Profile:
    """Measure one detector."""
    few, many = (batch_of((side, side), 1, settings.device, count) for count in BOXES)
    optimizer = build_optimizer(model, OPTIM, 2)
    network = network_of(model, few)
    step_of(model, few)()  # gradients for the optimizer, whose first step also allocates its state
    network()
    runs = {"network": network, "losses": losses_alone(model, few), "many": losses_alone(model, many)}
    times = in_turns({**runs, "update": optimizer.step}, settings)
    seconds = {key: statistics.median(value.wall) for key, value in times.items()}
    whole = seconds["network"] + seconds["losses"] + seconds["update"]
    kinds = kinds_of(network, on_gpu=settings.device.type == "cuda")
    shares = {kind: seconds["network"] / whole * part / sum(kinds.values()) for kind, part in kinds.items()}
    apart = {key: seconds[key] / whole for key in ("losses", "many", "update")}
    return Profile(name, whole, **shares, **apart)


def network_of(model: DenseDetector, batch: Batch) -> Callable[[], None]:
    """Forward pass up to the head's outputs, and the backward pass from them."""

    def run() -> None:
        for parameter in model.parameters():  # not None: the optimizer needs gradients
            if parameter.grad is not None:
                parameter.grad.zero_()
        outputs = vars(model.trace(batch, upto="head").outputs).values()
        levels: list[Tensor] = [level for levels in outputs for level in levels or ()]
        torch.autograd.backward(levels, [torch.full_like(level, 1e-3) for level in levels])

    return run


def kinds_of(run: Callable[[], None], on_gpu: bool) -> dict[str, float]:
    """Microseconds of each kind of operator in a call, without the operators that it calls in turn."""
    kinds = {"convolutions": 0.0, "norms": 0.0, "network": 0.0}
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        run()
    for event in profiler.key_averages():
        kind = "convolutions" if "conv" in event.key else "norms" if "norm" in event.key else "network"
        kinds[kind] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return kinds
