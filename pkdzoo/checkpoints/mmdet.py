"""Checkpoints in mmdetection's layout: wrappers, and the key rules of backbones and necks.

The key rules of heads are in the files of their families.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.swin import SWIN_RULES

BODY_RULES: list[Rule] = [
    (r"data_preprocessor\..*", None),  # pixel statistics are part of the registered entry
    # deformable convolutions have two names; mmdetection renames the older one when it loads a file
    (r"backbone\.(.*\.conv2)(?:\.conv)?_offset\.(.*)", r"backbone.\1.offset.\2"),
    *SWIN_RULES,
    (r"backbone\.(.*)", r"backbone.\1"),  # ResNet and ResNeXt have torchvision's names already
    (r"neck\.lateral_convs\.(\d+)\.conv\.(.*)", r"neck.lateral.\1.conv.\2"),
    (r"neck\.lateral_convs\.(\d+)\.gn\.(.*)", r"neck.lateral.\1.norm.\2"),
    (r"neck\.fpn_convs\.(\d+)\.conv\.(.*)", r"neck.output.\1.conv.\2"),
    (r"neck\.fpn_convs\.(\d+)\.gn\.(.*)", r"neck.output.\1.norm.\2"),
]

TEACHERS = ("teacher.", "teacher_model.")
RAZOR = ("teachers.", "distiller.", "data_preprocessor.")  # other parts of mmrazor's algorithms, next to the student


def tower_rules(source: str, target: str) -> list[Rule]:
    """Rules for a stack of ConvModules, e.g. from ``bbox_head.cls_convs`` to ``head.cls_tower``."""
    source = source.replace(".", r"\.")
    return [
        (rf"{source}\.(\d+)\.conv\.(.*)", rf"{target}.blocks.\1.conv.\2"),
        (rf"{source}\.(\d+)\.(?:gn|bn)\.(.*)", rf"{target}.blocks.\1.norm.\2"),
    ]


def unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Extract the tensors of the detector from the checkpoint of a training framework.

    The tensors are those under ``state_dict`` or ``model``, without ``module.`` prefixes. From a distillation
    checkpoint, only the student is taken: mmrazor stores it under ``architecture.`` (mmrazor 0.x under
    ``architecture.model.``), next to ``teacher.`` and the connectors in ``distiller.``; CrossKD stores it at the top
    level, in some files next to ``teacher.``. Unknown keys are kept, so that strict loading reports them.

    Raises:
        ValueError: for a checkpoint without tensors.
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
    dropped: tuple[str, ...] = TEACHERS
    if any(key.startswith("architecture.") for key in state):
        dropped += RAZOR
    kept = {key.removeprefix("architecture."): value for key, value in state.items() if not key.startswith(dropped)}
    nested = dropped != TEACHERS and all(key.startswith("model.") for key in kept)
    return {key.removeprefix("model.") if nested else key: value for key, value in kept.items()}
