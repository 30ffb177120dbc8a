"""Keys of CSPNeXt, its pyramid and RTMDet's head, as mmdetection and as MMYOLO name them.

The backbone's names are ours. mmdetection counts the pyramid's top-down layers from the deepest level, we count from
the finest. The convolutions of the head are shared by the levels: files hold each of them once per level, three equal
tensors, or once.
"""

from __future__ import annotations

from pkdzoo.checkpoints.keymap import Rule

PAFPN_RULES: list[Rule] = [
    # mmdetection; three levels: 0 is the deepest
    (r"neck\.reduce_layers\.0\.(.*)", r"neck.reduce.1.\1"),
    (r"neck\.reduce_layers\.1\.(.*)", r"neck.reduce.0.\1"),
    (r"neck\.top_down_blocks\.0\.(.*)", r"neck.top_down.1.\1"),
    (r"neck\.top_down_blocks\.1\.(.*)", r"neck.top_down.0.\1"),
    (r"neck\.downsamples\.(\d+)\.(.*)", r"neck.down.\1.\2"),
    (r"neck\.bottom_up_blocks\.(\d+)\.(.*)", r"neck.bottom_up.\1.\2"),
    (r"neck\.out_convs\.(\d+)\.(.*)", r"neck.output.\1.\2"),
    # MMYOLO: the first top-down layer is a CSP layer and the next reduction
    (r"neck\.reduce_layers\.2\.(.*)", r"neck.reduce.1.\1"),
    (r"neck\.top_down_layers\.0\.0\.(.*)", r"neck.top_down.1.\1"),
    (r"neck\.top_down_layers\.0\.1\.(.*)", r"neck.reduce.0.\1"),
    (r"neck\.top_down_layers\.1\.(.*)", r"neck.top_down.0.\1"),
    (r"neck\.downsample_layers\.(\d+)\.(.*)", r"neck.down.\1.\2"),
    (r"neck\.bottom_up_layers\.(\d+)\.(.*)", r"neck.bottom_up.\1.\2"),
    (r"neck\.out_layers\.(\d+)\.(.*)", r"neck.output.\1.\2"),
]

MMYOLO_PREFIX = "bbox_head.head_module."
HEAD = r"bbox_head\.(?:head_module\.)?"  # MMYOLO's heads have a module of their own for the layers
HEAD_RULES: list[Rule] = [
    (HEAD + r"(cls|reg)_convs\.(?P<tied>\d+)\.(\d+)\.conv\.(.*)", r"head.\1_tower.\3.conv.\4"),
    (HEAD + r"(cls|reg)_convs\.(\d+)\.(\d+)\.bn\.(.*)", r"head.\1_tower.\3.norms.\2.\4"),
    (HEAD + r"rtm_cls\.(\d+)\.(.*)", r"head.cls.\1.\2"),
    (HEAD + r"rtm_reg\.(\d+)\.(.*)", r"head.box.\1.\2"),
]

RTMDET_RULES: list[Rule] = [
    *HEAD_RULES,
    *PAFPN_RULES,
    (r"backbone\.(.*)", r"backbone.\1"),
    (r"data_preprocessor\..*", None),  # pixel statistics are part of the registered entry
]
