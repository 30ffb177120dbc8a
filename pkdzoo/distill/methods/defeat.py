"""DeFeat: distilling object detectors via decoupled features (Guo et al. 2021, arXiv:2103.14475).

Objects and background are imitated apart, so that the background, which is most of an image, has its own weight. An
object counts at the one level that fits its size; everywhere else that level is background. A 3x3 convolution a level
that starts at nearly nothing, squared differences divided by twice channels times cells, weights 3 and 12, mean over
levels. From the released code, which is for VOC: weights for COCO were not released, and how boxes are rounded to
cells is inferred. The part on region scores exists in that code but is off in its released configuration; it is not
here. A falling weight is the option ``schedule`` (``decay`` or ``epoch_decay``); gradient clipping at 35 belongs to
the recipe.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.masks import object_mask, objects_of, of_level
from pkdzoo.distill.methods.fgfi import ADAPTER_STD
from pkdzoo.distill.methods.imitation import halved_mean, squared_difference
from pkdzoo.distill.pairing import RESIZE, PairBy, Resize, check_choice, match_levels, pair_maps, shape_of
from pkdzoo.distill.projector import adapters
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import Batch


class DeFeat(DistillMethod):
    """Imitation of objects and of background.

    Args:
        student: detector that learns.
        teacher: any detector.
        object_weight: of the cells of objects.
        background_weight: of all other cells.
        levels: pairs of levels, counted from the finest.
        pair: ``index`` or ``stride``.
        resize: what to do with maps of different size.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        object_weight: float = 3.0,
        background_weight: float = 12.0,
        levels: int = 5,
        pair: PairBy = "index",
        resize: Resize = "larger",
    ) -> None:
        super().__init__()
        check_choice("resize", resize, RESIZE)
        shapes = shape_of(student), shape_of(teacher)
        self.pairs = match_levels(*shapes, levels, pair, same_channels=False)
        self.adapters = adapters(*shapes, self.pairs, kernel=3, always=True, std=ADAPTER_STD)
        self.object_weight, self.background_weight = float(object_weight), float(background_weight)
        self.resize: Resize = resize

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        objects = objects_of(batch)
        pairs = pair_maps(student.features, teacher.features, self.pairs, self.resize)
        parts = []
        for level, (adapt, maps) in enumerate(zip(self.adapters, pairs)):
            squares = squared_difference(adapt(maps.student), maps.teacher, normalize=False)
            size = (squares.shape[-2], squares.shape[-1])
            mask = object_mask(of_level(objects, level, len(pairs)), size, maps.stride)
            parts.append(torch.stack([halved_mean(squares, m) for m in (mask, 1 - mask)]))
        found = torch.stack(parts).mean(dim=0)
        return {
            "loss_defeat_object": self.object_weight * found[0],
            "loss_defeat_background": self.background_weight * found[1],
        }
