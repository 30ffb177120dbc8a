"""Region proposal network (Ren et al. 2015): the first stage of two-stage detectors, without the code that runs it."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.layers.conv import init_convs
from pkdzoo.structures import HeadOutputs

SCALES = (8.0,)  # of the anchors, in strides
RATIOS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class ProposalConfig:
    """Settings of the step from RPN outputs to proposals.

    Attributes:
        pre_nms_top_k: maximum number of candidates per level that enter NMS.
        nms_threshold: IoU above which the lower-scoring of two proposals of one level is dropped, 0..1.
        max_proposals: maximum number of proposals per image.
    """

    pre_nms_top_k: int = 1000
    nms_threshold: float = 0.7
    max_proposals: int = 1000


class RPN(nn.Module):
    """Region proposal network: one objectness logit and four deltas for every anchor of every location.

    Args:
        inputs: channels of the pyramid.
        width: channels of the shared convolution.
        anchors: A, anchors per location.
    """

    def __init__(self, inputs: int, width: int, anchors: int = len(SCALES) * len(RATIOS)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, 3, padding=1)
        self.cls = nn.Conv2d(width, anchors, 1)
        self.box = nn.Conv2d(width, anchors * 4, 1)
        init_convs(self)

    def forward(self, levels: list[Tensor]) -> HeadOutputs:
        maps = [F.relu(self.conv(level)) for level in levels]
        return HeadOutputs([self.cls(x) for x in maps], [self.box(x) for x in maps])


def smooth_l1(found: Tensor, target: Tensor, beta: float) -> Tensor:
    """The sum of the smooth L1 differences; ``beta`` 0 is L1."""
    return F.smooth_l1_loss(found, target, reduction="sum", beta=beta) if beta else (found - target).abs().sum()


def lie_inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Which boxes (N, 4) lie in an image of ``size`` (height, width) as a whole: (N,) bool."""
    limit = boxes.new_tensor([size[1], size[0]])
    return (boxes[:, :2] >= 0).all(dim=1) & (boxes[:, 2:] < limit).all(dim=1)
