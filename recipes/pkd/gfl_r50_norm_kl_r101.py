"""GFL R50 learns from R101 by PKD's KL form, 1x.

accelerate launch recipes/train.py recipes/pkd/gfl_r50_norm_kl_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "gfl_r50_norm_kl_r101",
    "gfl_r50",
    init="imagenet",
    distill=Distill("gfl_r101.coco_ms2x", {"norm_kl": {"weight": 10.0, "temperature": 50.0}}, inherit=("neck", "head")),
    expect=published(
        "table 7 of the PKD paper", (43.1, 60.9, 46.7, 25.1, 47.8, 55.9), teacher=44.9, plain=40.2, rows=["pkd_t7_gfl"]
    ),
    note="neck and head start from the teacher's (appendix A.2); no code of this form was published. mmdetection's "
    "zoo prints 44.7 for the teacher",
    **ONE_X,
)
