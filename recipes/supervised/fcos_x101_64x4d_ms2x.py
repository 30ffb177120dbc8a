"""FCOS X101, 2x at two sizes.

accelerate launch recipes/train.py recipes/supervised/fcos_x101_64x4d_ms2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import FCOS_MS_TWO_X, published

RECIPE = Recipe(
    "fcos_x101_64x4d_ms2x",
    "fcos_x101_64x4d",
    init="imagenet",
    expect=published("mmdetection's model zoo", 42.6),
    **FCOS_MS_TWO_X,
)
