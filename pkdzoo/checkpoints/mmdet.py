"""Checkpoints in mmdetection's layout: the key rules of backbones and necks.

The key rules of heads are in the files of their families.
"""

from __future__ import annotations

from pkdzoo.checkpoints.cspnext import PAFPN_RULES
from pkdzoo.checkpoints.keymap import Rule
from pkdzoo.checkpoints.swin import SWIN_RULES

BODY_RULES: list[Rule] = [
    (r"data_preprocessor\..*", None),  # pixel statistics are part of the registered entry
    # deformable convolutions have two names; mmdetection renames the older one when it loads a file
    (r"backbone\.(.*\.conv2)(?:\.conv)?_offset\.(.*)", r"backbone.\1.offset.\2"),
    *SWIN_RULES,
    *PAFPN_RULES,
    (r"backbone\.(.*)", r"backbone.\1"),  # ResNet and ResNeXt have torchvision's names already
    (r"neck\.lateral_convs\.(\d+)\.conv\.(.*)", r"neck.lateral.\1.conv.\2"),
    (r"neck\.lateral_convs\.(\d+)\.gn\.(.*)", r"neck.lateral.\1.norm.\2"),
    (r"neck\.fpn_convs\.(\d+)\.conv\.(.*)", r"neck.output.\1.conv.\2"),
    (r"neck\.fpn_convs\.(\d+)\.gn\.(.*)", r"neck.output.\1.norm.\2"),
]


def tower_rules(source: str, target: str) -> list[Rule]:
    """Rules for a stack of ConvModules, e.g. from ``bbox_head.cls_convs`` to ``head.cls_tower``."""
    source = source.replace(".", r"\.")
    return [
        (rf"{source}\.(\d+)\.conv\.(.*)", rf"{target}.blocks.\1.conv.\2"),
        (rf"{source}\.(\d+)\.(?:gn|bn)\.(.*)", rf"{target}.blocks.\1.norm.\2"),
    ]
