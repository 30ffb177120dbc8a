"""Checks for one GPU: ``pytest -m gpu``, or recipes/benchmarks/gpu.sh for these and the benchmark in one go.

``PKDZOO_GPU_DEVICE=cpu`` runs the same checks on the CPU, so that only the device itself is left untried.
``PKDZOO_GPU_RESULTS`` names a file to which each measured figure is added as a line of JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

CHOSEN = torch.device(os.environ.get("PKDZOO_GPU_DEVICE", "cuda"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is a check for a GPU."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The GPU, with matrix products and convolutions in full float32."""
    if CHOSEN.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    yield CHOSEN
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    if CHOSEN.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Write figures of a check down: printed, and added to ``PKDZOO_GPU_RESULTS``."""

    def write(**figures: float | int | str) -> None:
        line = {"check": request.node.name, **figures}
        print(f"\n{line}", end="")
        if target := os.environ.get("PKDZOO_GPU_RESULTS"):
            with Path(target).open("a") as file:
                file.write(json.dumps(line) + "\n")

    return write
