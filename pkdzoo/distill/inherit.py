"""Start a student with copies of its teacher's parts, and freeze parts.

The PKD paper (A.2) copies the teacher's neck and head into students with the same head structure; its released
configurations do not, so it is an option here. It also expresses the paper's table 1: a head that is trained
on another detector's frozen backbone and neck, ``inherit=("backbone", "neck")`` with ``freeze`` of the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

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
        ValueError: when names or shapes of tensors differ; the message has some of them. The student is unchanged.
    """
    own, inherited = part_of(student, name).state_dict(), part_of(teacher, name).state_dict()
    different = [key for key in {*own, *inherited} if key not in own or key not in inherited]
    different += [key for key in own if key in inherited and own[key].shape != inherited[key].shape]
    if different:
        raise ValueError(
            f"distill.inherit={name!r}: student and teacher differ in {', '.join(sorted(different)[:5])}; only a part "
            "of equal structure can be inherited"
        )
    part_of(student, name).load_state_dict(inherited)


def inherit(student: Detector, teacher: Detector, parts: Sequence[str]) -> Detector:
    """Copy the tensors of several parts, ``backbone``, ``neck``, ``head``, from teacher to student.

    Returns:
        The student.

    Raises:
        ValueError: for a part that is missing or of different structure.

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
