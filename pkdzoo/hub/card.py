"""What a card is made of: one set of weights, its numbers and where they come from, taken from the registry's rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pkdzoo.data.labels import BCCD_NAMES, COCO_NAMES, SHAPES_NAMES, label_names
from pkdzoo.hub.weights import Distilled

UNKNOWN = "unknown"


@dataclass(frozen=True)
class DataSet:
    """What was learned and measured on.

    Attributes:
        name: for people.
        license: of annotations and images.
        hub_id: repository on the Hub, where there is one.
        split: that the numbers were measured on.
        limits: what a reader should know of its images.
        example: what an image of it might be called.
    """

    name: str
    license: str = UNKNOWN
    hub_id: str | None = None
    split: str = "val"
    limits: str = ""
    example: str = "image"


COCO = DataSet(
    "COCO 2017",
    "annotations CC-BY-4.0; images under their owners' Flickr terms",
    "detection-datasets/coco",
    "val2017",
    "COCO shows everyday scenes, mostly of North America and Europe, in photographs that people found worth sharing: "
    "other places, cameras, weather and points of view are found less well, and only its 80 classes are found at all.",
    "street",
)
SHAPES = DataSet(
    "generated shapes",
    "Apache-2.0",
    limits="The images are drawn by the program: this detector shows that training works and knows no photographs.",
)
BCCD = DataSet(
    "BCCD",
    "MIT, © 2017 shenggan (https://github.com/Shenggan/BCCD_Dataset)",
    limits="BCCD shows stained blood smears under one microscope, 364 images in all, and not every cell in them is "
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
        gflops: billions of multiply-adds of an image of ``size``.
        size: (width, height) that they were counted for.
        megabytes: of the file of tensors, once it is written; None means float32 to come.
        speed: of one image, with what it was measured on, in words.
        base_model: repository of the backbone it was initialised from.
        repository: ``org/name`` on the Hub, once it is known.
        origin: link to the file that was converted.
        recipe: file below ``recipes/``, or ``recipe.json`` for the one that is published beside the card.
        launch: the command that trained them, where it is known; ``python ...``, or what ``accelerate launch`` starts.
        provenance: further facts by name.
        image: file in the repository that shows predictions.
        note: what a reader should know.
        family: of the architecture, e.g. ``retina``.
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
    image: str | None = None
    note: str = ""
    family: str = ""


def known_data(labels: str | tuple[str, ...]) -> DataSet | None:
    """The data set that classes belong to, where it is known."""
    return KNOWN.get(label_names(labels))
