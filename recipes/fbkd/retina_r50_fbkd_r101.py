"""RetinaNet R50 learns from R101 by FBKD, 2x.

accelerate launch recipes/train.py recipes/fbkd/retina_r50_fbkd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_fbkd_r101",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_r101.coco_2x", {"fbkd": {"version": "one_stage"}}),
    expect=published(
        "the readme of Global Knowledge, not by the method's authors",
        39.3,
        teacher=38.9,
        plain=37.4,
        rows=["global_knowledge_retina/FBKD"],
    ),
    note="as copies of a one-stage code whose author could not be verified; whether this run used it and whether the "
    "student started trained is not printed",
    **TWO_X,
)
