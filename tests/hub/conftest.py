"""A server on loopback, an environment without settings, and weights to serve."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from helpers.foreign_checkpoints import tensors
from helpers.serving import Served, serving

import pkdzoo
from pkdzoo.utils import retry


@pytest.fixture
def server() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment variable of ours or of the Hub's client, and no waiting before retries."""
    for name in ("CACHE", "MIRROR", "HUB_NAMESPACE", "REQUIRE_SHA256"):
        monkeypatch.delenv(f"PKDZOO_{name}", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(retry, "WAIT", 0.0)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return tensors(pkdzoo.create_detector("retina_r10w16"))
