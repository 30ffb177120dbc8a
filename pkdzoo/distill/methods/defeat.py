"""DeFeat: distilling object detectors via decoupled features (Guo et al. 2021, arXiv:2103.14475).

Objects and background are imitated separately, so that the background, which is most of an image, has its own weight.
An object counts at the one level that fits its size; at every other level its locations are background. A 3x3
convolution per level that starts at nearly zero, squared differences divided by twice channels times locations, weights
3 and 12, mean over levels. From the released code, which is for VOC: weights for COCO were not released, and how boxes
are rounded to locations is inferred. The part on region scores exists in that code but is off in its released
configuration; it is not here. A falling weight is the option ``schedule`` (``decay`` or ``epoch_decay``); gradient
clipping at 35 belongs to the recipe.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.imitation import PROJECTION_STD, halved_mean, squared_difference
from pkdzoo.distill.masks import object_mask, objects_of, select_level
from pkdzoo.distill.pairing import PairBy, PyramidPairs, Resize
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch


class DeFeat(DistillMethod):
    """Imitation of objects and of background.

    Args:
        student: detector that learns.
        teacher: any detector.
        object_weight: of the locations of objects.
        background_weight: of all other locations.
        levels: pairs of levels, counted from the finest; None means those that both have, at most five.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        object_weight: float = 3.0,
        background_weight: float = 12.0,
        levels: int | None = None,
        pair: PairBy = "index",
        resize: Resize = "larger",
    ) -> None:
        super().__init__()
        self.pairs = PyramidPairs(
            student, teacher, levels, pair, resize, "always", kernel=3, std=PROJECTION_STD, most=5
        )
        self.object_weight, self.background_weight = float(object_weight), float(background_weight)

    def forward(self, student: Trace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        objects = objects_of(batch)
        terms = []
        for level, maps in enumerate(self.pairs(student.features, teacher.features)):
            squares = squared_difference(maps.student, maps.teacher, normalize=False)
            size = (squares.shape[-2], squares.shape[-1])
            mask = object_mask(select_level(objects, level, len(self.pairs)), size, maps.stride)
            terms.append(torch.stack([halved_mean(squares, m) for m in (mask, 1 - mask)]))
        on_objects, on_background = torch.stack(terms).mean(dim=0)
        return {
            "loss_defeat_object": self.object_weight * on_objects,
            "loss_defeat_background": self.background_weight * on_background,
        }
