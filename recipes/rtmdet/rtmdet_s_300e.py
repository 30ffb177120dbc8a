"""RTMDet-s, 300 epochs from CSPNeXt's ImageNet weights.

accelerate launch recipes/train.py recipes/rtmdet/rtmdet_s_300e.py --data coco/
"""

from pkdzoo.training import Mix, Recipe
from pkdzoo.training.schedules import published, rtmdet_300e

RECIPE = Recipe(
    "rtmdet_s_300e",
    "rtmdet_s",
    init="imagenet",
    expect=published("mmdetection's readme of RTMDet", 44.6),
    note="44.5 in the metafile of mmdetection 3.3.0, from before a change of the test settings",
    **rtmdet_300e(Mix(scale=(0.5, 2.0))),
)
