"""ATSS R50, 1x.

accelerate launch recipes/train.py recipes/supervised/atss_r50_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe("atss_r50_1x", "atss_r50", init="imagenet", expect=published("mmdetection's model zoo", 39.4), **ONE_X)
