"""The weight of plain imitation, swept: unlike PKD's it has to be found anew for each pair.

accelerate launch recipes/train.py recipes/baselines/table_8_weights.py --data coco/ --only retina_r50_mse_x101_weight_5

Without --only all of them are trained, one after the other. Where student and teacher have equal heads (RetinaNet and
RetinaNet), neck and head start from the teacher's (appendix A.2 of the paper, which does not speak of this table).
"""

from typing import Any, NamedTuple

from pkdzoo.training import Distill, Recipe
from pkdzoo.training.schedules import FCOS_ONE_X, FCOS_TRICKS_MS_TWO_X, ONE_X, TWO_X, TWO_X_LR02, published


class Pair(NamedTuple):
    """One line of the table: weights and what they led to."""

    name: str
    row: str
    student: str
    teacher: str
    schedule: dict[str, Any]
    plain: float
    found: dict[int, float]
    init: str = "imagenet"
    inherit: tuple[str, ...] = ()


FCOS_X101, GFL, RETINA_X101 = "fcos_x101_64x4d.coco_ms2x", "gfl_r101.coco_ms2x", "retina_x101_64x4d.coco_2x"
SWIN = "mask_rcnn_swin_s.coco_3x"
# fmt: off
TABLE = [
    Pair("retina_r50_mse_fcos_x101_1x", "fcosx_retina_1x", "retina_r50", FCOS_X101, ONE_X, 36.5,
         {5: 33.9, 10: 31.4, 20: 29.7}),
    Pair("retina_r50_mse_fcos_x101_2x", "fcosx_retina_2x", "retina_r50", FCOS_X101, TWO_X, 37.4,
         {5: 36.3, 10: 35.6, 20: 34.9}),
    Pair("fcos_r50_caffe_mse_gfl_r101", "gfl_fcos_1x", "fcos_r50_caffe", GFL, FCOS_ONE_X, 36.6,
         {50: 38.7, 70: 39.2}),
    Pair("fcos_r50_tricks_mse_gfl_r101", "gfl_fcos_2x", "fcos_r50_tricks", GFL, FCOS_TRICKS_MS_TWO_X, 39.1,
         {10: 41.5, 30: 42.5, 50: 42.7, 70: 43.0, 80: 42.9}, init="imagenet_caffe"),
    Pair("retina_r50_mse_x101", "retx_retina_2x", "retina_r50", RETINA_X101, TWO_X, 37.4,
         {5: 40.0, 10: 40.4, 15: 40.3}, inherit=("neck", "head")),
    Pair("faster_rcnn_r50_mse_swin", "swin_frcnn_2x", "faster_rcnn_r50", SWIN, TWO_X_LR02, 38.4,
         {3: 41.7, 5: 41.7, 6: 41.6, 10: 41.7}),
]
# fmt: on

RECIPES = [
    Recipe(
        f"{pair.name}_weight_{weight}",
        pair.student,
        init=pair.init,
        distill=Distill(pair.teacher, {"mse": {"weight": float(weight)}}, inherit=pair.inherit),
        expect=published("table 8 of the PKD paper", ap, plain=pair.plain, rows=[f"pkd_t8_{pair.row}_w{weight}"]),
        **pair.schedule,
    )
    for pair in TABLE
    for weight, ap in pair.found.items()
]
