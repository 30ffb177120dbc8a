"""RetinaNet R50 learns from FCOS X101 by PKD, 1x.

accelerate launch recipes/train.py recipes/pkd/retina_r50_pkd_fcos_x101_1x.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "retina_r50_pkd_fcos_x101_1x",
    "retina_r50",
    init="imagenet",
    distill=Distill("fcos_x101_64x4d.coco_ms2x", {"pkd": {"weight": 10.0}}),
    expect=published("mmrazor's readme of PKD", 40.3, teacher=42.6, plain=36.5, rows=["pkd_readme_fcosx_retina_1x"]),
    **ONE_X,
)
