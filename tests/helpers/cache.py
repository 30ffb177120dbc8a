"""What a cache of weights holds, and whether a detector has the expected tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import pkdzoo
from pkdzoo.hub.errors import DownloadError
from pkdzoo.hub.fetch import INDEX


def files_in(folder: Path) -> list[str]:
    """Names of everything that a cache holds, but for its locks and its index."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != ".locks"]
    return sorted(p.name for p in files if p.name != INDEX)


def same(model: pkdzoo.Detector, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a detector has exactly these tensors."""
    own = model.state_dict()
    return set(own) == set(state) and all(torch.equal(own[key], state[key]) for key in own)


def refused(name: str, folder: Path, match: str, error: type[Exception] = DownloadError) -> None:
    """Assert that loading fails with this message, and that the cache is as empty as before."""
    before = files_in(folder)
    with pytest.raises(error, match=match):
        pkdzoo.create_detector(name, pretrained=True, cache_dir=folder)
    assert files_in(folder) == before
