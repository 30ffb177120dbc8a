"""The card of a set of weights: facts from the registry's rows, or from a detector at hand."""

from __future__ import annotations

from typing import Any

from pkdzoo.data.labels import label_names
from pkdzoo.hub.card import UNKNOWN, Card, DataSet, known_data
from pkdzoo.models._counting import count_costs
from pkdzoo.models._interface import ZooModel
from pkdzoo.models._registry import Entry, find, is_detector, known_costs

# Repositories of the weights these backbones start from; others (caffe's) start from files that none holds.
BACKBONES = {
    "r18": "timm/resnet18.tv_in1k",
    "r50": "timm/resnet50.tv_in1k",
    "r101": "timm/resnet101.tv_in1k",
    "swin_t": "microsoft/swin-tiny-patch4-window7-224",
    "swin_s": "microsoft/swin-small-patch4-window7-224",
}


def card_of(name: str, recipe: str | None = None) -> Card:
    """The card of ``arch.tag``, or of an architecture's default weights, from the registry alone.

    Raises:
        ValueError: when there are no such weights.
    """
    entry, row = find(name)
    row = row or entry.default
    if row is None:
        raise ValueError(f"there are no weights for {name!r}, so there is nothing a card could speak of")
    params, gflops = known_costs(entry) or (None, None)
    labels = label_names(row.labels)
    pair = entry.distilled
    begins = " begins with" if len(row.sha256) < 64 else ""
    return Card(
        f"{entry.name}.{row.tag}",
        entry.name,
        row.license,
        labels,
        known_data(row.labels) or DataSet(row.tag),
        row.metrics,
        row.source,
        pair,
        None if pair is None else license_of(pair.teacher),
        params,
        gflops,
        base_model=backbone_of(entry),
        repository=row.hub_id,
        origin=row.url,
        recipe=recipe or (f"recipes/{row.recipe}" if row.recipe else None),
        launch=row.launch,
        family=entry.family,
        provenance={f"sha256 of the published file{begins}": row.sha256} if row.sha256 else {},
        note="; ".join(text for text in dict.fromkeys([row.note, pair.note if pair else ""]) if text),
    )


def license_of(name: str) -> str:
    """Licence of registered weights, by ``arch.tag`` or ``arch``; ``unknown`` for everything else."""
    try:
        entry, row = find(name)
    except ValueError:
        return UNKNOWN
    row = row or entry.default
    return UNKNOWN if row is None else row.license


def backbone_of(entry: Entry) -> str | None:
    """The Hub's repository of the backbone that published weights started from; None where it holds another file."""
    if getattr(entry.args.get("pixel_norm"), "channel_order", "rgb") != "rgb" or "caffe" in entry.name:
        return None
    return BACKBONES.get(str(entry.args.get("backbone", "r50")))


def describe_card(
    model: ZooModel,
    license: str,
    data: str | DataSet | None = None,
    data_license: str | None = None,
    **more: Any,
) -> Card:
    """The card of a detector's own weights.

    Args:
        model: gives architecture, classes and size.
        license: of the weights.
        data: set they were trained for; None means the one whose classes these are, where that is known.
        data_license: of that set, where ``data`` is only its name.
        more: further fields of :class:`pkdzoo.hub.card.Card`.
    """
    if data is None:
        data = known_data(model.label_names) or "its own data set"
    if isinstance(data, str):
        data = DataSet(data, data_license or "unknown")
    short, long = model.resize
    params, gflops = count_costs(model, (short, long))
    family = find(model.name)[0].family if is_detector(model.name) else ""
    given = {"name": model.name, "family": family, "params": params, "gflops": gflops, "size": (long, short), **more}
    return Card(architecture=model.name, license=license, labels=model.label_names, data=data, **given)
