"""GFL R50 learns from R101 by imitation inside the objects' boxes after PKD's normalization, 1x.

accelerate launch recipes/train.py recipes/baselines/gfl_r50_gt_mask_norm_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "gfl_r50_gt_mask_norm_r101",
    "gfl_r50",
    init="imagenet",
    distill=Distill("gfl_r101.coco_ms2x", {"gt_mask": {"normalize": True}}, inherit=("neck", "head")),
    expect=published("table 4 of the PKD paper", 43.0, teacher=44.7, plain=40.2, rows=["pkd_t4_gfl_gt_mask_pkd_norm"]),
    note="table 4 prints neither schedule nor weights: 1x, because the plain student has 40.2; weights PKD's, on "
    "normalized maps. Neck and head start from the teacher's (appendix A.2, which does not speak of this table)",
    **ONE_X,
)
