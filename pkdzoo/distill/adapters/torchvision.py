"""Detectors of torchvision as teachers: ``torchvision:NAME`` or ``torchvision:NAME.TAG``, e.g. ``.coco_v1``.

Their maps are those of ``net.backbone``. They see the images as the student does, in 0..1 with their own mean and std;
SSDs, whose images have one size, see them squashed to it. Checked with torchvision 0.29.

Torchvision publishes pickled weights. They are downloaded from its server, read by pkdzoo's own reader, which runs no
code, and kept in the cache as safetensors.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torchvision
from torch import Tensor
from torchvision.models import detection

from pkdzoo.checkpoints import load_strictly
from pkdzoo.checkpoints.io import read_state_dict
from pkdzoo.distill.teacher import Teacher
from pkdzoo.hub.fetch import cache_folder, check_hash_is_full, from_link, read_cached
from pkdzoo.hub.weights import InitialWeights, Weights
from pkdzoo.utils.suggest import did_you_mean

HASH = re.compile(r"-([0-9a-f]{8,64})\.pth$")  # in the name of a published file
LICENSE = "BSD-3-Clause"
# parameters that are no arguments of a recipe
OWN = {"self", "kwargs", "weights", "weights_backbone", "progress", "backbone"}


def teacher(name: str, pretrained: bool, cache_dir: str | Path | None, args: dict[str, Any]) -> Teacher:
    """A detector of torchvision as a teacher, see :func:`pkdzoo.distill.adapters.teacher_of_library`."""
    arch, dot, tag = name.partition(".")
    net, origin = build(arch, tag if dot else None, pretrained, cache_dir, args)
    transform = net.transform
    size = getattr(transform, "fixed_size", None)
    made = Teacher(
        net,
        maps,
        transform.image_mean,
        transform.image_std,
        scale=255,
        two_stage=isinstance(net, detection.generalized_rcnn.GeneralizedRCNN),
        input_size=None if size is None else (size[1], size[0]),
    )
    made.origin = origin
    return made


def maps(net: Any, images: Tensor) -> list[Tensor]:
    """The maps of a detector's backbone, FPN included: (B, 3, H, W) -> a list of (B, C, h, w)."""
    features = net.backbone(images)
    return [features] if isinstance(features, Tensor) else list(features.values())


def build(
    arch: str, tag: str | None, pretrained: bool, cache_dir: str | Path | None, args: dict[str, Any]
) -> tuple[Any, InitialWeights | None]:
    """The detector, and the origin of its weights.

    Raises:
        ValueError: for an unknown name or tag, and arguments that the detector does not have.
    """
    known = torchvision.models.list_models(module=detection)
    if arch not in known:
        raise ValueError(
            f"torchvision {torchvision.__version__} has no detector {arch[:100]!r}. {did_you_mean(arch, known)}"
        )
    table = torchvision.models.get_model_weights(arch)
    if tag is not None and tag.upper() not in table.__members__:
        tags = [member.lower() for member in table.__members__]
        raise ValueError(f"torchvision's {arch} has no weights {tag!r}. {did_you_mean(tag, tags)}")
    row = table.DEFAULT if tag is None else table[tag.upper()]
    check_arguments(arch, args)
    try:
        if not pretrained:
            return torchvision.models.get_model(arch, weights=None, weights_backbone=None, **args), None
        state = download(arch, row, cache_dir)
        # the library's own function then chooses norms and their eps as for its own download, which it does not make
        with patch.object(type(row), "get_state_dict", lambda *_, **__: state):
            net = torchvision.models.get_model(arch, weights=row, **args)
    except TypeError as error:
        raise ValueError(f"torchvision's {arch}: {error}; correct distill.teacher_args") from error
    digits = HASH.search(row.url)
    full = f"torchvision:{arch}.{row.name.lower()}"
    return net, InitialWeights(full, LICENSE, sha256=digits.group(1) if digits else "")


def check_arguments(arch: str, args: dict[str, Any]) -> None:
    """Refuse arguments that neither the function nor the class of a detector has; torchvision would ignore them."""
    function = torchvision.models.get_model_builder(arch)
    cls = inspect.signature(function, eval_str=True).return_annotation
    known = {*inspect.signature(function).parameters, *inspect.signature(cls.__init__).parameters} - OWN
    for key in args:
        if key not in known:
            raise ValueError(f"torchvision's {arch} has no argument {key!r}. {did_you_mean(key, known)}")


def download(arch: str, row: Any, cache_dir: str | Path | None) -> dict[str, Tensor]:
    """The published tensors of a detector, from the cache or from torchvision's server."""
    digits = HASH.search(row.url)
    sha256 = digits.group(1) if digits else ""
    name = f"torchvision-{arch}.{row.name.lower()}"
    check_hash_is_full(name, Weights(row.name.lower(), url=row.url, sha256=sha256))
    path = cache_folder(cache_dir) / f"{name}-{sha256[:8] or 'unhashed'}.safetensors"
    state = read_cached(path)
    return state if state is not None else from_link(name, row.url, sha256, dict, path)[0]


def load_file(made: Teacher, path: str | Path) -> None:
    """Load a file of weights in torchvision's layout, strictly."""
    load_strictly(made.backbone, read_state_dict(path))
