"""RTMDet-m learns from RTMDet-l by normalized channel-wise distillation, 300 epochs, as MMYOLO published it.

accelerate launch recipes/train.py recipes/rtmdet/rtmdet_m_kd_l.py --data coco/
"""

from pkdzoo.training import Distill, Mix, Recipe
from pkdzoo.training.schedules import published, rtmdet_300e

RECIPE = Recipe(
    "rtmdet_m_kd_l",
    "rtmdet_m_yolo",
    distill=Distill("rtmdet_l_yolo.coco_300e", {"norm_cwd": {}}),
    expect=published("MMYOLO's readme of RTMDet's distillation", 50.2, teacher=51.4, plain=49.3),
    note="a 1x1 convolution from 192 to 256 channels, without the method from epoch 280 on",
    **rtmdet_300e(Mix(mixup_ratio="beta")),
)
