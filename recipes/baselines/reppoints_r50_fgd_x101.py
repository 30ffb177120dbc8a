"""RepPoints R50 learns from X101 with deformable stages by FGD, 2x.

accelerate launch recipes/train.py recipes/baselines/reppoints_r50_fgd_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_CLIPPED, published

RECIPE = Recipe(
    "reppoints_r50_fgd_x101",
    "reppoints_r50",
    init="imagenet",
    distill=Distill("reppoints_x101_dcn.coco_2x", {"fgd": {}}, inherit=("neck", "head")),
    expect=published("FGD's readme", 42.0, plain=38.6, rows=["fgd_repo_readme/RepPoints_R50"]),
    note="neck and head start from the teacher's, as FGD's configurations do with one type of detector. The PKD "
    "paper prints 41.3 for FGD on RepPoints",
    **TWO_X_CLIPPED,
)
