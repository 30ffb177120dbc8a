"""RetinaNet R50, 2x.

accelerate launch recipes/train.py recipes/supervised/retina_r50_2x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import TWO_X, published

RECIPE = Recipe(
    "retina_r50_2x", "retina_r50", init="imagenet", expect=published("mmdetection's model zoo", 37.4), **TWO_X
)
