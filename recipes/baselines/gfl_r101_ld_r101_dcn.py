"""GFL R101 learns from R101 with deformable stages by LD, 2x at many sizes.

accelerate launch recipes/train.py recipes/baselines/gfl_r101_ld_r101_dcn.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import MS_TWO_X, published

RECIPE = Recipe(
    "gfl_r101_ld_r101_dcn",
    "gfl_r101",
    init="imagenet",
    distill=Distill("gfl_r101_dcn.coco_ms2x", {"ld": {}}),
    expect=published("mmdetection's model zoo", 45.5, teacher=47.1, plain=44.6, rows=["ld_r101_r101_dcn"]),
    note="the readme speaks of batches of 6, the configuration of a rate of 0.01 for 16 images, which is here",
    **MS_TWO_X,
)
