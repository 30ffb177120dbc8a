"""What assignment and losses take of a training step, for few and many boxes: wanted are at most 5 %.

One image of 640 x 640 with 1 to 500 boxes. A step is forward and backward pass without a teacher and without an update.
Assignment and losses are measured alone, on the outputs of the head, with the backward pass down to these outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import pkdzoo
from pkdzoo.models.dense import DenseDetector
from pkdzoo.structures import Batch
from recipes.benchmarks.measure import Row, Settings, Times, in_turns, ratios
from recipes.benchmarks.step import batch_of

TITLES = {"retina_r50": "RetinaNet-R50", "fcos_r50_caffe": "FCOS-R50", "gfl_r50": "GFL-R50", "rtmdet_s": "RTMDet-s"}
SMALL = {"retina_r10w16": "RetinaNet, tiny", "rtmdet_tiny": "RTMDet-tiny"}
BOXES = (1, 20, 100, 500)
SHARE = 0.05
AGAINST = f"{100 * SHARE:.0f} % of the step"


def rows(settings: Settings) -> Iterator[Row]:
    """One row for each detector and number of boxes."""
    side, counts = (96, (1, 8)) if settings.quick else (640, BOXES)
    for name, title in (SMALL if settings.quick else TITLES).items():
        model = pkdzoo.create_detector(name).to(settings.device).train()
        assert isinstance(model, DenseDetector)
        batches = {count: batch_of((side, side), 1, settings.device, count) for count in counts}
        runs = {str(count): losses_alone(model, batch) for count, batch in batches.items()}
        times = in_turns({"step": step_of(model, batches[counts[1]]), **runs}, settings)
        wall, cpu = times["step"].wall, times["step"].cpu
        allowed = Times([SHARE * seconds for seconds in wall], [SHARE * seconds for seconds in cpu])
        for count in counts:
            part = f"assignment and losses of {title}, 1 x {side} x {side}, {count} box{'es' * (count > 1)}"
            yield Row(2, part, AGAINST, want=1.0, **ratios({"ours": times[str(count)], "theirs": allowed}))


def step_of(model: DenseDetector, batch: Batch) -> Callable[[], None]:
    """Forward and backward pass."""

    def run() -> None:
        add(model.trace(batch).losses).backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)

    return run


def losses_alone(model: DenseDetector, batch: Batch) -> Callable[[], None]:
    """Assignment and losses of a batch, and the backward pass down to the outputs of the head."""
    with torch.no_grad():
        head = model.trace(batch, upto="head")
    leaves: dict[str, Any] = {
        key: [level.detach().requires_grad_() for level in levels]
        for key, levels in vars(head.outputs).items()
        if levels
    }
    outputs = replace(head.outputs, **leaves)
    objects, valid = batch.instances, model.valid_priors(head.features, batch)
    assert objects is not None

    def run() -> None:
        targets = model.assign(outputs, head.priors, objects, valid)
        add(model.loss(outputs, head.priors, targets)).backward()  # type: ignore[no-untyped-call]
        for level in (level for levels in leaves.values() for level in levels):
            level.grad = None

    return run


def add(losses: dict[str, Tensor]) -> Tensor:
    """The sum of the losses."""
    return torch.stack(list(losses.values())).sum()
