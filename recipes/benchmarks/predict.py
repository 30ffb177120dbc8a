"""Target 3: detections of images that already have their size, against torchvision's with the same weights."""

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
SAME = 1e-5  # scores closer than this are equal
CANDIDATES = 400  # places an image that score above the threshold, as a trained detector's do


def rows(family: str, settings: Settings) -> Iterator[Row]:
    """One detector, one image and eight, eager and compiled."""
    size = (96, 128) if settings.quick else (480, 640)
    yield from predict_rows(family, settings, size)
    if settings.device.type != "cuda" and family != "faster_rcnn":
        yield unmeasured(3, f"prediction of {TITLES[family]} on a GPU", AGAINST, 1.5, "no GPU")


def wanted(family: str, device: torch.device) -> tuple[float, float]:
    """The targets, eager and compiled."""
    if family == "faster_rcnn":
        return 1.0, 1.0
    return (1.5, 1.5) if device.type == "cuda" else (1.2, 1.4)


def predict_rows(family: str, settings: Settings, size: tuple[int, int]) -> Iterator[Row]:
    """One detector."""
    device, title = settings.device, TITLES[family]
    eight = batch_of(size, 8, device)
    eight.images += 20 * torch.randn(eight.images.shape, generator=torch.Generator().manual_seed(5)).to(device)
    model = parts.ours(family, settings.student).to(device)
    look_trained(model, Batch(eight.images[:1], eight.sizes[:1]), family)
    reference = parts.theirs(family, model, size, settings.student).to(device)
    fast = copy.deepcopy(model).optimize()
    for count in (1,) if settings.quick else (1, 8):
        batch = Batch(eight.images[:count], eight.sizes[:count])
        images = list((batch.images / 255).unbind())
        runs = {"ours": ours(fast, batch), "theirs": theirs(reference, images)}
        found = {"ours": compare(family, model, fast, reference, batch, images)}
        if settings.compiled and family != "faster_rcnn":
            compiled = compile_body(fast)  # for each batch its own
            runs["compiled"] = ours(compiled, batch)
            found["compiled"] = compare(family, model, compiled, reference, batch, images)
        want, want_compiled = wanted(family, device)
        times = in_turns(runs, settings, rounds=min(3, settings.rounds) if count > 1 else None)
        name = f"prediction of {title}-{settings.student.upper()}, {count} x {size[0]} x {size[1]}"
        yield Row(3, name, AGAINST, want=want, differences=found["ours"], tolerance=1e-3, **ratios(times))
        if "compiled" in runs:
            name, same = f"{name}, ours compiled", found["compiled"]
            yield Row(
                3, name, AGAINST, want=want_compiled, differences=same, tolerance=1e-3, **ratios(times, "compiled")
            )


def compile_body(model: pkdzoo.Detector) -> pkdzoo.Detector:
    """A copy whose backbone, neck and head are compiled; what follows has as many rows as there are candidates."""
    torch.compiler.reset()  # code that any copy has run with another size would be compiled for any size
    copied: Any = copy.deepcopy(model)
    for part in (copied.backbone, copied.neck, copied.head):
        part.compile()
    return copied  # type: ignore[no-any-return]


def ours(model: pkdzoo.Detector, batch: Batch) -> Callable[[], Any]:
    """Our pass."""
    return lambda: model.detect(batch)


def theirs(model: Any, images: list[Tensor]) -> Callable[[], Any]:
    """The pass of torchvision."""

    def run() -> Any:
        with torch.inference_mode():
            return model(images)

    return run


@torch.no_grad()
def look_trained(model: Any, batch: Batch, family: str) -> None:
    """Scale the last layers so that about ``CANDIDATES`` places score above the threshold, with boxes near priors."""
    threshold = torch.tensor(0.0025 if family == "fcos" else 0.05)
    if family == "fcos":  # torchvision reports the root of ours, and holds that against 0.05
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
    """How far detections are apart: before and after optimising, and from torchvision's.

    Faster R-CNN is compared up to its proposals: torchvision pools regions half a cell elsewhere by definition.
    """
    plain, found = model.detect(batch), fast.detect(batch)
    errors = {"optimised": max(apart(a, b) for a, b in zip(found, plain))}
    if family == "faster_rcnn":
        with torch.inference_mode():
            padded, _ = reference.transform(images)
            proposals, _ = reference.rpn(padded, reference.backbone(padded.tensors))
            mine = fast.trace(batch, upto="head").proposals
        assert mine is not None
        errors["proposals"] = max(unmatched(a, b) for a, b in zip(mine, proposals))
        return errors
    said = theirs(reference, images)()
    power = 2 if family == "fcos" else 1
    other = [Detections(w["boxes"], w["scores"] ** power, w["labels"]) for w in said]
    if family == "fcos":  # torchvision leaves out by the product of class score and centerness, we by the class score
        found = [each[each.scores > model.postprocess_config.score_threshold] for each in found]
    errors["detections"] = max(apart(a, b) for a, b in zip(found, other))
    return errors


def apart(found: Detections, wanted: Detections, top: int = 100) -> float:
    """Largest relative difference of scores and boxes, each detection against its own class's nearest; inf if alone.

    Where ``top`` were kept and others cut off, which of two equal scores is the last is left to rounding: what is at
    the other's lowest score doesn't count.
    """
    if len(found) != len(wanted):
        return float("inf")
    if not len(found):
        return 0.0
    far = (found.boxes[:, None] - wanted.boxes).abs().amax(dim=-1) / wanted.boxes.abs().max()
    far = far.maximum((found.scores[:, None] - wanted.scores).abs())
    far[found.labels[:, None] != wanted.labels] = float("inf")
    nearest = far.min(dim=1).values, far.min(dim=0).values
    if len(found) == top:
        ours, theirs = (each.scores.min() * (1 + SAME) for each in (found, wanted))
        nearest = nearest[0][found.scores > theirs], nearest[1][wanted.scores > ours]
    return float(torch.cat(nearest).max()) if len(torch.cat(nearest)) else float("inf")


def unmatched(found: Tensor, wanted: Tensor) -> float:
    """Share of boxes that have no counterpart within a thousandth of the image."""
    near = (found[:, None] - wanted).abs().amax(dim=-1) < 1e-3 * wanted.max()
    return float(1 - torch.cat([near.any(dim=0), near.any(dim=1)]).float().mean())
