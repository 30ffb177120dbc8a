"""The published weights of RTMDet: mmdetection's, MMYOLO's, and the distilled ones of MMYOLO's students.

APs are COCO val2017 box APs in percent. mmdetection's are those of its readme; its metafile prints slightly lower ones,
from before a change of the test settings. The weights of MMYOLO and of its distillation state no license of their own.
"""

from __future__ import annotations

from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.models._measured_students import DEEPPCB_TEACHER
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


WEIGHTS: dict[str, list[Weights]] = {
    **{f"rtmdet_{size}": [_mmdetection(size)] for size in MMDETECTION},
    **{f"rtmdet_{size}_yolo": [_mmyolo(size)] for size in MMYOLO},
}
WEIGHTS["rtmdet_tiny"] += [DEEPPCB_TEACHER]
PAIRS: dict[str, tuple[Distilled, Weights]] = {
    f"rtmdet_{student}_kd_{teacher}": _pair(student, teacher) for student, teacher in DISTILLED
}
