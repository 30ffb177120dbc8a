"""Start a student with copies of its teacher's parts, and freeze parts.

The PKD paper (A.2) copies the teacher's neck and head into students with the same head structure; its released
configurations do not, so it is an option here. It also expresses the paper's table 1: a head that is trained
on another detector's frozen backbone and neck, ``inherit=("backbone", "neck")`` with ``freeze`` of the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from torch import nn

from pkdzoo.models._loading import is_generic
from pkdzoo.models.backbones.weights import describe_norm, is_same_norm
from pkdzoo.models.detector import Detector

HEADS = ("rpn", "box_head", "mask_head")  # the parts that "head" means in a two-stage detector


def part_names(model: Detector, name: str) -> list[str]:
    """The direct parts that a name stands for: itself, or for ``head`` all heads of a two-stage detector."""
    parts = dict(model.named_children())
    if name == "head" and name not in parts and model.two_stage:
        return [head for head in HEADS if head in parts]
    if name not in parts:
        raise ValueError(f"{model.name} has no part {name!r}: it has {', '.join(parts)}")
    return [name]


def part_of(model: Detector, name: str) -> nn.Module:
    """A direct part of a detector (a list of its heads for ``head`` of a two-stage one).

    Raises:
        ValueError: for an unknown part; the message lists the parts of the detector.
    """
    parts = [model.get_submodule(part) for part in part_names(model, name)]
    return parts[0] if len(parts) == 1 else nn.ModuleList(parts)


def inherit_part(student: Detector, teacher: Detector, name: str) -> None:
    """Start a part of the student with a copy of the teacher's tensors.

    Raises:
        ValueError: when names or shapes of tensors differ; the message has some of them. Also for a backbone that
            knows other pixel statistics, and for a head of other classes. The student is unchanged.
    """
    own, inherited = part_of(student, name).state_dict(), part_of(teacher, name).state_dict()
    different = [key for key in {*own, *inherited} if key not in own or key not in inherited]
    different += [key for key in own if key in inherited and own[key].shape != inherited[key].shape]
    if different:
        raise ValueError(
            f"distill.inherit={name!r}: student and teacher differ in {', '.join(sorted(different)[:5])}; only a part "
            "of equal structure can be inherited"
        )
    if name == "backbone":
        check_pixels(student, teacher)
    elif name in ("head", *HEADS):
        check_classes(student, teacher, name)
    part_of(student, name).load_state_dict(inherited)


def check_pixels(student: Detector, teacher: Detector) -> None:
    """Check that a backbone gets the pixels that it was trained with.

    Raises:
        ValueError: for other pixel statistics or another channel order.
    """
    own, theirs = student.pixel_norm, teacher.pixel_norm
    if own.channel_order != theirs.channel_order or not is_same_norm(own, theirs):
        raise ValueError(
            f"distill.inherit='backbone': {student.name} normalizes pixels with {describe_norm(own)}, and the backbone "
            f"of {teacher.name} was trained with {describe_norm(theirs)}: write --set model_args.pixel_norm="
            f"'{json.dumps(asdict(theirs))}'"
        )


def check_classes(student: Detector, teacher: Detector, name: str) -> None:
    """Check that an inherited head predicts the classes of the student in their order, as far as both have names.

    Raises:
        ValueError: for other names, or another order.
    """
    own, theirs = student.label_names, teacher.label_names
    if own != theirs and not is_generic(own) and not is_generic(theirs):
        at = next(i for i, (a, b) in enumerate(zip(own, theirs)) if a != b)
        raise ValueError(
            f"distill.inherit={name!r}: class {at} is {own[at]!r} in the student but {theirs[at]!r} in the teacher, "
            f"whose head would predict other classes: bring both to one order, or leave {name!r} out"
        )


def inherit(student: Detector, teacher: Detector, parts: Sequence[str]) -> Detector:
    """Copy the tensors of several parts from teacher to student.

    Args:
        student: its parts are changed in place.
        teacher: a detector with parts of equal structure.
        parts: ``backbone``, ``neck``, ``head``.

    Returns:
        The student.

    Raises:
        ValueError: for a part that is missing or of different structure, a backbone trained with other pixel
            statistics, and a head of other classes.

    Example:
        >>> import pkdzoo, torch
        >>> from pkdzoo.distill import inherit
        >>> student, teacher = pkdzoo.create_detector("retina_r10w16"), pkdzoo.create_detector("retina_r10w16")
        >>> student = inherit(student, teacher, ["neck"])
        >>> all(torch.equal(a, b) for a, b in zip(student.neck.parameters(), teacher.neck.parameters()))
        True
    """
    for name in parts:
        inherit_part(student, teacher, name)
    return student


def freeze(model: Detector, parts: Sequence[str]) -> Detector:
    """Stop the gradients of several parts and put them in eval mode.

    A later ``model.train()`` ends the eval mode, and running statistics change again: call this function after it.

    Args:
        model: its parts are changed in place.
        parts: ``backbone``, ``neck``, ``head``.

    Returns:
        The model.

    Example:
        >>> import pkdzoo
        >>> from pkdzoo.distill import freeze
        >>> student = freeze(pkdzoo.create_detector("retina_r10w16"), ["backbone", "neck"])
        >>> sorted({name.split(".")[0] for name, p in student.named_parameters() if p.requires_grad})
        ['head']
    """
    for name in parts:
        part = part_of(model, name)
        part.requires_grad_(False)
        part.eval()
    return model
