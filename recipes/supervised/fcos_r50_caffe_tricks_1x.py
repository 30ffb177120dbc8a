"""FCOS R50 with mmdetection's tricks, 1x.

accelerate launch recipes/train.py recipes/supervised/fcos_r50_caffe_tricks_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import FCOS_TRICKS_ONE_X, published

RECIPE = Recipe(
    "fcos_r50_caffe_tricks_1x",
    "fcos_r50_caffe_tricks",
    init="imagenet",
    expect=published("mmdetection's model zoo", 38.7),
    **FCOS_TRICKS_ONE_X,
)
