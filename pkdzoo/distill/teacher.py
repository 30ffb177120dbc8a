"""Wraps any module as a teacher for the methods of feature maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from pkdzoo.distill.pairing import PyramidShape
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import HeadTrace
from pkdzoo.structures import Batch, FeaturePyramid, PixelNorm

if TYPE_CHECKING:
    from typing_extensions import Self

PROBE = 256  # side of the black image that gives channels and strides


class Teacher(Detector):
    """Wraps a module of any origin so that a student can learn from its maps.

    Args:
        module: the network; a Distiller freezes it and keeps it in eval mode.
        features: called as ``features(module, images)`` with normalized images (B, 3, H, W); returns a list of maps
            (B, C, h, w), finest first.
        mean: mean of each channel, in the module's channel order.
        std: standard deviation of each channel, likewise.
        channel_order: ``rgb`` or ``bgr``.
        scale: raw pixels, 0-255, are divided by it before mean and std are applied, so the default fits statistics of
            0-1 pixels such as torchvision's (0.485, ...). Statistics above 1 can only be of 0-255 pixels and are
            used as such; write ``scale=1`` for a module that takes raw pixels with mean 0 and std 1.
        strides: of each map, in pixels; None: measured by running the module on a black image of 256 x 256.
        two_stage: True for the pyramid of a two-stage detector; PKD's published weight depends on it.

    Example:
        >>> import pkdzoo, torchvision
        >>> build = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
        >>> net = build(weights=None, weights_backbone=None)  # in practice: build(weights="DEFAULT")
        >>> maps = lambda net, images: list(net.backbone(images).values())
        >>> teacher = pkdzoo.Teacher(net, maps, net.transform.image_mean, net.transform.image_std, two_stage=True)
        >>> print(teacher.pyramid_shape)
        stride 32 x 256 channels, stride 32 x 256 channels, stride 64 x 256 channels
    """

    def __init__(
        self,
        module: nn.Module,
        features: Callable[[nn.Module, Tensor], Sequence[Tensor]],
        mean: Sequence[float],
        std: Sequence[float],
        channel_order: Literal["rgb", "bgr"] = "rgb",
        scale: float = 255,
        strides: Sequence[int] | None = None,
        two_stage: bool = False,
    ) -> None:
        if channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order={channel_order!r}: write 'rgb' or 'bgr'")
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(f"mean={tuple(mean)}, std={tuple(std)}: write one of each per channel, every std above 0")
        factor = _range_of(mean, std, scale)
        pixel_norm = PixelNorm(tuple(m * factor for m in mean), tuple(s * factor for s in std), channel_order)
        super().__init__(backbone=module, neck=nn.Identity(), num_classes=1, pixel_norm=pixel_norm)
        self.name = type(module).__name__
        self.two_stage = two_stage
        self.features = features
        self.pyramid_shape = self._probe(strides)

    def _probe(self, strides: Sequence[int] | None) -> PyramidShape:
        """Channels of the maps, and their strides unless given, from one pass over a black image."""
        training = self.backbone.training
        self.backbone.eval()
        side = max(PROBE, 2 * max(strides)) if strides else PROBE
        images = self.pixel_mean.new_zeros(1, len(self.pixel_mean), side, side)
        like = next(self.backbone.parameters(), None)
        with torch.no_grad():
            maps = self._maps(images if like is None else images.to(like))
        self.backbone.train(training)
        measured = tuple(2 ** round(torch.tensor(side / m.shape[-1]).log2().item()) for m in maps)
        if strides is not None and len(strides) != len(maps):
            raise ValueError(
                f"strides={tuple(strides)}, but features returned {len(maps)} maps of strides about {measured}"
            )
        return PyramidShape(tuple(m.shape[1] for m in maps), measured if strides is None else tuple(map(int, strides)))

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps = self.features(self.backbone, images)
        fits = isinstance(maps, (list, tuple)) and maps and all(isinstance(m, Tensor) and m.ndim == 4 for m in maps)
        if not fits:
            raise ValueError(
                f"features(module, images) must return a list of maps (B, C, h, w), finest first, and returned "
                f"{type(maps).__name__}; for a dict write list(maps.values())"
            )
        return list(maps)

    def fold(self) -> None:
        """Does nothing: the order in which a foreign module runs its layers is unknown."""

    def extract_features(self, batch: Batch) -> FeaturePyramid:
        return FeaturePyramid(self._maps(self.normalize(batch)), self.pyramid_shape.strides)

    def run_head(self, features: FeaturePyramid, batch: Batch, tap: int | None = None) -> HeadTrace[Self]:
        raise ValueError(
            "a pkdzoo.Teacher has feature maps only: methods that compare heads need a detector of this package"
        )


def _range_of(mean: Sequence[float], std: Sequence[float], scale: float) -> float:
    """The factor from the units of mean and std to raw pixels."""
    if scale <= 0:
        raise ValueError(f"scale={scale}: raw pixels are divided by it, write 255 or 1")
    largest = max(*mean, *std)
    if largest > 1:
        return 1.0
    written_for_unit_pixels = scale == 1 and any(0 < m <= 1 for m in mean)
    return 255.0 if written_for_unit_pixels else float(scale)
