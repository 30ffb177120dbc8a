"""FCOS R50 with tricks learns from plain R101 by FGD, 2x at two sizes.

accelerate launch recipes/train.py recipes/baselines/fcos_r50_tricks_fgd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import FCOS_TRICKS_MS_TWO_X_CLIPPED, published

RECIPE = Recipe(
    "fcos_r50_tricks_fgd_r101",
    "fcos_r50_tricks",
    init="imagenet_caffe",
    distill=Distill("fcos_r101_caffe.coco_ms2x", {"fgd": {}}, inherit=("neck",)),
    expect=published("FGD's readme", 42.7, teacher=40.8, plain=38.5, rows=["fgd_repo_readme/FCOS_R50"]),
    note="FGD also copies what fits of the teacher's head, whose towers have no biases and predict pixels instead of "
    "strides; here the neck alone",
    **FCOS_TRICKS_MS_TWO_X_CLIPPED,
)
