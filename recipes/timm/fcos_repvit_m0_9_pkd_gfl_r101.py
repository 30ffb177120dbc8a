"""FCOS with tricks and RepViT M0.9 learns from GFL R101 by PKD, 1x.

Needs the extra `timm`. The pyramids have the same width, so that PKD compares them without a projection.

accelerate launch recipes/train.py recipes/timm/fcos_repvit_m0_9_pkd_gfl_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TIMM_ONE_X

RECIPE = Recipe(
    "fcos_repvit_m0_9_pkd_gfl_r101",
    "fcos_repvit_m0_9",
    init="imagenet",
    distill=Distill("gfl_r101.coco_ms2x", {"pkd": {}}),
    note="no source publishes this pair",
    **TIMM_ONE_X,
)
