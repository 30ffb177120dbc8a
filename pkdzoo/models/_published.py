"""Rows of weights that others published: links, hashes and APs as their model zoos print them.

APs are COCO val2017 box APs in percent. mmdetection's zoo prints AP alone; the finer numbers of some rows are those
that the PKD paper prints for the same file (its tables 2 and 3), and the row's source says so.
"""

from __future__ import annotations

from typing import Any

from pkdzoo.hub.weights import Weights

ZOO = "https://download.openmmlab.com/"
FINER = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # names as the evaluator gives them
# Published as a page with a button.
DRIVE = "https://drive.google.com/file/d/{}/view"

PKD_README = "mmrazor's readme of PKD"
PKD_TABLE_2, PKD_TABLE_3 = "table 2 of the PKD paper", "table 3 of the PKD paper"
CROSSKD_README = "CrossKD's readme"
FBKD_README = "mmrazor's readme of FBKD"
GLOBAL_README = "the readme of Global Knowledge"


def mmdetection(
    tag: str, config: str, end: str, ap: float | tuple[float, ...], finer: str = "", note: str = "", **more: float
) -> Weights:
    """A row of mmdetection's zoo.

    Args:
        tag: of the row.
        config: folder of the file below ``mmdetection/v2.0``, as in the model's metafile.
        end: what the file's name has beyond the folder's: a date and, last, the start of its hash. One that does not
            begin with ``-`` or ``_`` is the whole name.
        ap: AP, or AP and the finer numbers in the order of ``FINER``.
        finer: who printed those.
        note: see :class:`Weights`.
        more: further metrics, e.g. ``mask_AP``.
    """
    stem = config.rpartition("/")[2] + end if end[0] in "-_" else end
    source = f"mmdetection's model zoo{f'; finer numbers: {finer}' if finer else ''}"
    metrics = {**dict(zip(FINER, ap if isinstance(ap, tuple) else (ap,))), **more}
    url = f"{ZOO}mmdetection/v2.0/{config}/{stem}.pth"
    return Weights(tag, url, sha256=_hash(stem), metrics=metrics, source=source, license="Apache-2.0", note=note)


def mmrazor(tag: str, file: str, ap: float, source: str = PKD_README, **more: Any) -> Weights:
    """A distilled student of mmrazor's zoo, whose files hold the teacher too; ``file`` lies below ``mmrazor/v1``."""
    url = f"{ZOO}mmrazor/v1/{file}.pth"
    return Weights(tag, url, sha256=_hash(file), metrics={"AP": ap}, source=source, license="Apache-2.0", **more)


def crosskd(tag: str, drive: str, ap: float, **more: Any) -> Weights:
    """A file that CrossKD's authors share by hand; theirs are not for commercial use."""
    url = DRIVE.format(drive)
    return Weights(tag, url, metrics={"AP": ap}, source=CROSSKD_README, license="CC-BY-NC-4.0", direct=False, **more)


def _hash(stem: str) -> str:
    return stem.rpartition("-")[2]
