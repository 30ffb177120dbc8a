"""Small trainable modules between student and teacher. They are dropped when the student is saved."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pkdzoo.distill.pairing import PyramidShape


def adapters(
    student: PyramidShape,
    teacher: PyramidShape,
    pairs: Sequence[tuple[int, int]],
    kernel: int = 1,
    always: bool = False,
    std: float | None = None,
) -> nn.ModuleList:
    """A convolution for each pair of levels that gives the student's map the teacher's channels.

    Args:
        student: shape of its pyramid.
        teacher: shape of its pyramid.
        pairs: level numbers.
        kernel: side of the convolution, odd.
        always: also where the channels agree; otherwise nothing happens there.
        std: weights from a normal distribution cut off at two deviations, biases 0; None: PyTorch's own start.
    """
    made = nn.ModuleList()
    for i, j in pairs:
        inputs, outputs = student.channels[i], teacher.channels[j]
        if inputs == outputs and not always:
            made.append(nn.Identity())
            continue
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        if std is not None:
            nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        made.append(conv)
    return made
