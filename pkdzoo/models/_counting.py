"""Counts parameters and multiply-adds of a detector on the meta device, without computing anything."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torchvision.ops  # noqa: F401 - defines torch.ops.torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pkdzoo.structures import Batch

PROPOSALS, MASKS = 1000, 100  # regions of a two-stage detector


def count_costs(model: Any, size: tuple[int, int]) -> tuple[float, float]:
    """Millions of parameters, and billions of multiply-adds of one image up to the raw outputs of the head.

    Args:
        model: on any device; it is not changed.
        size: (height, width) of the image, padded to 32 here.
    """
    shadow = model if next(model.parameters()).is_meta else copy.deepcopy(model).to("meta")
    height, width = (-(-side // 32) * 32 for side in size)
    batch = Batch(torch.empty(1, len(shadow.pixel_mean), height, width, device="meta"), [(height, width)])
    sampled = {torch.ops.torchvision.deform_conv2d: deform_conv_flops}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=sampled) as counter:
        head = shadow.rpn if shadow.two_stage else shadow.head
        head(shadow.extract_features(batch).levels)
        run_regions(shadow)
    params = sum(parameter.numel() for parameter in shadow.parameters())
    return round(params / 1e6, 3), round(counter.get_total_flops() / 2e9, 3)


def run_regions(model: Any) -> None:
    """Run the heads of a two-stage detector on its number of regions; does nothing for other detectors."""
    for name, count, more in (("box_head", PROPOSALS, 0), ("mask_head", MASKS, 1)):
        part = getattr(model, name, None)
        if part is None:
            continue
        labels = [torch.zeros(count, dtype=torch.int64, device="meta")] * more
        heads: list[Any] = list(part) if isinstance(part, nn.ModuleList) else [part]  # a cascade has one for each stage
        for head in heads:
            regions = torch.empty((count, model.neck.width, head.size, head.size), device="meta")
            head(regions, *labels)


def deform_conv_flops(x_shape: Any, weight_shape: Any, *rest: Any, out_shape: Any = None, **more: Any) -> int:
    """Two operations per weight and location, as for an ordinary convolution."""
    out = torch.Size(out_shape).numel()
    return int(2 * out * torch.Size(weight_shape[1:]).numel())
