"""RetinaNet R50 learns from R101 by PKD, 2x.

accelerate launch recipes/train.py recipes/pkd/retina_r50_pkd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_pkd_r101",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_r101.coco_2x", {"pkd": {"weight": 10.0}}, inherit=("neck", "head")),
    expect=published("section 4.2 of the PKD paper, in its text", 39.6, teacher=38.9, plain=37.4),
    note="schedule and the inherited neck and head are inferred from tables 2 and 5",
    **TWO_X,
)
