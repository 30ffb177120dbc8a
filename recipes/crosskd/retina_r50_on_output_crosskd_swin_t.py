r"""RetinaNet R50 learns from RetinaNet Swin-T by CrossKD, 1x.

accelerate launch recipes/train.py recipes/crosskd/retina_r50_on_output_crosskd_swin_t.py --data coco/ \
    --set distill.teacher_weights=runs/retina_swin_t_1x/last/model.safetensors
"""

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import ONE_X, published

RECIPE = Recipe(
    "retina_r50_on_output_crosskd_swin_t",
    "retina_r50_on_output",
    init="imagenet",
    distill=Distill("retina_swin_t.coco_1x", {"crosskd": {}}),
    expect=published("CrossKD's readme", 38.0, teacher=37.3, plain=36.5, rows=["crosskd_retina_swint"]),
    note="the student's P6 comes from P5, as in all of CrossKD's RetinaNet configurations; the plain student's comes "
    "from the backbone. The authors share the teacher by hand only; without it train "
    "recipes/supervised/retina_swin_t_1x.py first",
    **ONE_X,
)
