"""Renaming of checkpoint keys, and the strict load that everything goes through.

A rule is a pair (pattern, replacement): a regular expression that must match the whole key, and what to write
instead, or None for "this has no place here". The first rule that fits is taken. A key that no rule takes is an
error, as are keys the model misses: nothing is ever left at its random start silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

Rule = tuple[str, str | None]

# Buffers that follow from the architecture: files may have them or not.
DERIVED = re.compile(r".*(relative_position_index|integral\.project|num_batches_tracked)")


def to_our_keys(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Rename every key by the first rule that fits.

    Args:
        state: tensors by their foreign names.
        rules: (pattern, replacement or None) in order of preference.

    Raises:
        ValueError: listing the keys that no rule takes, or two keys that become one.
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
                    raise ValueError(f"two keys of the checkpoint become {name!r}, the second is {key!r}")
                renamed[name] = value
            break
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(f"{len(unknown)} keys of the checkpoint fit no rule of this detector: {shown(unknown)}")
    return renamed


def load_strictly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict in our own key layout; derived buffers may be present or absent.

    Raises:
        ValueError: listing missing keys, left-over keys and shapes that differ. The model is untouched then.
    """
    model.load_state_dict(fitting(model, state), strict=False)


def fitting(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict that the model holds, after making sure that they are all there and nothing else is.

    Raises:
        ValueError: listing missing keys, left-over keys and shapes that differ.
    """
    own = model.state_dict()
    given = {key: value for key, value in state.items() if key in own or not DERIVED.fullmatch(key)}
    missing = [key for key in own if key not in given and not DERIVED.fullmatch(key)]
    extra = [key for key in given if key not in own]
    shapes = [
        f"{key}: file {tuple(value.shape)}, model {tuple(own[key].shape)}"
        for key, value in given.items()
        if key in own and value.shape != own[key].shape
    ]
    if missing or extra or shapes:
        parts = [
            f"{len(rows)} {what}: {shown(rows)}"
            for what, rows in (("missing", missing), ("left over", extra), ("of another shape", shapes))
            if rows
        ]
        hint = (
            " (another number of classes? write create_detector(..., num_classes=N) to match the file)"
            if shapes
            else ""
        )
        raise ValueError(f"the checkpoint does not fit this detector; {'; '.join(parts)}{hint}")
    return given


def shown(rows: Sequence[str], limit: int = 12) -> str:
    """The rows as text, the middle left out when there are many."""
    if len(rows) <= limit:
        return ", ".join(rows)
    return f"{', '.join(rows[:limit])}, ... and {len(rows) - limit} more"
