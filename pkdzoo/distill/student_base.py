"""The base class of students that are modules of other origin: they give their losses and their maps, and no head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from pkdzoo.data.labels import check_names
from pkdzoo.distill.pairing import PyramidShape
from pkdzoo.distill.teacher import check_maps
from pkdzoo.models._checks import check_instances
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Depth, Trace
from pkdzoo.structures import Batch, FeaturePyramid, Instances, PixelNorm
from pkdzoo.utils.text import counted

if TYPE_CHECKING:
    from typing_extensions import Self

PROBE = (256, 384)  # height and width of the gray image that gives channels and strides


@dataclass(frozen=True)
class StudentTrace(Trace[Any]):
    """A pass of a student of other origin: its maps and its weighted losses by name. It has no outputs of a head.

    A pass over unlabeled images has no losses.
    """

    losses: dict[str, Tensor]


class ModuleStudent(Detector):
    """A module that learns by its own losses; subclasses say how it is called.

    Args:
        module: the network.
        num_classes: C.
        mean: mean of each channel, of raw pixels 0-255.
        std: standard deviation of each channel, likewise.
        channel_order: ``rgb`` or ``bgr``.
        strides: of each map in pixels; None: measured by a pass over a gray image.

    Attributes:
        pyramid_shape: channels and strides of the maps.
    """

    pyramid_shape: PyramidShape
    has_graph = False
    has_features_alone = False

    def __init__(
        self,
        module: nn.Module,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        channel_order: Literal["rgb", "bgr"] = "rgb",
        strides: Sequence[int] | None = None,
    ) -> None:
        if channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order={channel_order!r}: write 'rgb' or 'bgr'")
        norm = PixelNorm(tuple(mean), tuple(std), channel_order)
        super().__init__(backbone=module, neck=nn.Identity(), num_classes=num_classes, pixel_norm=norm)
        self.match_precision()
        self.name = type(module).__name__
        self.pyramid_shape = self._probe(strides)

    def losses_and_maps(
        self, batch: Batch, instances: list[Instances]
    ) -> tuple[Mapping[str, Tensor], Sequence[Tensor]]:
        """Weighted losses by name, and maps (B, C, h, w), finest first, of a batch of raw images.

        Args:
            batch: the images.
            instances: their objects, without crowds.
        """
        raise NotImplementedError

    def maps(self, batch: Batch) -> Sequence[Tensor]:
        """Maps (B, C, h, w), finest first, without losses; only where ``has_features_alone``."""
        raise NotImplementedError

    def with_labels(self, label_names: Sequence[str] | None) -> Self:
        """The same student with class names.

        Raises:
            ValueError: for another number of names than of classes, an empty name, and one that occurs twice.
        """
        if label_names is not None:
            if len(label_names) != self.num_classes:
                raise ValueError(
                    f"{counted(len(label_names), 'class name')} for "
                    f"{counted(self.num_classes, 'class')}: write one per class"
                )
            check_names(label_names)
            self.label_names = tuple(label_names)
        return self

    def extract_features(self, batch: Batch) -> FeaturePyramid:
        """Refused: the maps come with the losses, by ``trace``."""
        raise ValueError(
            f"{self.name} belongs to another library and gives its maps with its losses alone: export it as that "
            "library does"
        )

    def trace(self, batch: Batch, upto: Depth = "loss", tap: int | None = None) -> StudentTrace:  # type: ignore[override]
        """Maps and losses of a batch.

        Of images without annotations it gives the maps alone, with ``upto="features"``, where ``has_features_alone``.

        Raises:
            ValueError: for ``upto="head"``, a tap, a batch without objects, and a forward that returns no losses.
        """
        if upto == "head" or tap is not None:
            raise ValueError(
                f"{self.name} is a pkdzoo.Student, which has maps and losses only: methods that compare heads need a "
                "detector of this package"
            )
        if batch.instances is None and upto == "features" and self.has_features_alone:
            return StudentTrace(self, FeaturePyramid(list(self.maps(batch)), self.pyramid_shape.strides), {})
        if batch.instances is None:
            raise ValueError("a pkdzoo.Student needs Batch.instances")
        check_instances(batch.instances, batch.meta, self.num_classes)
        losses, maps = self._checked(batch, [objects.without_crowd() for objects in batch.instances])
        return StudentTrace(self, FeaturePyramid(maps, self.pyramid_shape.strides), losses)

    def _checked(self, batch: Batch, instances: list[Instances]) -> tuple[dict[str, Tensor], list[Tensor]]:
        returned = self.losses_and_maps(batch, instances)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise ValueError(f"forward must return (losses, maps), and returned a {type(returned).__name__}")
        losses, maps = returned
        if not isinstance(losses, Mapping) or not losses:
            raise ValueError(
                "forward returned no losses: return a dict of weighted losses by name and a list of maps, e.g. "
                '({"loss_cls": loss}, maps)'
            )
        wrong = [name for name, value in losses.items() if not (isinstance(value, Tensor) and value.numel() == 1)]
        if wrong:
            raise ValueError(f"loss {wrong[0]!r} is no single number: sum or average it in forward")
        if not maps or not all(isinstance(m, Tensor) and m.ndim == 4 for m in maps):
            raise ValueError("forward must return a list of maps (B, C, h, w), finest first, beside its losses")
        return {name: value.reshape(()) for name, value in losses.items()}, list(maps)

    def _probe(self, strides: Sequence[int] | None) -> PyramidShape:
        """Channels and strides of the maps, from one pass over a gray landscape image with one object."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        like = next(self.backbone.parameters(), self.pixel_mean)
        images = torch.full((1, len(self.pixel_mean), *PROBE), 128.0, device=like.device)
        box = torch.tensor([[32.0, 32.0, 160.0, 128.0]], device=like.device)
        objects = [Instances(box, torch.zeros(1, dtype=torch.int64, device=like.device))]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            _, maps = self._checked(Batch(images, [PROBE], objects), objects)
        for module in training:
            module.training = True
        shapes = [tuple(m.shape) for m in maps]
        measured = tuple(2 ** round(torch.tensor(PROBE[0] / shape[2]).log2().item()) for shape in shapes)
        if strides is not None and len(strides) != len(maps):
            raise ValueError(
                f"strides={tuple(strides)}, but forward returned {len(maps)} maps of strides about {measured}"
            )
        known = measured if strides is None else tuple(map(int, strides))
        check_maps(shapes, PROBE, known)
        return PyramidShape(tuple(m.shape[1] for m in maps), known)

    def fold(self) -> None:
        """Does nothing: the order in which a foreign module runs its layers is unknown."""

    def push_to_hub(self, *args: Any, **kwargs: Any) -> str:
        """Refused: the model belongs to another library."""
        raise ValueError(f"{self.name} belongs to another library: publish its folder as that library does")
