"""GFL R50 learns from R101 by FGD, 1x.

accelerate launch recipes/train.py recipes/baselines/gfl_r50_fgd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X_CLIPPED, published

RECIPE = Recipe(
    "gfl_r50_fgd_r101",
    "gfl_r50",
    init="imagenet",
    distill=Distill("gfl_r101.coco_ms2x", {"fgd": {}}, inherit=("neck", "head")),
    expect=published("FGD's readme", 43.5, teacher=44.7, plain=40.2, rows=["fgd_repo_readme/GFL_R50"]),
    note="neck and head start from the teacher's, as FGD's configurations do with one type of detector",
    **ONE_X_CLIPPED,
)
