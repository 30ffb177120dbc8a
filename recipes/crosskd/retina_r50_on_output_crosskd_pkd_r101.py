"""RetinaNet R50 learns from R101 by CrossKD and PKD, 2x.

accelerate launch recipes/train.py recipes/crosskd/retina_r50_on_output_crosskd_pkd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_on_output_crosskd_pkd_r101",
    "retina_r50_on_output",
    init="imagenet",
    distill=Distill("retina_r101.coco_2x", {"crosskd": {}, "pkd": {"weight": 2.0, "levels": 5}}),
    expect=published("CrossKD's readme", 39.8, teacher=38.9, plain=37.4, rows=["crosskd_retina_pkd"]),
    note="the student's P6 comes from P5, as in all of CrossKD's RetinaNet configurations; the plain student's comes "
    "from the backbone",
    **TWO_X,
)
