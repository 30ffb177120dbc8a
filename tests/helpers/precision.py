"""Code that computes in float64 must not round to float32 in between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pkdzoo


def refuse_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``Tensor.float`` fail for float64, whatever becomes of the result."""
    convert = torch.Tensor.float

    def float_(x: Tensor) -> Tensor:
        assert x.dtype != torch.float64, "float64 is rounded to float32"
        return convert(x)

    monkeypatch.setattr(torch.Tensor, "float", float_)


def doubled(batch: pkdzoo.Batch) -> pkdzoo.Batch:
    """The batch in float64, without masks."""
    objects = [pkdzoo.Instances(each.boxes.double(), each.labels, masks=each.masks) for each in batch.instances or []]
    return pkdzoo.Batch(batch.images.double(), batch.sizes, objects)
