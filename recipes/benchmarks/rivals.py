"""Other libraries' small detectors as ONNX files with random weights, for ``recipes/benchmark.py --rows deploy``.

    python -m venv --system-site-packages rivals
    rivals/bin/pip install ultralytics rfdetr transformers torchvision
    rivals/bin/python -m recipes.benchmarks.rivals FOLDER
    rivals/bin/pip install --no-deps --no-build-isolation yolox==0.3.0      # and the same line again, for YOLOX-nano

None of these packages is a dependency of pkdzoo, and ultralytics is under the AGPL: keep them in an environment of
their own. Each graph takes one normalized image and ends with its detections (NMS, or the best queries), so that all
graphs are timed with the same steps. A package that is missing or fails is named, and the others go on.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

OPSET = 17
ZEROS, ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Best(nn.Module):
    """A DETR with its last step: the best pairs of query and class, 300 of them.

    Args:
        model: gives logits (1, Q, C) and boxes (1, Q, 4) as center and size, relative to the image.
        names: of these two in its output.
    """

    def __init__(self, model: nn.Module, names: tuple[str, str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.model(images)
        logits, boxes = (output[name] if isinstance(output, dict) else getattr(output, name) for name in self.names)
        scores, pairs = logits.sigmoid().flatten(1).topk(300, dim=1)
        query, label = pairs // logits.shape[2], pairs % logits.shape[2]
        center, half = boxes[..., :2], boxes[..., 2:] / 2
        corners = torch.cat([center - half, center + half], dim=2)
        return corners.gather(1, query[..., None].expand(-1, -1, 4)), scores, label


def write_graph(model: nn.Module, path: Path, side: int) -> None:
    """Write an ONNX file for one image of ``side`` x ``side`` pixels."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (torch.rand(1, 3, side, side),),
            str(path),
            input_names=["images"],
            opset_version=OPSET,
            dynamo=False,
        )


def ultralytics(name: str, path: Path, nms: bool) -> dict[str, Any]:
    """A detector of ultralytics by its own exporter."""
    yolo = importlib.import_module("ultralytics").YOLO(f"{name}.yaml")
    yolo.fuse()  # drops the branch that only training uses
    parameters = sum(each.numel() for each in yolo.model.parameters())
    operations = count_operations(yolo.model, 640)
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            written = yolo.export(format="onnx", imgsz=640, nms=nms, simplify=False, opset=OPSET, device="cpu")
            Path(written).replace(path)
        finally:
            os.chdir(before)
    return {"side": 640, "parameters": parameters, "operations": operations, "letterbox": True}


def d_fine(size: str, path: Path) -> dict[str, Any]:
    """D-FINE of transformers, with the sizes that its authors' options files give."""
    transformers = importlib.import_module("transformers")
    stages = {
        "hidden_sizes": [64, 256, 512, 1024],
        "stem_channels": [3, 16, 16],
        "stage_in_channels": [16, 64, 256, 512],
        "stage_mid_channels": [16, 32, 64, 128],
        "stage_out_channels": [64, 256, 512, 1024],
        "stage_num_blocks": [1, 1, 2, 1],
        "stage_numb_of_layers": [3, 3, 3, 3],
        "use_learnable_affine_block": True,
    }
    backbone = transformers.HGNetV2Config(**stages, out_indices=[2, 3, 4] if size == "s" else [3, 4])
    changes: dict[str, Any] = {"encoder_in_channels": [256, 512, 1024], "hidden_expansion": 0.5, "depth_mult": 0.34}
    if size == "n":
        changes = {
            "encoder_in_channels": [512, 1024],
            "feat_strides": [16, 32],
            "encoder_hidden_dim": 128,
            "encoder_ffn_dim": 512,
            "encode_proj_layers": [1],
            "hidden_expansion": 0.34,
            "depth_mult": 0.5,
            "d_model": 128,
            "decoder_in_channels": [128, 128],
            "decoder_ffn_dim": 512,
            "num_feature_levels": 2,
            "decoder_n_points": [6, 6],
        }
    config = transformers.DFineConfig(backbone_config=backbone, decoder_layers=3, num_labels=80, **changes)
    return write_detr(transformers.DFineForObjectDetection(config), path, 640, ("logits", "pred_boxes"))


def rt_detr_v2(path: Path) -> dict[str, Any]:
    """RT-DETRv2-S of transformers, on ResNet-18."""
    transformers = importlib.import_module("transformers")
    backbone = transformers.RTDetrResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", out_indices=[2, 3, 4]
    )
    config = transformers.RTDetrV2Config(
        backbone_config=backbone,
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
        num_labels=80,
    )
    return write_detr(transformers.RTDetrV2ForObjectDetection(config), path, 640, ("logits", "pred_boxes"))


def rf_detr(path: Path) -> dict[str, Any]:
    """RF-DETR nano of rfdetr."""
    made = importlib.import_module("rfdetr").RFDETRNano(pretrain_weights=None, device="cpu")
    network = made.model.model.eval().requires_grad_(False)
    network.export()
    side = made.model.resolution

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            boxes, logits = self.network(images)[:2]
            return {"logits": logits, "boxes": boxes}

    facts = write_detr(Named(), path, side, ("logits", "boxes"))
    return {**facts, "mean": IMAGENET[0], "std": IMAGENET[1]}


def write_detr(model: nn.Module, path: Path, side: int, names: tuple[str, str]) -> dict[str, Any]:
    """Write a DETR with its last step."""
    whole = Best(model.eval(), names)
    write_graph(whole, path, side)
    return {**facts_of(whole, side), "letterbox": False}


def of_torchvision(name: str, path: Path) -> dict[str, Any]:
    """A detector of torchvision; it normalizes, resizes and suppresses in its graph."""
    detection = importlib.import_module("torchvision.models.detection")
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=91).eval()

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            result = self.model([images[0]])[0]
            return result["boxes"], result["scores"], result["labels"]

    write_graph(Flat(), path, 320)
    return {**facts_of(Flat(), 320), "letterbox": False}


def yolox(path: Path) -> dict[str, Any]:
    """YOLOX-nano of the package yolox, with torchvision's NMS in the graph."""
    models, boxes = importlib.import_module("yolox.models"), importlib.import_module("torchvision.ops")
    parts = {"depth": 0.33, "width": 0.25, "depthwise": True, "act": "silu"}
    neck = models.YOLOPAFPN(in_channels=[256, 512, 1024], **parts)
    head = models.YOLOXHead(80, width=0.25, in_channels=[256, 512, 1024], depthwise=True, act="silu")
    model = models.YOLOX(neck, head).eval()

    class Suppressed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            rows = self.model(images)[0]
            scores, labels = (rows[:, 5:] * rows[:, 4:5]).max(dim=1)
            kept = torch.nonzero(scores > 0.25).squeeze(1)
            corners = torch.cat([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], dim=1)[kept]
            chosen = boxes.nms(corners + labels[kept, None] * 4096.0, scores[kept], 0.45)
            return corners[chosen], scores[kept][chosen], labels[kept][chosen]

    write_graph(Suppressed(), path, 416)
    return {**facts_of(Suppressed(), 416), "letterbox": True, "scale": 1.0}


def facts_of(model: nn.Module, side: int) -> dict[str, Any]:
    """Side, parameters and multiply-adds of a model."""
    parameters = sum(each.numel() for each in model.parameters())
    return {"side": side, "parameters": parameters, "operations": count_operations(model, side)}


def count_operations(model: nn.Module, size: int | tuple[int, int]) -> int:
    """Multiply-adds of one image in convolutions, linear layers and attention; ``size`` is (height, width)."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(torch.rand(1, 3, *((size, size) if isinstance(size, int) else size)))
    return int(counter.get_total_flops()) // 2


RIVALS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "yolo11n": lambda path: ultralytics("yolo11n", path, True),
    "yolo11s": lambda path: ultralytics("yolo11s", path, True),
    "yolo26n": lambda path: ultralytics("yolo26n", path, False),
    "yolo26s": lambda path: ultralytics("yolo26s", path, False),
    "dfine_n": lambda path: d_fine("n", path),
    "dfine_s": lambda path: d_fine("s", path),
    "rtdetrv2_r18": rt_detr_v2,
    "rfdetr_nano": rf_detr,
    "ssdlite320_mobilenet_v3_large": lambda path: of_torchvision("ssdlite320_mobilenet_v3_large", path),
    "fasterrcnn_mobilenet_v3_large_320_fpn": lambda path: of_torchvision("fasterrcnn_mobilenet_v3_large_320_fpn", path),
    "yolox_nano": yolox,
}


def main(folder: Path, names: list[str]) -> int:
    """Write the files of ``names``, of all where it is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    folder, failed = folder.resolve(), 0
    for name in names or RIVALS:
        torch.manual_seed(0)
        path = folder / f"{name}.onnx"
        try:
            facts = {"mean": ZEROS, "std": ONES, "scale": 255.0, **RIVALS[name](path)}
        except Exception as error:  # another library: whatever it raises, the next one may work
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
        print(f"{name}: {facts['parameters'] / 1e6:.2f} million parameters, {facts['operations'] / 1e9:.2f} G")
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
