"""RetinaNet R50 learns from X101 by FGD, 2x; the teacher was trained for 1x.

accelerate launch recipes/train.py recipes/baselines/retina_r50_fgd_x101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import TWO_X_CLIPPED, published

RECIPE = Recipe(
    "retina_r50_fgd_x101",
    "retina_r50",
    init="imagenet",
    distill=Distill("retina_x101_64x4d.coco_1x", {"fgd": {}}, inherit=("neck", "head")),
    expect=published("FGD's readme", 40.7, plain=37.4, rows=["fgd_repo_readme/RetinaNet_R50"]),
    note="neck and head start from the teacher's, as FGD's configurations do with one type of detector. The PKD "
    "paper prints 40.4 for FGD on RetinaNet. The teacher is the 1x file 366f5af1, as in FGD's configuration",
    **TWO_X_CLIPPED,
)
