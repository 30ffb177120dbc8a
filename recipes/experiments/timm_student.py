"""DeepPCB: does a student on a backbone of timm, MobileNetV4 small, learn more with a teacher?

python recipes/experiments/run.py recipes/experiments/timm_student.py --data deeppcb/
accelerate launch recipes/train.py recipes/experiments/timm_student.py --data deeppcb/ --only timm_student_plain

The backbone starts from random weights, so this says nothing about a pretrained one. Images are those of deeppcb.py.
The teacher is its FCOS, trained for half as long; a student takes 2 epochs (2,000 images).
"""

from dataclasses import replace

from pkdzoo.training import Distill, Schedule, Warmup
from recipes.experiments.deeppcb import FCOS
from recipes.experiments.deeppcb import PLAIN as SMALL

WARMUP = Warmup(steps=100)
TEACHER = replace(
    FCOS, name="timm_student_fcos_r18", schedule=Schedule(epochs=3, milestones=(2.25, 2.75), warmup=WARMUP)
)
PLAIN = replace(
    SMALL,
    name="timm_student_plain",
    model="retina_r10w16",
    model_args={"backbone": "timm:mobilenetv4_conv_small.e2400_r224_in1k", "norm": "bn", "width": 64},
    schedule=Schedule(epochs=2, milestones=(1.5, 1.875), warmup=WARMUP),
)
PKD = replace(
    PLAIN,
    name="timm_student_pkd",
    distill=Distill("local-dir:runs/experiments/timm_student/fcos_r18-0/best", {"pkd": {}}),
)
RECIPES = [TEACHER, PLAIN, PKD]
RUNS = (((PLAIN.name, PKD.name), 1),)
