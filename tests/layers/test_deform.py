"""Deformable convolution against the ordinary one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import pkdzoo
from pkdzoo.checkpoints import to_our_keys
from pkdzoo.layers.deform import DeformConv, SampledConv
from pkdzoo.models.backbones import build_backbone


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 4), (2, 4)])
def test_starts_as_an_ordinary_convolution(stride: int, groups: int) -> None:
    layer = DeformConv(8, 12, stride=stride, groups=groups)
    x = torch.randn(2, 8, 7, 10)
    expected = F.conv2d(x, layer.weight, stride=stride, padding=1, groups=groups)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_a_shift_of_whole_cells_moves_the_image() -> None:
    """Offsets are (y, x): an offset of one down for every position of the kernel samples the row below."""
    layer = SampledConv(3, 5)
    x = torch.randn(1, 3, 9, 9)
    shift = torch.zeros(1, 18, 9, 9)
    shift[:, 0::2] = 1.0
    down = torch.cat([x[:, :, 1:], torch.zeros(1, 3, 1, 9)], dim=2)
    expected = F.conv2d(down, layer.weight, padding=1)
    torch.testing.assert_close(layer(x, shift)[:, :, 1:-1], expected[:, :, 1:-1], rtol=1e-5, atol=1e-5)


def test_maps_smaller_than_the_kernel() -> None:
    layer = DeformConv(4, 4)
    x = torch.randn(1, 4, 1, 2)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1), rtol=1e-5, atol=1e-5)


def test_half_precision_in_and_out() -> None:
    layer, x = DeformConv(4, 4), torch.randn(1, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x), rtol=0.02, atol=0.02)


def test_gradients_reach_weight_and_shifts() -> None:
    layer = DeformConv(4, 4)
    layer(torch.randn(2, 4, 6, 6)).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    assert layer.offset.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["r10w16", "r50"])
def test_only_the_chosen_stages_deform(name: str) -> None:
    backbone = build_backbone(name, deformable=(2, 4))
    deforming = {key.split(".")[0] for key, layer in backbone.named_modules() if isinstance(layer, DeformConv)}
    assert deforming == {"layer2", "layer4"}
    assert all(not layer.offset.weight.any() for layer in backbone.modules() if isinstance(layer, DeformConv))


@pytest.mark.parametrize("spelling", ["conv2.conv_offset", "conv2_offset"])
def test_both_spellings_of_the_offset_are_read(spelling: str) -> None:
    rules = pkdzoo.create_detector("retina_r18").key_rules
    state = {f"backbone.layer2.0.{spelling}.weight": torch.zeros(1)}
    assert list(to_our_keys(state, rules)) == ["backbone.layer2.0.conv2.offset.weight"]


@pytest.mark.parametrize(("norm", "frozen"), [("frozen_bn", True), ("gn", False)])
def test_frozen_affine_is_about_frozen_batch_norm_only(norm: str, frozen: bool) -> None:
    """A block whose last norm weight is zero and frozen would never contribute."""
    backbone = build_backbone("r10w16", norm=norm, frozen_stages=0, frozen_affine=True)
    assert backbone.layer1[0].bn2.weight.requires_grad != frozen
    assert backbone.conv1.weight.requires_grad


def test_a_shift_that_is_no_number_gives_none() -> None:
    """A diverged run must be able to report it; torchvision alone would crash the process."""
    x, shift = torch.randn(1, 4, 6, 6), torch.zeros(1, 18, 6, 6)
    shift[0, 3, 2, 2] = torch.nan
    assert SampledConv(4, 4)(x, shift).isnan().all()
    assert SampledConv(4, 4)(x, torch.full_like(shift, torch.inf)).eq(0).all()
