"""From a name to a detector: the one place that imports every model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from torch import Tensor

from pkdzoo.backbones import backbone_arguments
from pkdzoo.checkpoints import fitting, load_strictly
from pkdzoo.hub import find_weights
from pkdzoo.labels import label_names as names_of
from pkdzoo.layers.init import InitOnce
from pkdzoo.loading import adapted, in_our_layout
from pkdzoo.models import atss, faster_rcnn, fcos, gfl, mask_rcnn, reppoints, retina, tood  # noqa: F401 - registers the families
from pkdzoo.models.base import Detector
from pkdzoo.models.channels import widen
from pkdzoo.models.features import FeatureExtractor
from pkdzoo.models.folder import from_json, set_labels, set_up
from pkdzoo.models.trace import Pixels
from pkdzoo.registry import Distilled, Entry, find, list_detectors, list_pairs, nearest
from pkdzoo.saved import SETTINGS, fetch_repository, read_folder

PREFIXES = ("hf-hub:", "local-dir:")


@overload
def create_detector(
    name: str,
    pretrained: bool = ...,
    num_classes: int | None = ...,
    in_chans: int | None = ...,
    label_names: str | Sequence[str] | None = ...,
    cache_dir: str | Path | None = ...,
    features_only: Literal[False] = ...,
    **overrides: Any,
) -> Detector: ...


@overload
def create_detector(name: str, *, features_only: Literal[True], **overrides: Any) -> FeatureExtractor: ...


def create_detector(
    name: str,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    label_names: str | Sequence[str] | None = None,
    cache_dir: str | Path | None = None,
    features_only: bool = False,
    **overrides: Any,
) -> Detector | FeatureExtractor:
    """Build a detector, with or without weights, in eval mode.

    Args:
        name: ``arch`` or ``arch.tag``; or ``hf-hub:org/name``, ``hf-hub:org/name@revision`` or ``local-dir:path`` for a
            saved detector, which always comes with its weights.
        pretrained: load the tag's weights, or the architecture's best ones. A tag alone loads nothing.
        num_classes: other than the weights'; every tensor that depends on it starts at random then, the rest is
            loaded strictly.
        in_chans: channels of the pictures; the stem's weights are summed for one, repeated for more than three.
        label_names: of the classes, or ``"coco"``; None means the weights' own.
        cache_dir: where downloaded weights are kept; None means ``PKDZOO_CACHE`` or the user's cache folder, and for
            ``hf-hub:`` the Hub client's own.
        features_only: give the pyramid alone, as a :class:`pkdzoo.models.features.FeatureExtractor`.
        overrides: arguments of the family's build function or of its backbone, e.g. ``norm="gn"``. None changes
            nothing.

    Raises:
        ValueError: for an unknown name, tag or keyword (with the nearest that exist), for ``pretrained=True`` where
            there are no weights, and for weights that have to be fetched by hand (with the link).
        pkdzoo.download.DownloadError: when weights exist but could not be had.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.create_detector("retina_r10w16", num_classes=3).num_classes
        3
    """
    if label_names is not None:
        label_names = names_of(label_names if isinstance(label_names, str) else tuple(label_names))
        num_classes = len(label_names) if num_classes is None else num_classes
    if in_chans is not None:
        overrides["in_chans"] = in_chans
    if name.startswith(PREFIXES):
        model = from_folder(name, num_classes, cache_dir, overrides)
    elif any(sign in name for sign in "/\\:"):
        raise ValueError(f"{name!r} is no registered name: write 'local-dir:FOLDER' or 'hf-hub:ORGANISATION/NAME'")
    else:
        model = from_registry(name, pretrained, num_classes, cache_dir, overrides)
    if label_names is not None:
        set_labels(model, label_names)
    model.eval()
    return FeatureExtractor(model) if features_only else model


def create_pair(
    name: str,
    pretrained: bool | Literal["teacher"] = "teacher",
    num_classes: int | None = None,
    cache_dir: str | Path | None = None,
    **overrides: Any,
) -> tuple[Detector, Detector]:
    """A distilled detector and the one it learned from.

    Args:
        name: of a pair, see :func:`pkdzoo.list_pairs`.
        pretrained: ``"teacher"`` loads the teacher's weights alone, as a distillation starts; True loads both, False
            neither.
        num_classes: of the student, where it is to learn other classes than the published one.
        cache_dir: see :func:`create_detector`.
        overrides: arguments of the student.

    Returns:
        (student, teacher).

    Raises:
        ValueError: for a detector that has no teacher, and as :func:`create_detector`.

    Example:
        >>> import pkdzoo
        >>> student, teacher = pkdzoo.create_pair("retina_r50_pkd_x101", pretrained=False)
        >>> student.name, teacher.name
        ('retina_r50_pkd_x101', 'retina_x101_64x4d')
    """
    if pretrained not in (True, False, "teacher"):
        raise ValueError(f"pretrained={pretrained!r}: write True, False or 'teacher'")
    teacher = create_teacher(name, bool(pretrained), cache_dir=cache_dir)
    return create_student(name, pretrained is True, num_classes, cache_dir=cache_dir, **overrides), teacher


def create_student(name: str, pretrained: bool = False, num_classes: int | None = None, **kwargs: Any) -> Detector:
    """The student of a pair; arguments as :func:`create_detector`. ValueError for a name that is no pair.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.create_student("retina_r50_pkd_x101", num_classes=3).num_classes
        3
    """
    teacher_of(name)
    return create_detector(name, pretrained, num_classes, **kwargs)


def create_teacher(name: str, pretrained: bool = True, **kwargs: Any) -> Detector:
    """The teacher of a pair, by the student's name; arguments as :func:`create_detector`.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.create_teacher("faster_rcnn_r50_pkd_r101", pretrained=False).name
        'faster_rcnn_r101'
    """
    return create_detector(teacher_of(name).teacher, pretrained, **kwargs)


def teacher_of(name: str) -> Distilled:
    """Who taught a detector; ValueError for one that learned from nobody."""
    entry, _ = find(name)
    if entry.distilled is None:
        raise ValueError(f"{entry.name!r} has no teacher. {nearest(entry.name, list_pairs())}")
    return entry.distilled


# -- building --------------------------------------------------------------------------------------------------------


def build(entry: Entry, overrides: Mapping[str, Any], num_classes: int | None, loaded: int | None = None) -> Detector:
    """A detector of an entry.

    Args:
        entry: what to build.
        overrides: arguments that differ from the entry's.
        num_classes: None means the entry's.
        loaded: number of classes of the weights that follow at once, or None when none do.
    """
    changes = check_overrides(entry, overrides)
    if num_classes is not None:
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes={num_classes!r}: write a whole number of classes, at least 1")
        changes["num_classes"] = num_classes
    channels = changes.get("in_chans", 3)
    if channels != 3 and "pixels" not in changes:
        changes["pixels"] = widen(entry.args.get("pixels") or Pixels(), channels)
    fixed: dict[str, Any] = dict(entry.args)
    if "backbone" in changes:  # another backbone does not take all that the entry says of its own
        known = arguments_of(entry, changes["backbone"])
        fixed = {key: value for key, value in fixed.items() if key in known}
    args = {**fixed, **changes}
    everything_follows = loaded is not None and num_classes == loaded
    with InitOnce(follow=everything_follows):
        model: Detector = entry.build(**args)
    model.name = entry.name
    model.overrides = changes
    return model


def check_overrides(entry: Entry, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that are not None, after making sure that each is an argument somewhere."""
    given = {key: value for key, value in overrides.items() if value is not None}
    known = arguments_of(entry, given.get("backbone", entry.args.get("backbone", "r50")))
    for key in given:
        if key not in known:
            own = set(inspect.signature(create_detector).parameters) - {"name", "overrides"}
            raise ValueError(f"{entry.name} has no argument {key!r}. {nearest(key, known | own)}")
    return given


def arguments_of(entry: Entry, backbone: str) -> set[str]:
    """Names of what an entry can be built with on a backbone."""
    own = set(inspect.signature(entry.build).parameters) - {"backbone_args"}
    return own | backbone_arguments(backbone)


def from_registry(
    name: str, pretrained: bool, num_classes: int | None, cache_dir: str | Path | None, overrides: Mapping[str, Any]
) -> Detector:
    """A detector by its registered name, see :func:`create_detector`."""
    entry, row = find(name)
    if not pretrained:
        return build(entry, overrides, num_classes)
    row = row or entry.default
    if row is None or not row.has_source:
        raise ValueError(no_weights(entry))
    names = names_of(row.labels)
    model = build(entry, overrides, num_classes or len(names), loaded=len(names))
    turn = (entry.args.get("pixels") or Pixels()).order != model.channel_order

    def convert(content: dict[str, Any]) -> dict[str, Tensor]:
        """A foreign file in our layout, after making sure that it fits."""
        state = in_our_layout(model, content)
        fitting(model, adapted(model, state, len(names), turn))
        return state

    state, origin = find_weights(f"{entry.name}.{row.tag}", row, convert, cache_dir)
    load_strictly(model, adapted(model, state, len(names), turn))
    model.loaded_from = f"{entry.name}.{row.tag} ({origin})"
    if model.num_classes == len(names):
        set_labels(model, names)
    return model


def no_weights(entry: Entry) -> str:
    """The sentence for somebody who wants weights that nobody has."""
    tags = [w.tag for w in entry.weights if w.has_source]
    others = list_detectors(pretrained=True, family=entry.family)
    return (
        f"there are no weights for {entry.name!r} (its tags: {', '.join(tags) or 'none'}); "
        f"{entry.family} detectors with weights: {', '.join(others) or 'none'}"
    )


def from_pretrained(
    place: str | Path,
    *,
    revision: str | None = None,
    num_classes: int | None = None,
    label_names: str | Sequence[str] | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    **overrides: Any,
) -> Detector:
    """A saved detector with its weights, from a folder or from the Hub.

    Args:
        place: a folder that exists, or ``org/name`` or ``org/name@revision`` on the Hub; a prefix (``local-dir:``,
            ``hf-hub:``) says which where both could be meant.
        revision: branch, tag or commit on the Hub.
        num_classes: see :func:`create_detector`, like the next two.
        label_names: of the classes.
        cache_dir: where files of the Hub are kept; None means the Hub client's own cache.
        token: for private repositories; None takes the one that ``hf auth login`` left, or ``HF_TOKEN``.
        local_files_only: ask nobody, take what the cache has.
        overrides: see :func:`create_detector`.

    Raises:
        ValueError: for what another library saved, and as :func:`create_detector`.
        FileNotFoundError: for a folder or a repository without config or tensors.
        pkdzoo.download.DownloadError: for a repository that could not be had.

    Example:
        >>> import tempfile, pkdzoo
        >>> folder = pkdzoo.create_detector("retina_r10w16", num_classes=2).save_pretrained(tempfile.mkdtemp())
        >>> pkdzoo.from_pretrained(folder, label_names=["cat", "dog"]).label_names
        ('cat', 'dog')
    """
    name = str(place)
    if not name.startswith(PREFIXES):
        name = f"local-dir:{name}" if Path(name).is_dir() else f"hf-hub:{name}"
    if revision is not None:
        if name.startswith("local-dir:") or "@" in name:
            raise ValueError(f"revision={revision!r}: {place} has no revisions, or names one already")
        name = f"{name}@{revision}"
    if label_names is not None:
        label_names = names_of(label_names if isinstance(label_names, str) else tuple(label_names))
        num_classes = len(label_names) if num_classes is None else num_classes
    model = from_folder(name, num_classes, cache_dir, overrides, token, local_files_only)
    if label_names is not None:
        set_labels(model, label_names)
    return model.eval()


Detector.opener = staticmethod(from_pretrained)


def from_folder(
    name: str,
    num_classes: int | None,
    cache_dir: str | Path | None,
    overrides: Mapping[str, Any],
    token: str | None = None,
    local_files_only: bool = False,
) -> Detector:
    """A saved detector, see :func:`create_detector`; ``name`` has one of the prefixes."""
    prefix, _, place = name.partition(":")
    folder = place if prefix == "local-dir" else fetch_repository(place, cache_dir, token, local_files_only)
    config, state = read_folder(folder)
    config = {**config, **config.get(SETTINGS, {})}
    lacking = [key for key in ("architecture", "num_classes", "label_names") if key not in config]
    if lacking:
        raise ValueError(
            f"{name}: its config.json does not say {', '.join(lacking)}; save_pretrained() writes all of it"
        )
    entry, _ = find(str(config["architecture"]))
    saved = {key: from_json(value) for key, value in config.get("args", {}).items() if key != "num_classes"}
    if "in_chans" in overrides:  # statistics for another number of channels are made anew
        saved.pop("pixels", None)
    classes = int(config["num_classes"])
    model = build(entry, {**saved, **overrides}, num_classes or classes, loaded=classes)
    before = config.get("channel_order", model.channel_order)
    given = {*overrides, *(("pixel_mean",) if "pixels" in overrides else ())}
    try:
        set_up(model, {key: value for key, value in config.items() if key not in given})
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{name}: its config.json is not one that this pkdzoo can read: {error}") from error
    load_strictly(model, adapted(model, state, classes, turn=before != model.channel_order))
    if model.num_classes == classes:
        set_labels(model, config["label_names"])
    model.loaded_from = name
    return model
