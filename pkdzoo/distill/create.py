"""Creates a teacher by name: of a pair of this package, or of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pkdzoo.distill.adapters import is_of_other_library, teacher_of_library
from pkdzoo.models import _factory
from pkdzoo.models.detector import Detector


def create_teacher(
    name: str, pretrained: bool = True, *, cache_dir: str | Path | None = None, **kwargs: Any
) -> Detector:
    """Create a teacher in eval mode.

    Args:
        name: name of a distilled student, whose teacher is returned (see :func:`pkdzoo.list_pairs`); or a model of
            another library: ``torchvision:NAME``, ``transformers:ORG/NAME`` or ``timm:NAME``.
        pretrained: load weights; False leaves them random.
        cache_dir: folder for downloaded weights, see :func:`pkdzoo.create_detector`.
        kwargs: as for :func:`pkdzoo.create_detector`, or arguments of the other library's function.

    Returns:
        A detector, or a :class:`pkdzoo.Teacher`.

    Raises:
        ValueError: for a detector without a teacher, an unknown name (with the closest ones), a library that is not
            installed, and as :func:`pkdzoo.create_detector`.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.create_teacher("faster_rcnn_r50_pkd_r101", pretrained=False).name
        'faster_rcnn_r101'
        >>> print(pkdzoo.create_teacher("torchvision:retinanet_resnet50_fpn", pretrained=False).pyramid_shape)
        stride 8 x 256 channels, stride 16 x 256 channels, stride 32 x 256 channels, stride 64 x 256 channels, \
stride 128 x 256 channels
    """
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is no name: write that of a distilled student, or LIBRARY:NAME")
    if is_of_other_library(name):
        return teacher_of_library(name, pretrained, cache_dir=cache_dir, args=kwargs).eval()
    return _factory.create_teacher(name, pretrained, cache_dir=cache_dir, **kwargs)
