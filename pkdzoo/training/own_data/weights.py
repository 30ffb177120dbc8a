"""Finds a teacher for a student, and the weights that both start with; says which were wanted where there are none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pkdzoo.distill.adapters import is_of_other_library
from pkdzoo.distill.pairing import shape_of
from pkdzoo.distill.student_base import ModuleStudent
from pkdzoo.hub.errors import DownloadError
from pkdzoo.layers.norm import has_fixed_statistics
from pkdzoo.models._config import to_json
from pkdzoo.models._factory import create_detector
from pkdzoo.models._loading import load_backbone
from pkdzoo.models._registry import entries, find, folder_of, known_costs
from pkdzoo.models.backbones import TimmBackbone
from pkdzoo.models.detector import Detector
from pkdzoo.training.evaluate import open_detector
from pkdzoo.training.own_data.data import Say
from pkdzoo.utils.text import counted

LARGER = 1.25  # times the student's multiply-adds, from which on a detector of its family can teach it
NARROW, NARROW_TEACHER = 64, "gfl_r18w64"  # channels of the tiny detectors' pyramids, and a teacher with as many
AUTO, NONE = "auto", "none"  # values of --init


@dataclass(frozen=True)
class Start:
    """A detector and the weights that its training starts with.

    Attributes:
        model: registered name.
        model_args: overrides of its architecture.
        init: as ``Recipe.init``.
        family: of the detector.
        ready: classes of the weights are those of the data, so that they need no training.
    """

    model: str
    model_args: Mapping[str, Any]
    init: str | None
    family: str
    ready: bool = False

    @property
    def pretrained(self) -> bool:
        """Whether it starts with trained weights."""
        return self.init is not None


def default_teacher(student: str) -> str:
    """A larger detector of the student's family, the cheapest one, if possible with published weights.

    Raises:
        ValueError: if there is none.

    Example:
        >>> from pkdzoo.training.own_data.weights import default_teacher
        >>> default_teacher("rtmdet_tiny"), default_teacher("retina_r50"), default_teacher("fcos_r10w16")
        ('rtmdet_s', 'retina_r101', 'gfl_r18w64')
    """
    entry, _ = find(student)
    base = find(entry.distilled.student)[0] if entry.distilled is not None else entry
    if base.args.get("width") == NARROW and base.name != NARROW_TEACHER:
        return NARROW_TEACHER
    own = known_costs(base)
    larger = []
    for other in entries():
        costs = known_costs(other)
        if other.family != base.family or other.distilled is not None or own is None or costs is None:
            continue
        if costs[1] >= LARGER * own[1]:
            published = other.default is not None and other.default.direct
            same_dialect = other.name.endswith("_yolo") == base.name.endswith("_yolo")
            larger.append((not published, costs[1], not same_dialect, other.name))
    if not larger:
        raise ValueError(f"no detector of the family {base.family!r} is larger than {student!r}: write --teacher NAME")
    return min(larger)[-1]


@dataclass
class WeightsFinder:
    """Finds initial weights and remembers whether there is a network.

    Attributes:
        init: ``auto`` (COCO's weights, else ImageNet's, else none), ``none``, or what ``Recipe.init`` takes.
        classes: of the data.
        say: is called with each line for the user.
        offline: a download failed; afterward only the cache is looked at.
    """

    init: str
    classes: Sequence[str]
    say: Say
    offline: bool = field(default=False, init=False)

    def start(self, role: str, name: str) -> Start:
        """The start of a registered detector, or of a folder with a saved detector or a run.

        Args:
            role: ``student`` or ``teacher``, for messages.
            name: registered name, with a tag for particular weights; a folder, or ``hf-hub:org/name``.

        Raises:
            ValueError: for an unknown name, a folder without a detector, or weights that do not fit.
            pkdzoo.hub.errors.DownloadError: for weights that were asked for and cannot be downloaded.
        """
        if is_of_other_library(name):
            self.say(
                f"{role:<9} {name}, of another library: teaches by its features as it is, whatever its classes are; it "
                "is not trained on the data"
            )
            return Start(name, {}, name, name.partition(":")[0], ready=True)
        if folder_of(name) is not None or name.startswith("hf-hub:"):
            return self._saved(role, name)
        entry, row = find(name)
        if role == "student" and self.init not in (AUTO, NONE):
            return Start(entry.name, {}, self.init, entry.family)
        wanted = [f"{entry.name}.{row.tag}"] if row is not None else self._published(entry.name)
        if self.init == NONE:
            self.say(f"{role:<9} {entry.name} from scratch, as --init none says")
            return self._from_scratch(entry.name, entry.family)
        failures: list[str] = []
        for init in (*wanted, "imagenet"):
            labels = self._try(entry.name, init, failures)
            if labels is not None:
                self.say(f"{role:<9} {entry.name}, starts with {init}")
                return Start(entry.name, {}, init, entry.family, labels == tuple(self.classes))
        if failures:
            self.say(
                f"{role:<9} {entry.name} FROM SCRATCH, which needs more images and time: {'; '.join(failures)}. With "
                "a network, or with the file and --init FILE, it starts better; --init none leaves out the attempt"
            )
        else:
            self.say(f"{role:<9} {entry.name} from scratch: nobody published weights for it or its backbone")
        return self._from_scratch(entry.name, entry.family)

    def _saved(self, role: str, name: str) -> Start:
        model = open_detector(name)
        if isinstance(model, ModuleStudent):
            raise ValueError(
                f"--{role} {name} holds {model.name}, a model of another library: write a detector of this package, or "
                "as --teacher a name such as torchvision:NAME or transformers:FOLDER"
            )
        family = find(model.name)[0].family
        if role == "student" and self.init != AUTO:
            self.say(f"{role:<9} {model.name}, the architecture in {name}; --init {self.init} says where it starts")
            if self.init == NONE:
                return Start(model.name, {**trainable_args(model.name), **overrides_of(model)}, None, family)
            return Start(model.name, overrides_of(model), self.init, family)
        ready = tuple(model.label_names) == tuple(self.classes)
        what = "has the classes of the data" if ready else f"has {counted(model.num_classes, 'other class')}"
        self.say(f"{role:<9} {model.name} in {name}, {what}")
        place = name if ":" in name else f"local-dir:{name}"
        return Start(model.name, overrides_of(model), place, family, ready)

    def _published(self, arch: str) -> list[str]:
        row = find(arch)[0].default
        return [f"{arch}.{row.tag}"] if row is not None and row.direct else []

    def _try(self, arch: str, init: str, failures: list[str]) -> tuple[str, ...] | None:
        """Class names of the weights ``init``, empty for a backbone's; None, with the reason, if they cannot be had."""
        try:
            with _offline(self.offline):
                if init == "imagenet":
                    load_backbone(create_detector(arch), init)
                    return ()
                return tuple(create_detector(init, pretrained=True).label_names)
        except DownloadError as error:
            failures.append(_short(init, error, self.offline))
            self.offline = True
        except ValueError as error:
            if init != "imagenet":
                failures.append(_short(init, error))
        return None

    def _from_scratch(self, arch: str, family: str) -> Start:
        return Start(arch, trainable_args(arch), None, family)


def overrides_of(model: Detector) -> dict[str, Any]:
    """The overrides of a detector's architecture as a recipe takes them; the data decides the number of classes."""
    return {key: to_json(value) for key, value in model.overrides.items() if key not in ("num_classes", "resize")}


def trainable_args(arch: str) -> dict[str, Any]:
    """Overrides with which every layer of a detector learns, for random weights.

    Published backbones have frozen stages and batch norms with fixed statistics, which are only right for the weights
    that they were published with.

    Example:
        >>> from pkdzoo.training.own_data.weights import trainable_args
        >>> trainable_args("retina_r18"), trainable_args("rtmdet_tiny")
        ({'norm': 'gn', 'frozen_stages': 0}, {})
    """
    backbone = create_detector(arch).backbone
    frozen = any(not parameter.requires_grad for parameter in backbone.parameters())
    if not frozen and not any(has_fixed_statistics(layer) for layer in backbone.modules()):
        return {}
    return {"norm": "bn" if isinstance(backbone, TimmBackbone) else "gn", "frozen_stages": 0}


def pkd_options(student: Detector, teacher: Detector) -> dict[str, Any]:
    """Options of PKD for a pair: a projection where channels differ, and levels by stride where the first ones differ
    and some are equal.

    Example:
        >>> import pkdzoo
        >>> from pkdzoo.training.own_data.weights import pkd_options
        >>> tiny, wide = pkdzoo.create_detector("retina_r10w16"), pkdzoo.create_detector("retina_r18")
        >>> pkd_options(tiny, tiny), pkd_options(tiny, wide)
        ({}, {'adapter': True})
    """
    own, other = shape_of(student), shape_of(teacher)
    options: dict[str, Any] = {"adapter": True} if set(own.channels) != set(other.channels) else {}
    if own.strides[0] != other.strides[0] and set(own.strides) & set(other.strides):
        options["pair"] = "stride"
    return options


def _short(init: str, error: Exception, offline: bool = False) -> str:
    """The first sentence of an error; when only the cache was looked at, without the order not to download."""
    text = str(error).split(", and HF_HUB_OFFLINE")[0] if offline else str(error)
    return f"{init}: {text.split('. ')[0]}"


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Forbid downloads inside the context, so that each missing file does not wait for a network again."""
    before = os.environ.get("HF_HUB_OFFLINE")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if offline and before is None:
            del os.environ["HF_HUB_OFFLINE"]
        elif before is not None:
            os.environ["HF_HUB_OFFLINE"] = before
