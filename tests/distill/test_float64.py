"""Distillation in float64: no method falls back to the digits of float32."""

from __future__ import annotations

import pytest
import torch
from helpers.kd_reference import tiny_batch, tiny_detector

from pkdzoo.distill import METHODS, Distiller
from pkdzoo.structures import Batch, Instances


def wide_batch() -> Batch:
    batch = tiny_batch()
    objects = [Instances(each.boxes.double(), each.labels) for each in batch.instances or []]
    return Batch(batch.images.double(), batch.sizes, objects)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_computes_in_float64(name: str) -> None:
    torch.manual_seed(0)
    pair = tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1)
    distiller = Distiller(*pair, {name: {}}).double()
    distiller.on_epoch_start(0, [wide_batch()])
    torch.manual_seed(0)
    losses = distiller(wide_batch())
    assert any(key not in ("loss_cls", "loss_box", "loss_dfl") for key in losses)
    for key, value in losses.items():
        assert value.dtype == torch.float64, key
        assert value != value.float().double() or value == 0, f"{key} has the digits of float32"
