"""A student may start with parts of its teacher, and parts may stay as they are.

The PKD paper (A.2) copies the teacher's neck and head into students with the same head structure; its released
configurations don't, so this is always a visible choice. It also expresses the paper's table 1: a head that is trained
on another detector's frozen backbone and neck, ``inherit=("backbone", "neck")`` with ``freeze`` of the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pkdzoo.models.detector import Detector

HEADS = ("rpn", "box_head", "mask_head")  # what "head" means in a two-stage detector


def part_names(model: Detector, name: str) -> list[str]:
    """The direct parts that a name stands for: itself, or all heads of a two-stage detector for ``head``."""
    parts = dict(model.named_children())
    if name == "head" and name not in parts and model.two_stage:
        return [head for head in HEADS if head in parts]
    if name not in parts:
        raise ValueError(f"{model.name} has no part {name!r}: it has {', '.join(parts)}")
    return [name]


def part_of(model: Detector, name: str) -> nn.Module:
    """A direct part of a detector (a list of its heads for ``head`` of a two-stage one).

    Raises:
        ValueError: listing the parts it has.
    """
    found = [model.get_submodule(part) for part in part_names(model, name)]
    return found[0] if len(found) == 1 else nn.ModuleList(found)


def inherit_part(student: Detector, teacher: Detector, name: str) -> None:
    """Start a part of the student with a copy of the teacher's tensors.

    Raises:
        ValueError: when the two are not made alike, naming tensors that differ; the student is untouched then.
    """
    ours, theirs = part_of(student, name).state_dict(), part_of(teacher, name).state_dict()
    other = [key for key in {*ours, *theirs} if key not in ours or key not in theirs]
    other += [key for key in ours if key in theirs and ours[key].shape != theirs[key].shape]
    if other:
        raise ValueError(
            f"distill.inherit={name!r}: student and teacher differ in {', '.join(sorted(other)[:5])}; only a part that "
            "is made alike can be inherited"
        )
    part_of(student, name).load_state_dict(theirs)


def inherit(student: Detector, teacher: Detector, parts: Sequence[str]) -> Detector:
    """Copy the tensors of several parts, ``backbone``, ``neck``, ``head``, from teacher to student.

    Returns:
        The student.

    Raises:
        ValueError: for a part that is missing or made differently.

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

    A later ``model.train()`` ends the eval mode again: whoever trains has to call this after it, or running
    statistics move.

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
