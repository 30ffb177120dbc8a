"""Creates detectors and pairs by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

from pkdzoo.data.labels import label_names as names_of
from pkdzoo.hub.weights import Distilled
from pkdzoo.models._builder import from_name, open_saved
from pkdzoo.models._registry import find, list_pairs
from pkdzoo.models.detector import Detector
from pkdzoo.models.feature_extractor import FeatureExtractor
from pkdzoo.utils.suggest import did_you_mean


@overload
def create_detector(
    name: str | Path,
    pretrained: bool = ...,
    num_classes: int | None = ...,
    in_chans: int | None = ...,
    label_names: str | Sequence[str] | None = ...,
    cache_dir: str | Path | None = ...,
    features_only: Literal[False] = ...,
    **overrides: Any,
) -> Detector: ...


@overload
def create_detector(name: str | Path, *, features_only: Literal[True], **overrides: Any) -> FeatureExtractor: ...


def create_detector(
    name: str | Path,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    label_names: str | Sequence[str] | None = None,
    cache_dir: str | Path | None = None,
    features_only: bool = False,
    **overrides: Any,
) -> Detector | FeatureExtractor:
    """Create a detector in eval mode, with random or pretrained weights.

    Args:
        name: ``arch`` or ``arch.tag``; or a saved detector, which is always loaded with its weights:
            the path of its folder or of a run's folder, ``hf-hub:org/name`` or ``hf-hub:org/name@revision``. The prefix
            ``local-dir:`` is for a folder that is called like a registered detector.
        pretrained: load the weights of the tag, or the default weights of the architecture. A tag without
            ``pretrained=True`` loads nothing.
        num_classes: number of classes. If the weights have another number, the tensors that depend on it are
            initialized randomly, and all others are loaded strictly.
        in_chans: number of image channels. The weights of the first convolution are summed for one channel and
            repeated for more than three.
        label_names: class names, or ``"coco"``; None means those of the weights. As many as the weights have rename
            their classes, with a warning; another number makes a new class layer, see ``num_classes``.
        cache_dir: folder for downloaded weights; None means ``PKDZOO_CACHE``, else the user's cache folder, and for
            ``hf-hub:`` the cache of the Hub's client.
        features_only: return the feature pyramid alone, as a
            :class:`pkdzoo.models.feature_extractor.FeatureExtractor`.
        overrides: arguments of the family's build function or of its backbone, e.g. ``norm="gn"``. None means the
            default.

    Returns:
        The detector, or the feature extractor.

    Raises:
        ValueError: for an unknown name, tag or keyword, with the closest names; for ``pretrained=True`` without
            weights; and for weights that can only be downloaded in a browser, with their link.
        FileNotFoundError: for a folder that does not exist or holds no detector; it is a ValueError, too.
        pkdzoo.hub.errors.DownloadError: if weights exist but cannot be downloaded.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.create_detector("retina_r10w16", num_classes=3).num_classes
        3
    """
    if in_chans is not None:
        overrides["in_chans"] = in_chans
    model = from_name(name, pretrained, num_classes, label_names, cache_dir, overrides)
    assert isinstance(model, Detector)
    return FeatureExtractor(model) if features_only else model


def create_pair(
    name: str,
    pretrained: bool | Literal["teacher"] = "teacher",
    num_classes: int | None = None,
    cache_dir: str | Path | None = None,
    **overrides: Any,
) -> tuple[Detector, Detector]:
    """Create a distilled detector and its teacher.

    Args:
        name: name of the pair, see :func:`pkdzoo.list_pairs`.
        pretrained: ``"teacher"`` loads the teacher's weights only, as at the start of a distillation; True loads both,
            False neither.
        num_classes: number of classes of the student; None means those of the published one.
        cache_dir: see :func:`create_detector`.
        overrides: arguments of the student.

    Returns:
        (student, teacher).

    Raises:
        ValueError: for a detector without a teacher, and as :func:`create_detector`.

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
    """Create the student of a pair in eval mode.

    Args:
        name: name of the pair, see :func:`pkdzoo.list_pairs`.
        pretrained: load the published weights of the distilled student.
        num_classes: number of classes; None means those of the published student.
        kwargs: as for :func:`create_detector`.

    Raises:
        ValueError: for a detector without a teacher, and as :func:`create_detector`.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.create_student("retina_r50_pkd_x101", num_classes=3).num_classes
        3
    """
    teacher_of(name)
    return create_detector(name, pretrained, num_classes, **kwargs)


def create_teacher(name: str, pretrained: bool = True, **kwargs: Any) -> Detector:
    """Create the teacher of a pair by the student's name; arguments as for :func:`create_detector`.

    Without weights, too, it has the classes and the image size of its weights, as the published student does.

    Raises:
        ValueError: for a detector without a teacher, and as :func:`create_detector`.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.create_teacher("faster_rcnn_r50_pkd_r101", pretrained=False).name
        'faster_rcnn_r101'
    """
    teacher = teacher_of(name).teacher
    row = find(teacher)[1]
    if row is not None and not pretrained:
        if kwargs.get("label_names") is None:
            kwargs["num_classes"] = kwargs.get("num_classes") or len(names_of(row.labels))
        kwargs["resize"] = kwargs.get("resize") or row.resize
    return create_detector(teacher, pretrained, **kwargs)


def teacher_of(name: str) -> Distilled:
    """The pair of a distilled detector; ValueError for a detector without a teacher."""
    entry, _ = find(name)
    if entry.distilled is None:
        raise ValueError(f"{entry.name!r} has no teacher. {did_you_mean(entry.name, list_pairs())}")
    return entry.distilled


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
    """Load a saved detector with its weights, from a folder or from the Hub.

    Args:
        place: an existing folder, or ``org/name`` or ``org/name@revision`` on the Hub. The prefix ``local-dir:`` or
            ``hf-hub:`` decides between the two.
        revision: branch, tag or commit on the Hub.
        num_classes: see :func:`create_detector`.
        label_names: see :func:`create_detector`.
        cache_dir: cache folder; None means the default of the Hub's client.
        token: for private repositories; None means the token of ``hf auth login``, or ``HF_TOKEN``.
        local_files_only: use the cache alone, without network.
        overrides: see :func:`create_detector`.

    Returns:
        The detector in eval mode.

    Raises:
        ValueError: for files of another library, and as :func:`create_detector`.
        FileNotFoundError: for a folder or a repository without config or tensors.
        pkdzoo.hub.errors.DownloadError: for a repository that cannot be downloaded.

    Example:
        >>> import tempfile, pkdzoo
        >>> folder = pkdzoo.create_detector("retina_r10w16", num_classes=2).save_pretrained(tempfile.mkdtemp())
        >>> pkdzoo.from_pretrained(folder, label_names=["cat", "dog"]).label_names
        ('cat', 'dog')
    """
    model = open_saved(place, revision, num_classes, label_names, cache_dir, token, local_files_only, overrides)
    assert isinstance(model, Detector)
    return model
