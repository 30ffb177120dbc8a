"""Checkpoints as other frameworks write them, of a tiny RetinaNet whose every tensor is a hash of its name."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pkdzoo
from helpers.reference import uniform
from pkdzoo.hub.weights import Weights
from pkdzoo.models import _registry
from pkdzoo.models._registry import Entry

NAMES = [
    (r"neck\.(lateral|output)\.(\d)\.conv", r"neck.\1_convs.\2.conv"),
    (r"neck\.output_convs", "neck.fpn_convs"),
    (r"head\.(cls|reg)_tower\.blocks\.(\d)\.conv", r"bbox_head.\1_convs.\2.conv"),
    (r"head\.(cls|reg)_tower\.blocks\.(\d)\.norm", r"bbox_head.\1_convs.\2.gn"),
    (r"head\.cls\.", "bbox_head.retina_cls."),
    (r"head\.box\.", "bbox_head.retina_reg."),
]


class HistoryBuffer:
    """Like mmengine's; the reader has no such class."""

    def __init__(self) -> None:
        self.history, self.statistics = np.arange(3.0), {"mean": np.mean}


class ConfigDict(dict[str, Any]):
    """Like mmengine's."""


def tensors(model: pkdzoo.Detector, seed: int = 0) -> dict[str, Tensor]:
    """Deterministic weights by our names."""
    return {
        key: torch.from_numpy(0.1 * uniform(key, tuple(value.shape), seed)) for key, value in model.state_dict().items()
    }


def mmdetection_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by mmdetection's names."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in NAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def checkpoint(state: dict[str, Tensor], layout: str = "mmdetection", zipped: bool = True, **meta: Any) -> bytes:
    """A file as mmdetection or mmrazor writes it, in either of torch's containers; ``meta`` is added to its own."""
    content = mmdetection_names(state)
    if layout == "mmrazor":
        others = {"teacher.backbone.conv1.weight": torch.zeros(3), "distiller.connectors.a.weight": torch.zeros(3)}
        content = {**{f"architecture.{key}": value for key, value in content.items()}, **others}
    config = ConfigDict(model="retinanet")
    config["self"] = config
    whole = {
        "meta": {"config": config, "epoch": 12, "time": np.float64(1.5), **meta},
        "state_dict": content,
        "message_hub": {"loss": HistoryBuffer()},
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(100)}}},
    }
    buffer = io.BytesIO()
    torch.save(whole, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def register(monkeypatch: Any, *rows: Weights, name: str = "test_retina", **args: Any) -> Entry:
    """Make a tiny RetinaNet with these rows known for the length of a test."""
    entry, _ = _registry.find("retina_r10w16")
    known = Entry(name, "test", entry.build, {**entry.args, **args}, rows)
    monkeypatch.setattr(_registry, "_ENTRIES", {**_registry._ENTRIES, name: known})
    return known
