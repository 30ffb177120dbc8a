"""Pairs of pyramid levels: which student level learns from which teacher level, at which size and width.

The published recipes of PKD pair by index: a one-stage student's P3 (stride 8) meets a two-stage teacher's P2
(stride 4), although the teacher has a map of stride 8 too. Pairing by stride is offered beside it. At coarse levels
sizes are not always exact multiples of each other, so maps are always resized to the other's size, never by a factor.
mmrazor always resizes the student; the paper enlarges the smaller map. For every published pair that is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from pkdzoo.layers.norm import make_norm
from pkdzoo.models.detector import Detector
from pkdzoo.structures import FeaturePyramid

PairBy = Literal["index", "stride"]
Resize = Literal["larger", "student", "teacher"]
Project = Literal["refuse", "where_needed", "always", "never"]
Adapter = bool | Literal["conv", "conv_norm"]
Where = Literal["neck", "backbone", "before_norm"]
PAIR_BY: tuple[PairBy, ...] = ("index", "stride")
RESIZE: tuple[Resize, ...] = ("larger", "student", "teacher")
PROJECT: tuple[Project, ...] = ("refuse", "where_needed", "always", "never")
ADAPTER: tuple[Adapter, ...] = (False, True, "conv", "conv_norm")
WHERE: tuple[Where, ...] = ("neck", "backbone", "before_norm")
# what the option ``adapter`` of the methods means for PyramidPairs
PROJECT_BY_ADAPTER: dict[Adapter, Project] = {
    False: "refuse", True: "where_needed", "conv": "always", "conv_norm": "always",
}  # fmt: skip


@dataclass(frozen=True)
class PyramidShape:
    """Channels and strides of a pyramid, finest level first."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __str__(self) -> str:
        return ", ".join(f"stride {s} x {c} channels" for s, c in zip(self.strides, self.channels))


def shape_of(model: Detector, where: Where = "neck") -> PyramidShape:
    """The shape of a detector's maps, known without running the detector.

    Args:
        model: the detector.
        where: ``neck`` (the pyramid), ``before_norm`` (the pyramid before its last norm, of the same shape) or
            ``backbone`` (the backbone's maps).

    Raises:
        ValueError: when the detector does not give these maps, or does not state their shape.
    """
    check_choice("where", where, WHERE)
    if where == "backbone":
        return _backbone_shape(model)
    if where == "before_norm":
        _require_before_norm(model)
    shape = getattr(model, "pyramid_shape", None)
    if isinstance(shape, PyramidShape):
        return shape
    width, strides = getattr(model.neck, "width", None), getattr(model.neck, "strides", None)
    if width is None or strides is None:
        raise ValueError(
            f"{type(model.neck).__name__} does not state the shape of its pyramid: give it `width` (channels) and "
            "`strides`, or wrap the detector in pkdzoo.Teacher"
        )
    return PyramidShape((int(width),) * len(strides), tuple(int(s) for s in strides))


def _backbone_shape(model: Detector) -> PyramidShape:
    shape = getattr(model, "backbone_shape", None)
    if isinstance(shape, PyramidShape):
        return shape
    channels, strides = getattr(model.backbone, "channels", None), getattr(model.backbone, "strides", None)
    if channels is None or strides is None:
        raise ValueError(
            f'where="backbone": {model.name} does not give maps of its backbone; write where="neck", or take a '
            "detector of this package or a bare backbone"
        )
    return PyramidShape(tuple(map(int, channels)), tuple(map(int, strides)))


def require_unfolded(model: Detector) -> None:
    """Refuse an optimized detector for methods that compare maps from before the neck's last norm."""
    if model.optimized and getattr(model.neck, "gives_before_norm", False):
        raise ValueError(
            f"maps before the last norm of the neck are compared, and the norms of {model.name} are folded: leave out "
            "optimize()"
        )


def _require_before_norm(model: Detector) -> None:
    if not getattr(model.neck, "gives_before_norm", False):
        raise ValueError(
            f'where="before_norm" compares maps before the last norm of the neck, which {model.name} does not give: '
            'take a detector of this package, or pkd with where="neck"'
        )
    require_unfolded(model)


def maps_at(features: FeaturePyramid, where: Where, strides: tuple[int, ...]) -> FeaturePyramid:
    """The maps that ``where`` chooses, as a pyramid; ``strides`` are those of the maps, see :func:`shape_of`."""
    if where == "neck":
        return features
    return FeaturePyramid(features.before_norm if where == "before_norm" else features.backbone, strides)


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse a value that is not one of the choices of an option."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: write one of {', '.join(map(repr, choices))}")


def match_levels(
    student: PyramidShape,
    teacher: PyramidShape,
    levels: int | None,
    pair: PairBy = "index",
    same_channels: bool = True,
    most: int | None = None,
) -> list[tuple[int, int]]:
    """Numbers of the levels (student's, teacher's) that belong together.

    Args:
        student: shape of its pyramid.
        teacher: shape of its pyramid.
        levels: number of pairs, counted from the finest level; None means all that can be paired, at most ``most``.
        pair: ``index`` (first with first) or ``stride`` (equal strides; other levels are left out).
        same_channels: whether paired maps must have equally many channels.
        most: largest number of pairs where ``levels`` is None; None means no limit.

    Raises:
        ValueError: when the pyramids cannot be paired; the message has both shapes.
    """
    check_choice("pair", pair, PAIR_BY)
    if levels is not None and levels < 1:
        raise ValueError(f"levels={levels}: at least one pair of levels is needed")
    if pair == "index":
        matched = [(i, i) for i in range(min(len(student.strides), len(teacher.strides)))]
    else:
        matched = [(i, teacher.strides.index(s)) for i, s in enumerate(student.strides) if s in teacher.strides]
    both = f"The student's pyramid: {student}. The teacher's: {teacher}."
    if not matched:
        raise ValueError(f'no stride is common to both pyramids; write pair="index". {both}')
    if levels is None:
        levels = min(len(matched), most or len(matched))
    if len(matched) < levels:
        raise ValueError(f"levels={levels}, but by {pair} only {len(matched)} can be paired. {both}")
    matched = matched[:levels]
    for i, j in matched:
        if same_channels and student.channels[i] != teacher.channels[j]:
            raise ValueError(
                f"this method compares channel by channel, and level {i} of the student has {student.channels[i]} of "
                f"them, level {j} of the teacher {teacher.channels[j]}: write adapter=True, a trained 1x1 convolution "
                f"that is dropped at export, or build the student with width={teacher.channels[j]}. {both}"
            )
    return matched


class MapPair(NamedTuple):
    """Two maps (B, C, h, w) of one size, and their stride in pixels."""

    student: Tensor
    teacher: Tensor
    stride: int


def pair_maps(
    student: FeaturePyramid, teacher: FeaturePyramid, levels: Sequence[tuple[int, int]], resize: Resize = "larger"
) -> list[MapPair]:
    """The maps that belong together, at one size.

    Args:
        student: its pyramid.
        teacher: its pyramid.
        levels: level numbers from :func:`match_levels`.
        resize: where sizes differ: ``larger`` enlarges the smaller map, ``student`` resizes the student's map to the
            teacher's size, ``teacher`` the teacher's map to the student's.
    """
    pairs = []
    for i, j in levels:
        student_map, teacher_map = to_one_size(student.levels[i], teacher.levels[j], resize)
        stride = student.strides[i] if student_map is student.levels[i] else teacher.strides[j]
        pairs.append(MapPair(student_map, teacher_map, stride))
    return pairs


def to_one_size(student: Tensor, teacher: Tensor, resize: Resize = "larger") -> tuple[Tensor, Tensor]:
    """Two maps (B, C, h, w) at one size, bilinear, without antialiasing; see :func:`pair_maps`."""
    check_choice("resize", resize, RESIZE)
    student_size, teacher_size = student.shape[-2:], teacher.shape[-2:]
    if student_size == teacher_size:
        return student, teacher
    if resize == "larger":
        resize = "student" if student_size.numel() < teacher_size.numel() else "teacher"
    if resize == "student":
        return _resized(student, teacher_size), teacher
    return student, _resized(teacher, student_size)


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


class PyramidPairs(nn.Module):
    """Pairs the maps of two pyramids, resizes them to one size and projects the student's to the teacher's width.

    The projections are trained with the student and are dropped when the student is saved.

    Args:
        student: detector that learns.
        teacher: detector it learns from.
        levels: number of pairs, counted from the finest level; or the pairs of level numbers themselves; None means all
            that can be paired, at most ``most``.
        pair: ``index`` (first with first) or ``stride`` (equal strides).
        resize: what to do with maps of different size, see :func:`pair_maps`.
        project: where a convolution gives the student's map the teacher's channels: ``where_needed`` (numbers of
            channels differ), ``always``, or ``never``. ``refuse`` is ``never``, and different numbers of channels are
            an error.
        kernel: side of the convolutions, odd.
        std: start weights from a normal distribution cut off at two deviations, and biases at 0; None: PyTorch's
            default.
        bias: whether the convolutions have biases.
        most: largest number of pairs where ``levels`` is None.
        adapter: the option of the methods, in place of ``project``. ``False``: different numbers of channels are an
            error; ``True``: a 1x1 convolution where they differ; ``"conv"``: one at every level; ``"conv_norm"``: one
            with a group norm after it at every level. None: ``project`` decides.
        where: the maps that are paired: ``neck`` (the pyramids), ``backbone`` (the backbones' maps) or ``before_norm``
            (the pyramids before the neck's last norm and activation).

    Attributes:
        levels: level numbers (student's, teacher's) of each pair.
        projections: one module per pair; ``nn.Identity`` where nothing is projected.

    Raises:
        ValueError: for an unknown choice, or pyramids that cannot be paired.

    Example:
        >>> import pkdzoo, torch
        >>> from pkdzoo.distill import PyramidPairs
        >>> student, teacher = pkdzoo.create_detector("retina_r10w16"), pkdzoo.create_detector("fcos_r10w16", width=32)
        >>> pairs = PyramidPairs(student, teacher, levels=2, project="where_needed")
        >>> batch = pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)])
        >>> maps = pairs(student.extract_features(batch), teacher.extract_features(batch))
        >>> [(tuple(pair.student.shape), tuple(pair.teacher.shape), pair.stride) for pair in maps]
        [((1, 32, 8, 12), (1, 32, 8, 12), 8), ((1, 32, 4, 6), (1, 32, 4, 6), 16)]
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        levels: int | Sequence[tuple[int, int]] | None,
        pair: PairBy = "index",
        resize: Resize = "larger",
        project: Project = "refuse",
        kernel: int = 1,
        std: float | None = None,
        bias: bool = True,
        most: int | None = None,
        adapter: Adapter | None = None,
        where: Where = "neck",
    ) -> None:
        super().__init__()
        check_choice("resize", resize, RESIZE)
        if adapter is not None:
            check_choice("adapter", adapter, ADAPTER)
            project = PROJECT_BY_ADAPTER[adapter]
        check_choice("project", project, PROJECT)
        shapes = shape_of(student, where), shape_of(teacher, where)
        self.where, self.strides = where, (shapes[0].strides, shapes[1].strides)
        self.levels = (
            match_levels(*shapes, levels, pair, project == "refuse", most)
            if levels is None or isinstance(levels, int)
            else list(levels)
        )
        self.student_channels = [shapes[0].channels[i] for i, _ in self.levels]
        self.teacher_channels = [shapes[1].channels[j] for _, j in self.levels]
        self.resize: Resize = resize
        self.projections = nn.ModuleList()
        for inputs, outputs in zip(self.student_channels, self.teacher_channels):
            needed = project == "always" or (project == "where_needed" and inputs != outputs)
            layer: nn.Module = _projection(inputs, outputs, kernel, std, bias) if needed else nn.Identity()
            self.projections.append(nn.Sequential(layer, make_norm("gn", outputs)) if adapter == "conv_norm" else layer)

    def __len__(self) -> int:
        return len(self.levels)

    def forward(self, student: FeaturePyramid, teacher: FeaturePyramid) -> list[MapPair]:
        """One pair of maps for each pair of levels, finest first; the student's is projected after resizing."""
        pyramids = [maps_at(f, self.where, s) for f, s in zip((student, teacher), self.strides)]
        maps = pair_maps(pyramids[0], pyramids[1], self.levels, self.resize)
        return [pair._replace(student=project(pair.student)) for project, pair in zip(self.projections, maps)]

    def extra_repr(self) -> str:
        where = "" if self.where == "neck" else f", where={self.where}"
        return f"levels={self.levels}, resize={self.resize}{where}"


def _projection(inputs: int, outputs: int, kernel: int, std: float | None, bias: bool) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    if std is not None:
        nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    return conv
