"""RepPoints R50 learns from X101 with deformable stages by MGD, 2x.

accelerate launch recipes/train.py recipes/baselines/reppoints_r50_mgd_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_CLIPPED, published

RECIPE = Recipe(
    "reppoints_r50_mgd_x101",
    "reppoints_r50",
    init="imagenet",
    distill=Distill("reppoints_x101_dcn.coco_2x", {"mgd": {}}, inherit=("neck", "head")),
    expect=published("MGD's readme", 42.3, teacher=44.2, plain=38.6, rows=["mgd_reppoints_x101_r50"]),
    **TWO_X_CLIPPED,
)
