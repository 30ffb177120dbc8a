"""TOOD R50 learns from X101 by PKD, 1x.

accelerate launch recipes/train.py recipes/pkd/tood_r50_pkd_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "tood_r50_pkd_x101",
    "tood_r50",
    init="imagenet",
    distill=Distill("tood_x101_64x4d.coco_ms2x", {"pkd": {"weight": 10.0}}, inherit=("neck", "head")),
    expect=published(
        "table 2 of the PKD paper",
        (45.5, 62.8, 49.3, 27.4, 49.8, 58.4),
        teacher=47.6,
        plain=42.4,
        rows=["pkd_t2_tood_x101_r50"],
    ),
    note="neck and head start from the teacher's, as the paper's appendix A.2 says of equal heads",
    **ONE_X,
)
