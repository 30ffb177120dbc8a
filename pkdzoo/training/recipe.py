"""What a run is: one frozen description of model, data, optimiser, schedule and teacher.

A recipe file is Python that defines ``RECIPE`` (or ``RECIPES``: the arms of one experiment, trained one after the
other and compared), or the JSON that every run leaves behind. Values are checked against the types below, so a
misspelt field or a word where a number belongs is refused before anything is built.
"""

from __future__ import annotations

import json
import math
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pkdzoo.evaluation import METRICS
from pkdzoo.training.fields import typed, with_field
from pkdzoo.utils.suggest import did_you_mean


@dataclass(frozen=True)
class Data:
    """Images of a run.

    Attributes:
        short: length the short side is scaled to in training; several: see ``mode``.
        long: limit of the long side.
        mode: what several ``short`` mean: ``choice`` one of them, ``range`` any between the smallest and the largest.
        flip: share of images mirrored left to right.
        crop: (height, width) of a random window after the resize, or None.
        zoom: share of training images that are a window enlarged, as Swin detectors were trained with; see
            ``pkdzoo.data.RandomZoom``.
        test: (short, long) in evaluation and prediction; None means the largest ``short`` and ``long``.
        batch_size: images an optimiser step, over all processes and accumulated passes together.
        eval_batch_size: images a pass in evaluation. They share one padded size, which shows at an image's edge: 1 is
            how published numbers were measured; images of one size can go together.
        workers: loader processes of each process.
        drop_empty: leave out training images without a box, as published.
        min_image_size: leave out training images whose short side is smaller.
        masks: load segmentations too.
        generate: when no data is given, make this data set: arguments of ``pkdzoo.data.make_shapes``.

    Example:
        >>> from pkdzoo.training import Data
        >>> Data(short=(640, 800), long=1333, batch_size=8).test_size
        (800, 1333)
    """

    short: int | tuple[int, ...] = 800
    long: int = 1333
    mode: Literal["choice", "range"] = "choice"
    flip: float = 0.5
    crop: tuple[int, int] | None = None
    zoom: float = 0.0
    test: tuple[int, int] | None = None
    batch_size: int = 16
    eval_batch_size: int = 1
    workers: int = 2
    drop_empty: bool = True
    min_image_size: int = 32
    masks: bool = False
    generate: Mapping[str, Any] | None = None

    @property
    def test_size(self) -> tuple[int, int]:
        """(short, long) of evaluation and prediction."""
        return self.test or (self.short if isinstance(self.short, int) else max(self.short), self.long)


@dataclass(frozen=True)
class Optim:
    """The optimiser.

    Attributes:
        kind: ``sgd`` or ``adamw``.
        lr: for a step over ``base_batch_size`` images.
        base_batch_size: total batch that ``lr`` was published with.
        scale_lr: multiply ``lr`` by ``data.batch_size / base_batch_size``.
        momentum: of SGD.
        betas: of AdamW.
        weight_decay: of every parameter, times the factors below.
        bias_lr_mult: learning rate factor of biases, those of norm layers excepted (as in mmdetection).
        bias_decay_mult: weight decay factor of the same biases.
        norm_decay_mult: weight decay factor of norm layers.
        no_decay: parameters whose name contains one of these have no weight decay.
        clip: largest norm of the gradient, or None.
        accumulate: passes an optimiser step.
        ema: decay of a moving average of the student, which is then what is evaluated and exported; None for none.

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


@dataclass(frozen=True)
class Warmup:
    """The first optimiser steps: from ``factor`` times the rate up (``linear``), or at it until they end.

    Example:
        >>> from pkdzoo.training import Schedule, Warmup
        >>> Schedule(warmup=Warmup(steps=1000)).warmup.factor
        0.001
    """

    kind: Literal["linear", "constant"] = "linear"
    factor: float = 0.001
    steps: int = 500


@dataclass(frozen=True)
class Schedule:
    """How long, and at which rate.

    Attributes:
        epochs: passes over the training images.
        decay: ``step`` at the milestones, as everything published; ``cosine`` falls to 0 over the whole run.
        milestones: epochs (fractions allowed) after which the rate is multiplied by ``gamma``.
        gamma: see ``milestones``.
        warmup: None for none.
        max_steps: stop after so many optimiser steps, however many epochs that is.

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
    decay: Literal["step", "cosine"] = "step"


@dataclass(frozen=True)
class Logging:
    """What is written while a run goes on.

    Attributes:
        log_every: optimiser steps between two lines of the log.
        eval_every: epochs between two evaluations; the last epoch is always evaluated.
        save_every: optimiser steps between two checkpoints, besides those before an evaluation and at
            the end of each epoch.
        keep: checkpoints that stay on disk.
        best: the metric whose highest value marks the best student.
        patience: stop after so many evaluations without a better one; None never stops early.

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


@dataclass(frozen=True)
class Distill:
    """Who teaches, and how.

    Attributes:
        teacher: a registered name, with a tag where particular weights are meant, or ``local-dir:`` and a folder.
        methods: keyword arguments by method, e.g. ``{"pkd": {}}``; empty ones mean the published setting. No method
            at all: the teacher only gives what ``inherit`` names, and the student learns from the data alone.
        teacher_args: overrides of the teacher's architecture.
        teacher_weights: a file to load; None takes the registered weights; ``random`` for none at all (tests).
        inherit: parts the student starts with from its teacher: ``backbone``, ``neck``, ``head``.
        freeze: parts of the student that do not learn.

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


@dataclass(frozen=True)
class Recipe:
    """A run.

    Attributes:
        name: of the run, and of its folder.
        model: registered name of the detector that is trained.
        model_args: overrides of its architecture.
        init: where its weights come from: None (random), ``imagenet`` (the backbone's), a registered name with
            weights, or a file.
        data: see Data.
        optim: see Optim.
        schedule: see Schedule.
        distill: None trains without a teacher.
        logging: see Logging.
        seed: of weights, order and augmentation.
        expect: published numbers, e.g. ``{"AP": 41.5, "teacher": 48.2, "plain": 37.4}`` (the latter two are APs, too),
            the ``source`` they come from, and ``rows``: names of the published results that this recipe repeats.
        note: what deviates from the source.

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
    seed: int = 0
    expect: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        check_ranges(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and words, as JSON holds them."""
        return cast(dict[str, Any], json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`; fields that are absent keep their defaults.

        Raises:
            ValueError: for a field that does not exist (with the nearest that do) or a value of another type.
        """
        return cast(Recipe, typed(content, cls, ""))


def check_ranges(recipe: Recipe) -> None:
    """Refuse what no run can mean, with the field's name."""
    data, optim, schedule, logging = recipe.data, recipe.optim, recipe.schedule, recipe.logging
    shorts = data.short if isinstance(data.short, tuple) else (data.short,)
    rules = (
        (data.batch_size >= 1, "data.batch_size", data.batch_size, "at least one image a step"),
        (data.eval_batch_size >= 1, "data.eval_batch_size", data.eval_batch_size, "at least one image a pass"),
        (min(shorts, default=0) >= 1, "data.short", data.short, "pixels of the short side"),
        (data.long >= 1, "data.long", data.long, "pixels of the long side at most"),
        (0 <= data.flip <= 1, "data.flip", data.flip, "a share between 0 and 1"),
        (0 <= data.zoom <= 1, "data.zoom", data.zoom, "a share between 0 and 1"),
        (data.workers >= 0, "data.workers", data.workers, "0 loads in the training process itself"),
        (0 < optim.lr < math.inf, "optim.lr", optim.lr, "a rate above 0"),
        (0 <= optim.momentum < 1, "optim.momentum", optim.momentum, "0 or more, below 1"),
        (0 <= optim.weight_decay < math.inf, "optim.weight_decay", optim.weight_decay, "0 or more"),
        (
            optim.base_batch_size >= 1,
            "optim.base_batch_size",
            optim.base_batch_size,
            "the batch that lr was published with",
        ),
        (optim.accumulate >= 1, "optim.accumulate", optim.accumulate, "1 does not accumulate"),
        (optim.clip is None or optim.clip > 0, "optim.clip", optim.clip, "a norm above 0, or none"),
        (optim.ema is None or 0 < optim.ema < 1, "optim.ema", optim.ema, "a decay between 0 and 1, or none"),
        (schedule.epochs >= 1, "schedule.epochs", schedule.epochs, "at least 1"),
        (schedule.max_steps is None or schedule.max_steps >= 1, "schedule.max_steps", schedule.max_steps, "1 or more"),
        (logging.log_every >= 1, "logging.log_every", logging.log_every, "1 logs every step"),
        (logging.eval_every >= 1, "logging.eval_every", logging.eval_every, "1 evaluates after every epoch"),
        (logging.best in METRICS, "logging.best", logging.best, f"one of {', '.join(METRICS)}"),
        (
            logging.save_every is None or logging.save_every >= 1,
            "logging.save_every",
            logging.save_every,
            "1 or more, or none",
        ),
        (logging.patience is None or logging.patience >= 1, "logging.patience", logging.patience, "1 or more, or none"),
        (logging.keep >= 1, "logging.keep", logging.keep, "at least one checkpoint stays"),
        (bool(recipe.name) and not set(recipe.name) & set("/\\"), "name", recipe.name, "it becomes a folder's name"),
    )
    for fine, where, value, meaning in rules:
        if not fine:
            raise ValueError(f"recipe {recipe.name!r}: {where}={value!r} makes no sense: {meaning}")


def override(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """The recipe with ``key=value`` assignments applied, e.g. ``optim.lr=0.02`` or ``distill.methods.pkd.weight=4``.

    Raises:
        ValueError: for a key that does not exist (with the nearest), or a value of another type.

    Example:
        >>> from pkdzoo.training import Recipe, override
        >>> override(Recipe("mine", "retina_r50"), ["optim.lr=0.02", "data.batch_size=8"]).optim.lr
        0.02
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {assignment!r}: write a field, an equals sign and a value, as in optim.lr=0.02")
        recipe = cast(Recipe, with_field(recipe, key.strip().split("."), text.strip()))
    return recipe


# -- files -----------------------------------------------------------------------------------------------------------


def load_recipe(path: str | Path, assignments: Iterable[str] = ()) -> Recipe:
    """The one recipe of a file.

    Raises:
        ValueError: when the file holds several.

    Example:
        >>> import pathlib, tempfile
        >>> from pkdzoo.training import load_recipe
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "mine.py"
        >>> _ = path.write_text("from pkdzoo.training import Recipe; RECIPE = Recipe('mine', 'retina_r50')")
        >>> load_recipe(path, ["optim.lr=0.02"]).optim.lr
        0.02
    """
    recipes = load_recipes(path, assignments)
    if len(recipes) > 1:
        raise ValueError(f"{path} holds {len(recipes)} recipes: {', '.join(r.name for r in recipes)}; load_recipes()")
    return recipes[0]


def load_recipes(path: str | Path, assignments: Iterable[str] = (), only: str | None = None) -> list[Recipe]:
    """The recipes of a file, with ``key=value`` assignments applied to each.

    Args:
        path: a ``.py`` file that defines RECIPE or RECIPES (it is run), or a ``.json`` that a run left behind.
        assignments: see :func:`override`.
        only: the name of one of them; None means all.

    Raises:
        ValueError: when the file does not exist, or holds no recipe, or none of that name.

    Example:
        >>> import pathlib, tempfile
        >>> from pkdzoo.training import load_recipes
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "arms.py"
        >>> text = "from pkdzoo.training import Recipe; RECIPES = [Recipe(name, 'retina_r50') for name in ('a', 'b')]"
        >>> _ = path.write_text(text)
        >>> [recipe.name for recipe in load_recipes(path)], load_recipes(path, only="b")[0].name
        (['a', 'b'], 'b')
    """
    path = Path(path)
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        hint = did_you_mean(path.name, beside) if beside else f"the folder {path.parent} does not exist"
        raise ValueError(f"no recipe file {path}. {hint}")
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        found: Any = [Recipe.from_dict(content)]
    else:
        with _importable(path):
            namespace = runpy.run_path(str(path))
        found = namespace.get("RECIPES", namespace.get("RECIPE"))
        found = [found] if isinstance(found, Recipe) else list(found or ())
    if not found or not all(isinstance(recipe, Recipe) for recipe in found):
        raise ValueError(f"{path} defines no RECIPE (one pkdzoo.training.Recipe) and no RECIPES (several)")
    if only is not None:
        names = [recipe.name for recipe in found]
        found = [recipe for recipe in found if recipe.name == only]
        if not found:
            raise ValueError(f"{path} holds no recipe {only!r}. {did_you_mean(only, names)}")
    assignments = list(assignments)
    recipes = [override(recipe, assignments) for recipe in found]
    names = [recipe.name for recipe in recipes]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two recipes of one name among {', '.join(names)}; the name is the run's folder")
    return recipes


@contextmanager
def _importable(path: Path) -> Iterator[None]:
    """Let a recipe inside a ``recipes`` folder write ``from recipes.common import ...``, wherever it is run from."""
    above = [str(parent.parent) for parent in path.resolve().parents if parent.name == "recipes"][:1]
    sys.path.extend(above)
    try:
        yield
    finally:
        for folder in above:
            sys.path.remove(folder)
