"""Checks of parameter initialization: memory that is NaN until it is written, and a count of random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Draws(TorchDispatchMode):
    """Counts the random numbers that are drawn while it is active."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default):
            self.count += args[0].numel()
        return func(*args, **(kwargs or {}))


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """New memory holds NaN, so that parameters without an initialization are noticed."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def drawn(parameters: dict[str, Tensor]) -> int:
    """Total size of the parameters that are not constant."""
    return sum(value.numel() for value in parameters.values() if value.min() < value.max())


def same_start(make: Callable[[], nn.Module], plain: Callable[[], nn.Module]) -> int:
    """Assert that two modules have the same initialization, and that the first one initializes every parameter.

    Constants must be equal. Means and standard deviations of random parameters may differ by six standard errors, and
    the ratio of the maximum to the standard deviation must be that of the same distribution, uniform or normal.

    Returns:
        Number of random numbers that the first module drew.
    """
    torch.manual_seed(0)
    expected = dict(plain().state_dict())
    torch.manual_seed(1)
    with poisoned_memory(), Draws() as draws:
        actual = dict(make().state_dict())
    assert list(actual) == list(expected)
    for key, value in actual.items():
        a, b = value.float().flatten(), expected[key].float().flatten()
        assert a.isfinite().all(), f"{key}: it is not initialized"
        if b.min() == b.max():
            assert torch.equal(a, b), f"{key}: {a.unique()[:5]} instead of {b[0]}"
            continue
        assert len(a) > 7, f"{key}: too few numbers to tell"
        (std, mean), (b_std, b_mean) = torch.std_mean(a), torch.std_mean(b)
        error = max(float(std), float(b_std)) * (2 / len(a)) ** 0.5
        assert abs(float(mean - b_mean)) < 6 * error, f"{key}: mean"
        assert abs(float(std - b_std)) < 6 * error, f"{key}: deviation"
        if len(a) > 1000:
            assert (a.abs().max() / std < 1.8) == (b.abs().max() / b_std < 1.8), f"{key}: uniform or normal"
    assert drawn(actual) <= draws.count
    return draws.count
