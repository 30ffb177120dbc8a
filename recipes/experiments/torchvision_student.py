"""BCCD: does torchvision's RetinaNet learn more with a teacher of this package?

python recipes/experiments/run.py recipes/experiments/torchvision_student.py --data bccd/
accelerate launch recipes/train.py recipes/experiments/torchvision_student.py --data bccd/ \
    --only torchvision_student_plain

The student has a ResNet-50 and random weights, and trains by torchvision's own losses. Images are small, 120 x 160, so
that it trains on one core. Its pyramid is 256 wide and the teacher's 64, so PKD has an adapter. A student takes 4
epochs (820 images).
"""

from dataclasses import replace

from pkdzoo.training import Data, Distill, Logging, Schedule, Warmup
from recipes.experiments.bccd import PLAIN as SMALL
from recipes.experiments.bccd import TEACHER as GFL

DATA = Data(short=120, long=160, batch_size=4, eval_batch_size=4, workers=0)
TEACHER = replace(
    GFL,
    name="torchvision_student_gfl_r18w64",
    data=DATA,
    schedule=Schedule(epochs=12, milestones=(9, 11), warmup=Warmup(steps=100)),
)
PLAIN = replace(
    SMALL,
    name="torchvision_student_plain",
    model="torchvision:retinanet_resnet50_fpn",
    data=DATA,
    schedule=Schedule(epochs=4, milestones=(3, 3.75), warmup=Warmup(steps=100)),
    logging=Logging(eval_every=2, log_every=26),
)
PKD = replace(
    PLAIN,
    name="torchvision_student_pkd",
    distill=Distill("local-dir:runs/experiments/torchvision_student/gfl_r18w64-0/best", {"pkd": {"adapter": True}}),
)
RECIPES = [TEACHER, PLAIN, PKD]
RUNS = (((PLAIN.name, PKD.name), 1),)
