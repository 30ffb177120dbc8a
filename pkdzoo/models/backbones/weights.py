"""ImageNet weights of backbones: the files that published detectors were initialized from.

The depth alone does not determine the file: caffe-style weights have their stride in the first 1x1 convolution and need
BGR pixels with std 1, and Detectron's and Detectron2's files differ in their mean. A wrong file silently costs AP, so
files are selected by the pixel statistics of the detector, and the place of its strides is checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pkdzoo.checkpoints.keymap import Rule, to_our_keys
from pkdzoo.checkpoints.swin import from_original
from pkdzoo.checkpoints.wrappers import find_tensors
from pkdzoo.hub.weights import Weights
from pkdzoo.structures import PixelNorm

RGB = PixelNorm()  # torchvision's
DETECTRON = PixelNorm((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), "bgr")
DETECTRON2 = PixelNorm((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "bgr")
RTMDET = PixelNorm((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), "bgr")


def torchvision(file: str) -> Weights:
    """A file of torchvision's model zoo."""
    return Weights(
        "imagenet", f"https://download.pytorch.org/models/{file}", sha256=hash_of(file), license="BSD-3-Clause"
    )


def openmmlab(file: str, tag: str = "imagenet") -> Weights:
    """A file that OpenMMLab copied from another project, such as Detectron's."""
    url = f"https://download.openmmlab.com/pretrain/third_party/{file}"
    return Weights(tag, url, sha256=hash_of(file), note="the source states no license for this file")


def microsoft(file: str) -> Weights:
    """A file of the Swin Transformer's authors."""
    url = f"https://github.com/SwinTransformer/storage/releases/download/v1.0.0/{file}"
    return Weights("imagenet", url, license="MIT", note="no hash is published for this file")


def cspnext(size: str) -> Weights:
    """The file of mmdetection's CSPNeXt of a size, e.g. ``s``."""
    url = (
        f"https://download.openmmlab.com/mmdetection/v3.0/rtmdet/cspnext_rsb_pretrain/cspnext-{size}_imagenet_600e.pth"
    )
    return Weights("imagenet", url, license="Apache-2.0", note="no hash is published for this file")


def hash_of(file: str) -> str:
    """The first characters of the file's SHA-256, which are the end of its name."""
    return file.removesuffix(".pth").rpartition("-")[2]


# backbone -> statistics of its input -> file; std 1 stands for caffe's style, see the top of this file
IMAGENET: dict[str, dict[PixelNorm, Weights]] = {
    "r18": {RGB: torchvision("resnet18-f37072fd.pth")},
    "r34": {RGB: torchvision("resnet34-b627a593.pth")},
    "r50": {
        RGB: torchvision("resnet50-0676ba61.pth"),
        DETECTRON: openmmlab("resnet50_caffe-788b5fa3.pth", "imagenet_caffe"),
        DETECTRON2: openmmlab("resnet50_msra-5891d200.pth", "imagenet_msra"),
    },
    "r101": {
        RGB: torchvision("resnet101-63fe2227.pth"),
        DETECTRON: openmmlab("resnet101_caffe-3ad79236.pth", "imagenet_caffe"),
        DETECTRON2: openmmlab("resnet101_msra-6cc46731.pth", "imagenet_msra"),
    },
    "x101_32x4d": {RGB: openmmlab("resnext101_32x4d-a5af3160.pth")},
    "x101_64x4d": {RGB: openmmlab("resnext101_64x4d-ee2c6f71.pth")},
    "cspnext_tiny": {RTMDET: cspnext("tiny")},
    "cspnext_s": {RTMDET: cspnext("s")},
    "swin_t": {RGB: microsoft("swin_tiny_patch4_window7_224.pth")},
    "swin_s": {RGB: microsoft("swin_small_patch4_window7_224.pth")},
}

RESNET_RULES: list[Rule] = [
    (r"fc\..*", None),  # the classifier
    (r"(?:conv1|bn1|layer[1-4])\..*", r"\g<0>"),  # torchvision's names are ours
]
CSPNEXT_RULES: list[Rule] = [
    (r"(?:head|data_preprocessor)\..*", None),  # the classifier
    (r"(?:backbone\.)?((?:stem|stage[1-4])\..*)", r"\1"),  # mmdetection's names are ours
]
# Parameters that only detectors have: offsets of deformable convolutions, initially zero, and Swin's output norms.
ADDED = re.compile(r"layer\d\.\d+\.conv2\.offset\.(weight|bias)|norm\d\.(weight|bias)")


def imagenet_weights(backbone: str, norm: PixelNorm, tag: str = "imagenet") -> tuple[PixelNorm, Weights]:
    """Select the ImageNet file of a backbone.

    Args:
        backbone: ``r50``, ``swin_t``, ...
        norm: pixel statistics of the detector, of three channels, in either order.
        tag: ``imagenet`` for the file that was trained with these statistics, or the tag of one file.

    Returns:
        The statistics that the file was trained with, and the file.

    Raises:
        ValueError: if there is no such file; the message lists the existing ones.
    """
    rows = IMAGENET.get(backbone)
    if rows is None:
        raise ValueError(
            f"there are no ImageNet weights for backbone {backbone!r}, only for {', '.join(IMAGENET)}; to train from "
            "scratch write norm='gn', frozen_stages=0"
        )
    for known, row in rows.items():
        if is_same_norm(known, norm) if tag == "imagenet" else row.tag == tag:
            return known, row
    have = "; ".join(f"{row.tag} for pixels of {describe_norm(known)}" for known, row in rows.items())
    raise ValueError(f"no weights {tag!r} of {backbone!r} for pixels of {describe_norm(norm)}; there are: {have}")


def is_same_norm(one: PixelNorm, other: PixelNorm) -> bool:
    """Whether two pixel statistics are the same, whatever their channel orders."""
    if len(one.mean) != len(other.mean):
        return False
    step = 1 if one.channel_order == other.channel_order else -1
    pairs = zip((*one.mean, *one.std), (*other.mean[::step], *other.std[::step]))
    return all(abs(a - b) < 1e-3 for a, b in pairs)


def describe_norm(norm: PixelNorm) -> str:
    """Pixel statistics for a message."""
    mean, std = (", ".join(f"{value:.7g}" for value in part) for part in (norm.mean, norm.std))
    return f"mean {mean}, std {std} ({norm.channel_order.upper()})"


def check_strides(backbone: nn.Module, norm: PixelNorm, row: Weights) -> None:
    """Check that a ResNet has its strides where the file has them, which its tensors do not tell.

    Args:
        backbone: of the detector.
        norm: statistics that the file was trained with.
        row: the file.

    Raises:
        ValueError: for the other style.
    """
    stage = getattr(backbone, "layer2", None)
    first = getattr(stage[0], "conv1", None) if isinstance(stage, nn.Sequential) else None
    if not isinstance(first, nn.Conv2d) or first.kernel_size != (1, 1):
        return  # no bottleneck
    has, needs = ("caffe" if first.stride == (2, 2) else "pytorch"), ("caffe" if set(norm.std) == {1.0} else "pytorch")
    if has != needs:
        raise ValueError(
            f"the weights {row.tag!r} for pixels of {describe_norm(norm)} are for style={needs!r}, and the backbone "
            f"has style={has!r}: write style={needs!r}, or the pixel_norm of the other weights"
        )


def to_backbone(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename the tensors of an ImageNet file to the names of our backbones.

    Args:
        content: content of the file; the tensors may be nested under ``model`` or ``state_dict``.

    Raises:
        ValueError: for keys without a counterpart in our backbones; the message lists them.
    """
    state = find_tensors(content)
    if any(key.endswith("stem.0.conv.weight") for key in state):
        return to_our_keys(state, CSPNEXT_RULES)
    swin = any(key.startswith("patch_embed.") for key in state)
    return from_original(state) if swin else to_our_keys(state, RESNET_RULES)


def add_missing_tensors(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Complete ImageNet weights with tensors of the backbone that the file does not have.

    These are the parameters that only detectors have, and the running statistics of files without any: caffe's files
    have them folded into weight and bias of the norms, which the statistics 0 and 1 leave unchanged.

    Raises:
        ValueError: for a ResNet or CSPNeXt without batch norm, because weights and biases of its norms have another
            meaning.
    """
    full, own = dict(state), backbone.state_dict()
    first = "stem.0.bn" if "stem.0.conv.weight" in state else "bn1"
    if f"{first}.weight" in state and f"{first}.running_mean" not in own:
        raise ValueError("ImageNet weights are for batch norm: write norm='frozen_bn' (as published) or norm='bn'")
    full.update((key, own[key]) for key in own if key not in state and ADDED.fullmatch(key))
    if not any(key.endswith("running_mean") for key in state):
        for key, value in own.items():
            if key.endswith("running_mean"):
                full[key] = torch.zeros_like(value)
            elif key.endswith("running_var"):
                full[key] = torch.ones_like(value)
    return full
