"""Which student level learns from which teacher level, and how both come to one size.

The published recipes of PKD pair by index: a one-stage student's P3 (stride 8) meets a two-stage teacher's P2
(stride 4), although the teacher has a stride 8 map too. Pairing by stride is offered beside it. Sizes need not be
exact multiples of each other at coarse levels, so maps are always resized to the other's size, never by a factor.
mmrazor always resizes the student; the paper enlarges the smaller map. For every published pair that is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from pkdzoo.models.detector import Detector
from pkdzoo.structures import FeaturePyramid

PairBy = Literal["index", "stride"]
Resize = Literal["larger", "student", "teacher"]
PAIR_BY: tuple[PairBy, ...] = ("index", "stride")
RESIZE: tuple[Resize, ...] = ("larger", "student", "teacher")


@dataclass(frozen=True)
class PyramidShape:
    """Channels and strides of a pyramid, finest level first."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __str__(self) -> str:
        return ", ".join(f"stride {s} x {c} channels" for s, c in zip(self.strides, self.channels))


def shape_of(model: Detector) -> PyramidShape:
    """The shape of a detector's pyramid, known without running it.

    Raises:
        ValueError: when the neck does not say.
    """
    shape = getattr(model, "pyramid_shape", None)
    if isinstance(shape, PyramidShape):
        return shape
    width, strides = getattr(model.neck, "width", None), getattr(model.neck, "strides", None)
    if width is None or strides is None:
        raise ValueError(
            f"{type(model.neck).__name__} does not say what its pyramid looks like: give it `width` (channels) and "
            "`strides`, or wrap the detector in pkdzoo.Teacher"
        )
    return PyramidShape((int(width),) * len(strides), tuple(int(s) for s in strides))


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse an option that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: write one of {', '.join(map(repr, choices))}")


def match_levels(
    student: PyramidShape, teacher: PyramidShape, levels: int, pair: PairBy = "index", same_channels: bool = True
) -> list[tuple[int, int]]:
    """Level numbers (student's, teacher's) that belong together.

    Args:
        student: shape of its pyramid.
        teacher: shape of its pyramid.
        levels: how many pairs, counted from the finest.
        pair: ``index`` (first with first) or ``stride`` (equal strides; others are left out).
        same_channels: whether paired maps must have as many channels.

    Raises:
        ValueError: naming both pyramids when they can't be paired.
    """
    check_choice("pair", pair, PAIR_BY)
    if levels < 1:
        raise ValueError(f"levels={levels}: at least one pair of levels is needed")
    if pair == "index":
        found = [(i, i) for i in range(min(len(student.strides), len(teacher.strides)))]
    else:
        found = [(i, teacher.strides.index(s)) for i, s in enumerate(student.strides) if s in teacher.strides]
    both = f"The student's pyramid: {student}. The teacher's: {teacher}."
    if not found:
        raise ValueError(f'no stride is common to both pyramids; write pair="index". {both}')
    if len(found) < levels:
        raise ValueError(f"levels={levels}, but by {pair} only {len(found)} can be paired. {both}")
    found = found[:levels]
    for i, j in found:
        if same_channels and student.channels[i] != teacher.channels[j]:
            raise ValueError(
                f"this method compares channel by channel, and level {i} of the student has {student.channels[i]} of "
                f"them, level {j} of the teacher {teacher.channels[j]}: build the student with width="
                f"{teacher.channels[j]}, or choose a teacher as wide as the student. {both}"
            )
    return found


class MapPair(NamedTuple):
    """Two maps (B, C, h, w) of one size, and what a cell of them is in pixels."""

    student: Tensor
    teacher: Tensor
    stride: int


def pair_maps(
    student: FeaturePyramid, teacher: FeaturePyramid, pairs: Sequence[tuple[int, int]], resize: Resize = "larger"
) -> list[MapPair]:
    """The maps that belong together, at one size.

    Args:
        student: its pyramid.
        teacher: its pyramid.
        pairs: level numbers from :func:`match_levels`.
        resize: where sizes differ: ``larger`` enlarges the smaller map, ``student`` fits the student's map to the
            teacher's size, ``teacher`` the teacher's map to the student's.
    """
    found = []
    for i, j in pairs:
        ours, theirs = to_one_size(student.levels[i], teacher.levels[j], resize)
        stride = student.strides[i] if ours is student.levels[i] else teacher.strides[j]
        found.append(MapPair(ours, theirs, stride))
    return found


def to_one_size(student: Tensor, teacher: Tensor, resize: Resize = "larger") -> tuple[Tensor, Tensor]:
    """Two maps (B, C, h, w) at one size, bilinear, without antialiasing; see :func:`pair_maps`."""
    check_choice("resize", resize, RESIZE)
    ours, theirs = student.shape[-2:], teacher.shape[-2:]
    if ours == theirs:
        return student, teacher
    if resize == "larger":
        resize = "student" if ours.numel() < theirs.numel() else "teacher"
    if resize == "student":
        return _resized(student, theirs), teacher
    return student, _resized(teacher, ours)


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
