"""What the head of a detector gives, to compare two detectors."""

from __future__ import annotations

import torch

import pkdzoo


def run_head(model: pkdzoo.Detector, images: torch.Tensor) -> list[torch.Tensor]:
    """Class and box outputs of all levels for images (B, channels, H, W)."""
    with torch.no_grad():
        found = model.trace(pkdzoo.Batch(images, [tuple(images.shape[-2:])] * len(images)), "head").outputs
    assert found is not None
    return [*found.cls, *found.box]
