"""Only the last initialization of each parameter runs: the same distribution in half of the time."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable

import pytest
import torch
from helpers.drawing import Draws, drawn, poisoned_memory
from torch import Tensor, nn

import pkdzoo
from pkdzoo.layers.init import DeferredInit
from pkdzoo.models._builder import build
from pkdzoo.models._registry import find


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4), nn.LayerNorm(4), nn.Embedding(5, 4))


def test_torchs_initialization_stays_without_another_rule() -> None:
    torch.manual_seed(0)
    expected = layers().state_dict()
    torch.manual_seed(0)
    with poisoned_memory(), DeferredInit():
        found = layers().state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_the_last_rule_holds_and_nothing_is_drawn_for_the_first() -> None:
    with Draws() as draws, poisoned_memory(), DeferredInit():
        layer = nn.Linear(100, 50)
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(layer.bias, 0.5)
    assert draws.count == 5000
    assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert torch.equal(layer.bias, torch.full((50,), 0.5))


def scaled(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.mul_(2)


def partly(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight[:2])


def through_a_view(layer: nn.Linear) -> None:
    view = layer.weight.data
    nn.init.ones_(layer.weight)
    view.mul_(3)


def among_others(layer: nn.Linear) -> None:
    layer.register_buffer("both", torch.cat([layer.weight.detach(), *torch.stack([layer.bias] * 2, dim=1)[None].mT]))


def copied(layer: nn.Linear) -> None:
    layer.other = copy.deepcopy(layer)
    nn.init.zeros_(layer.weight)


def run(layer: nn.Linear) -> None:
    layer.register_buffer("out", layer(torch.ones(1, 4)).detach())
    nn.init.zeros_(layer.bias)


@pytest.mark.parametrize("then", [scaled, partly, through_a_view, among_others, copied, run])
def test_parameters_are_initialized_before_use(then: Callable[[nn.Linear], None]) -> None:
    def made() -> dict[str, Tensor]:
        torch.manual_seed(0)
        layer = nn.Linear(4, 4)
        then(layer)
        return layer.state_dict()

    expected = made()
    with poisoned_memory(), DeferredInit():
        found = made()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def truncated(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, std=0.5, a=-0.6, b=0.6)


@pytest.mark.parametrize("rule", [nn.init.orthogonal_, nn.init.dirac_, truncated])
def test_rules_of_several_steps(rule: Callable[[Tensor], object]) -> None:
    torch.manual_seed(0)
    expected = torch.empty(32, 32, 1, 1)
    rule(expected)
    with poisoned_memory(), DeferredInit():
        layer = nn.Conv2d(32, 32, 1, bias=False)
        torch.manual_seed(0)
        rule(layer.weight)
    assert torch.equal(layer.weight, expected)


def test_it_holds_for_one_thread_and_ends() -> None:
    def make() -> None:
        other.append(nn.Linear(3, 3))

    other: list[nn.Linear] = []
    with poisoned_memory(), DeferredInit():
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        assert other[0].weight.detach().isfinite().all()
    with Draws() as draws, pytest.raises(TypeError), DeferredInit():
        nn.Sequential(nn.Linear(3, 3), "no module")
    assert draws.count == 12  # after the error, the modules built so far can be used
    with Draws() as draws:
        nn.Linear(3, 3)
    assert draws.count == 12


@pytest.mark.parametrize("name", ["retina_r10w16", "faster_rcnn_r10w16", "reppoints_r10w16"])
def test_a_detector_draws_each_number_once_and_none_when_weights_follow(name: str) -> None:
    with Draws() as draws:
        model = pkdzoo.create_detector(name, num_classes=7)
    assert draws.count == drawn(dict(model.named_parameters())) > 100_000
    entry, _ = find(name)
    with Draws() as draws:
        build(entry, {}, 7, loaded=7)
    assert draws.count == 0
    with Draws() as draws:
        build(entry, {}, 7, loaded=80)
    assert draws.count > 100_000


def test_initialization_from_a_tensor_is_not_postponed() -> None:
    """The tensor may have a postponed initialization itself, or may change before the end."""
    with DeferredInit():
        value, layer = nn.Parameter(torch.empty(())), nn.Linear(2, 2)
        nn.init.constant_(value, 2.0)
        with torch.no_grad():
            layer.bias.fill_(value)
            value.mul_(3)
    assert layer.bias.tolist() == [2.0, 2.0] and value.item() == 6.0


def test_after_an_error_all_modules_are_initialized() -> None:
    with contextlib.suppress(RuntimeError), DeferredInit() as deferred:
        layer = nn.Linear(2, 2)
        nn.init.ones_(layer.weight)
        raise RuntimeError
    assert layer.weight.sum().item() == 4.0 and not deferred.pending
