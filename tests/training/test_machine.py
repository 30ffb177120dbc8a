"""The number of threads of a run without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator

import pkdzoo
from pkdzoo.training.machine import limit_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "threads", "expected"), [("fcos_r10w16", None, 1), ("fcos_r10w16", 2, 2), ("fcos_r18w24", None, 2)]
)
def test_only_a_tiny_detector_is_limited_and_only_without_an_option(
    name: str, threads: int | None, expected: int
) -> None:
    limit_threads(Accelerator(cpu=True), threads, pkdzoo.create_detector(name))
    assert torch.get_num_threads() == expected
