"""What the machinery of the zoo (configs, cards, builder, weights) knows of a detector.

``detector.py`` uses that machinery, so the machinery cannot import it; it works on this base class instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from pkdzoo.structures import PostProcess


class ZooModel(nn.Module):
    """The attributes of a :class:`pkdzoo.models.detector.Detector` that are saved, loaded and described.

    Attributes:
        class_layers: modules whose shape depends on the number of classes.
        key_rules: renaming of mmdetection's checkpoint keys to ours.
        name: registered name, ``arch``.
        overrides: arguments in which it differs from what its name stands for.
        num_classes: C.
        label_names: one a class.
        pixel_mean: (channels,) of raw pixels 0-255, in ``channel_order``.
        pixel_std: (channels,) likewise.
        channel_order: order of the channels that the network takes.
        resize: (short, long) side in pixels that images are scaled to.
        postprocess_config: how detections are made of head outputs.
        optimized: True after ``optimize()``: its state dict is not its architecture's any more.
        loaded_from: where the weights came from; None as long as they are random.
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
    postprocess_config: PostProcess
    optimized: bool
    loaded_from: str | None
    backbone: nn.Module
    neck: nn.Module

    def class_parameters(self) -> set[str]:
        """Names of the tensors whose shape depends on the number of classes."""
        return {key for key in self.state_dict() if key.rpartition(".")[0] in self.class_layers}
