"""The numbers behind the PKD paper's figures of feature pyramids.

Section 1 of the paper (arXiv:2207.02039) defines: the *activation pattern* of a level is the largest value over
channels at each location, scaled by the smallest and the largest value of all levels of its detector (figures 1, 2, 4
to 8). A channel's *number* is the number of locations at which it is the largest channel; channels with a large number
are *dominant* (figures 1, 6 and 7). The paper does not define "magnitude"; here it is the absolute value.

Everything is computed twice: on the raw maps, and after PKD's normalization with its statistics in training, each
channel over the whole padded batch. Counts and means leave the padding out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pkdzoo.distill.pairing import PairBy, PyramidShape, match_levels, pair_maps
from pkdzoo.losses import normalize_channels, pearson_correlation
from pkdzoo.models._eval_mode import eval_mode
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch, FeaturePyramid

STAGES = ("before", "after")  # before and after PKD's normalization
TOP_CHANNELS = 5  # number of most frequent channels whose share is summed


@dataclass(frozen=True)
class PyramidMaps:
    """The feature pyramid of one detector for a batch of images.

    Attributes:
        name: name of the detector.
        features: raw maps (B, C, h, w), finest first.
        sizes: (height, width) in pixels of each image inside the padding.

    Example:
        >>> import torch
        >>> from pkdzoo import FeaturePyramid
        >>> from pkdzoo.figures import PyramidMaps
        >>> maps = torch.zeros(1, 3, 4, 4)
        >>> maps[:, 2] = 5.0
        >>> level = PyramidMaps("mine", FeaturePyramid([maps], (8,)), [(32, 32)]).numbers()["levels"][0]
        >>> level["level"], level["before"]["channel"], level["before"]["share"], level["before"]["max"]
        ('P3', 2, 1.0, 5.0)
    """

    name: str
    features: FeaturePyramid
    sizes: list[tuple[int, int]]

    @property
    def level_names(self) -> list[str]:
        """Names of the levels as in papers: ``P3`` for stride 8."""
        return [level_name(stride) for stride in self.features.strides]

    def maps(self, stage: str) -> list[Tensor]:
        """Levels (B, C, h, w) in float32, ``before`` or ``after`` the normalization."""
        levels = self.features.levels
        return [level.float() if stage == "before" else normalize_channels(level) for level in levels]

    def patterns(self, stage: str, image: int) -> list[Tensor]:
        """Activation pattern (h, w) of each level: the largest value over channels, without the padding."""
        return [
            _inside(level, self.sizes, stride)[image].amax(0)
            for level, stride in zip(self.maps(stage), self.features.strides)
        ]

    def values(self, stage: str) -> list[Tensor]:
        """Values (C, M) of each level at the M locations of all images, without the padding."""
        return [
            torch.cat([part.flatten(1) for part in _inside(level, self.sizes, stride)], 1)
            for level, stride in zip(self.maps(stage), self.features.strides)
        ]

    def numbers(self) -> dict[str, Any]:
        """Magnitudes and dominant channels of each level, and the ratio between levels.

        Returns:
            ``levels``: for each level ``level``, ``stride`` and ``channels``; and under ``before`` and ``after``
            ``mean``, ``std`` and ``max`` of the magnitude, ``channel`` (the channel that is most often the largest),
            ``share`` (share of the locations where it is the largest) and ``share_of_5`` (share where one of the five
            most frequent channels is the largest). ``level_ratio``: mean magnitude of the strongest level over that of
            the weakest; None where a level is 0 everywhere.
        """
        rows: list[dict[str, Any]] = []
        for name, stride, level in zip(self.level_names, self.features.strides, self.features.levels):
            rows.append({"level": name, "stride": stride, "channels": level.shape[1]})
        for stage in STAGES:
            for row, values in zip(rows, self.values(stage)):
                row[stage] = summary(values)
        ratio = {}
        for stage in STAGES:
            means = [row[stage]["mean"] for row in rows]
            ratio[stage] = max(means) / min(means) if min(means) > 0 else None
        return {"levels": rows, "level_ratio": ratio}


@torch.no_grad()
def extract_maps(model: Detector, batch: Batch, levels: int | None = 4, name: str | None = None) -> PyramidMaps:
    """Run a detector's backbone and neck in eval mode; the model's mode stays as it was.

    Args:
        model: any detector.
        batch: raw images, which PKD normalizes together as one batch.
        levels: number of levels to keep, from the finest; None keeps all. PKD and the paper's figures have four.
        name: name in figures; None means the model's.

    Example:
        >>> import torch, pkdzoo
        >>> from pkdzoo.figures import extract_maps
        >>> model = pkdzoo.create_detector("retina_r10w16")
        >>> maps = extract_maps(model, pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 90)]))
        >>> maps.level_names, [tuple(values.shape) for values in maps.values("before")]
        (['P3', 'P4', 'P5', 'P6'], [(64, 96), (64, 24), (64, 6), (64, 2)])
        >>> sorted(maps.numbers()["levels"][0]["after"])
        ['channel', 'max', 'mean', 'share', 'share_of_5', 'std']
    """
    with eval_mode(model):
        features = model.extract_features(batch)
    kept = FeaturePyramid(features.levels[:levels], features.strides[:levels]).to("cpu")
    return PyramidMaps(name or model.name, kept, batch.sizes)


def pair_numbers(student: PyramidMaps, teacher: PyramidMaps, pair: PairBy = "index") -> list[dict[str, Any]]:
    """Compare the paired levels of two detectors.

    Args:
        student: maps of the student.
        teacher: maps of the teacher, for the same batch.
        pair: ``index`` or ``stride``, see :mod:`pkdzoo.distill.pairing`.

    Returns:
        For each pair ``student`` and ``teacher`` (names of the levels), ``magnitude_ratio`` (mean magnitude of the
        teacher over the student's) and ``r``: mean over channels of Pearson's r, over the whole padded batch as in
        PKD; None where the levels have different numbers of channels.

    Raises:
        ValueError: no levels can be paired.

    Example:
        >>> import torch
        >>> from pkdzoo import FeaturePyramid
        >>> from pkdzoo.figures import PyramidMaps, pair_numbers
        >>> maps = torch.rand(2, 8, 4, 4)
        >>> student = PyramidMaps("student", FeaturePyramid([maps], (8,)), [(32, 32)] * 2)
        >>> teacher = PyramidMaps("teacher", FeaturePyramid([3 * maps + 7], (8,)), [(32, 32)] * 2)
        >>> [(row["student"], row["teacher"], round(row["r"], 3)) for row in pair_numbers(student, teacher)]
        [('P3', 'P3', 1.0)]
    """
    shapes = [
        PyramidShape(tuple(level.shape[1] for level in maps.features.levels), maps.features.strides)
        for maps in (student, teacher)
    ]
    count = min(len(shape.strides) for shape in shapes)
    if pair == "stride":
        count = len(set(shapes[0].strides) & set(shapes[1].strides)) or 1
    pairs = match_levels(shapes[0], shapes[1], count, pair, same_channels=False)
    means = [[float(values.abs().mean()) for values in maps.values("before")] for maps in (student, teacher)]
    rows = []
    for (i, j), levels in zip(pairs, pair_maps(student.features, teacher.features, pairs)):
        same_shape = levels.student.shape == levels.teacher.shape
        r = float(pearson_correlation(levels.student, levels.teacher)[1]) if same_shape else None
        ratio = means[1][j] / means[0][i] if means[0][i] > 0 else None
        names = {"student": student.level_names[i], "teacher": teacher.level_names[j]}
        rows.append({**names, "magnitude_ratio": ratio, "r": r})
    return rows


def summary(values: Tensor) -> dict[str, float | int]:
    """Magnitude and dominant channels of the values (C, M) of one level; keys as in ``PyramidMaps.numbers``."""
    magnitude = values.abs()
    count = dominant(values)
    ranked = count.sort(descending=True).values
    return {
        "mean": float(magnitude.mean()),
        "std": float(magnitude.std(correction=0)),
        "max": float(magnitude.max()),
        "channel": int(count.argmax()),
        "share": float(ranked[0] / count.sum()),
        f"share_of_{TOP_CHANNELS}": float(ranked[:TOP_CHANNELS].sum() / count.sum()),
    }


def dominant(values: Tensor) -> Tensor:
    """Number of locations at which each channel is the largest: (C, M) -> (C,). Of equal channels the first is counted.

    >>> import torch
    >>> from pkdzoo.figures.measure import dominant
    >>> dominant(torch.tensor([[1.0, 5.0, 0.0], [2.0, 4.0, 1.0], [0.0, 0.0, 0.5]])).tolist()
    [1, 2, 0]
    """
    return torch.bincount(values.argmax(0), minlength=len(values))


def level_name(stride: int) -> str:
    """``P3`` for stride 8."""
    return f"P{round(math.log2(stride))}"


def _inside(level: Tensor, sizes: Sequence[tuple[int, int]], stride: int) -> list[Tensor]:
    """The part (C, h, w) of each image's map (B, C, h, w) that shows the image."""
    return [
        maps[:, : math.ceil(height / stride), : math.ceil(width / stride)]
        for maps, (height, width) in zip(level, sizes)
    ]
