"""RTMDet-s learns from RTMDet-m by normalized channel-wise distillation, 300 epochs, as MMYOLO published it.

accelerate launch recipes/train.py recipes/rtmdet/rtmdet_s_kd_m.py --data coco/
"""

from pkdzoo.training import Distill, Mix, Recipe
from pkdzoo.training.schedules import published, rtmdet_300e

RECIPE = Recipe(
    "rtmdet_s_kd_m",
    "rtmdet_s_yolo",
    init="imagenet",
    distill=Distill("rtmdet_m_yolo.coco_300e", {"norm_cwd": {}}),
    expect=published("MMYOLO's readme of RTMDet's distillation", 45.7, teacher=49.3, plain=44.6),
    note="a 1x1 convolution from 128 to 192 channels, without the method from epoch 280 on",
    **rtmdet_300e(Mix(scale=(0.5, 2.0), mixup_ratio="beta")),
)
