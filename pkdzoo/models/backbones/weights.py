"""ImageNet weights of backbones: the published files that published detectors were trained from.

Which file fits depends on more than depth: caffe-style weights stride in the first 1x1 convolution and want BGR pixels
of std 1, and Detectron's and Detectron2's differ in their mean. Mixing them up costs AP without a word, so a file is
chosen, and checked, by the pixels a detector takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pkdzoo.checkpoints.keymap import Rule, to_our_keys
from pkdzoo.checkpoints.swin import from_original
from pkdzoo.hub.weights import Weights

RGB = (123.675, 116.28, 103.53)  # ImageNet's mean
DETECTRON, DETECTRON2 = (102.9801, 115.9465, 122.7717), (103.53, 116.28, 123.675)  # BGR


def torchvision(file: str) -> Weights:
    return Weights(
        "imagenet", f"https://download.pytorch.org/models/{file}", sha256=hash_of(file), license="BSD-3-Clause"
    )


def openmmlab(file: str, tag: str = "imagenet") -> Weights:
    url = f"https://download.openmmlab.com/pretrain/third_party/{file}"
    return Weights(tag, url, sha256=hash_of(file), note="the source states no licence for this file")


def microsoft(file: str) -> Weights:
    url = f"https://github.com/SwinTransformer/storage/releases/download/v1.0.0/{file}"
    return Weights("imagenet", url, license="MIT", note="no hash is published for this file")


def hash_of(file: str) -> str:
    """The hash that stands at the end of a file's name."""
    return file.removesuffix(".pth").rpartition("-")[2]


# backbone -> mean of its pixels in its own channel order -> file
IMAGENET: dict[str, dict[tuple[float, ...], Weights]] = {
    "r18": {RGB: torchvision("resnet18-f37072fd.pth")},
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
    "swin_t": {RGB: microsoft("swin_tiny_patch4_window7_224.pth")},
    "swin_s": {RGB: microsoft("swin_small_patch4_window7_224.pth")},
}

RESNET_RULES: list[Rule] = [
    (r"fc\..*", None),  # the classifier
    (r"(?:conv1|bn1|layer[1-4])\..*", r"\g<0>"),  # torchvision's names are ours
]
# What detection adds to a backbone: shifts of deformable convolutions, which start at zero, and Swin's output norms.
ADDED = re.compile(r"layer\d\.\d+\.conv2\.offset\.(weight|bias)|norm\d\.(weight|bias)")


def imagenet_weights(backbone: str, mean: tuple[float, ...], tag: str = "imagenet") -> Weights:
    """The ImageNet file for a backbone.

    Args:
        backbone: ``r50``, ``swin_t``, ...
        mean: of each channel, values 0-255, in the detector's channel order.
        tag: ``imagenet`` for the file trained on pixels of this mean, or the tag of one file.

    Raises:
        ValueError: when there is none, saying which there are.
    """
    rows = IMAGENET.get(backbone)
    if rows is None:
        raise ValueError(
            f"there are no ImageNet weights for backbone {backbone!r}, only for {', '.join(IMAGENET)}; to train from "
            "scratch write norm='gn', frozen_stages=0"
        )
    for known, row in rows.items():
        same = len(mean) == len(known) and all(abs(a - b) < 1e-3 for a, b in zip(mean, known))
        if same if tag == "imagenet" else row.tag == tag:
            return row
    have = "; ".join(f"{row.tag} for pixels of mean {known}" for known, row in rows.items())
    raise ValueError(
        f"no weights {tag!r} of {backbone!r} for pixels of mean {tuple(round(m, 4) for m in mean)}; there are: {have}"
    )


def to_backbone(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an ImageNet file by the names of our backbones.

    Args:
        content: what the file holds; the tensors may lie below ``model`` or ``state_dict``.

    Raises:
        ValueError: listing keys of the file that fit nowhere.
    """
    for wrapper in ("state_dict", "model"):
        content = content[wrapper] if isinstance(content.get(wrapper), Mapping) else content
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    swin = any(key.startswith("patch_embed.") for key in state)
    return from_original(state) if swin else to_our_keys(state, RESNET_RULES)


def completed(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """ImageNet weights together with what a backbone has beyond them, taken from the backbone itself.

    That is what detection adds, and the running statistics where a file has none at all: caffe's files have them
    folded into gain and bias, and statistics 0 and 1 leave those as they are.

    Raises:
        ValueError: for a ResNet with another norm than batch norm, whose gain and bias mean something else.
    """
    full, own = dict(state), backbone.state_dict()
    if "bn1.weight" in state and "bn1.running_mean" not in own:
        raise ValueError("ImageNet weights are for batch norm: write norm='frozen_bn' (as published) or norm='bn'")
    full.update((key, own[key]) for key in own if key not in state and ADDED.fullmatch(key))
    if not any(key.endswith("running_mean") for key in state):
        for key, value in own.items():
            if key.endswith("running_mean"):
                full[key] = torch.zeros_like(value)
            elif key.endswith("running_var"):
                full[key] = torch.ones_like(value)
    return full
