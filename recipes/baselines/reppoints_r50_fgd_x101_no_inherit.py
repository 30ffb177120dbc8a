"""RepPoints R50 learns from X101 with deformable stages by FGD, 2x, without its neck and head.

accelerate launch recipes/train.py recipes/baselines/reppoints_r50_fgd_x101_no_inherit.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_CLIPPED, published

RECIPE = Recipe(
    "reppoints_r50_fgd_x101_no_inherit",
    "reppoints_r50",
    init="imagenet",
    distill=Distill("reppoints_x101_dcn.coco_2x", {"fgd": {}}),
    expect=published(
        "table 2 of the PKD paper, not by the method's authors",
        41.3,
        teacher=44.2,
        plain=38.6,
        rows=["pkd_table2_rivals/RepPoints/FGD"],
    ),
    note="the paper does not say how it was trained. That this is FGD without inheritance, which its readme's higher "
    "number has, is inferred",
    **TWO_X_CLIPPED,
)
