"""A recipe: the complete description of a training run, as frozen dataclasses.

Values are checked against the types below, so a misspelled field or a text in place of a number is an error before
anything is built. recipe_files.py reads recipes from files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from pkdzoo.training.fields import suggests_fields, with_field
from pkdzoo.training.ranges import check_ranges
from pkdzoo.utils.values import convert_value


@suggests_fields
@dataclass(frozen=True)
class Mix:
    """Mosaic and mixup, with RTMDet's random scales and colors; see :class:`pkdzoo.data.MixTransform`.

    What an image does not fill is gray (114) for every detector, as in mmdetection and MMYOLO. As there, detectors with
    a letterbox such as RTMDet have this border in evaluation, too; others are evaluated without it.

    Attributes:
        scale: smallest and largest random scale; 1 means that an image fits ``data.long``.
        colors: largest shifts of hue (half degrees), saturation and value (of 255).
        mosaic: probability of a mosaic of four images.
        mixup: probability of mixing with another image.
        mixup_ratio: ``half`` (mmdetection) or ``beta`` (MMYOLO).
        pool: number of images that partners are drawn from; smaller batches load more images for it.
        last_epochs: epochs at the end of the schedule without mosaic and mixup.

    Example:
        >>> from pkdzoo.training import Data, Mix
        >>> Data(short=640, long=640, mix=Mix(scale=(0.5, 2.0))).mix.last_epochs
        20
    """

    scale: tuple[float, float] = (0.1, 2.0)
    colors: tuple[float, float, float] = (5.0, 30.0, 30.0)
    mosaic: float = 1.0
    mixup: float = 1.0
    mixup_ratio: Literal["half", "beta"] = "half"
    pool: int = 8
    last_epochs: int = 20


@suggests_fields
@dataclass(frozen=True)
class Data:
    """Images of a run and their augmentation.

    Attributes:
        short: length in pixels that the short side is resized to in training; for several lengths see ``mode``.
        long: largest length of the long side in pixels.
        mode: with several ``short``, ``choice`` draws one of them and ``range`` any length between the smallest and
            the largest.
        flip: probability of a horizontal flip.
        crop: (height, width) in pixels of a random crop after the resize, or None.
        zoom: probability of enlarging a random window of a training image, as in the training of Swin detectors; see
            ``pkdzoo.data.RandomZoom``.
        mix: see Mix; training images are then squares of ``long`` pixels, and ``short``, ``mode``, ``crop`` and
            ``zoom`` are not used. None means no mosaic and no mixup. A student with a letterbox is then trained on
            images with its border.
        test: (short, long) side in evaluation and prediction; None means the largest ``short`` and ``long``.
        batch_size: images per optimizer step, over all processes and accumulated passes together.
        eval_batch_size: images per forward pass in evaluation. Images of one pass are padded to one size, which changes
            results near their edges: published numbers were measured with 1; images of one size can share a pass.
        workers: loader processes per training process.
        drop_empty: leave out training images without a box, as in published training.
        min_image_size: leave out training images whose short side has fewer pixels.
        masks: load segmentations too.
        decode: ``exact``, or ``fast``: training images that are JPEG files much larger than the resize needs are
            decoded at a half, a quarter or an eighth of their size. Much faster for photographs of several thousand
            pixels; the pixels then differ from those of published training.
        generate: arguments of ``pkdzoo.data.make_shapes``, which generates a data set if no data is given.

    Example:
        >>> from pkdzoo.training import Data
        >>> Data(short=(640, 800), long=1333, batch_size=8).eval_size
        (800, 1333)
    """

    short: int | tuple[int, ...] = 800
    long: int = 1333
    mode: Literal["choice", "range"] = "choice"
    flip: float = 0.5
    crop: tuple[int, int] | None = None
    zoom: float = 0.0
    mix: Mix | None = None
    test: tuple[int, int] | None = None
    batch_size: int = 16
    eval_batch_size: int = 1
    workers: int = 2
    drop_empty: bool = True
    min_image_size: int = 32
    masks: bool = False
    decode: Literal["exact", "fast"] = "exact"
    generate: Mapping[str, Any] | None = None

    @property
    def eval_size(self) -> tuple[int, int]:
        """(short, long) of evaluation and prediction."""
        return self.test or (self.short if isinstance(self.short, int) else max(self.short), self.long)


@suggests_fields
@dataclass(frozen=True)
class Optim:
    """The optimizer.

    Attributes:
        kind: ``sgd`` or ``adamw``.
        lr: learning rate for a total batch of ``base_batch_size`` images.
        base_batch_size: total batch for which ``lr`` was published.
        scale_lr: multiply ``lr`` by ``data.batch_size / base_batch_size``.
        momentum: momentum of SGD.
        betas: betas of AdamW.
        weight_decay: weight decay of every parameter, times the factors below.
        bias_lr_mult: learning rate factor of biases, except those of norm layers (as in mmdetection).
        bias_decay_mult: weight decay factor of the same biases.
        norm_decay_mult: weight decay factor of norm layers.
        no_decay: parameters whose name contains one of these have no weight decay.
        clip: largest gradient norm, or None for no clipping.
        accumulate: forward and backward passes per optimizer step. Losses that normalize over a pass (PKD's features,
            the number of positives, batch norms) do so for each pass: two passes of 8 images are not one of 16.
        ema: decay of a moving average of the student, which is then evaluated and exported; None for no average.
        ema_warmup: steps in which the average still follows the student closely: after ``k`` steps the student's share
            is ``(1 - ema) + ema * exp(-(1 + k) / ema_warmup)``; None means ``1 - ema`` from the start.

    Example:
        >>> from pkdzoo.training import Optim
        >>> Optim("adamw", lr=1e-4, weight_decay=0.05, clip=35.0).kind
        'adamw'
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    base_batch_size: int = 16
    scale_lr: bool = False
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    bias_lr_mult: float = 1.0
    bias_decay_mult: float = 1.0
    norm_decay_mult: float = 1.0
    no_decay: tuple[str, ...] = ()
    clip: float | None = None
    accumulate: int = 1
    ema: float | None = None
    ema_warmup: int | None = None


@suggests_fields
@dataclass(frozen=True)
class Warmup:
    """Learning rate of the first steps: ``linear`` rises from ``factor`` times the rate, ``constant`` stays there.

    Attributes:
        kind: ``linear`` or ``constant``.
        factor: of the learning rate.
        steps: optimizer steps.

    Example:
        >>> from pkdzoo.training import Schedule, Warmup
        >>> Schedule(warmup=Warmup(steps=1000)).warmup.factor
        0.001
    """

    kind: Literal["linear", "constant"] = "linear"
    factor: float = 0.001
    steps: int = 500


@suggests_fields
@dataclass(frozen=True)
class Schedule:
    """Length of the training and course of the learning rate.

    Attributes:
        epochs: passes over the training images.
        milestones: with ``step`` decay, epochs (also fractional) after which the rate is multiplied by ``gamma``.
        gamma: factor of the learning rate at each milestone.
        warmup: see Warmup; None for no warm-up.
        max_steps: stop after this number of optimizer steps, whatever ``epochs`` says; None for no limit.
        decay: ``step`` at the milestones, as in most published training; ``cosine`` falls over the whole run,
            ``flat_cosine`` over its second half (RTMDet).
        final: factor of the learning rate at the end of a cosine.

    Example:
        >>> from pkdzoo.training import Schedule
        >>> Schedule(epochs=24, milestones=(16, 22)).decay
        'step'
    """

    epochs: int = 12
    milestones: tuple[float, ...] = (8, 11)
    gamma: float = 0.1
    warmup: Warmup | None = field(default_factory=Warmup)
    max_steps: int | None = None
    decay: Literal["step", "cosine", "flat_cosine"] = "step"
    final: float = 0.0


@suggests_fields
@dataclass(frozen=True)
class Logging:
    """Logging, evaluation and checkpoints of a run.

    Attributes:
        log_every: optimizer steps between two log lines.
        eval_every: epochs between two evaluations; the last epoch is always evaluated.
        save_every: optimizer steps between two checkpoints, in addition to those before an evaluation and at the end
            of each epoch; None for no additional ones.
        keep: number of checkpoints that stay on disk.
        best: metric whose highest value selects the best student.
        patience: stop after this number of evaluations without a better one; None never stops early.

    Example:
        >>> from pkdzoo.training import Logging
        >>> Logging(eval_every=2, best="AP50", patience=3).log_every
        50
    """

    log_every: int = 50
    eval_every: int = 1
    save_every: int | None = None
    keep: int = 2
    best: str = "AP"
    patience: int | None = None


@suggests_fields
@dataclass(frozen=True)
class Unlabeled:
    """Images without annotations, from whose features the student learns beside the labeled images of each step.

    Attributes:
        folder: of the images, subfolders included; ``--unlabeled DIR`` sets it.
        ratio: unlabeled images for each labeled one; rounded to whole images per pass, at least one.
        weight: factor of the methods' losses on these images.

    Example:
        >>> from pkdzoo.training import Distill, Unlabeled
        >>> Distill("gfl_r101.coco_ms2x", {"pkd": {}}, unlabeled=Unlabeled("photos", ratio=2.0)).unlabeled.weight
        1.0
    """

    folder: str
    ratio: float = 1.0
    weight: float = 1.0


@suggests_fields
@dataclass(frozen=True)
class Distill:
    """The teacher and the distillation methods.

    Attributes:
        teacher: a registered name, with a tag to select particular weights, the folder of a run or a saved
            detector, or a model of another library: ``torchvision:NAME``, ``transformers:ORG/NAME``, ``timm:NAME``.
        methods: options by name of a method, e.g. ``{"pkd": {}}``; an empty dict means the published settings. Without
            any method, the student only inherits the parts in ``inherit`` and trains without the teacher.
        teacher_args: overrides of the teacher's architecture.
        teacher_weights: a file of weights; None means the registered weights, ``random`` none at all (for tests).
        inherit: parts of the teacher that the student starts with: ``backbone``, ``neck``, ``head``.
        freeze: parts of the student that are not trained.
        unlabeled: see Unlabeled; None means labeled images alone.

    Example:
        >>> from pkdzoo.training import Distill
        >>> Distill("gfl_r101.coco_ms2x", {"crosskd": {}, "pkd": {"weight": 6.0}}, inherit=("neck",)).methods["pkd"]
        {'weight': 6.0}
    """

    teacher: str
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"pkd": {}})
    teacher_args: Mapping[str, Any] = field(default_factory=dict)
    teacher_weights: str | None = None
    inherit: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    unlabeled: Unlabeled | None = None


@suggests_fields
@dataclass(frozen=True)
class Recipe:
    """The complete description of a run.

    Attributes:
        name: of the run and of its folder.
        model: registered name of the detector that is trained, or a model of another library
            (``torchvision:NAME``, ``transformers:ORG/NAME``).
        model_args: overrides of its architecture.
        init: initial weights: None (random), ``imagenet`` (of the backbone), a registered name with weights, or a file.
        data: see Data.
        optim: see Optim.
        schedule: see Schedule.
        distill: see Distill; None trains without a teacher.
        logging: see Logging.
        sync_norms: on several GPUs, batch norms of the student use the images of all of them.
        seed: of random weights, image order and augmentation.
        expect: published numbers, e.g. ``{"AP": 41.5, "teacher": 48.2, "plain": 37.4}`` (the latter two are APs, too),
            their ``source``, and ``rows``: ids of the published results that this recipe repeats.
        note: deviations from the source.

    Example:
        >>> from pkdzoo.training import Distill, Recipe
        >>> recipe = Recipe("mine", "retina_r50", init="imagenet", distill=Distill("retina_r101.coco_2x"))
        >>> Recipe.from_dict(recipe.to_dict()) == recipe
        True
    """

    name: str
    model: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    distill: Distill | None = None
    logging: Logging = field(default_factory=Logging)
    sync_norms: bool = False
    seed: int = 0
    expect: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        check_ranges(self)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON values: dicts, lists, numbers and strings."""
        return cast(dict[str, Any], json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`; absent fields keep their defaults.

        Raises:
            ValueError: for an unknown field, with the closest known ones, or a value of the wrong type.
        """
        return cast(Recipe, convert_value(content, cls, ""))


def override(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """The recipe with assignments applied; the recipe itself is not changed.

    Args:
        recipe: any recipe.
        assignments: ``key=value``, e.g. ``optim.lr=0.02`` or ``distill.methods.pkd.weight=4``.

    Raises:
        ValueError: for an unknown field, with the closest known ones, or a value of the wrong type.

    Example:
        >>> from pkdzoo.training import Recipe, override
        >>> override(Recipe("mine", "retina_r50"), ["optim.lr=0.02", "data.batch_size=8"]).optim.lr
        0.02
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {assignment!r}: write a field, an equals sign and a value, as in optim.lr=0.02")
        if not text.strip():  # perhaps a shell variable that is not set
            raise ValueError(f"--set {assignment!r} has no value: write one; none is a value, and so is the list []")
        recipe = cast(Recipe, with_field(recipe, key.strip().split("."), text.strip()))
    return recipe
