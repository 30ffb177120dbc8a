"""The reference figures of tests/golden, and the deterministic tensors they were computed from.

Every weight and input is a hash of its name (PCG64 seeded by SHA-256), so two programs can make the same tensors
without exchanging files. The figures come from mmdetection 3.3.0, mmrazor and CrossKD, run on these tensors.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

import pkdzoo
from pkdzoo.checkpoints import to_our_keys
from pkdzoo.ops.boxes import clip_boxes

GOLDEN = Path(__file__).parent.parent / "golden"


def load(name: str) -> dict[str, Any]:
    """A reference file, by its path below tests/golden without suffix."""
    content: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return content


def uniform(name: str, shape: tuple[int, ...] | list[int], seed: int = 0) -> np.ndarray:
    """float32, mean 0, variance 1, uniform on [-sqrt 3, sqrt 3)."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    count = int(np.prod(shape)) if len(shape) else 1
    raw = np.random.PCG64(int.from_bytes(digest[:8], "little")).random_raw(count) if count else np.zeros(0, np.uint64)
    unit = (raw >> np.uint64(11)).astype(np.float64) / (1 << 53)
    return ((2.0 * unit - 1.0) * math.sqrt(3.0)).astype(np.float32).reshape(tuple(shape))


def weight(name: str, shape: tuple[int, ...] | list[int], seed: int = 0) -> np.ndarray:
    """Value of a parameter or buffer by its mmdetection name."""
    noise = uniform(name, shape, seed)
    module, _, leaf = name.rpartition(".")
    module = module.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return (1.0 + 0.5 * np.abs(noise)).astype(np.float32)
    if leaf in ("running_mean", "relative_position_bias_table"):
        return (0.1 * noise).astype(np.float32)
    if leaf == "scale":
        return (1.0 + 0.1 * noise).astype(np.float32)
    if len(shape) >= 2:
        gain = 12.0 if module == "fc_cls" else 1.0
        return (gain * noise / math.sqrt(int(np.prod(shape[1:])))).astype(np.float32)
    if leaf == "bias" and "cls" in module and module != "fc_cls":
        return (0.1 * noise - 2.0).astype(np.float32)
    if leaf == "weight":
        return (1.0 + 0.1 * noise).astype(np.float32)
    return (0.1 * noise).astype(np.float32)


def value(key: str, shape: list[int], seed: int = 0, rules: dict[str, Any] | None = None) -> np.ndarray:
    """Value of a parameter or buffer of a file with rules.

    ``tied``: names of a shared tensor, by its first name. ``stored``: values themselves, base64 of float16. ``gain``
    and ``shift``: factors and summands of all keys that match a pattern.
    """
    rules = rules or {}
    name = rules.get("tied", {}).get(key, key)
    if name in rules.get("stored", {}):
        return np.frombuffer(base64.b64decode(rules["stored"][name]), "<f2").astype(np.float32).reshape(tuple(shape))
    found = np.array(weight(name, shape, seed))
    for pattern, factor in rules.get("gain", []):
        if re.fullmatch(pattern, name):
            found = (found * np.float32(factor)).astype(np.float32)
    for pattern, summand in rules.get("shift", []):
        if re.fullmatch(pattern, name):
            found = (found + np.float32(summand)).astype(np.float32)
    return found


def checkpoint(table: dict[str, list[int]], seed: int = 0, rules: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """A checkpoint in mmdetection's layout from a table of shapes, see :func:`value`."""
    return {key: torch.from_numpy(np.asarray(value(key, shape, seed, rules))) for key, shape in table.items()}


def boxes_for(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Four fixed boxes and labels for each of two images."""
    relative = np.array([
        [[0.05, 0.10, 0.45, 0.60], [0.50, 0.30, 0.95, 0.90], [0.20, 0.55, 0.35, 0.75], [0.60, 0.05, 0.70, 0.15]],
        [[0.10, 0.05, 0.80, 0.85], [0.30, 0.20, 0.40, 0.45], [0.55, 0.60, 0.75, 0.95], [0.02, 0.70, 0.12, 0.90]],
    ], dtype=np.float32)  # fmt: skip
    labels = np.array([[0, 17, 3, 56], [17, 0, 79, 24]])
    return relative * np.array([width, height, width, height], dtype=np.float32), labels


def batch_for(model: pkdzoo.Detector, case: dict[str, Any], masks: bool = False) -> pkdzoo.Batch:
    """The reference images, as raw pixels of this model, and their objects."""
    height, width = case["size"]
    images = torch.from_numpy(uniform("images", (2, 3, height, width)))
    images = images * model.pixel_std[:, None, None] + model.pixel_mean[:, None, None]
    if model.channel_order == "bgr":
        images = images.flip(1)
    instances = []
    for i, (h, w) in enumerate(case["image_shapes"]):
        boxes, labels = (part[i] for part in boxes_for(h, w))
        drawn = None
        if masks:
            drawn = torch.zeros(len(boxes), h, w, dtype=torch.bool)
            for g, (x1, y1, x2, y2) in enumerate(boxes):
                drawn[g, int(y1) : int(y2), int(x1) : int(x2)] = True
        instances.append(pkdzoo.Instances(torch.from_numpy(boxes), torch.from_numpy(labels), masks=drawn))
    return pkdzoo.Batch(images, [tuple(s) for s in case["image_shapes"]], instances)


def made_image(name: str, size: tuple[int, int]) -> Tensor:
    """A noisy image, or one of blocks of 16 x 16 pixels: uint8 (3, H, W) RGB."""
    height, width = size
    drawn = (height, width) if name.startswith("noise") else (-(-height // 16), -(-width // 16))
    noise = (uniform(f"picture.{name}", (*drawn, 3)) / np.sqrt(3) + 1) * 127.5
    pixels = torch.from_numpy(noise.astype(np.uint8)).permute(2, 0, 1)
    if drawn != size:
        pixels = pixels.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width]
    return pixels.contiguous()


def error_of(tensor: Tensor, figures: dict[str, Any]) -> float:
    """Largest difference at the sampled places and of the mean, relative to the reference's largest value."""
    assert list(tensor.shape) == figures["shape"], f"{list(tensor.shape)} for {figures['shape']}"
    flat = tensor.detach().double().flatten()
    scale = figures["abs_max"] or 1.0
    sampled = (flat[torch.tensor(figures["index"])] - torch.tensor(figures["value"], dtype=torch.float64)).abs().max()
    return max(float(sampled), abs(float(flat.mean()) - figures["mean"])) / scale


def matched_share(found: pkdzoo.Detections, figures: dict[str, Any], scale: float, size: list[int]) -> float:
    """Share of reference detections met by one of ours: same label, IoU above 0.99, score within 1e-3.

    Both are clipped to the original image of ``size`` (height, width), because TOOD's reference boxes are not; of a
    box that nothing is left of, the corners are compared.
    """
    expected = clip_boxes(torch.tensor(figures["boxes"]).reshape(-1, 4), (size[0], size[1]))
    if not len(expected):
        return 1.0
    boxes = clip_boxes(found.boxes * scale, (size[0], size[1]))
    empty = (expected[:, 2:] <= expected[:, :2]).any(dim=1)
    near = (expected[:, None] - boxes).abs().amax(dim=-1) < 0.01
    fits = torch.where(empty[:, None], near, box_iou(expected, boxes) > 0.99)
    fits &= torch.tensor(figures["labels"])[:, None] == found.labels
    fits &= (torch.tensor(figures["scores"])[:, None] - found.scores).abs() < 1e-3
    return float(fits.any(dim=1).float().mean())


def positives_of(trace: Any, image: int) -> dict[str, Any]:
    """The positive priors of one image: places as [stride, row, column], objects, labels and overlaps (IoU)."""
    index = (trace.targets.matched[image] >= 0).nonzero().squeeze(1)
    places = []
    for prior in index.tolist():
        level = 0
        while prior >= trace.priors.counts[level]:
            prior -= trace.priors.counts[level]
            level += 1
        places.append([trace.features.strides[level], *divmod(prior, trace.features.sizes[level][1])])
    return {
        "positive": places,
        "box": trace.targets.matched[image, index].tolist(),
        "label": trace.targets.labels[image, index].tolist(),
        "overlap": trace.targets.quality[image, index],
    }


def overlap_error(trace: Any, assignment: list[dict[str, Any]]) -> float:
    """Largest difference of an IoU of a positive prior; the positives themselves must be those of the reference."""
    errors = []
    for image, expected in enumerate(assignment):
        found = positives_of(trace, image)
        for what in ("positive", "box", "label"):
            assert what not in expected or found[what] == expected[what], f"image {image}: {what}"
        errors.append(float((found["overlap"] - torch.tensor(expected["overlap"])).abs().max()))
    return max(errors)


def gradient_error(model: pkdzoo.Detector, expected: dict[str, float]) -> float:
    """Largest relative difference of a parameter's gradient norm; exactly the reference's parameters are trained.

    Norms below a millionth of the largest are zero in float32 and are compared with that millionth.
    """
    ours = {key: next(iter(to_our_keys({key: torch.zeros(())}, model.key_rules))) for key in expected}
    parameters = dict(model.named_parameters())
    assert {key for key, p in parameters.items() if p.requires_grad} == set(ours.values())
    floor = 1e-6 * max(expected.values())
    errors = [abs(float(parameters[ours[key]].grad.norm()) - norm) / max(norm, floor) for key, norm in expected.items()]
    return max(errors)


# Kinds of losses that have another name here; a cascade's ``s0.loss_cls`` is ``loss_cls_s0``.
KINDS = {
    "loss_bbox": "loss_box",
    "loss_rpn_bbox": "loss_rpn_box",
    "loss_pts_init": "loss_box_first",
    "loss_pts_refine": "loss_box",
    "loss_cwd_fpn": "loss_cwd",
    "loss_cwd_cls_head": "loss_cwd",
    "loss_mgd_fpn": "loss_mgd",
    "loss_ld_vlr": "loss_ld_region",
    "loss_kd": "loss_ld_cls",
    "loss_im": "loss_ld_feat",
}
NO_LOSSES = ("acc", "loss_kd_neg")  # the second is multiplied by 0


def our_losses(losses: dict[str, float]) -> dict[str, float]:
    """The losses of a reference by their names here, summed over the levels."""
    sums: dict[str, float] = {}
    for key, value in losses.items():
        stage, kind = re.fullmatch(r"(?:student\.|distill\.|(s\d)\.)?([a-z_]+)\.?\d*", key).groups()
        if kind in NO_LOSSES:
            continue
        name = KINDS.get(kind, kind) + (f"_{stage}" if stage else "")
        sums[name] = sums.get(name, 0.0) + value
    return sums


def loss_error(found: dict[str, Tensor], expected: dict[str, float]) -> float:
    """Largest relative difference of a kind of loss; a millionth of the total counts as zero."""
    assert set(found) == set(expected), f"{sorted(found)} for {sorted(expected)}"
    floor = 1e-6 * sum(expected.values())
    return max(abs(float(found[key].detach()) - value) / max(value, floor) for key, value in expected.items())


def print_row(name: str, errors: dict[str, float]) -> None:
    """One line of the table of errors; ``pytest -s -m "" tests/models/test_equality.py`` shows it."""
    print(f"\n| {name} | " + " | ".join(f"{what} {value:.1e}" for what, value in errors.items()) + " |", end="")
