"""RTMDet-tiny, 300 epochs from CSPNeXt's ImageNet weights.

accelerate launch recipes/train.py recipes/rtmdet/rtmdet_tiny_300e.py --data coco/
"""

from pkdzoo.training import Mix, Recipe
from pkdzoo.training.schedules import published, rtmdet_300e

RECIPE = Recipe(
    "rtmdet_tiny_300e",
    "rtmdet_tiny",
    init="imagenet",
    expect=published("mmdetection's readme of RTMDet", 41.1),
    note="40.9 in the metafile of mmdetection 3.3.0, from before a change of the test settings",
    **rtmdet_300e(Mix(scale=(0.5, 2.0), mixup=0.5)),
)
