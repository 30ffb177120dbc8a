"""RetinaNet R101, 1x.

accelerate launch recipes/train.py recipes/supervised/retina_r101_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "retina_r101_1x", "retina_r101", init="imagenet", expect=published("mmdetection's model zoo", 38.5), **ONE_X
)
