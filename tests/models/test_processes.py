"""The same total batch on one process and on two gives the same losses and the same gradients."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers.kd_reference import tiny_detector
from helpers.processes import on_each
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import pkdzoo
from pkdzoo.models._tiny import TINY_ARGS

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")

LIMIT = 1e-5
NARROW_MASKS = {**TINY_ARGS, "box_width": 64, "mask_width": 64}
SUPERVISED: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (f"{family}_r10w16", {}) for family in ("retina", "fcos", "gfl", "atss", "tood", "reppoints")},
    "tood, later": ("tood_r10w16", {}),
    "faster_rcnn": ("faster_rcnn_r10w16", {"sample": False}),
    "mask_rcnn": ("mask_rcnn_r50", {**NARROW_MASKS, "sample": False}),
}
DISTILLED: dict[str, tuple[str, dict[str, Any]]] = {
    "retina, pkd": ("retina_r10w16", {"pkd": {"sync": True, "levels": 5}}),
    "gfl, crosskd": ("gfl_r10w16", {"crosskd": {"sync": True}}),
    "faster_rcnn, pkd": ("faster_rcnn_r10w16", {"pkd": {"sync": True, "levels": 5}}),
}
CASES = [*SUPERVISED, *DISTILLED]


def images() -> pkdzoo.Batch:
    """Four images of one size with 3, 0, 1 and 5 objects: normalizers of single processes would differ."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 96, 128, generator=generator) * 255
    objects = []
    for count in (3, 0, 1, 5):
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([80.0, 50.0])
        side = 12 + torch.rand(count, 2, generator=generator) * 34
        boxes = torch.cat((corner, corner + side), 1)
        labels = torch.randint(0, 3, (count,), generator=generator)
        masks = torch.zeros(count, 96, 128, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist()):
            mask[y1:y2, x1:x2] = True
        objects.append(pkdzoo.Instances(boxes, labels, masks=masks))
    return pkdzoo.Batch(images, [(96, 128)] * 4, objects)


def task(case: str) -> torch.nn.Module:
    if case in SUPERVISED:
        name, args = SUPERVISED[case]
        model = tiny_detector(name, **args)
        model.set_epoch(9 if "later" in case else 0)
        return model
    name, methods = DISTILLED[case]
    args = {"sample": False} if "rcnn" in name else {}
    return pkdzoo.Distiller(tiny_detector(name, **args), tiny_detector(name, seed=1, **args), methods)


def learn(case: str, batch: pkdzoo.Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients of one pass, as the mean over processes."""
    model = task(case).train()
    wrapped = DistributedDataParallel(model) if dist.is_initialized() else model
    losses = wrapped(batch)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    return {key: value.detach() for key, value in losses.items()}, gradients


def share(cases: list[str]) -> dict[str, Any]:
    assert dist.get_world_size() == 2
    whole, own = images(), slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    assert whole.instances is not None
    return {
        case: learn(case, pkdzoo.Batch(whole.images[own], whole.sizes[own], whole.instances[own])) for case in cases
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Losses and gradients of two processes, each with half of the images, in the cases that are selected."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    cases = [item.callspec.params["case"] for item in items]
    return on_each(partial(share, cases), Path(tmp_path_factory.mktemp("ranks")))


USUAL = ("gfl", "tood, later", "faster_rcnn", "retina, pkd")  # the normalizers, the assigners and the statistics


@pytest.mark.parametrize("case", [c if c in USUAL else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_two_processes_agree_with_one(case: str, ranks: list[dict[str, Any]]) -> None:
    losses, gradients = learn(case, images())
    (first, ours), (second, theirs) = (rank[case] for rank in ranks)
    assert losses.keys() == first.keys() and all(value > 0 for value in losses.values())
    worst = {key: float(((first[key] + second[key]) / 2 - value).abs() / value) for key, value in losses.items()}
    assert gradients.keys() == ours.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())
    largest = max(float(value.abs().max()) for value in gradients.values())
    of_all = sum(float((ours[key] - value).square().sum()) for key, value in gradients.items()) ** 0.5
    of_all /= sum(float(value.square().sum()) for value in gradients.values()) ** 0.5
    single = max(float((ours[key] - value).abs().max()) for key, value in gradients.items()) / largest
    shown = ", ".join(f"{key} {value:.1e}" for key, value in worst.items())
    print(f"{case}: {shown}; gradient {of_all:.1e} of its norm, {single:.1e} of its largest entry")
    assert max(worst.values()) < LIMIT and of_all < LIMIT and single < LIMIT
