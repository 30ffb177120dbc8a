"""DeepPCB, 1,000 images of circuit boards: small students, three teachers, PKD, MSE, Norm + KL, CrossKD, FGD, FBKD.

python recipes/experiments/run.py recipes/experiments/deeppcb.py --data deeppcb/
accelerate launch recipes/train.py recipes/experiments/deeppcb.py --data deeppcb/ --only deeppcb_plain

Everything is trained from scratch at half size (320 x 320), on crops of 256 x 256. A student takes 4 epochs (4,000
images). The order follows the claims: FCOS teacher, plain, PKD and MSE with five seeds, then single seeds.
"""

from dataclasses import replace
from typing import Any

from pkdzoo.training import Data, Distill, Logging, Optim, Recipe, Schedule, Warmup

DATA = Data(
    short=320, long=320, crop=(256, 256), test=(320, 320), batch_size=4, eval_batch_size=4, workers=0, min_image_size=0
)
GN = {"norm": "gn", "frozen_stages": 0, "width": 64}
PLAIN = Recipe(
    "deeppcb_plain",
    "retina_r10w16",
    data=DATA,
    optim=Optim(lr=0.01, base_batch_size=4, clip=10.0),
    schedule=Schedule(epochs=4, milestones=(3, 3.75), warmup=Warmup(steps=100)),
    logging=Logging(eval_every=2, log_every=50),
)
LONGER = Schedule(epochs=6, milestones=(4.5, 5.5), warmup=Warmup(steps=100))
FCOS = replace(
    PLAIN, name="deeppcb_fcos_r18", model="fcos_r50_tricks", schedule=LONGER,
    model_args={**GN, "backbone": "r18", "depth": 2, "head_norm": "gn"},
)  # fmt: skip
RETINA = replace(FCOS, name="deeppcb_retina_r18", model="retina_r18", model_args={**GN, "depth": 2, "head_norm": "gn"})
FASTER = replace(FCOS, name="deeppcb_faster_r18", model="faster_rcnn_r10w16", model_args={"backbone": "r18"})
FCOS_STUDENT = replace(PLAIN, name="deeppcb_fcos_plain", model="fcos_r10w16", model_args={"tricks": True})


def distilled(name: str, methods: dict[str, Any], teacher: Recipe = FCOS, student: Recipe = PLAIN) -> Recipe:
    folder = f"runs/experiments/deeppcb/{teacher.name.removeprefix('deeppcb_')}-0/best"
    return replace(student, name=f"deeppcb_{name}", distill=Distill(f"local-dir:{folder}", methods))


SINGLE = [
    FCOS_STUDENT, distilled("fcos_pkd", {"pkd": {}}, FCOS, FCOS_STUDENT), distilled("norm_kl", {"norm_kl": {}}),
    distilled("fbkd", {"fbkd": {}}), distilled("fgd", {"fgd": {}}), distilled("pkd_weight_3", {"pkd": {"weight": 3.0}}),
    distilled("pkd_retina", {"pkd": {}}, RETINA), distilled("mse_retina", {"mse": {}}, RETINA),
    distilled("crosskd_retina", {"crosskd": {}}, RETINA),
    distilled("crosskd_pkd_retina", {"crosskd": {}, "pkd": {}}, RETINA),
    distilled("pkd_faster", {"pkd": {}}, FASTER), distilled("mse_faster", {"mse": {}}, FASTER),
    distilled("fcos_mse", {"mse": {}}, FCOS, FCOS_STUDENT),
]  # fmt: skip
SHAPES = replace(PLAIN, name="deeppcb_pkd_from_shapes", distill=Distill("fcos_r18w24.shapes", {"pkd": {}}))
RECIPES = [FCOS, RETINA, FASTER, PLAIN, distilled("pkd", {"pkd": {}}), distilled("mse", {"mse": {}}), *SINGLE, SHAPES]
RUNS = ((("deeppcb_plain", "deeppcb_pkd", "deeppcb_mse"), 5), ((SHAPES.name, *(r.name for r in SINGLE)), 1))
