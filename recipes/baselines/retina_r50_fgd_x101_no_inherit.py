"""RetinaNet R50 learns from X101 by FGD, 2x, without its neck and head.

accelerate launch recipes/train.py recipes/baselines/retina_r50_fgd_x101_no_inherit.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_CLIPPED, published

RECIPE = Recipe(
    "retina_r50_fgd_x101_no_inherit",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_x101_64x4d.coco_2x", {"fgd": {}}),
    expect=published(
        "table 2 of the PKD paper, not by the method's authors",
        40.4,
        teacher=40.8,
        plain=37.4,
        rows=["pkd_table2_rivals/RetinaX101-R50/FGD"],
    ),
    note="the paper does not say how it was trained. That this is FGD without inheritance, which its readme's higher "
    "number has, is inferred",
    **TWO_X_CLIPPED,
)
