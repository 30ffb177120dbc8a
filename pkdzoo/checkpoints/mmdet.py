"""What all checkpoints in mmdetection's layout share: wrappers, backbones and necks.

The rules of a head stand beside that head, in its model file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.swin import SWIN_RULES

BODY_RULES: list[Rule] = [
    (r"data_preprocessor\..*", None),  # pixel statistics belong to the detector's entry
    # deformable convolutions go by two names, mmdetection renames the older one when it loads
    (r"backbone\.(.*\.conv2)(?:\.conv)?_offset\.(.*)", r"backbone.\1.offset.\2"),
    *SWIN_RULES,
    (r"backbone\.(.*)", r"backbone.\1"),  # ResNet and ResNeXt already go by torchvision's names
    (r"neck\.lateral_convs\.(\d+)\.conv\.(.*)", r"neck.lateral.\1.conv.\2"),
    (r"neck\.lateral_convs\.(\d+)\.gn\.(.*)", r"neck.lateral.\1.norm.\2"),
    (r"neck\.fpn_convs\.(\d+)\.conv\.(.*)", r"neck.output.\1.conv.\2"),
    (r"neck\.fpn_convs\.(\d+)\.gn\.(.*)", r"neck.output.\1.norm.\2"),
]

TEACHERS = ("teacher.", "teacher_model.")
RAZOR = ("teachers.", "distiller.", "data_preprocessor.")  # what else mmrazor's algorithms hold beside a student


def tower_rules(source: str, target: str) -> list[Rule]:
    """Rules for a stack of ConvModules, e.g. from ``bbox_head.cls_convs`` to ``head.cls_tower``."""
    source = source.replace(".", r"\.")
    return [
        (rf"{source}\.(\d+)\.conv\.(.*)", rf"{target}.blocks.\1.conv.\2"),
        (rf"{source}\.(\d+)\.(?:gn|bn)\.(.*)", rf"{target}.blocks.\1.norm.\2"),
    ]


def unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The student's tensors inside what a training framework saved.

    Looks below ``state_dict`` or ``model``, drops ``module.`` prefixes, and of a distillation checkpoint takes the
    student: mmrazor keeps it under ``architecture.`` beside ``teacher.`` and the connectors of its ``distiller.``;
    CrossKD's detectors keep it at the top, some beside ``teacher.``. What is neither student nor known company keeps
    its name, and so is left over for the strict load to list.
    """
    for key in ("state_dict", "model"):
        inner = content.get(key)
        if isinstance(inner, Mapping):
            content = inner
            break
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"no tensors in the checkpoint; its keys are {', '.join(map(str, list(content)[:12]))}")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    company: tuple[str, ...] = TEACHERS
    if any(key.startswith("architecture.") for key in state):
        company += RAZOR
    return {key.removeprefix("architecture."): value for key, value in state.items() if not key.startswith(company)}
