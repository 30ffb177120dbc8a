"""Weights that other projects published: links, hashes and APs from their model zoos.

APs are COCO val2017 box APs in percent. mmdetection's model zoo has AP only; the further numbers of some rows are from
the PKD paper (tables 2 and 3), which used the same files; their ``source`` names it.
"""

from __future__ import annotations

from typing import Any

from pkdzoo.hub.weights import Weights

ZOO = "https://download.openmmlab.com/"
SHARE = "https://openmmlab-share.oss-cn-hangzhou.aliyuncs.com/"  # the storage behind it, with versions of files
FINER = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # names of the evaluator
# Pages that have to be opened in a browser.
BAIDU = "https://pan.baidu.com/s/{}"
DRIVE = "https://drive.google.com/file/d/{}/view"

PKD_README = "mmrazor's readme of PKD"
PKD_TABLE_2, PKD_TABLE_3 = "table 2 of the PKD paper", "table 3 of the PKD paper"
CROSSKD_README = "CrossKD's readme"
MMDET_ZOO = "mmdetection's model zoo"
FGD_README, MGD_README = "FGD's readme", "MGD's readme"
MGD_RAZOR, CWD_README = "mmrazor's readme of MGD", "mmrazor's readme of CWD"
FBKD_README = "mmrazor's readme of FBKD"
GLOBAL_README = "the readme of Global Knowledge"


def mmdetection(
    tag: str, config: str, end: str, ap: float | tuple[float, ...], finer: str = "", note: str = "", **more: float
) -> Weights:
    """A row of mmdetection's zoo.

    Args:
        tag: tag of the weights.
        config: folder of the file below ``mmdetection/v2.0``, as in the model's metafile.
        end: the file's name after the folder's name: a date and the first digits of its hash. Without ``-`` or ``_``
            at its start it is the whole name.
        ap: AP, or the numbers of ``FINER``.
        finer: source of the numbers besides AP.
        note: see :class:`Weights`.
        more: further metrics, e.g. ``mask_AP``.
    """
    stem = config.rpartition("/")[2] + end if end[0] in "-_" else end
    source = f"{MMDET_ZOO}{f'; finer numbers: {finer}' if finer else ''}"
    metrics = {**dict(zip(FINER, ap if isinstance(ap, tuple) else (ap,))), **more}
    url = f"{ZOO}mmdetection/v2.0/{config}/{stem}.pth"
    return Weights(tag, url, sha256=_hash(stem), metrics=metrics, source=source, license="Apache-2.0", note=note)


def mmrazor(tag: str, file: str, ap: float, source: str = PKD_README, version: str = "", **more: Any) -> Weights:
    """A distilled student of mmrazor's model zoo.

    Args:
        tag: tag of the weights.
        file: below ``mmrazor/v1``, without suffix; it holds the teacher as well.
        ap: AP.
        source: of the AP.
        version: of the file in the storage, if the published link names one: such a link always gives the same bytes.
        more: see :class:`Weights`.
    """
    url = f"{SHARE}mmrazor/v1/{file}.pth?versionId={version}" if version else f"{ZOO}mmrazor/v1/{file}.pth"
    return Weights(tag, url, sha256=_hash(file), metrics={"AP": ap}, source=source, license="Apache-2.0", **more)


def mmrazor_0(tag: str, config: str, end: str, ap: float, source: str) -> Weights:
    """A distilled student of mmrazor 0.x; ``config`` is its folder below ``mmrazor/v1``, ``end`` as in mmdetection."""
    return mmrazor(tag, f"{config}/{config.rpartition('/')[2]}{end}", ap, source)


def crosskd(tag: str, drive: str, ap: float, **more: Any) -> Weights:
    """A file on the Google Drive of CrossKD's authors, licensed for non-commercial use."""
    url = DRIVE.format(drive)
    return Weights(tag, url, metrics={"AP": ap}, source=CROSSKD_README, license="CC-BY-NC-4.0", direct=False, **more)


def baidu(tag: str, link: str, source: str, metrics: dict[str, float]) -> Weights:
    """A file of FGD's or MGD's authors on Baidu; ``link`` has the code behind it. Their repositories are Apache-2.0."""
    url = BAIDU.format(link)
    return Weights(tag, url, metrics=metrics, source=source, license="Apache-2.0", direct=False)


def _hash(stem: str) -> str:
    return stem.rpartition("-")[2]
