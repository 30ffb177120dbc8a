"""RetinaNet Swin-T, 1x.

accelerate launch recipes/train.py recipes/supervised/retina_swin_t_1x.py --data coco/
"""

from pkdzoo.training import Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "retina_swin_t_1x",
    "retina_swin_t",
    init="imagenet",
    expect=published("CrossKD's readme", 37.3),
    note="SGD, as mmdetection's configuration of this detector; the weights are CrossKD's",
    **ONE_X,
)
