"""RepPoints R50, 2x.

accelerate launch recipes/train.py recipes/supervised/reppoints_r50_2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "reppoints_r50_2x", "reppoints_r50", init="imagenet", expect=published("mmdetection's model zoo", 38.6), **TWO_X
)
