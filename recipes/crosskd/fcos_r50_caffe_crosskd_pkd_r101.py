"""FCOS R50 learns from R101 by CrossKD and PKD, 2x at two sizes.

accelerate launch recipes/train.py recipes/crosskd/fcos_r50_caffe_crosskd_pkd_r101.py --data coco/
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import FCOS_MS_TWO_X, published

RECIPE = Recipe(
    "fcos_r50_caffe_crosskd_pkd_r101",
    "fcos_r50_caffe",
    init="imagenet",
    distill=Distill("fcos_r101_caffe.coco_ms2x", {"crosskd": {}, "pkd": {"weight": 2.0, "levels": 5}}),
    expect=published("CrossKD's readme", 41.3, teacher=40.8, plain=38.5, rows=["crosskd_fcos_pkd"]),
    **FCOS_MS_TWO_X,
)
