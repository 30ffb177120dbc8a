"""Faster R-CNN R50 learns from R101 by FGD, 2x.

accelerate launch recipes/train.py recipes/baselines/faster_rcnn_r50_fgd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_LR02_CLIPPED, published

RECIPE = Recipe(
    "faster_rcnn_r50_fgd_r101",
    "faster_rcnn_r50",
    init="imagenet",
    distill=Distill("faster_rcnn_r101.coco_2x", {"fgd": {}}, inherit=("neck", "head")),
    expect=published(
        "table 2 of the PKD paper, not by the method's authors",
        40.4,
        teacher=39.8,
        plain=38.4,
        rows=["pkd_table2_rivals/FRCNN R101-R50/FGD"],
    ),
    note="neck and head start from the teacher's, as FGD's configurations do with one type of detector. The 42.0 of "
    "FGD's readme are another teacher's, a Cascade Mask R-CNN",
    **TWO_X_LR02_CLIPPED,
)
