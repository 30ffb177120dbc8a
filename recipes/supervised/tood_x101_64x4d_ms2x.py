"""TOOD X101, 2x at many sizes.

accelerate launch recipes/train.py recipes/supervised/tood_x101_64x4d_ms2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import MS_TWO_X, published

RECIPE = Recipe(
    "tood_x101_64x4d_ms2x",
    "tood_x101_64x4d",
    init="imagenet",
    expect=published("mmdetection's model zoo", 47.6),
    **MS_TWO_X,
)
