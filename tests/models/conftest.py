"""A registered detector with weights behind a link, for the tests of detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.foreign_checkpoints import checkpoint, register, tensors

import pkdzoo
from pkdzoo.hub.weights import Weights


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register a tiny RetinaNet with weights behind a file link, and return its tensors."""
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "cache"))

    def make(**args: Any) -> dict[str, torch.Tensor]:
        base = pkdzoo.create_detector("retina_r10w16", **args)
        state = tensors(base)
        (tmp_path / "file.pth").write_bytes(checkpoint(state))
        register(monkeypatch, Weights("coco_1x", url=(tmp_path / "file.pth").as_uri()), **args)
        return state

    return make
