"""The feature pyramid of a detector as a separate module, with the interface of timm's ``features_only`` models."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch, FeaturePyramid


class FeatureExtractor(nn.Module):
    """Backbone and neck of a detector, without the head.

    Attributes:
        channels: channels of each map.
        strides: stride of each map in pixels, finest first.

    Example:
        >>> import torch, pkdzoo
        >>> net = pkdzoo.create_detector("retina_r10w16", features_only=True)
        >>> [tuple(level.shape) for level in net(torch.rand(1, 3, 128, 160) * 255)][:2], net.strides[:2]
        ([(1, 64, 16, 20), (1, 64, 8, 10)], (8, 16))
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        # A detector without a head, which normalizes the images and runs backbone and neck.
        self.detector = Detector(
            detector.backbone,
            detector.neck,
            detector.num_classes,
            detector.pixel_norm,
            resize=detector.resize,
            letterbox=detector.letterbox,
        )
        self.detector.name = detector.name
        self.train(detector.training)

    @property
    def strides(self) -> tuple[int, ...]:
        return cast("tuple[int, ...]", self.detector.neck.strides)

    @property
    def channels(self) -> list[int]:
        width = cast(int, self.detector.neck.width)
        return [width] * len(self.strides)

    def forward(self, images: Tensor | Batch) -> list[Tensor]:
        """The levels of the pyramid.

        Args:
            images: (B, 3, H, W) RGB with values 0-255, uint8 or float, of any size; or a Batch, whose padding is set
                to zero.

        Returns:
            L maps (B, C, H / stride, W / stride), sizes rounded up.
        """
        if isinstance(images, Tensor):
            if images.ndim != 4:
                raise ValueError(
                    f"images must be (B, 3, H, W), got {tuple(images.shape)}; for one image write image[None]"
                )
            size = (images.shape[-2], images.shape[-1])
            images = images if images.is_floating_point() else images.to(torch.get_default_dtype())
            images = Batch(images, [size] * len(images))
        pyramid: FeaturePyramid = self.detector.extract_features(images)
        return pyramid.levels
