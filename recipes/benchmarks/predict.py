"""Prediction on images of the final size, compared with torchvision's detectors with the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import pkdzoo
from pkdzoo.structures import Batch, Detections
from recipes.benchmarks import torchvision_parts as parts
from recipes.benchmarks.measure import Row, Settings, full_precision, in_turns, ratios, unmeasured
from recipes.benchmarks.step import batch_of

TITLES = {"retina": "RetinaNet", "fcos": "FCOS", "faster_rcnn": "Faster R-CNN"}
AGAINST = "torchvision, eager"
SAME = 1e-5  # scores within this relative difference count as equal
CANDIDATES = 400  # predictions per image with a score above the threshold, as for a trained detector


def rows(family: str, settings: Settings) -> Iterator[Row]:
    """One detector on one image and on eight, eager and compiled."""
    size = (96, 128) if settings.quick else (480, 640)
    yield from predict_rows(family, settings, size)
    if settings.device.type != "cuda" and family != "faster_rcnn":
        yield unmeasured(3, f"prediction of {TITLES[family]} on a GPU", AGAINST, 1.5, "no GPU")


def target_ratios(family: str, device: torch.device) -> tuple[float, float]:
    """The targets of the ratio, eager and compiled."""
    if family == "faster_rcnn":
        return 1.0, 1.0
    return (1.5, 1.5) if device.type == "cuda" else (1.2, 1.4)


def predict_rows(family: str, settings: Settings, size: tuple[int, int]) -> Iterator[Row]:
    """The rows of one detector."""
    device, title = settings.device, TITLES[family]
    eight = batch_of(size, 8, device)
    eight.images += 20 * torch.randn(eight.images.shape, generator=torch.Generator().manual_seed(5)).to(device)
    model = parts.ours(family, settings.student).to(device)
    imitate_training(model, Batch(eight.images[:1], eight.sizes[:1]), family)
    reference = parts.theirs(family, model, size, settings.student).to(device)
    fast = copy.deepcopy(model).optimize()
    for count in (1,) if settings.quick else (1, 8):
        batch = Batch(eight.images[:count], eight.sizes[:count])
        images = list((batch.images / 255).unbind())
        runs = {"ours": ours(fast, batch), "theirs": theirs(reference, images)}
        differences = {"ours": compare(family, model, fast, reference, batch, images)}
        if settings.compiled and family != "faster_rcnn":
            compiled = compile_layers(fast)  # a new one for each batch size
            runs["compiled"] = ours(compiled, batch)
            differences["compiled"] = compare(family, model, compiled, reference, batch, images)
        want, want_compiled = target_ratios(family, device)
        times = in_turns(runs, settings, rounds=min(3, settings.rounds) if count > 1 else None)
        name = f"prediction of {title}-{settings.student.upper()}, {count} x {size[0]} x {size[1]}"
        yield Row(3, name, AGAINST, want=want, differences=differences["ours"], tolerance=1e-3, **ratios(times))
        if "compiled" in runs:
            name, same = f"{name}, ours compiled", differences["compiled"]
            yield Row(
                3, name, AGAINST, want=want_compiled, differences=same, tolerance=1e-3, **ratios(times, "compiled")
            )


def compile_layers(model: pkdzoo.Detector) -> pkdzoo.Detector:
    """A copy with compiled backbone, neck and head; the later steps have a different number of candidates each time."""
    torch.compiler.reset()  # after runs with another size torch would compile for variable sizes
    copied: Any = copy.deepcopy(model)
    for part in (copied.backbone, copied.neck, copied.head):
        part.compile()
    return copied  # type: ignore[no-any-return]


def ours(model: pkdzoo.Detector, batch: Batch) -> Callable[[], Any]:
    """A call of our prediction."""
    return lambda: model.detect(batch)


def theirs(model: Any, images: list[Tensor]) -> Callable[[], Any]:
    """A call of torchvision's prediction."""

    def run() -> Any:
        with torch.inference_mode():
            return model(images)

    return run


@torch.no_grad()
def imitate_training(model: Any, batch: Batch, family: str) -> None:
    """Scale the last layers: about ``CANDIDATES`` scores exceed the threshold, and boxes stay near their priors."""
    threshold = torch.tensor(0.0025 if family == "fcos" else 0.05)
    if family == "fcos":  # torchvision compares the square root of our score with 0.05
        model.postprocess_config = replace(model.postprocess_config, score_threshold=0.0025)
    trace = model.trace(batch, upto="head")
    if family == "faster_rcnn":
        return
    head, outputs = model.head, trace.outputs
    logits = torch.cat([level.flatten() for level in outputs.cls])
    gain = 1.5 / logits.std()
    best = logits.topk(CANDIDATES).values[-1]
    head.cls.weight *= gain
    head.cls.bias.copy_(head.cls.bias * gain + threshold.logit() - best * gain)
    raw = torch.cat([level.flatten() for level in outputs.box])
    head.box.weight *= (1.0 if family == "fcos" else 0.2) / raw.std().clamp(min=1e-6)
    if family == "fcos":
        head.box.bias += 4.0


@full_precision()
def compare(
    family: str, model: pkdzoo.Detector, fast: pkdzoo.Detector, reference: Any, batch: Batch, images: list[Tensor]
) -> dict[str, float]:
    """Differences of detections: optimized and plain model, optimized model and torchvision.

    Faster R-CNN is compared up to its proposals: by definition torchvision's region pooling is shifted by half a
    location.
    """
    plain, detections = model.detect(batch), fast.detect(batch)
    errors = {"optimized": max(apart(a, b) for a, b in zip(detections, plain))}
    if family == "faster_rcnn":
        with torch.inference_mode():
            padded, _ = reference.transform(images)
            proposals, _ = reference.rpn(padded, reference.backbone(padded.tensors))
            ours_ = fast.trace(batch, upto="head").proposals
        assert ours_ is not None
        errors["proposals"] = max(unmatched(a, b) for a, b in zip(ours_, proposals))
        return errors
    outputs = theirs(reference, images)()
    power = 2 if family == "fcos" else 1
    other = [Detections(each["boxes"], each["scores"] ** power, each["labels"]) for each in outputs]
    if family == "fcos":  # torchvision filters by class score times centerness, ours by the class score
        threshold = model.postprocess_config.score_threshold
        detections = [each[each.scores > threshold] for each in detections]
    errors["detections"] = max(apart(a, b) for a, b in zip(detections, other))
    return errors


def apart(found: Detections, expected: Detections, top: int = 100) -> float:
    """Largest relative difference of scores and boxes, each detection compared with the nearest one of its class.

    Infinite for a detection without a counterpart. Where ``top`` detections were kept and others dropped, rounding
    decides which of two equal scores is kept, so detections at the lowest score of the other side are not compared.
    """
    if len(found) != len(expected):
        return float("inf")
    if not len(found):
        return 0.0
    far = (found.boxes[:, None] - expected.boxes).abs().amax(dim=-1) / expected.boxes.abs().max()
    far = far.maximum((found.scores[:, None] - expected.scores).abs())
    far[found.labels[:, None] != expected.labels] = float("inf")
    nearest = far.min(dim=1).values, far.min(dim=0).values
    if len(found) == top:
        ours, theirs = (each.scores.min() * (1 + SAME) for each in (found, expected))
        nearest = nearest[0][found.scores > theirs], nearest[1][expected.scores > ours]
    return float(torch.cat(nearest).max()) if len(torch.cat(nearest)) else float("inf")


def unmatched(found: Tensor, expected: Tensor) -> float:
    """Share of boxes without a counterpart within a thousandth of the image."""
    near = (found[:, None] - expected).abs().amax(dim=-1) < 1e-3 * expected.max()
    return float(1 - torch.cat([near.any(dim=0), near.any(dim=1)]).float().mean())
