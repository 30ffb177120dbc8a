"""FCOS R101, 2x at two sizes.

accelerate launch recipes/train.py recipes/supervised/fcos_r101_caffe_ms2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import FCOS_MS_TWO_X, published

RECIPE = Recipe(
    "fcos_r101_caffe_ms2x",
    "fcos_r101_caffe",
    init="imagenet",
    expect=published("mmdetection's model zoo", 40.8),
    **FCOS_MS_TWO_X,
)
