"""From a name to a detector: the one place that imports every model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pkdzoo.backbones import backbone_arguments
from pkdzoo.checkpoints import load_strictly, read_state_dict, to_our_keys
from pkdzoo.checkpoints.mmdet import unwrap
from pkdzoo.models import atss, faster_rcnn, fcos, gfl, mask_rcnn, retina, tood  # noqa: F401 - registers the families
from pkdzoo.models.base import Detector
from pkdzoo.registry import Entry, find, nearest


def create_detector(name: str, pretrained: bool = False, num_classes: int | None = None, **overrides: Any) -> Detector:
    """Build a detector, with or without weights, in eval mode.

    Args:
        name: ``arch`` or ``arch.tag``.
        pretrained: load the tag's weights, or the architecture's best ones.
        num_classes: other than the entry's; layers that depend on it start at random then.
        overrides: arguments of the family's build function or of its backbone, e.g. ``norm="gn"``.

    Raises:
        ValueError: for an unknown name, tag or keyword (with the nearest that exist), and for ``pretrained=True``
            where there are no weights.
    """
    entry, weights = find(name)
    args = {**entry.args, **check_overrides(entry, overrides)}
    if num_classes is not None:
        args["num_classes"] = num_classes
    model: Detector = entry.build(**args)
    model.name = entry.name
    if pretrained:
        raise ValueError(f"no weights for {name!r} can be had yet")
    return model.eval()


def check_overrides(entry: Entry, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that are not None, after making sure that each is an argument somewhere."""
    given = {key: value for key, value in overrides.items() if value is not None}
    own = set(inspect.signature(entry.build).parameters) - {"backbone_args"}
    known = own | backbone_arguments(given.get("backbone", entry.args.get("backbone", "r50")))
    for key in given:
        if key not in known:
            raise ValueError(f"{entry.name} has no argument {key!r}. {nearest(key, known)}")
    return given


def load_checkpoint(model: Detector, source: str | Path | Mapping[str, Any]) -> Detector:
    """Load weights from a file or a state dict, strictly.

    Args:
        model: a detector of the same architecture and number of classes.
        source: a path (safetensors or ``.pth``) or a state dict; in our own key layout, or in mmdetection's,
            mmrazor's (the student is taken) or CrossKD's.

    Returns:
        The same model.

    Raises:
        ValueError: listing every key that is missing, left over or of another shape; the model is untouched then.
        FileNotFoundError: when the path does not exist.
    """
    content = source if isinstance(source, Mapping) else read_state_dict(source)
    state = unwrap(content)
    if not is_our_layout(model, state):
        state = to_our_keys(state, model.key_rules)
    load_strictly(model, state)
    model.loaded_from = "a state dict" if isinstance(source, Mapping) else str(source)
    return model


def is_our_layout(model: Detector, state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict goes by our names: no foreign head or neck in it, and some of our keys."""
    foreign = ("bbox_head.", "rpn_head.", "roi_head.", "neck.lateral_convs.")
    return not any(key.startswith(foreign) for key in state) and any(key in state for key in model.state_dict())
