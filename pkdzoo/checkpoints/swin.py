"""Key names and channel orders of Swin Transformers: mmdetection's, the original's and ours.

Ours are mmdetection's channel order and shorter names. The original merges patches location by location with columns
first, mmdetection channel by channel with rows first. The norm and the linear layer after a merge must therefore be
permuted.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pkdzoo.checkpoints.keymap import Rule, to_our_keys

SWIN_RULES: list[Rule] = [
    (r".*\.relative_position_index", None),  # can be computed from the window size
    (r"backbone\.patch_embed\.projection\.(.*)", r"backbone.patch_embed.conv.\1"),
    (r"(backbone\.stages\..*)\.attn\.w_msa\.relative_position_bias_table", r"\1.attn.bias_table"),
    (r"(backbone\.stages\..*)\.attn\.w_msa\.(.*)", r"\1.attn.\2"),
    (r"(backbone\.stages\..*)\.ffn\.layers\.0\.0\.(.*)", r"\1.fc1.\2"),
    (r"(backbone\.stages\..*)\.ffn\.layers\.1\.(.*)", r"\1.fc2.\2"),
    (r"(backbone\.stages\.\d+)\.downsample\.(.*)", r"\1.merge.\2"),
]

ORIGINAL_RULES: list[Rule] = [
    (r".*\.(?:relative_position_index|attn_mask)", None),
    (r"(?:norm|head)\..*", None),  # the classifier
    (r"patch_embed\.proj\.(.*)", r"patch_embed.conv.\1"),
    (r"patch_embed\.norm\.(.*)", r"patch_embed.norm.\1"),
    (r"layers\.(.*)\.attn\.relative_position_bias_table", r"stages.\1.attn.bias_table"),
    (r"layers\.(.*)\.mlp\.(.*)", r"stages.\1.\2"),
    (r"layers\.(\d+)\.downsample\.(.*)", r"stages.\1.merge.\2"),
    (r"layers\.(.*)", r"stages.\1"),
]


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert an ImageNet file of the original repository to weights of our backbone, without its output norms.

    Args:
        state: tensors by the original's names (the content of ``model`` in its files).

    Returns:
        Tensors by our names, as for ``backbone.load_state_dict``. Such files have no ``norm0`` to ``norm3``.

    Raises:
        ValueError: for keys that a Swin Transformer does not have; the message lists them.
    """
    renamed = to_our_keys(state, ORIGINAL_RULES)
    return {key: _rows_first(value) if ".merge." in key else value for key, value in renamed.items()}


def _rows_first(value: Tensor) -> Tensor:
    """Permute the last axis after a merge: (4 locations, C) with columns first -> (C, 4 locations) with rows first."""
    patches = value.reshape(*value.shape[:-1], 2, 2, -1)  # column, row, channel
    return patches.movedim(-1, -3).transpose(-1, -2).flatten(-3)
