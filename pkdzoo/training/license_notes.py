"""What the summary before a run says of licenses that limit how its student can be published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pkdzoo.hub.card_licenses import PERMISSIVE, is_unknown
from pkdzoo.hub.weights import InitialWeights


def license_notes(
    start: InitialWeights | None, teacher: Mapping[str, Any], teacher_start: InitialWeights | None
) -> list[str]:
    """One line for the student and one for the teacher; none for permissive licenses and for random weights.

    Args:
        start: weights that the student, or a part of it, starts from.
        teacher: its facts, see :func:`pkdzoo.training.provenance.about_teacher`; empty without a teacher.
        teacher_start: weights that the teacher started from, where these are known.
    """
    lines = []
    if start is not None and is_unknown(start.license):
        lines.append(
            f"license   the student starts from {start.name}, whose license is unknown: to publish the result, write "
            "--init-license ID then"
        )
    elif start is not None and start.license.lower() not in PERMISSIVE:
        lines.append(
            f"license   the student starts from {start.name}, which is under {start.license}: the result can be "
            "published under this license alone, if its terms allow it"
        )
    name, license = teacher.get("teacher"), str(teacher.get("teacher_license") or "")
    if name is None or teacher.get("teacher_weights") == "random":
        return lines
    if is_unknown(license) and teacher_start is not None and not is_unknown(teacher_start.license):
        license = teacher_start.license
    if is_unknown(license):
        lines.append(
            f"license   unknown for the teacher, {name}: to publish the result, write --teacher-license ID then"
        )
    elif license.lower() not in PERMISSIVE:
        lines.append(
            f"license   the teacher {name} is under {license}: read its terms before you publish what learns from it"
        )
    return lines
