"""Renaming of checkpoint keys, and strict loading of state dicts.

A rule is a pair (pattern, replacement): a regular expression that must match the whole key, and the new key, or None to
drop the key. The first rule that matches is applied. Keys without a rule and missing keys are errors: no parameter
silently keeps its random initialization.

A pattern with a group named ``tied`` matches the several names of one shared tensor: all of them are renamed to one
key, and their values must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pkdzoo.utils.text import counted

Rule = tuple[str, str | None]

# Buffers that can be computed from the architecture: optional in files.
DERIVED = re.compile(r".*(relative_position_index|integral\.project|num_batches_tracked)")


def to_our_keys(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Rename every key by the first rule that matches.

    Args:
        state: tensors by the names of another library.
        rules: (pattern, replacement or None) in order of priority.

    Raises:
        ValueError: for keys without a rule, and for two keys with the same new name; the message lists them.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        for pattern, replacement in rules:
            match = re.fullmatch(pattern, key)
            if match is None:
                continue
            if replacement is not None:
                name = match.expand(replacement)
                if name in renamed:
                    check_tied(match, name, renamed[name], value)
                renamed[name] = value
            break
        else:
            unknown.append(key)
    if unknown:
        found = counted(len(unknown), "key of the checkpoint matches", "keys of the checkpoint match")
        raise ValueError(f"{found} no rule of this detector: {shorten(unknown)}")
    return renamed


def check_tied(match: re.Match[str], name: str, first: Tensor, value: Tensor) -> None:
    """Raise ValueError for two keys with one new name, unless they are names of one shared tensor."""
    if "tied" not in match.re.groupindex:
        raise ValueError(f"two keys of the checkpoint are renamed to {name!r}, the second is {match.string!r}")
    if first.shape != value.shape or not torch.equal(first, value):
        raise ValueError(
            f"{match.string!r} differs from the same layer of another level, and this detector has one tensor for all "
            f"levels, {name!r}: the checkpoint is of another architecture"
        )


def load_strictly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict in our key layout; buffers that can be computed are optional.

    Raises:
        ValueError: as :func:`select_matching`. The model stays unchanged.
    """
    model.load_state_dict(select_matching(model, state), strict=False)


def select_matching(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Check that a state dict fits a model, and return the tensors that the model has.

    Raises:
        ValueError: for missing keys, unexpected keys, different shapes, integers in place of real numbers (quantized
            weights), and values that are not finite; the message lists them.
    """
    own = model.state_dict()
    loaded = {key: value for key, value in state.items() if key in own or not DERIVED.fullmatch(key)}
    missing = [key for key in own if key not in loaded and not DERIVED.fullmatch(key)]
    extra = [key for key in loaded if key not in own]
    shapes = [
        f"{key}: file {tuple(value.shape)}, model {tuple(own[key].shape)}"
        for key, value in loaded.items()
        if key in own and value.shape != own[key].shape
    ]
    kinds = [
        f"{key}: file {str(value.dtype).removeprefix('torch.')}, model {str(own[key].dtype).removeprefix('torch.')}"
        for key, value in loaded.items()
        if key in own and own[key].is_floating_point() and not value.is_floating_point()
    ]
    if missing or extra or shapes or kinds:
        parts = [
            f"{len(rows)} {what}: {shorten(rows)}"
            for what, rows in (
                ("missing", missing),
                ("unexpected", extra),
                ("of another shape", shapes),
                ("of integers", kinds),
            )
            if rows
        ]
        hint = (
            " (another number of classes? write create_detector(..., num_classes=N), or --labels on the command line, "
            "to match the file)"
            if shapes
            else ""
        )
        raise ValueError(f"the checkpoint does not fit this detector; {'; '.join(parts)}{hint}")
    broken = [key for key, value in loaded.items() if not is_finite(value)]
    if broken:
        raise ValueError(
            f"the checkpoint has {counted(len(broken), 'tensor')} with NaN or infinite values: {shorten(broken)}. Its "
            "training has diverged, or the file is damaged: take an earlier checkpoint"
        )
    return loaded


def is_finite(value: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinite values; True for one without values, on the meta device."""
    if value.is_meta or not value.is_floating_point():
        return True
    return bool(torch.isfinite(value if value.element_size() > 1 else value.float()).all())


def shorten(rows: Sequence[str], limit: int = 12) -> str:
    """Join rows by commas; of more than ``limit`` rows only the first ones are listed."""
    if len(rows) <= limit:
        return ", ".join(rows)
    return f"{', '.join(rows[:limit])}, ... and {len(rows) - limit} more"
