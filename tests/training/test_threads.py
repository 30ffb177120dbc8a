"""The number of threads of a run without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator

import pkdzoo
from pkdzoo.training.threads import limit_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "threads", "pixels", "expected"),
    [
        ("fcos_r10w16", None, 8 * 128 * 160, 1),
        ("fcos_r10w16", 2, 8 * 128 * 160, 2),
        ("fcos_r18w24", None, 8 * 128 * 160, 2),
        ("fcos_r10w16", None, 2 * 800 * 1344, 2),
    ],
)
def test_only_a_tiny_detector_on_small_images_is_limited_and_only_without_an_option(
    name: str, threads: int | None, pixels: int, expected: int
) -> None:
    note = limit_threads(Accelerator(cpu=True), threads, pkdzoo.create_detector(name), pixels)
    assert torch.get_num_threads() == expected
    assert (note is not None) == (expected == 1)
