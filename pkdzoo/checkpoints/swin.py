"""Names and channel orders of Swin Transformers: mmdetection's, the original's and ours.

Ours is mmdetection's order under shorter names. The original merges patches in another order (cell by cell, columns
first) than mmdetection (channel by channel, rows first), so what follows a merge has to be rearranged.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pkdzoo.checkpoints.keymap import Rule, to_our_keys

SWIN_RULES: list[Rule] = [
    (r".*\.relative_position_index", None),  # follows from the size of a window
    (r"backbone\.patch_embed\.projection\.(.*)", r"backbone.patch_embed.conv.\1"),
    (r"(backbone\.stages\..*)\.attn\.w_msa\.relative_position_bias_table", r"\1.attn.bias_table"),
    (r"(backbone\.stages\..*)\.attn\.w_msa\.(.*)", r"\1.attn.\2"),
    (r"(backbone\.stages\..*)\.ffn\.layers\.0\.0\.(.*)", r"\1.fc1.\2"),
    (r"(backbone\.stages\..*)\.ffn\.layers\.1\.(.*)", r"\1.fc2.\2"),
    (r"(backbone\.stages\.\d+)\.downsample\.(.*)", r"\1.merge.\2"),
]

ORIGINAL_RULES: list[Rule] = [
    (r".*\.(?:relative_position_index|attn_mask)", None),
    (r"(?:norm|head)\..*", None),  # of the classifier
    (r"patch_embed\.proj\.(.*)", r"patch_embed.conv.\1"),
    (r"patch_embed\.norm\.(.*)", r"patch_embed.norm.\1"),
    (r"layers\.(.*)\.attn\.relative_position_bias_table", r"stages.\1.attn.bias_table"),
    (r"layers\.(.*)\.mlp\.(.*)", r"stages.\1.\2"),
    (r"layers\.(\d+)\.downsample\.(.*)", r"stages.\1.merge.\2"),
    (r"layers\.(.*)", r"stages.\1"),
]


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An ImageNet file of the original repository as weights of our backbone, without its output norms.

    Args:
        state: by the original's names (what stands below ``model`` in its files).

    Returns:
        By our names, as ``backbone.load_state_dict`` takes them; ``norm0`` to ``norm3`` are not in such files.

    Raises:
        ValueError: listing the keys that a Swin Transformer does not have.
    """
    renamed = to_our_keys(state, ORIGINAL_RULES)
    return {key: _rows_first(value) if ".merge." in key else value for key, value in renamed.items()}


def _rows_first(value: Tensor) -> Tensor:
    """Rearrange the last axis of what follows a merge: 4 cells x C, columns first -> C x 4 cells, rows first."""
    cells = value.reshape(*value.shape[:-1], 2, 2, -1)  # column, row, channel
    return cells.movedim(-1, -3).transpose(-1, -2).flatten(-3)
