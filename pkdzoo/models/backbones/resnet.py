"""ResNet (He et al. 2015) and ResNeXt (Xie et al. 2016) for detection.

The maps of all four stages are returned. Parameter names are torchvision's, so its ImageNet files can be loaded
unchanged. Detectors need more than torchvision's ResNet: frozen stem and stages, frozen running statistics with a
trainable affine part, the caffe style (stride in the first 1x1 convolution), deformable 3x3 convolutions in selected
stages, group norm, and small variants.
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.layers.deform import DeformConv
from pkdzoo.layers.norm import FrozenBatchNorm2d, Norm, make_norm
from pkdzoo.models.backbones.base import Backbone

VARIANTS: dict[str, dict[str, Any]] = {
    "r10w16": {"blocks": (1, 1, 1, 1), "width": 16, "bottleneck": False},
    "r18w24": {"blocks": (2, 2, 2, 2), "width": 24, "bottleneck": False},
    "r18": {"blocks": (2, 2, 2, 2), "bottleneck": False},
    "r34": {"blocks": (3, 4, 6, 3), "bottleneck": False},
    "r50": {"blocks": (3, 4, 6, 3)},
    "r101": {"blocks": (3, 4, 23, 3)},
    "x101_32x4d": {"blocks": (3, 4, 23, 3), "groups": 32, "group_width": 4},
    "x101_64x4d": {"blocks": (3, 4, 23, 3), "groups": 64, "group_width": 4},
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm, deformable: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride)
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv3x3(width, width, deformable=deformable)
        self.bn2 = make_norm(norm, width)
        self.downsample = shortcut(inputs, width, stride, norm)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out = out.add_(self.downsample(x))  # in place: backward does not need the map before the sum
        return F.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in ResNeXt) and 1x1 convolution, and a shortcut."""

    expansion = 4

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        norm: Norm,
        deformable: bool,
        caffe: bool,
        groups: int,
        group_width: int,
    ) -> None:
        super().__init__()
        inner = width if groups == 1 else width * group_width // 64 * groups
        first, second = (stride, 1) if caffe else (1, stride)
        self.conv1 = nn.Conv2d(inputs, inner, 1, first, bias=False)
        self.bn1 = make_norm(norm, inner)
        self.conv2 = conv3x3(inner, inner, second, groups, deformable)
        self.bn2 = make_norm(norm, inner)
        self.conv3 = nn.Conv2d(inner, width * self.expansion, 1, bias=False)
        self.bn3 = make_norm(norm, width * self.expansion)
        self.downsample = shortcut(inputs, width * self.expansion, stride, norm)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out = out.add_(self.downsample(x))  # in place: backward does not need the map before the sum
        return F.relu(out, inplace=True)


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1, deformable: bool = False) -> nn.Module:
    """A 3x3 convolution without bias, ordinary or deformable."""
    if deformable:
        return DeformConv(inputs, outputs, 3, stride, groups)
    return nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)


def shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module:
    """Identity if input and output have the same shape, else a strided 1x1 convolution with a norm."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), make_norm(norm, outputs))


class ResNet(Backbone):
    """Four stages of residual blocks.

    Args:
        blocks: number of residual blocks of each stage.
        width: channels of the stem and of the inner convolutions of the first stage; doubled in each further stage.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions (depth 50 and more); False: of two 3x3 convolutions.
        groups: groups of the 3x3 convolution, more than 1 in ResNeXt.
        group_width: channels per group at width 64.
        style: position of a bottleneck's stride: ``pytorch`` in the 3x3, ``caffe`` in the first 1x1 convolution.
        norm: ``frozen_bn`` (frozen statistics, as published), ``bn`` or ``gn``.
        frozen_stages: 0 trains everything, 1 freezes the stem and the first stage, up to 4.
        frozen_affine: also freeze weight and bias of every frozen batch norm (the caffe-style detectors).
        deformable: stages (1 to 4) whose blocks have a deformable 3x3 convolution.
        in_chans: channels of the images.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        width: int = 64,
        bottleneck: bool = True,
        groups: int = 1,
        group_width: int = 64,
        style: Literal["pytorch", "caffe"] = "pytorch",
        norm: Norm = "frozen_bn",
        frozen_stages: int = 1,
        frozen_affine: bool = False,
        deformable: tuple[int, ...] = (),
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        if not 0 <= frozen_stages <= 4:
            raise ValueError(f"frozen_stages={frozen_stages}: 0 trains everything, 4 freezes all four stages")
        self.frozen_stages = frozen_stages
        self.conv1 = nn.Conv2d(in_chans, width, 7, 2, 3, bias=False)
        self.bn1 = make_norm(norm, width)
        channels = width
        self.channels = []
        for stage, count in enumerate(blocks):
            layers: list[nn.Module] = []
            inner, is_deformable = width * 2**stage, stage + 1 in deformable
            for index in range(count):
                stride = 2 if stage and not index else 1
                block = (
                    Bottleneck(channels, inner, stride, norm, is_deformable, style == "caffe", groups, group_width)
                    if bottleneck
                    else BasicBlock(channels, inner, stride, norm, is_deformable)
                )
                layers.append(block)
                channels = inner * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            self.channels.append(channels)
        self.strides = (4, 8, 16, 32)
        self._init_weights(norm)
        self._freeze(frozen_affine)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalized images (B, in_chans, H, W) -> four maps of stride 4, 8, 16 and 32."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    @property
    def stages(self) -> list[nn.Module]:
        """The four stages, finest first."""
        return [self.get_submodule(f"layer{i}") for i in (1, 2, 3, 4)]

    @property
    def frozen_parts(self) -> list[nn.Module]:
        """The modules that ``frozen_stages`` freezes."""
        return [self.conv1, self.bn1, *self.stages[: self.frozen_stages]] if self.frozen_stages else []

    def train(self, mode: bool = True) -> ResNet:
        """Set the mode; frozen parts stay in eval mode, so that a plain batch norm in them keeps its statistics."""
        super().train(mode)
        for part in self.frozen_parts:
            part.eval()
        return self

    def _init_weights(self, norm: Norm) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            # From scratch, a block starts as its shortcut; published weights overwrite the norm's weight.
            elif isinstance(layer, (BasicBlock, Bottleneck)) and norm != "frozen_bn":
                assert isinstance(layer.last_norm.weight, Tensor)
                nn.init.zeros_(layer.last_norm.weight)
        for layer in self.modules():
            if isinstance(layer, DeformConv):
                layer.reset()  # the loop above has initialized its offset convolution

    def _freeze(self, affine: bool) -> None:
        for part in self.frozen_parts:
            part.requires_grad_(False)
        for layer in self.modules():
            if affine and isinstance(layer, FrozenBatchNorm2d):
                layer.requires_grad_(False)
