"""RepPoints R50 learns from X101 with deformable stages by PKD, 2x, as in the paper.

accelerate launch recipes/train.py recipes/pkd/reppoints_r50_pkd_x101_inherit.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "reppoints_r50_pkd_x101_inherit",
    "reppoints_r50",
    init="imagenet",
    distill=Distill("reppoints_x101_dcn.coco_2x", {"pkd": {"weight": 10.0}}, inherit=("neck", "head")),
    expect=published(
        "table 2 of the PKD paper",
        (42.3, 63.1, 45.4, 23.9, 46.6, 56.5),
        teacher=44.2,
        plain=38.6,
        rows=["pkd_t2_reppoints_x101_r50"],
    ),
    note="neck and head start from the teacher's, as the paper's appendix A.2 says of equal heads; mmrazor's "
    "configuration does not do that",
    **TWO_X,
)
