"""RTMDet-l learns from RTMDet-x by normalized channel-wise distillation, 300 epochs, as MMYOLO published it.

accelerate launch recipes/train.py recipes/rtmdet/rtmdet_l_kd_x.py --data coco/
"""

from pkdzoo.training import Distill, Mix, Recipe
from pkdzoo.training.schedules import published, rtmdet_300e

RECIPE = Recipe(
    "rtmdet_l_kd_x",
    "rtmdet_l_yolo",
    distill=Distill("rtmdet_x_yolo.coco_300e", {"norm_cwd": {}}),
    expect=published("MMYOLO's readme of RTMDet's distillation", 52.3, teacher=52.8, plain=51.4),
    note="a 1x1 convolution from 256 to 320 channels, without the method from epoch 280 on",
    **rtmdet_300e(Mix(mixup_ratio="beta")),
)
