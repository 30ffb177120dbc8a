"""The facts on a model card: one set of weights, its numbers and their sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pkdzoo.data.labels import BCCD_NAMES, COCO_NAMES, DEEPPCB_NAMES, SHAPES_NAMES, label_names
from pkdzoo.data.labels import KNOWN as LABELS
from pkdzoo.hub.weights import Distilled, InitialWeights

UNKNOWN = "unknown"


@dataclass(frozen=True)
class DataSet:
    """The data set that weights are trained and evaluated on.

    Attributes:
        name: shown to readers.
        license: license of annotations and images.
        hub_id: repository on the Hub, if there is one.
        split: split of the evaluation.
        limits: limitations of its images.
        example: file name, without suffix, for examples of code.
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
    "COCO has everyday scenes, mostly from North America and Europe, in photographs that were shared online. Accuracy "
    "is lower for other places, cameras, weather and viewpoints, and only its 80 classes are detected.",
    "street",
)
SHAPES = DataSet(
    "generated shapes",
    "Apache-2.0",
    limits="The images are generated: this detector shows that training works and does not work on photographs.",
)
BCCD = DataSet(
    "BCCD",
    "MIT, © 2017 shenggan (https://github.com/Shenggan/BCCD_Dataset)",
    limits="BCCD has 364 images of stained blood smears from one microscope, and not every blood cell is annotated. "
    "This is a demonstration, neither made nor tested for diagnosis.",
    example="smear",
)
DEEPPCB = DataSet(
    "DeepPCB",
    'MIT, © 2018 tangsanli5201; its page says "research purpose" (https://github.com/tangsanli5201/DeepPCB)',
    limits="DeepPCB has scans of circuit boards in black and white from one line camera, and many of their defects are "
    "artificial. Photographs of boards look different and need a detector of their own. The data set's own evaluation "
    "asks for an IoU of 0.33; these numbers are COCO's.",
    example="board",
)
KNOWN = {COCO_NAMES: COCO, SHAPES_NAMES: SHAPES, BCCD_NAMES: BCCD, DEEPPCB_NAMES: DEEPPCB}
BY_NAME = {
    **{name: KNOWN[labels] for name, labels in LABELS.items()},
    **{data.name.lower(): data for data in KNOWN.values()},
}  # names of known data sets, as a user writes them in lower case


@dataclass(frozen=True)
class Card:
    """The facts on a card.

    Attributes:
        name: ``arch.tag``, or another name of the weights.
        architecture: registered name.
        license: license of the weights.
        labels: class names.
        data: training data set.
        metrics: numbers in percent by the evaluator's names, and ``per_class`` if it is known.
        source: where the metrics are published, or the command that measured them.
        pair: student, teacher and their APs, for a distilled detector.
        teacher_license: license of the teacher's weights.
        baseline_AP: AP of the plain student on the same images, where the teacher's is unknown.
        params: millions of parameters.
        gflops: billions of multiply-adds for one image of ``size``.
        size: (width, height) of the image that ``gflops`` is counted for.
        megabytes: size of the file of tensors; None if it is not written yet, float32 is assumed then.
        speed: time per image and the hardware, as text.
        base_model: repository of the backbone's initial weights.
        initial: weights that the training started from, where their license is recorded.
        repository: ``org/name`` on the Hub, if it is known.
        origin: link of the file that another project published and that was converted.
        direct: False if the link can only be opened in a browser.
        recipe: file below ``recipes/``, or ``recipe.json`` for the recipe that is published with the card.
        launch: the training command, if it is known: ``python ...``, or the arguments of ``accelerate launch``.
        provenance: further facts by name.
        image: file in the repository that shows predictions.
        plots: files of plots in the repository, with their captions.
        note: a remark for readers.
        curves: AP by epoch of some trainings, by their names; ``epoch`` holds the epochs.
        family: family of the architecture, e.g. ``retina``.
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
    baseline_AP: float | None = None
    params: float | None = None
    gflops: float | None = None
    size: tuple[int, int] = (1333, 800)
    megabytes: float | None = None
    speed: str = ""
    base_model: str | None = None
    initial: InitialWeights | None = None
    repository: str | None = None
    origin: str | None = None
    direct: bool = True
    recipe: str | None = None
    launch: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    image: str | None = None
    plots: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    family: str = ""


def known_data(labels: str | tuple[str, ...]) -> DataSet | None:
    """The known data set with these classes; only for registered weights, others can have the same classes."""
    return KNOWN.get(label_names(labels))
