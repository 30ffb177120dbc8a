"""Any module can teach through its maps."""

from __future__ import annotations

import pytest
import torch
import torchvision
from helpers.kd_reference import tiny_batch, tiny_detector
from torch import Tensor, nn

import pkdzoo

UNIT = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RAW = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


class Stack(nn.Module):
    """Four maps of strides 8 to 64, as wide as the tiny student's; batch norm shows whether it trains."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 4, stride=4), nn.BatchNorm2d(width))
        self.more = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(4))


def maps_of(net: Stack, images: Tensor) -> list[Tensor]:
    x, maps = net.stem(images), []
    for layer in net.more:
        x = layer(x)
        maps.append(x)
    return maps


def test_distills_from_any_module() -> None:
    teacher = pkdzoo.Teacher(Stack(), maps_of, *UNIT)
    assert teacher.pyramid_shape.strides == (8, 16, 32, 64)
    distiller = pkdzoo.Distiller(tiny_detector(), teacher, {"pkd": {}}).train()
    assert not teacher.backbone.training
    assert distiller.methods["pkd"].weight == 10
    losses = distiller(tiny_batch())
    sum(losses.values()).backward()
    assert float(losses["loss_pkd"].detach()) > 0


def test_a_module_in_bfloat16_teaches() -> None:
    teacher = pkdzoo.Teacher(Stack().bfloat16(), maps_of, *UNIT)
    maps = teacher.trace(tiny_batch(), "features").features
    assert {level.dtype for level in maps.levels} == {torch.bfloat16}


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_pixels_arrive_as_the_module_expects_them(order: str) -> None:
    batch = tiny_batch()
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in UNIT)
    first = batch.images[:1] if order == "rgb" else batch.images[:1].flip(1)
    expected = (first / 255 - mean) / std
    seen: list[Tensor] = []

    def look(net: nn.Module, images: Tensor) -> list[Tensor]:
        seen.append(images)
        return maps_of(net, images)

    for mean_std in (UNIT, RAW):
        teacher = pkdzoo.Teacher(Stack(), look, *mean_std, channel_order=order)  # type: ignore[arg-type]
        teacher.trace(batch, "features")
        assert torch.allclose(seen[-1][:1], expected, atol=1e-5)
        height, width = batch.sizes[1]
        assert (seen[-1][1, :, height:] == 0).all()
        assert (seen[-1][1, :, :, width:] == 0).all()


@pytest.mark.parametrize(
    ("mean", "std", "scale", "brightest"),
    [
        (0.0, 1.0, 255, 1.0),  # 0-1 pixels
        (0.0, 1.0, 1, 255.0),  # raw pixels
        (0.5, 0.5, 255, 1.0),
        (0.5, 0.5, 1, 1.0),
        (127.5, 127.5, 255, 1.0),
        (127.5, 127.5, 1, 1.0),
    ],
)
def test_what_white_becomes(mean: float, std: float, scale: float, brightest: float) -> None:
    teacher = pkdzoo.Teacher(Stack(), maps_of, (mean,) * 3, (std,) * 3, scale=scale)
    white = pkdzoo.Batch(torch.full((1, 3, 32, 32), 255.0), [(32, 32)])
    assert torch.allclose(teacher.normalize(white), torch.tensor(brightest))


def test_wrong_features_are_explained() -> None:
    with pytest.raises(ValueError, match=r"list\(maps.values\(\)\)"):
        pkdzoo.Teacher(Stack(), lambda net, x: {"0": net.stem(x)}, *UNIT)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="returned 4 maps of strides about"):
        pkdzoo.Teacher(Stack(), maps_of, *UNIT, strides=(8, 16))
    with pytest.raises(ValueError, match="every std above 0"):
        pkdzoo.Teacher(Stack(), maps_of, (0, 0, 0), (0, 0, 0))
    with pytest.raises(ValueError, match="'bgr'"):
        pkdzoo.Teacher(Stack(), maps_of, *UNIT, channel_order="RGB")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="feature maps only"):
        pkdzoo.Teacher(Stack(), maps_of, *UNIT).trace(tiny_batch(), "head")


def test_torchvisions_faster_rcnn_teaches() -> None:
    net = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    teacher = pkdzoo.Teacher(net, lambda net, x: list(net.backbone(x).values()), *UNIT, two_stage=True)
    assert teacher.pyramid_shape.strides == (4, 8, 16, 32, 64)
    assert teacher.pyramid_shape.channels == (256,) * 5
    student = pkdzoo.create_detector("retina_r18", num_classes=3)
    losses = pkdzoo.Distiller(student, teacher, {"pkd": {}})(tiny_batch((64, 64)))
    assert torch.isfinite(losses["loss_pkd"])
    losses["loss_pkd"].backward()


def test_maps_of_another_layout_or_order_are_refused() -> None:
    def last(net: nn.Module, images: Tensor) -> list[Tensor]:
        return [m.permute(0, 2, 3, 1) for m in maps_of(net, images)]

    def swapped(net: nn.Module, images: Tensor) -> list[Tensor]:
        return [m.transpose(2, 3) for m in maps_of(net, images)]

    for width in (16, 48, 64, 256):
        with pytest.raises(ValueError, match=r"channels last.*m\.permute\(0, 3, 1, 2\)"):
            pkdzoo.Teacher(Stack(width), last, *UNIT)
    with pytest.raises(ValueError, match=r"no maps \(B, C, h, w\)"):
        pkdzoo.Teacher(Stack(), swapped, *UNIT)
    with pytest.raises(ValueError, match=r"maps of shapes \(2, .* no maps \(B, C, h, w\)"):  # one image went in
        pkdzoo.Teacher(Stack(), lambda net, images: [m.repeat(2, 1, 1, 1) for m in maps_of(net, images)], *UNIT)
    with pytest.raises(ValueError, match=r"of strides \(64, 32, 16, 8\): write them finest first, e\.g\. maps\[::-1\]"):
        pkdzoo.Teacher(Stack(), lambda net, images: maps_of(net, images)[::-1], *UNIT)
    with pytest.raises(ValueError, match=r"no maps .* of strides \(4, 8, 16, 32\)"):
        pkdzoo.Teacher(Stack(), maps_of, *UNIT, strides=(4, 8, 16, 32))


def test_strides_that_are_no_powers_of_two_can_be_named() -> None:
    net = nn.Conv2d(3, 8, 14, stride=14)
    teacher = pkdzoo.Teacher(net, lambda net, images: [net(images)], *UNIT, strides=(14,))
    assert teacher.pyramid_shape.strides == (14,)
    with pytest.raises(ValueError, match="name the strides"):
        pkdzoo.Teacher(net, lambda net, images: [net(images)], *UNIT)


def test_modes_of_the_module_stay_as_they_are() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8)).train()
    net[1].eval()  # a frozen norm
    pkdzoo.Teacher(net, lambda net, images: [net(images)], [0.5] * 3, [0.5] * 3)
    assert net.training and net[0].training and not net[1].training
