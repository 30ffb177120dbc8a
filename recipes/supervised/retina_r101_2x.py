"""RetinaNet R101, 2x.

accelerate launch recipes/train.py recipes/supervised/retina_r101_2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r101_2x", "retina_r101", init="imagenet", expect=published("mmdetection's model zoo", 38.9), **TWO_X
)
