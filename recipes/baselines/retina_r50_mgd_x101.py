"""RetinaNet R50 learns from X101 by MGD, 2x.

accelerate launch recipes/train.py recipes/baselines/retina_r50_mgd_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_CLIPPED, published

RECIPE = Recipe(
    "retina_r50_mgd_x101",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_x101_64x4d.coco_1x", {"mgd": {}}, inherit=("neck", "head")),
    expect=published("mmrazor's readme of MGD", 41.0, teacher=41.0, plain=37.4, rows=["mgd_retina_x101_r50"]),
    note="MGD's readme prints 41.0, too; its authors' teacher was trained three times as long, and has that head",
    **TWO_X_CLIPPED,
)
