"""TOOD R50, 1x.

accelerate launch recipes/train.py recipes/supervised/tood_r50_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe("tood_r50_1x", "tood_r50", init="imagenet", expect=published("mmdetection's model zoo", 42.4), **ONE_X)
