"""The published weights of RTMDet: mmdetection's, MMYOLO's, and the distilled ones of MMYOLO's students.

APs are COCO val2017 box APs in percent. mmdetection's are those of its readme; its metafile prints slightly lower ones,
from before a change of the test settings. The weights of MMYOLO and of its distillation state no license of their own.
"""

from __future__ import annotations

from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.models._published import ZOO

TAG = "coco_300e"
NO_LICENSE = "the weights state no license; MMYOLO, whose config trained them, is under GPL-3.0"

# size -> end of mmdetection's file name, AP of its readme, AP of its metafile
MMDETECTION = {
    "tiny": ("20220902_112414-78e30dcc", 41.1, 40.9),
    "s": ("20220905_161602-387a891e", 44.6, 44.5),
    "m": ("20220719_112220-229f527c", 49.4, 49.1),
    "l": ("20220719_112030-5a0be7c4", 51.5, 51.3),
    "x": ("20220715_230555-cc79b9ae", 52.8, 52.6),
}
# size -> end of MMYOLO's file name, AP
MMYOLO = {
    "tiny": ("20230102_140117-dbb1dc83", 41.0),
    "s": ("20221230_182329-0a8c901a", 44.6),
    "m": ("20230102_135952-40af4fe8", 49.3),
    "l": ("20230102_135928-ee3abdc4", 51.4),
    "x": ("20221231_100345-b85cd476", 52.8),
}
# student, teacher -> end of the file name, AP
DISTILLED = {
    ("tiny", "s"): ("20230213_104240-e1e4197c", 41.8),
    ("s", "m"): ("20230220_140647-446ff003", 45.7),
    ("m", "l"): ("20230220_141313-b806f503", 50.2),
    ("l", "x"): ("20230220_141912-c9979722", 52.3),
}
DISTILLATION_README = "MMYOLO's readme of RTMDet's distillation"


def _row(folder: str, name: str, end: str, ap: float, source: str, license: str, note: str) -> Weights:
    url = f"{ZOO}{folder}/{name}/{name}_{end}.pth"
    digest = end.rpartition("-")[2]
    return Weights(TAG, url, sha256=digest, metrics={"AP": ap}, source=source, license=license, note=note)


def _mmdetection(size: str) -> Weights:
    end, ap, older = MMDETECTION[size]
    name = f"rtmdet_{size}_8xb32-300e_coco"
    note = f"AP of the readme, with its later test settings; the metafile prints {older}"
    return _row("mmdetection/v3.0/rtmdet", name, end, ap, "mmdetection's readme of RTMDet", "Apache-2.0", note)


def _mmyolo(size: str) -> Weights:
    end, ap = MMYOLO[size]
    name = f"rtmdet_{size}_syncbn_fast_8xb32-300e_coco"
    return _row("mmyolo/v0/rtmdet", name, end, ap, "MMYOLO's readme of RTMDet", "unknown", NO_LICENSE)


def _pair(student: str, teacher: str) -> tuple[Distilled, Weights]:
    end, ap = DISTILLED[student, teacher]
    name = f"kd_{student}_rtmdet_{teacher}_neck_300e_coco"
    triple = (MMYOLO[teacher][1], MMYOLO[student][1], ap)
    pair = Distilled(
        f"rtmdet_{student}_yolo",
        f"rtmdet_{teacher}_yolo.{TAG}",
        ("norm_cwd",),
        triple,
        DISTILLATION_README,
        "student and teacher are MMYOLO's; mmrazor trained them",
    )
    folder = "mmrazor/v1/rtmdet_distillation"
    return pair, _row(folder, name, end, ap, DISTILLATION_README, "unknown", NO_LICENSE)


# The student inside the package and its teacher: recipes/experiments/rtmdet_bccd.py trains both.
BCCD_RESULTS = "recipes/experiments/results/rtmdet_bccd"
BCCD_LAUNCH = "python recipes/experiments/run.py recipes/experiments/rtmdet_bccd.py --data DIR"
BCCD_OPTIONS = "--cpu --threads 1 --mixed-precision bf16 --channels-last --cache-images 1"
BCCD_TEACHER = Weights(
    "bccd",
    metrics={"AP": 60.5, "AP50": 89.6, "AP75": 67.3},
    source=f"measured: {BCCD_RESULTS}/w24-0.json",
    license="Apache-2.0",
    labels="bccd",
    launch=f"{BCCD_LAUNCH} --runs w24-0 -- {BCCD_OPTIONS}",
    note="not shipped: 10 MB in float16",
)
BCCD_PAIR = Distilled(
    "rtmdet_w12",
    "rtmdet_tiny.bccd",
    ("pkd",),
    (60.5, 51.0, 57.1),
    f"measured, mean of seeds 0 and 1: {BCCD_RESULTS}",
    "of two plain students one hardly finds platelets (45.6 AP) and one does (56.4), so the gain of one seed is chance",
)
BCCD_STUDENT = Weights(
    "bccd",
    file="rtmdet_w12_pkd_tiny_bccd.safetensors",
    sha256="e7150600d4e69cb044f2a61d01a5a8209d04d3cff4654bfdc8bdb1e5871e8ed1",
    metrics={
        **{"AP": 57.1, "AP50": 87.6, "AP75": 62.8, "APs": 23.9, "APm": 41.5, "APl": 68.8},
        **{"AR1": 38.1, "AR10": 60.5, "AR100": 67.5, "ARs": 24.3, "ARm": 60.5, "ARl": 77.4},
        "per_class": {"RBC": 55.7, "WBC": 78.1, "Platelets": 37.5},
    },
    source="measured: python recipes/evaluate.py rtmdet_w12_pkd_tiny.bccd --data bccd",
    license="Apache-2.0",
    labels="bccd",
    launch=f"{BCCD_LAUNCH} --runs plain-0 pkd-0 -- {BCCD_OPTIONS}",
    speed="41 ms per image of 640 x 480 with PyTorch, one thread of an AMD EPYC (OMP_NUM_THREADS=1 pkdzoo eval --cpu)",
    curves={
        "epoch": (10, 20, 30, 40, 50, 60),
        "this student, seed 0": (32.7, 40.5, 43.6, 53.9, 55.8, 57.0),
        "the same with seed 1": (34.8, 49.6, 54.4, 55.1, 56.2, 57.2),
        "plain student, seed 0": (24.9, 37.2, 39.7, 42.4, 44.3, 45.6),
        "plain student, seed 1": (14.6, 39.5, 47.6, 51.0, 53.7, 56.4),
        "teacher": (27.2, 48.7, 54.6, 56.2, 58.6, 60.5),
    },
    note="float16; images are fitted onto 320 x 320 pixels",
)

WEIGHTS: dict[str, list[Weights]] = {
    **{f"rtmdet_{size}": [_mmdetection(size)] for size in MMDETECTION},
    **{f"rtmdet_{size}_yolo": [_mmyolo(size)] for size in MMYOLO},
}
WEIGHTS["rtmdet_tiny"].append(BCCD_TEACHER)
PAIRS: dict[str, tuple[Distilled, Weights]] = {
    f"rtmdet_{student}_kd_{teacher}": _pair(student, teacher) for student, teacher in DISTILLED
}
