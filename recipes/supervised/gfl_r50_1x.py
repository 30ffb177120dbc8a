"""GFL R50, 1x.

accelerate launch recipes/train.py recipes/supervised/gfl_r50_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe("gfl_r50_1x", "gfl_r50", init="imagenet", expect=published("mmdetection's model zoo", 40.2), **ONE_X)
