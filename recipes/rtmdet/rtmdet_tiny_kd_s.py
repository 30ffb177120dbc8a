"""RTMDet-tiny learns from RTMDet-s by normalized channel-wise distillation, 300 epochs, as MMYOLO published it.

accelerate launch recipes/train.py recipes/rtmdet/rtmdet_tiny_kd_s.py --data coco/
"""

from pkdzoo.training import Distill, Mix, Recipe
from pkdzoo.training.schedules import published, rtmdet_300e

RECIPE = Recipe(
    "rtmdet_tiny_kd_s",
    "rtmdet_tiny_yolo",
    init="imagenet",
    distill=Distill("rtmdet_s_yolo.coco_300e", {"norm_cwd": {}}),
    expect=published("MMYOLO's readme of RTMDet's distillation", 41.8, teacher=44.6, plain=41.0),
    note="a 1x1 convolution from 96 to 128 channels, without the method from epoch 280 on",
    **rtmdet_300e(Mix(scale=(0.5, 2.0), mixup=0.5, mixup_ratio="beta")),
)
