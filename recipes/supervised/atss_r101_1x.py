"""ATSS R101, 1x.

accelerate launch recipes/train.py recipes/supervised/atss_r101_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "atss_r101_1x", "atss_r101", init="imagenet", expect=published("mmdetection's model zoo", 41.5), **ONE_X
)
