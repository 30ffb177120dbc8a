"""Reductions over processes."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from pkdzoo.ops.reduce import alone, mean_over_ranks, world_size


def test_a_process_that_computes_alone_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    reduced: list[torch.Tensor] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", reduced.append)
    with alone():
        assert world_size() == 1 and mean_over_ranks(torch.tensor(3.0)) == 3.0
        with pytest.raises(RuntimeError), alone():
            raise RuntimeError
        assert world_size() == 1 and not reduced
    assert world_size() == 2
    mean_over_ranks(torch.tensor(3.0))
    assert len(reduced) == 1
