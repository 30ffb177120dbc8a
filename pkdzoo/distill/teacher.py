"""Wraps any module as a teacher for the methods of feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from pkdzoo.distill.geometry import place_maps, squash_images
from pkdzoo.distill.pairing import PyramidShape
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import HeadTrace
from pkdzoo.structures import Batch, FeaturePyramid, PixelNorm

if TYPE_CHECKING:
    from typing_extensions import Self

PROBE = 256  # height of the black image that gives channels and strides


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
        strides: of each map, in pixels; None: measured by running the module on a black image of 256 x 384
            (height x width).
        two_stage: True for the pyramid of a two-stage detector; PKD's published weight depends on it.
        input_size: (height, width) of the only images that the module takes, in pixels. Each image of a batch is
            squashed to it, and the maps are brought back to where the batch has the image. None: the module sees the
            images as the student does.
        is_backbone: the maps are those of a bare backbone: methods with ``where="backbone"`` compare them, too.

    Attributes:
        pyramid_shape: channels and strides of the maps.
        origin: name, license, revision and hash of the weights; None if they are unknown or random.

    Raises:
        ValueError: for statistics that cannot be right, and for maps that are not (B, C, h, w), finest first.

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
        input_size: tuple[int, int] | None = None,
        is_backbone: bool = False,
    ) -> None:
        if channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order={channel_order!r}: write 'rgb' or 'bgr'")
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(f"mean={tuple(mean)}, std={tuple(std)}: write one of each per channel, every std above 0")
        factor = _range_of(mean, std, scale)
        pixel_norm = PixelNorm(tuple(m * factor for m in mean), tuple(s * factor for s in std), channel_order)
        super().__init__(backbone=module, neck=nn.Identity(), num_classes=1, pixel_norm=pixel_norm)
        self.match_precision()
        self.name = type(module).__name__
        self.two_stage = two_stage
        self.features = features
        self.input_size = None if input_size is None else (int(input_size[0]), int(input_size[1]))
        self.origin: InitialWeights | None = None
        self.pyramid_shape = self._probe(strides)
        self.backbone_shape = self.pyramid_shape if is_backbone else None

    def _probe(self, strides: Sequence[int] | None) -> PyramidShape:
        """Channels of the maps, and their strides unless given, from one pass over a black landscape image."""
        training = [module for module in self.backbone.modules() if module.training]
        self.backbone.eval()
        height = max(PROBE, 2 * max(strides)) if strides else PROBE
        size = self.input_size or (height, height * 3 // 2)  # not square, so that swapped axes are seen
        images = self.pixel_mean.new_zeros(1, len(self.pixel_mean), *size)
        like = next(self.backbone.parameters(), None)
        with torch.no_grad():
            maps = self._maps(images if like is None else images.to(like))
        for module in training:
            module.training = True
        shapes = [tuple(m.shape) for m in maps]
        measured = tuple(2 ** round(math.log2(size[0] / shape[2])) for shape in shapes)
        if strides is not None and len(strides) != len(maps):
            raise ValueError(
                f"strides={tuple(strides)}, but features returned {len(maps)} maps of strides about {measured}"
            )
        check_maps(shapes, size, measured if strides is None else tuple(strides))
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
        strides = self.pyramid_shape.strides
        if self.input_size is None:
            maps = self._maps(self.normalize(batch))
        else:
            canvas = (batch.images.shape[-2], batch.images.shape[-1])
            own = self._maps(self.standardize(squash_images(batch, self.input_size)))
            maps = [place_maps(m, batch.sizes, canvas, s) for m, s in zip(own, strides)]
        return FeaturePyramid(maps, strides, backbone=maps if self.backbone_shape is not None else [])

    def run_head(self, features: FeaturePyramid, batch: Batch, tap: int | None = None) -> HeadTrace[Self]:
        raise ValueError(
            "a pkdzoo.Teacher has feature maps only: methods that compare heads need a detector of this package"
        )


def check_maps(shapes: Sequence[Sequence[int]], size: tuple[int, int], strides: Sequence[float]) -> None:
    """Check that maps are (B, C, h, w), finest first.

    Args:
        shapes: of the maps of one image.
        size: (height, width) of the image, which is not square.
        strides: of the maps in pixels, given or measured by their heights.

    Raises:
        ValueError: with the shapes and what to write instead.
    """
    returned = f"features returned maps of shapes {', '.join(map(str, map(tuple, shapes)))} for an image of {size}"
    for shape, stride in zip(shapes, strides):
        # A map has one location more or less than its stride says, depending on how its layers pad.
        fits = len(shape) == 4 and shape[0] == 1  # one image went in
        if fits and stride >= 1 and all(abs(side - pixels / stride) <= 1 for side, pixels in zip(shape[2:], size)):
            continue
        height, width = shape[1:3]
        if abs(height * size[1] - width * size[0]) <= size[1]:
            raise ValueError(
                f"{returned} (height, width): they have their channels last. Return (B, C, h, w), e.g. "
                "[m.permute(0, 3, 1, 2) for m in maps]"
            )
        raise ValueError(
            f"{returned} (height, width): they are no maps (B, C, h, w) of strides {tuple(strides)}. Return one map "
            "per level whose height and width are those of the image divided by a stride, and name the strides if "
            "they are no powers of 2"
        )
    if list(strides) != sorted(strides):
        raise ValueError(
            f"{returned} (height, width), of strides {tuple(strides)}: write them finest first, e.g. maps[::-1]"
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
