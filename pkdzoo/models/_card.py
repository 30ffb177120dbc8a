"""The facts on a model card, from the registry or from a detector."""

from __future__ import annotations

from typing import Any

from pkdzoo.data.labels import label_names
from pkdzoo.hub.card import UNKNOWN, Card, DataSet, known_data
from pkdzoo.hub.card_licenses import data_set
from pkdzoo.hub.fetch import PACKAGED
from pkdzoo.hub.files import REPOSITORY
from pkdzoo.models._counting import count_costs
from pkdzoo.models._interface import ZooModel
from pkdzoo.models._registry import Entry, find, is_detector, known_costs
from pkdzoo.models.backbones.timm_networks import PREFIX, is_timm

# Repositories with the initial weights of backbones; those of Caffe's backbones are in no repository.
BACKBONES = {
    "r18": "timm/resnet18.tv_in1k",
    "r50": "timm/resnet50.tv_in1k",
    "r101": "timm/resnet101.tv_in1k",
    "swin_t": "microsoft/swin-tiny-patch4-window7-224",
    "swin_s": "microsoft/swin-small-patch4-window7-224",
}


def card_of(name: str, recipe: str | None = None) -> Card:
    """The card of registered weights.

    Args:
        name: ``arch.tag``, or ``arch`` for its default weights.
        recipe: path of the recipe that trains them; None means the one in the registry.

    Raises:
        ValueError: for an unknown name, and an architecture without weights.
    """
    entry, row = find(name)
    row = row or entry.default
    if row is None:
        raise ValueError(f"there are no weights for {name!r}: a card describes weights")
    params, gflops = known_costs(entry) or (None, None)
    labels = label_names(row.labels)
    pair = entry.distilled
    file = PACKAGED / row.file if row.file else None
    megabytes = file.stat().st_size / 1e6 if file is not None and file.is_file() else None
    digits = " (first digits)" if len(row.sha256) < 64 else ""
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
        params=params,
        gflops=gflops,
        base_model=backbone_of(entry),
        repository=row.hub_id,
        origin=row.url,
        direct=row.direct,
        recipe=recipe or (f"recipes/{row.recipe}" if row.recipe else None),
        launch=row.launch,
        family=entry.family,
        curves=row.curves,
        speed=row.speed,
        megabytes=megabytes,
        provenance={f"sha256 of the published file{digits}": row.sha256} if row.sha256 else {},
        note=row.note,
    )


def license_of(name: str) -> str:
    """License of registered weights, by ``arch.tag`` or ``arch``; ``unknown`` for other names."""
    try:
        entry, row = find(name)
    except ValueError:
        return UNKNOWN
    row = row or entry.default
    return UNKNOWN if row is None else row.license


def backbone_of(entry: Entry) -> str | None:
    """Repository on the Hub with the backbone's initial weights; None if they are in no repository."""
    if getattr(entry.args.get("pixel_norm"), "channel_order", "rgb") != "rgb" or "caffe" in entry.name:
        return None
    name = str(entry.args.get("backbone", "r50"))
    return f"timm/{name.removeprefix(PREFIX)}" if is_timm(name) else BACKBONES.get(name)


def describe_card(
    model: ZooModel,
    license: str,
    data: str | DataSet | None = None,
    data_license: str | None = None,
    **more: Any,
) -> Card:
    """The card of a detector's weights.

    Args:
        model: the detector.
        license: license of the weights.
        data: training data set, or its name; None means one of the caller's own.
        data_license: license of the data set, if ``data`` is its name; a known data set has its own.
        more: further fields of :class:`pkdzoo.hub.card.Card`.

    Raises:
        ValueError: for another license than that of a known data set.
    """
    if not isinstance(data, DataSet):
        data = data_set(data, data_license)
    short, long = model.resize
    params, gflops = count_costs(model, (short, long))
    family = find(model.name)[0].family if is_detector(model.name) else ""
    initial = model.initial_weights
    if initial is not None:
        base = initial.name if REPOSITORY.fullmatch(initial.name) and "/" in initial.name else None
        more = {"initial": initial, "base_model": base, **more}
    fields = {"name": model.name, "family": family, "params": params, "gflops": gflops, "size": (long, short), **more}
    return Card(architecture=model.name, license=license, labels=model.label_names, data=data, **fields)
