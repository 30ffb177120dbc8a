"""DeepPCB: does a student on a backbone of timm, MobileNetV4 small, learn more with a teacher?

python recipes/experiments/run.py recipes/experiments/timm_student.py --data deeppcb/
accelerate launch recipes/train.py recipes/experiments/timm_student.py --data deeppcb/ --only timm_student_plain

The backbone starts from random weights, so this says nothing about a pretrained one. So that it trains on one core,
images are smaller than those of deeppcb.py (256 x 256, crops of 192 x 192), and each run takes 2 epochs (2,000 images),
the teacher, its FCOS, as well. That is too short for a useful detector.
"""

from dataclasses import replace

from pkdzoo.training import Distill, Schedule, Warmup
from recipes.experiments.deeppcb import FCOS
from recipes.experiments.deeppcb import PLAIN as SMALL

DATA = replace(SMALL.data, short=256, long=256, crop=(192, 192), test=(256, 256))
SCHEDULE = Schedule(epochs=2, milestones=(1.5, 1.875), warmup=Warmup(steps=100))
TEACHER = replace(FCOS, name="timm_student_fcos_r18", data=DATA, schedule=SCHEDULE)
PLAIN = replace(
    SMALL,
    name="timm_student_plain",
    model="retina_r10w16",
    model_args={"backbone": "timm:mobilenetv4_conv_small.e2400_r224_in1k", "norm": "bn", "width": 64},
    data=DATA,
    schedule=SCHEDULE,
)
PKD = replace(
    PLAIN,
    name="timm_student_pkd",
    distill=Distill("local-dir:runs/experiments/timm_student/fcos_r18-0/best", {"pkd": {}}),
)
RECIPES = [TEACHER, PLAIN, PKD]
RUNS = (((PLAIN.name, PKD.name), 1),)
