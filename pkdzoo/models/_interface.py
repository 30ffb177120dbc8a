"""The base class of detectors that the modules for configs, cards, building and weights work on.

``detector.py`` imports these modules, so they cannot import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from pkdzoo.hub.weights import InitialWeights
from pkdzoo.models.rpn import ProposalConfig
from pkdzoo.structures import Letterbox, PixelNorm, PostProcess

if TYPE_CHECKING:
    from typing_extensions import Self


class ZooModel(nn.Module):
    """The attributes of a :class:`pkdzoo.models.detector.Detector` that are saved, loaded and described.

    Attributes:
        class_layers: modules whose shape depends on the number of classes.
        key_rules: rules that rename mmdetection's checkpoint keys.
        name: registered name, ``arch``.
        overrides: arguments that differ from those of the registered name.
        num_classes: C.
        label_names: (C,) class names.
        pixel_mean: (channels,) mean of pixels in 0..255, in ``channel_order``.
        pixel_std: (channels,) standard deviation of pixels in 0..255.
        channel_order: channel order of the network's input.
        resize: (short, long) side in pixels that images are scaled to.
        letterbox: how images are fitted onto a square canvas; None means that they are only resized.
        postprocess_config: settings of the step from head outputs to detections.
        test_proposing: settings of the proposals for detection; None for a one-stage detector.
        optimized: True after ``optimize()``, which changes the keys of the state dict.
        loaded_from: source of the weights; None for random weights.
        initial_weights: weights that the detector, or its backbone, started from and whose license it inherits; None
            for random ones, for ImageNet weights of torchvision and for weights of one's own.
        built_layers: layers at the time when the detector was built; None for one that the registry did not build.
    """

    class_layers: tuple[str, ...] = ()
    key_rules: Sequence[tuple[str, str | None]] = ()
    name: str
    overrides: dict[str, Any]
    num_classes: int
    label_names: tuple[str, ...]
    pixel_mean: Tensor
    pixel_std: Tensor
    channel_order: Literal["rgb", "bgr"]
    resize: tuple[int, int]
    letterbox: Letterbox | None
    postprocess_config: PostProcess
    test_proposing: ProposalConfig | None
    optimized: bool
    loaded_from: str | None
    initial_weights: InitialWeights | None = None
    built_layers: dict[str, tuple[Any, ...]] | None = None
    backbone: nn.Module
    neck: nn.Module
    _pixel_norm: PixelNorm

    @property
    def pixel_norm(self) -> PixelNorm:
        """Pixel statistics and channel order; as they were given, although ``half()`` rounds the buffers."""
        buffers = (self.pixel_mean, self.pixel_std)
        given = self.__dict__.get("_pixel_norm")  # detectors that an earlier version pickled have none
        if given is not None:
            exact = [
                torch.tensor(values, device="cpu").to(b.dtype) for b, values in zip(buffers, (given.mean, given.std))
            ]
            if all(buffer.is_meta or torch.equal(buffer.cpu(), value) for buffer, value in zip(buffers, exact)):
                return PixelNorm(given.mean, given.std, self.channel_order)
        mean, std = (tuple(buffer.tolist()) for buffer in buffers)
        return PixelNorm(mean, std, self.channel_order)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert the module, as ``half()``, ``float()`` and ``to()`` do; pixel statistics are rounded from their own
        values, so that a detector in half precision that becomes float32 again has them all.
        """
        norm, before = self.pixel_norm, self.pixel_mean
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = self.pixel_mean
        if after.dtype != before.dtype and not after.is_meta:
            self.pixel_mean, self.pixel_std = (
                torch.tensor(values).to(after.device, after.dtype).reshape(after.shape)
                for values in (norm.mean, norm.std)
            )
        return self

    def match_precision(self) -> None:
        """Normalize images to the precision of the backbone's parameters, for a module that is in bfloat16 already."""
        like = next((p for p in self.backbone.parameters() if p.is_floating_point()), self.pixel_mean)
        self.pixel_mean, self.pixel_std = self.pixel_mean.to(like.dtype), self.pixel_std.to(like.dtype)

    def set_pixel_norm(self, norm: PixelNorm) -> None:
        """Replace pixel statistics, of as many channels, and the channel order."""
        self.pixel_mean.copy_(torch.tensor(norm.mean))
        self.pixel_std.copy_(torch.tensor(norm.std))
        self._pixel_norm, self.channel_order = norm, norm.channel_order

    def check_layout(self, state: Mapping[str, Tensor]) -> None:
        """Refuse weights whose tensors fit but whose names show that they mean something else.

        Nothing is checked by default.
        """

    def class_parameters(self) -> set[str]:
        """Names of the tensors whose shape depends on the number of classes."""
        return {key for key in self.state_dict() if key.rpartition(".")[0] in self.class_layers}
