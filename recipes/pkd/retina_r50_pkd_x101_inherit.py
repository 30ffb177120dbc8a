"""RetinaNet R50 learns from RetinaNet X101 by PKD, 2x, as in the paper.

accelerate launch recipes/train.py recipes/pkd/retina_r50_pkd_x101_inherit.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_pkd_x101_inherit",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_x101_64x4d.coco_2x", {"pkd": {"weight": 10.0}}, inherit=("neck", "head")),
    expect=published(
        "tables 2 and 5 of the PKD paper",
        (40.8, 60.3, 43.4, 23.0, 45.1, 54.7),
        teacher=40.8,
        plain=37.4,
        rows=["pkd_t2_retina_x101_r50", "pkd_t5_retx_retina_pkd"],
    ),
    note="neck and head start from the teacher's, as the paper's appendix A.2 says of equal heads; mmrazor's "
    "configuration does not do that",
    **TWO_X,
)
