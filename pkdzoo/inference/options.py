"""The options of ``predict`` and ``predict_stream``, declared once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from pkdzoo.utils.suggest import did_you_mean


class PredictOptions(TypedDict, total=False):
    """Keyword arguments of ``predict`` and ``predict_stream``; all are optional.

    Attributes:
        threshold: lowest score of a reported detection, 0..1; None means the detector's own, usually 0.05.
        nms_threshold: IoU, 0..1, above which NMS drops the box with the lower score of two of one class; None means the
            detector's own.
        max_detections: maximum number of detections per image; None means the detector's own, usually 100.
        classes: names or labels of the only classes to report; None means all.
        batch_size: images per forward pass, default 1. Images of a batch are padded to a common size, and group norm
            depends on the padding: with 1 the results are exactly those of each image alone.
        flip: also detect in the horizontally flipped image and merge the detections by NMS; takes twice the time.
            Default False.
        sizes: short sides in pixels at which to detect, e.g. ``(640, 800, 960)``; the detections are merged by NMS.
            None means the detector's own size.

    Example:
        >>> from pkdzoo.inference import PredictOptions
        >>> options: PredictOptions = {"threshold": 0.5, "classes": ["person", "dog"]}
        >>> results = model.predict("street.jpg", **options)  # doctest: +SKIP
    """

    threshold: float | None
    nms_threshold: float | None
    max_detections: int | None
    classes: Sequence[str | int] | None
    batch_size: int
    flip: bool
    sizes: Sequence[int] | None


def check_names(options: Mapping[str, Any]) -> None:
    """Refuse names that are no option.

    Raises:
        TypeError: with the closest option names.
    """
    for name in options:
        if name not in PredictOptions.__annotations__:
            raise TypeError(f"predict() has no option {name!r}. {did_you_mean(name, PredictOptions.__annotations__)}")
