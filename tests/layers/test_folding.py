"""Norms folded into convolutions: the same results, and no saving or loading afterward."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import pkdzoo
from pkdzoo.layers.folding import fold_norms
from pkdzoo.layers.norm import FrozenBatchNorm2d


def detector(name: str = "retina_r10w16", norm: str = "frozen_bn", **args: object) -> pkdzoo.Detector:
    torch.manual_seed(0)
    model = pkdzoo.create_detector(name, norm=norm, **args)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, (FrozenBatchNorm2d, nn.BatchNorm2d)):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_()
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 1.5)
    return model


def batch() -> pkdzoo.Batch:
    pixels = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(1)) * 255
    return pkdzoo.Batch(pixels, [(96, 128), (80, 100)])


@pytest.mark.parametrize(("norm", "backbone"), [("frozen_bn", "r10w16"), ("bn", "r10w16"), ("frozen_bn", "r50")])
def test_an_optimized_detector_computes_the_same(norm: str, backbone: str) -> None:
    plain = detector(norm=norm, backbone=backbone)
    fast = copy.deepcopy(plain).optimize()
    assert not any(isinstance(layer, (FrozenBatchNorm2d, nn.BatchNorm2d)) for layer in fast.modules())
    with torch.no_grad():
        for mine, other in zip(fast.trace(batch(), "head").outputs.cls, plain.trace(batch(), "head").outputs.cls):
            assert (mine - other).abs().max() <= 1e-5 * other.abs().max()
        pyramids = [model.extract_features(batch()).levels for model in (fast, plain)]
    for mine, other in zip(*pyramids):
        assert (mine - other).abs().max() <= 1e-5 * other.abs().max()


def test_optimizing_twice_changes_nothing_more() -> None:
    fast = detector().optimize()
    before = copy.deepcopy(fast.state_dict())
    again = fast.optimize()
    assert again is fast and fold_norms(fast) == 0
    assert all(torch.equal(value, before[key]) for key, value in fast.state_dict().items())


def test_who_shares_parameters_keeps_them() -> None:
    model = detector()
    kept, value = model.backbone.conv1.weight, model.backbone.conv1.weight.detach().clone()
    model.optimize()
    assert torch.equal(kept, value) and kept is not model.backbone.conv1.weight


def test_an_optimized_detector_is_not_saved_and_not_loaded_into(tmp_path: Path) -> None:
    fast = detector().optimize()
    assert not fast.training and not any(p.requires_grad for p in fast.parameters())
    with pytest.raises(ValueError, match="save it before optimize"):
        fast.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="load weights before optimize"):
        pkdzoo.load_checkpoint(fast, detector().state_dict())
    with pytest.raises(ValueError, match="load weights before optimize"):
        pkdzoo.load_backbone(fast)


def test_a_norm_that_still_learns_is_refused() -> None:
    with pytest.raises(ValueError, match="eval"):
        fold_norms(detector(norm="bn").train().backbone)


class NormAct(nn.BatchNorm2d):
    """A norm that holds its activation, as timm's BatchNormAct2d does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


class Reversed(nn.Module):
    """A module that runs its children in another order than it holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x))


def used_twice() -> nn.Sequential:
    """One convolution with a norm of its own in each place."""
    conv = nn.Conv2d(3, 3, 1)
    return nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3))


@pytest.mark.parametrize(
    "layers",
    [
        used_twice(),
        nn.Sequential(nn.Conv2d(3, 8, 3), NormAct(8)),
        nn.Sequential(nn.Conv2d(3, 8, 3), Reversed()),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8)),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)),
    ],
    ids=["convolution used twice", "norm with activation", "other order", "parametrized", "no statistics"],
)
def test_what_is_more_than_a_plain_pair_is_kept(layers: nn.Module) -> None:
    model = detector()
    model.backbone.layers = layers
    for layer in layers.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats:
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 16, 16)
    layers.eval()
    before, norms = layers(x), sum(isinstance(layer, nn.BatchNorm2d) for layer in layers.modules())
    model.optimize()
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in layers.modules()) == norms
    assert torch.allclose(layers(x), before, atol=1e-5)


def test_a_norm_without_weights_is_folded() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)).eval()
    layers[1].running_mean.normal_()
    x = torch.randn(2, 3, 16, 16)
    before = layers(x)
    assert fold_norms(layers) == 1 and torch.allclose(layers(x), before, atol=1e-6)


def test_of_a_foreign_module_nothing_is_folded() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 32), nn.BatchNorm2d(8))
    teacher = pkdzoo.Teacher(net, lambda net, images: [net(images)], (0.5,) * 3, (0.2,) * 3)
    assert isinstance(teacher.optimize().backbone[1], nn.BatchNorm2d)


def test_an_optimized_teacher_teaches_the_same() -> None:
    student, teacher = detector(), detector("fcos_r10w16")
    target = pkdzoo.Instances(torch.tensor([[10.0, 10.0, 60.0, 50.0]]), torch.tensor([3]))
    images = batch()
    images.instances = [target, target]
    losses = [
        pkdzoo.Distiller(student, each, {"pkd": {}})(images)["loss_pkd"]
        for each in (copy.deepcopy(teacher), teacher.optimize())
    ]
    assert torch.allclose(*losses, rtol=1e-5)
