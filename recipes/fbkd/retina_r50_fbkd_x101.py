"""RetinaNet R50 learns from X101 by FBKD, 2x.

accelerate launch recipes/train.py recipes/fbkd/retina_r50_fbkd_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_fbkd_x101",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_x101_64x4d.coco_2x", {"fbkd": {"version": "one_stage"}}),
    expect=published(
        "table 2 of the PKD paper, not by the method's authors",
        39.6,
        teacher=40.8,
        plain=37.4,
        rows=["pkd_table2_rivals/RetinaX101-R50/FKD"],
    ),
    note="called FKD there, which is FBKD's paper; the version as in retina_r50_fbkd_r101.py; the start is not printed",
    **TWO_X,
)
