"""FGD: focal and global knowledge distillation for detectors (Yang et al. 2022, arXiv:2111.11837).

As the authors' FeatureLoss. Focal: squared differences, weighted by the teacher's spatial and channel attention,
separately for objects (all objects count alike, whatever their size) and background; and the student's attention
learns the teacher's. Global: a context block on either side, both trained, and the difference of their outputs.

Differs from the authors' code:

- Boxes are scaled to the map by the padded size; their code divides by the image's own size although the map is of the
  padded batch, which moves boxes slightly. ``boxes_on="image"`` is that.
- Their tap is the pyramid's output before its norm, which only RepPoints has; here it is the pyramid.
- Their configurations copy the teacher's neck and head into a student of the same type and clip gradients at 35;
  both belong to the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pkdzoo.distill.base import DistillMethod, by_family
from pkdzoo.distill.imitation import published_pkd_weight, squared_difference
from pkdzoo.distill.masks import channel_attention, objects_of, rectangles, spatial_attention
from pkdzoo.distill.pairing import Adapter, PairBy, PyramidPairs, Resize, Where, check_choice
from pkdzoo.layers.non_local import GlobalContext
from pkdzoo.losses import normalize_channels
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch, Instances
from pkdzoo.utils.precision import float32_or_wider

BoxesOn = Literal["padded", "image"]
Parts = Literal["all", "focal", "global"]


@dataclass(frozen=True)
class Settings:
    """Weights of one family: objects, background, attention, global; and the attention's temperature."""

    alpha: float = 1e-3
    beta: float = 5e-4
    gamma: float = 5e-4
    lambda_: float = 5e-6
    temperature: float = 0.5


PUBLISHED = {
    "two_stage": Settings(5e-5, 2.5e-5, 5e-5, 5e-7),
    "RetinaNet": Settings(),
    "GFL": Settings(),
    "RepPoints": Settings(1.6e-3, 8e-4, 8e-4, 8e-6),
    "FCOS": Settings(1.6e-3, 8e-4, 8e-4, 8e-6, 0.8),
}


def object_weights(
    objects: list[Instances], sizes: list[tuple[float, float]], map_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Weights of object and background locations.

    Args:
        objects: of each image.
        sizes: (height, width) in pixels that the map is taken to span, for each image.
        map_size: (h, w).

    Returns:
        Foreground (B, 1, h, w): one over the box's area in locations, the largest where boxes overlap, 0 outside
        of all.
        Background (B, 1, h, w): equal where there is no object, summing to 1 in each image (0 where none is left).
    """
    h, w = map_size
    foreground = []
    for o, (height, width) in zip(objects, sizes):
        scaled = o.boxes / o.boxes.new_tensor([width, height, width, height]) * o.boxes.new_tensor([w, h, w, h])
        inside = torch.cat([scaled[:, :2].floor(), scaled[:, 2:].ceil() + 1], dim=1)  # the last location included
        area = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
        weights = rectangles(inside, map_size) / area[:, None, None]
        foreground.append(weights.amax(dim=0) if len(o) else weights.new_zeros(h, w))
    fg = torch.stack(foreground)[:, None]
    bg = (fg == 0).float()
    return fg, bg / bg.sum(dim=(2, 3), keepdim=True).clamp(min=1)


class FGD(DistillMethod):
    """Focal and global distillation.

    Args:
        student: detector that learns.
        teacher: any detector.
        alpha: weight of objects. None: as published for the family; likewise the next four.
        beta: weight of the background.
        gamma: weight of the attention's own difference.
        lambda_: weight of the global part.
        temperature: of the attention.
        levels: pairs of levels; None: those that both have, at most 4 for a two-stage student, 5 for others.
        parts: ``all``, ``focal`` or ``global`` alone (table 4 of the PKD paper).
        boxes_on: which size boxes are relative to, ``padded`` or ``image``.
        normalize: PKD's normalization first; the global part alone, with PKD's half and weight (inferred; how table 4
            combined the weights is not printed). ``lambda_`` overrides that weight.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
        adapter: where numbers of channels differ: ``False`` refuses them, ``True`` projects the student's map by a
            trained 1x1 convolution; ``"conv"`` does so at every level, ``"conv_norm"`` with a norm after it.
        where: the maps that are compared: ``neck`` (the pyramids) or ``backbone`` (the backbones' maps).
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        alpha: float | None = None,
        beta: float | None = None,
        gamma: float | None = None,
        lambda_: float | None = None,
        temperature: float | None = None,
        levels: int | None = None,
        parts: Parts = "all",
        boxes_on: BoxesOn = "padded",
        normalize: bool = False,
        pair: PairBy = "index",
        resize: Resize = "larger",
        adapter: Adapter = True,
        where: Where = "neck",
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("parts", parts, ("all", "focal", "global")),
            ("boxes_on", boxes_on, ("padded", "image")),
        ):
            check_choice(name, value, choices)
        if normalize and parts != "global":
            raise ValueError('normalize=True is defined for the global part: write parts="global" beside it')
        base = by_family(PUBLISHED, student, Settings())
        if normalize:
            base = Settings(base.alpha, base.beta, base.gamma, published_pkd_weight(teacher), base.temperature)
        options = (alpha, beta, gamma, lambda_, temperature)
        defaults = (base.alpha, base.beta, base.gamma, base.lambda_, base.temperature)
        self.settings = Settings(*(float(d if o is None else o) for o, d in zip(options, defaults)))
        most = 4 if student.two_stage else 5
        self.pairs = PyramidPairs(student, teacher, levels, pair, resize, most=most, adapter=adapter, where=where)
        self.parts, self.boxes_on, self.normalize = parts, boxes_on, normalize
        self.takes_unlabeled = parts == "global"
        widths = self.pairs.teacher_channels if parts != "focal" else []
        self.student_context = nn.ModuleList(GlobalContext(width) for width in widths)
        self.teacher_context = nn.ModuleList(GlobalContext(width) for width in widths)

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        objects, sizes = [] if self.parts == "global" else objects_of(batch), self._sizes(batch)
        for level, maps in enumerate(self.pairs(student.features, teacher.features)):
            teacher_map = maps.teacher.detach()
            if self.parts != "global":
                self._add(losses, "loss_fgd_focal", self.focal(maps.student, teacher_map, objects, sizes))
            if self.parts != "focal":
                self._add(losses, "loss_fgd_global", self.global_(maps.student, teacher_map, level))
        return losses

    def focal(
        self, student: Tensor, teacher: Tensor, objects: list[Instances], sizes: list[tuple[float, float]]
    ) -> Tensor:
        """The focal part of one level: squared differences under attention and masks, and the attention's own."""
        s = self.settings
        spatial, channel = spatial_attention(teacher, s.temperature), channel_attention(teacher, s.temperature)
        fg, bg = object_weights(objects, sizes, (student.shape[-2], student.shape[-1]))
        squares = squared_difference(student, teacher, normalize=False)
        weighted = (squares * channel).sum(dim=1, keepdim=True) * spatial
        attention = (channel_attention(student, s.temperature) - channel).abs().sum()
        attention = attention + (spatial_attention(student, s.temperature) - spatial).abs().sum()
        return (s.alpha * (weighted * fg).sum() + s.beta * (weighted * bg).sum() + s.gamma * attention) / len(student)

    def global_(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """The global part of one level."""
        if self.normalize:
            student, teacher = normalize_channels(student), normalize_channels(teacher)
        student_context, teacher_context = self.student_context[level](student), self.teacher_context[level](teacher)
        squares = (float32_or_wider(student_context) - float32_or_wider(teacher_context)).square()  # both are trained
        total: Tensor = 0.5 * squares.mean() if self.normalize else squares.sum() / len(student)
        return self.settings.lambda_ * total

    def _sizes(self, batch: Batch) -> list[tuple[float, float]]:
        if self.boxes_on == "image":
            return [(float(h), float(w)) for h, w in batch.sizes]
        return [(float(batch.images.shape[-2]), float(batch.images.shape[-1]))] * len(batch)

    @staticmethod
    def _add(losses: dict[str, Tensor], name: str, value: Tensor) -> None:
        losses[name] = losses[name] + value if name in losses else value
