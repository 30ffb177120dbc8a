"""Distillation in float64: no method rounds to float32."""

from __future__ import annotations

import pytest
import torch
from helpers.kd_reference import tiny_batch, tiny_detector
from helpers.precision import doubled, refuse_rounding

from pkdzoo.distill import METHODS, Distiller


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_computes_in_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    pair = tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1)
    distiller, batch = Distiller(*pair, {name: {}}).double(), doubled(tiny_batch())
    distiller.on_epoch_start(0, [batch])
    refuse_rounding(monkeypatch)
    losses = distiller(batch)
    assert any(key not in ("loss_cls", "loss_box", "loss_dfl") for key in losses)
    for key, value in losses.items():
        assert value.dtype == torch.float64, key
