"""FCOS R50, 1x.

accelerate launch recipes/train.py recipes/supervised/fcos_r50_caffe_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import FCOS_ONE_X, published

RECIPE = Recipe(
    "fcos_r50_caffe_1x",
    "fcos_r50_caffe",
    init="imagenet",
    expect=published("mmdetection's model zoo", 36.6),
    **FCOS_ONE_X,
)
