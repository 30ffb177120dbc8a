"""The options of ``predict`` and ``predict_stream``, declared once."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from pkdzoo.utils.suggest import did_you_mean

# Lowest score of a reported detection, for looking at detections: in Python, on the command line, and in
# recipes/onnx_infer.py. AP is evaluated with the detector's own threshold, usually 0.05.
DEFAULT_THRESHOLD = 0.3
# Of boxes that become labels: a wrong one is learned, a missing one costs less.
LABEL_THRESHOLD = 0.5
# IoU of NMS between views and tiles for detectors without NMS, as in mmdetection's configs for test-time augmentation.
MERGE_NMS_THRESHOLD = 0.5
OVERLAP, MAX_OVERLAP = 0.2, 0.9  # of neighboring tiles; with a larger one the number of tiles explodes
MIN_SIZE = 32  # smallest short side of ``sizes``, in pixels
WHOLE = {"max_detections": 1, "batch_size": 1, "tiles": 32, "workers": 0}  # lowest values of whole numbers


class PredictOptions(TypedDict, total=False):
    """Keyword arguments of ``predict`` and ``predict_stream``; all are optional.

    Attributes:
        threshold: lowest score of a reported detection, 0..1, default 0.3. None means the detector's own, usually 0.05,
            with which AP is evaluated.
        nms_threshold: IoU, 0..1, above which NMS drops the box with the lower score of two of one class; None means the
            detector's own.
        max_detections: maximum number of detections per image; None means the detector's own, usually 100.
        classes: names or labels of the only classes to report, or one of them; None means all. The detections are those
            that the detector finds with all classes: candidates of all compete for its ``pre_nms_top_k``. Only
            ``max_detections`` counts these alone; an exported file has dropped what is beyond its own number of all
            classes.
        batch_size: images per forward pass, default 1. Images of a batch are padded to a common size, and group norm
            depends on the padding: with 1 the results are exactly those of each image alone.
        flip: also detect in the horizontally flipped image and merge the detections by NMS, with the IoU 0.5 where the
            detector itself has no NMS; takes twice the time. Default False.
        sizes: short sides in pixels at which to detect, e.g. ``(640, 800, 960)``, or one of them; the detections are
            merged by NMS.
            None means the detector's own size.
        tiles: side in pixels of the tiles in which larger images are detected, so that small objects keep their pixels;
            None, the default, means the whole image at once. Detections of one object in several tiles are merged.
            ``max_detections`` counts per image, the detector's own number per tile.
        overlap: of neighboring tiles, as a share of their side, from 0 to 0.9, default 0.2. An object larger than the
            overlap may be found in parts only.
        workers: threads that decode the next files during the forward pass. Default 1 for folders and wildcards,
            otherwise 0. As many decoded images, and at least a batch, are in memory besides the current ones.

    Example:
        >>> from pkdzoo.inference import PredictOptions
        >>> options: PredictOptions = {"threshold": 0.5, "classes": ["person", "dog"]}
        >>> results = model.predict("street.jpg", **options)  # doctest: +SKIP
    """

    threshold: float | None
    nms_threshold: float | None
    max_detections: int | None
    classes: str | int | Sequence[str | int] | None
    batch_size: int
    flip: bool
    sizes: int | Sequence[int] | None
    tiles: int | None
    overlap: float | None
    workers: int


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse names that are no option, and values out of their range.

    Raises:
        TypeError: for an unknown name, with the closest option names.
        ValueError: for a threshold outside 0..1 (50 instead of 0.5), or a whole number below its
            limit, or an overlap without tiles.
    """
    for name in options:
        if name not in PredictOptions.__annotations__:
            raise TypeError(f"predict() has no option {name!r}. {did_you_mean(name, PredictOptions.__annotations__)}")
    for name in ("threshold", "nms_threshold"):
        if options.get(name) is not None:
            check_share(name, options[name])
    flip = options.get("flip")
    if flip is not None and (getattr(flip, "ndim", 0) > 0 or flip not in (0, 1)):  # an array of several is no flag
        raise ValueError(f"flip={flip!r}: write True or False")
    for name, lowest in WHOLE.items():
        value = options.get(name, lowest)
        if name in ("max_detections", "tiles") and value is None:
            continue
        if isinstance(value, bool) or not is_whole(value) or value < lowest:
            raise ValueError(f"{name}={value!r}: write a whole number of at least {lowest}")
    sizes = options.get("sizes")
    if sizes is not None and not is_whole(sizes) and not are_whole(sizes):
        raise ValueError(
            f"sizes={sizes!r}: write one or several short sides in pixels from {MIN_SIZE} up, e.g. sizes=(600, 800)"
        )
    overlap = options.get("overlap")
    if overlap is None:
        return
    if options.get("tiles") is None:
        raise ValueError(f"overlap={overlap!r} belongs to tiles: write tiles=640 as well, or leave it out")
    if not (is_number(overlap) and 0 <= overlap <= MAX_OVERLAP):
        raise ValueError(f"overlap={overlap!r}: write a share of a tile from 0 to {MAX_OVERLAP}")


def check_share(name: str, value: Any) -> None:
    """Raise ValueError for anything else than a number from 0 to 1."""
    if not (is_number(value) and 0 <= value <= 1):  # False for NaN as well
        raise ValueError(f"{name}={value!r}: write a number from 0 to 1")


def is_number(value: Any) -> bool:
    """Whether a value is a number, of Python, numpy or torch; a text is none."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, (str, bytes, bool))


def are_whole(values: Any) -> bool:
    """Whether these are whole numbers, at least one; a text is none."""
    try:
        return not isinstance(values, (str, bytes)) and len(values) > 0 and all(map(is_whole, values))
    except TypeError:
        return False


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, of Python, numpy or torch."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return True
