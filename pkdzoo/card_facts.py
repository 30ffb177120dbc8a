"""What a card is made of: one set of weights, its numbers and where they come from, taken from the registry's rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pkdzoo.costs import COSTS
from pkdzoo.labels import BCCD_NAMES, COCO_NAMES, SHAPES_NAMES, label_names
from pkdzoo.registry import Distilled, Entry, find

UNKNOWN = "unknown"
# Repositories of the weights these backbones start from; others (caffe's) start from files that none holds.
BACKBONES = {
    "r18": "timm/resnet18.tv_in1k",
    "r50": "timm/resnet50.tv_in1k",
    "r101": "timm/resnet101.tv_in1k",
    "swin_t": "microsoft/swin-tiny-patch4-window7-224",
    "swin_s": "microsoft/swin-small-patch4-window7-224",
}


@dataclass(frozen=True)
class DataSet:
    """What was learned and measured on.

    Attributes:
        name: for people.
        license: of annotations and pictures.
        hub_id: repository on the Hub, where there is one.
        split: that the numbers were measured on.
        limits: what a reader should know of its pictures.
        example: what a picture of it might be called.
    """

    name: str
    license: str = UNKNOWN
    hub_id: str | None = None
    split: str = "val"
    limits: str = ""
    example: str = "picture"


COCO = DataSet(
    "COCO 2017",
    "annotations CC-BY-4.0; pictures under their owners' Flickr terms",
    "detection-datasets/coco",
    "val2017",
    "COCO shows everyday scenes, mostly of North America and Europe, in photographs that people found worth sharing: "
    "other places, cameras, weather and points of view are found less well, and only its 80 classes are found at all.",
    "street",
)
SHAPES = DataSet(
    "generated shapes",
    "Apache-2.0",
    limits="The pictures are drawn by the program: this detector shows that training works and knows no photographs.",
)
BCCD = DataSet(
    "BCCD",
    "MIT, © 2017 shenggan (https://github.com/Shenggan/BCCD_Dataset)",
    limits="BCCD shows stained blood smears under one microscope, 364 pictures in all, and not every cell in them is "
    "marked. This is a demonstration: nothing in it was made or tested for diagnosis.",
    example="smear",
)
KNOWN = {COCO_NAMES: COCO, SHAPES_NAMES: SHAPES, BCCD_NAMES: BCCD}


@dataclass(frozen=True)
class Card:
    """What a card is made of.

    Attributes:
        name: ``arch.tag``, or what the weights are called.
        architecture: registered name.
        license: of the weights.
        labels: names of the classes.
        data: set they were trained for.
        metrics: numbers in percent by the evaluator's names, and ``per_class`` if it is known.
        source: where the metrics were printed, or the command that measured them.
        pair: who taught it and how good the three were.
        teacher_license: of the teacher's weights.
        params: millions of parameters.
        gflops: billions of multiply-adds of a picture of ``size``.
        size: (width, height) that they were counted for.
        megabytes: of the file of tensors, once it is written; None means float32 to come.
        speed: of one picture, with what it was measured on, in words.
        base_model: repository of the backbone it was initialised from.
        repository: ``org/name`` on the Hub, once it is known.
        origin: link to the file that was converted.
        recipe: file below ``recipes/``, or ``recipe.json`` for the one that is published beside the card.
        launch: the command that trained them, where it is known; ``python ...``, or what ``accelerate launch`` starts.
        provenance: further facts by name.
        picture: file in the repository that shows predictions.
        note: what a reader should know.
    """

    name: str
    architecture: str
    license: str
    labels: tuple[str, ...]
    data: DataSet
    metrics: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    pair: Distilled | None = None
    teacher_license: str | None = None
    params: float | None = None
    gflops: float | None = None
    size: tuple[int, int] = (1333, 800)
    megabytes: float | None = None
    speed: str = ""
    base_model: str | None = None
    repository: str | None = None
    origin: str | None = None
    recipe: str | None = None
    launch: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    picture: str | None = None
    note: str = ""


def card_of(name: str, recipe: str | None = None) -> Card:
    """The card of ``arch.tag``, or of an architecture's default weights, from the registry alone.

    Raises:
        ValueError: when there are no such weights.
    """
    entry, row = find(name)
    row = row or entry.default
    if row is None:
        raise ValueError(f"there are no weights for {name!r}, so there is nothing a card could speak of")
    params, gflops = costs_of(entry)
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
        provenance={f"sha256 of the published file{begins}": row.sha256} if row.sha256 else {},
        note="; ".join(text for text in dict.fromkeys([row.note, pair.note if pair else ""]) if text),
    )


def known_data(labels: str | tuple[str, ...]) -> DataSet | None:
    """The data set that classes belong to, where it is known."""
    return KNOWN.get(label_names(labels))


def costs_of(entry: Entry) -> tuple[float | None, float | None]:
    """Counted size and cost; a student costs what it costs without a teacher, where it is built the same way."""
    if entry.name in COSTS:
        return COSTS[entry.name]
    student = entry.distilled.student if entry.distilled else ""
    return COSTS[student] if student in COSTS and find(student)[0].args == entry.args else (None, None)


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
    if getattr(entry.args.get("pixels"), "order", "rgb") != "rgb" or "caffe" in entry.name:
        return None
    return BACKBONES.get(str(entry.args.get("backbone", "r50")))
