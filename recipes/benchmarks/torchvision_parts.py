"""The same detectors assembled from torchvision's parts, with the weights of ours.

Differences by definition between the libraries are removed here and nowhere else. torchvision's anchors have integer
side lengths and a stride of ``image // map`` pixels, and its FCOS points lie on the corners of locations. Its models
get our anchors, laid out by the code of its own generator.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import pkdzoo
from pkdzoo.layers.norm import FrozenBatchNorm2d
from pkdzoo.structures import PixelNorm

STRIDES = (8, 16, 32, 64, 128)
DENSE: dict[str, dict[str, Any]] = {
    # as in torchvision, the coarse levels come from P5, with a ReLU between them
    "retina": {"name": "retina_r50", "extra": "on_output", "relu_before_extra": True},
    "fcos": {"name": "fcos_r50_tricks", "centerness_from": "reg", "style": "pytorch", "pixel_norm": PixelNorm()},
    "faster_rcnn": {"name": "faster_rcnn_r50"},
}
RENAMED = (
    ("backbone.", "backbone.body."),
    ("neck.lateral.{}.conv.", "backbone.fpn.inner_blocks.{}.0."),
    ("neck.output.{}.conv.", "backbone.fpn.layer_blocks.{}.0."),
    ("head.cls_tower.blocks.{}.", "head.classification_head.conv.{}."),
    ("head.reg_tower.blocks.{}.", "head.regression_head.conv.{}."),
    ("head.cls.", "head.classification_head.cls_logits."),
    ("head.box.", "head.regression_head.bbox_reg."),
    ("head.quality.", "head.regression_head.bbox_ctrness."),
    ("rpn.conv.", "rpn.head.conv.0.0."),
    ("rpn.cls.", "rpn.head.cls_logits."),
    ("rpn.box.", "rpn.head.bbox_pred."),
    ("box_head.fc1.", "roi_heads.box_head.fc6."),
    ("box_head.fc2.", "roi_heads.box_head.fc7."),
    ("box_head.cls.", "roi_heads.box_predictor.cls_score."),
    ("box_head.box.", "roi_heads.box_predictor.bbox_pred."),
)


class SameAnchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """Torchvision's generator with our base anchors and strides; it lays them out with its own code."""

    def __init__(self, base_anchors: list[Tensor], strides: tuple[int, ...], offset: float) -> None:
        super().__init__(sizes=((1.0,),) * len(base_anchors), aspect_ratios=((1.0,),) * len(base_anchors))
        self.cell_anchors = [base + offset * stride for base, stride in zip(base_anchors, strides)]
        self.strides = strides

    def num_anchors_per_location(self) -> list[int]:
        return [len(base) for base in self.cell_anchors]

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)  # like ours: equal overlaps stay equal in any dtype
        steps = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
        levels = self.grid_anchors([m.shape[-2:] for m in feature_maps], steps)
        return [torch.cat(levels) for _ in image_list.image_sizes]


def ours(family: str, backbone: str = "r50") -> pkdzoo.Detector:
    """Our detector in torchvision's variant, with frozen norms that have statistics like those of a trained one."""
    args = dict(DENSE[family])
    return randomize_norms(pkdzoo.create_detector(args.pop("name"), backbone=backbone, frozen_affine=True, **args))


def our_pyramid(backbone: str = "r101") -> pkdzoo.Detector:
    """A teacher with the pyramid of torchvision's RetinaNet."""
    args: dict[str, Any] = {"extra": "on_output", "relu_before_extra": True}
    return randomize_norms(pkdzoo.create_detector("retina_r101", backbone=backbone, **args))


def randomize_norms(model: pkdzoo.Detector) -> pkdzoo.Detector:
    """Give all norms random statistics, and keep residual branches small, so that maps stay in the usual range."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, FrozenBatchNorm2d):
                count = len(layer.weight)
                layer.weight.copy_(0.5 + torch.rand(count, generator=draw))
                layer.bias.copy_(0.1 * torch.randn(count, generator=draw))
                layer.running_mean.copy_(0.1 * torch.randn(count, generator=draw))
                layer.running_var.copy_(0.5 + torch.rand(count, generator=draw))
        for layer in model.modules():
            last = getattr(layer, "last_norm", None)
            if last is not None:
                last.weight.mul_(0.2)
    return model


def theirs(family: str, model: Any, size: tuple[int, int], backbone: str = "r50") -> nn.Module:
    """Torchvision's detector with the weights of ours, in eval mode; images of ``size`` are not resized."""
    classes = model.num_classes
    more: dict[str, Any] = {
        "min_size": min(size),
        "max_size": max(size),
        "_skip_resize": True,
        "box_detections_per_img": 100,
    }
    if family == "faster_rcnn":
        anchors = SameAnchors(rpn_base_anchors(model), model.neck.strides, 0.0)
        net: nn.Module = FasterRCNN(
            backbone_fpn(backbone, 3, coarse=False), classes + 1, rpn_anchor_generator=anchors, **more
        )
    else:
        anchors = SameAnchors(model.base_anchors, model.neck.strides, model.offset)
        del more["box_detections_per_img"]
        kind = {"retina": RetinaNet, "fcos": FCOS}[family]
        more |= {"detections_per_img": 100, "score_thresh": 0.05}
        net = kind(backbone_fpn(backbone, 3), classes, anchor_generator=anchors, **more)
    net.load_state_dict(renamed(model.state_dict(), family, classes))
    return net.eval()


def rpn_base_anchors(model: Any) -> list[Tensor]:
    """The base anchors of our region proposal network."""
    from pkdzoo.models.rpn import RATIOS, SCALES
    from pkdzoo.ops.priors import base_anchors

    return [base_anchors(stride, SCALES, RATIOS) for stride in model.neck.strides]


def backbone_fpn(name: str, trainable: int, coarse: bool = True) -> nn.Module:
    """A ResNet with frozen norms and a pyramid: from stride 8 with two extra levels, or from stride 4 with one."""
    name = name.replace("r", "resnet")
    if not coarse:
        return cast(nn.Module, resnet_fpn_backbone(backbone_name=name, weights=None, trainable_layers=trainable))
    levels = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    return cast(nn.Module, resnet_fpn_backbone(backbone_name=name, weights=None, trainable_layers=trainable, **levels))


def pyramid_of(model: Any, backbone: str = "r101") -> nn.Module:
    """Torchvision's backbone and pyramid with the weights of ours."""
    net = backbone_fpn(backbone, 0)
    state = renamed(model.state_dict(), "retina", model.num_classes)
    net.load_state_dict({key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")})
    return net.eval()


def renamed(state: dict[str, Tensor], family: str, classes: int) -> dict[str, Tensor]:
    """Our tensors under torchvision's names."""
    tensors = {}
    for key, value in state.items():
        if "scales" in key:  # torchvision's FCOS has no factor per level; ours is initialized to 1
            continue
        if family == "faster_rcnn" and key.startswith("box_head."):
            value = with_background(key, value, classes)
        tensors[rename(key, family)] = value.clone()
    return tensors


def rename(key: str, family: str) -> str:
    """Torchvision's name of one of our tensors."""
    for ours_, theirs_ in RENAMED:
        head, _, tail = ours_.partition("{}")
        if not key.startswith(head):
            continue
        if not tail:
            return theirs_ + key.removeprefix(head)
        number, _, rest = key.removeprefix(head).partition(".")
        if ours_.startswith("neck.output") and int(number) > 2 and family != "faster_rcnn":
            return f"backbone.fpn.extra_blocks.p{int(number) + 3}.{rest.removeprefix('conv.')}"
        if "tower" in head:
            kind, _, rest = rest.partition(".")
            # a sequence of convolution, norm and ReLU in FCOS; RetinaNet nests each block
            index = f"{3 * int(number) + (kind == 'norm')}." if family == "fcos" else f"{number}.0."
            return theirs_.replace("{}.", index) + rest
        return theirs_.format(number) + rest.removeprefix("conv.")
    raise AssertionError(key)


def with_background(key: str, value: Tensor, classes: int) -> Tensor:
    """The last layers of the box head in torchvision's order: background first, with boxes of its own."""
    if key.startswith("box_head.cls."):
        return torch.cat([value[-1:], value[:-1]])
    if key.startswith("box_head.box."):
        return torch.cat([value.new_zeros(4, *value.shape[1:]), value])
    return value
