"""FCOS R50, 2x at two sizes.

accelerate launch recipes/train.py recipes/supervised/fcos_r50_caffe_ms2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import FCOS_MS_TWO_X, published

RECIPE = Recipe(
    "fcos_r50_caffe_ms2x",
    "fcos_r50_caffe",
    init="imagenet",
    expect=published("mmdetection's model zoo", 38.5),
    **FCOS_MS_TWO_X,
)
