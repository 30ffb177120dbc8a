"""RetinaNet R50 learns from X101 by FRS, 2x.

accelerate launch recipes/train.py recipes/baselines/retina_r50_frs_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_frs_x101",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_x101_64x4d.coco_2x", {"frs": {}}),
    expect=published(
        "table 2 of the PKD paper, not by the method's authors",
        40.1,
        teacher=40.8,
        plain=37.4,
        rows=["pkd_table2_rivals/RetinaX101-R50/FRS"],
    ),
    **TWO_X,
)
