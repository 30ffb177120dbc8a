"""Faster R-CNN R50 learns from R101 by PKD, 2x, as in the paper.

accelerate launch recipes/train.py recipes/pkd/faster_rcnn_r50_pkd_r101_inherit.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_LR02, published

RECIPE = Recipe(
    "faster_rcnn_r50_pkd_r101_inherit",
    "faster_rcnn_r50",
    init="imagenet",
    distill=Distill("faster_rcnn_r101.coco_2x", {"pkd": {"weight": 6.0}}, inherit=("neck", "head")),
    expect=published(
        "table 2 of the PKD paper",
        (40.5, 60.9, 44.4, 22.6, 44.8, 53.1),
        teacher=39.8,
        plain=38.4,
        rows=["pkd_t2_frcnn_r101_r50"],
    ),
    note="neck and head start from the teacher's, as the paper's appendix A.2 says of equal heads; mmrazor's "
    "configuration does not do that",
    **TWO_X_LR02,
)
