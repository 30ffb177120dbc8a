"""Target 2: a training step of PKD against the same step put together from torchvision's parts.

RetinaNet and FCOS on a ResNet-50 learn from a ResNet-101 pyramid: frozen norms, stem and first stage frozen, SGD. Both
sides hold the same weights and see the same two pictures. The pictures have the same objects, because torchvision's
RetinaNet divides by the positives of each picture and ours by those of the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import pkdzoo
from pkdzoo.losses.boxes import giou_loss
from pkdzoo.ops.boxes import decode_distances
from pkdzoo.structures import Batch, Instances
from pkdzoo.training import Optim, options
from pkdzoo.training.optim import build_optimizer
from recipes.benchmarks import torchvision_parts as parts
from recipes.benchmarks.loss import literature
from recipes.benchmarks.measure import Row, Settings, difference, in_turns, ratios, unmeasured

LEVELS = 4  # PKD's published number of level pairs
WEIGHT = 10.0  # and its weight with a one-stage teacher
NAMES = {"loss_cls": "classification", "loss_box": "bbox_regression", "loss_centerness": "bbox_ctrness"}
AGAINST = "the same step from torchvision's parts"
TITLES = {"retina": "RetinaNet", "fcos": "FCOS"}


class Assembled(nn.Module):
    """What one writes around torchvision's detectors to distil: a pass of both bodies, their losses, PKD's."""

    def __init__(self, student: Any, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        student = self.student
        pictures, targets = student.transform(images, targets)
        features = list(student.backbone(pictures.tensors).values())
        outputs = student.head(features)
        anchors = student.anchor_generator(pictures, features)
        counts = [[m.shape[-2] * m.shape[-1] for m in features]] if hasattr(student, "center_sampling_radius") else []
        losses = student.compute_loss(targets, outputs, anchors, *counts)
        with torch.no_grad():
            wanted = list(self.teacher(pictures.tensors).values())
        losses["pkd"] = WEIGHT * torch.stack([literature(s, t) for s, t in zip(features[:LEVELS], wanted)]).sum()
        return dict(losses)


def batch_of(size: tuple[int, int], count: int, device: torch.device, boxes: int = 7) -> Batch:
    """Smooth random pictures, all with the same objects: boxes of many sizes that hardly overlap."""
    height, width = size
    draw = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, height // 16, width // 16, generator=draw) * 255
    images = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").to(device)
    columns = int(boxes**0.5 + 0.999)
    cell = torch.tensor([width / columns, height / -(-boxes // columns)])
    places = torch.stack([torch.arange(boxes) % columns, torch.arange(boxes) // columns], dim=1) * cell
    # no round sides: a point on the edge of a range of sizes may fall to either side of it
    share = 0.2123 + 0.6 * torch.rand(boxes, 2, generator=draw)
    found = torch.cat([places + 1.37, places + 1.37 + cell * share], dim=1).to(device)
    labels = torch.randint(0, 80, (boxes,), generator=draw).to(device)
    return Batch(images, [size] * count, [Instances(found.clone(), labels.clone()) for _ in range(count)])


def rows(family: str, settings: Settings) -> Iterator[Row]:
    """One detector, eager and compiled."""
    size = (96, 128) if settings.quick else (320, 416)
    yield from step_rows(family, TITLES[family], settings, size)
    if settings.device.type != "cuda" and family == "retina":
        against = "torchvision's eager float32 step"
        yield unmeasured(2, "PKD step at 800 x 1344, bf16, compiled, on a GPU", against, 1.8, "no GPU")
        yield unmeasured(2, "PKD step at 800 x 1344, the teacher's share, on a GPU", "35 % of the step", None, "no GPU")


def step_rows(family: str, title: str, settings: Settings, size: tuple[int, int]) -> Iterator[Row]:
    """One detector."""
    device = settings.device
    batch = batch_of(size, 2, device)
    student, teacher = parts.ours(family, settings.student), parts.our_pyramid(settings.teacher)
    net = parts.theirs(family, student, size, settings.student)
    reference = Assembled(net.train(), parts.pyramid_of(teacher, settings.teacher)).to(device)
    distiller = pkdzoo.Distiller(student, teacher.optimize(), {"pkd": {"weight": WEIGHT}})
    options.apply(student, channels_last=True, checkpoint_activations=False)
    distiller.to(device).train()
    images = list((batch.images / 255).unbind())
    assert batch.instances is not None
    targets = [{"boxes": objects.boxes, "labels": objects.labels} for objects in batch.instances]

    optim = Optim(lr=1e-5)  # small: all sides go on computing nearly the same
    learning = [p for p in reference.parameters() if p.requires_grad]
    other = torch.optim.SGD(learning, optim.lr, optim.momentum, weight_decay=optim.weight_decay)
    differences = compare_losses(distiller, reference, batch, images, targets)
    runs = {
        "ours": one_step(distiller, build_optimizer(student, optim, 2), batch),
        "theirs": one_step(reference, other, images, targets),
    }
    if settings.compiled:
        compiled = copy.deepcopy(distiller)
        for body in (compiled.student, compiled.teacher):
            options.compile_body(body)
        same = compare_losses(compiled, reference, batch, images, targets)
        runs["compiled"] = one_step(compiled, build_optimizer(compiled.student, optim, 2), batch)

    name = f"PKD step of {title}-{settings.student.upper()} from {settings.teacher.upper()}, 2 x {size[0]} x {size[1]}"
    times = in_turns(runs, settings, warmup=2)
    wider = {"gradient": 1e-3}  # rounding, through a hundred layers of folded and unfolded norms; losses keep 1e-5
    yield Row(2, name, AGAINST, want=1.1, differences=differences, wider=wider, **ratios(times))
    if settings.compiled:
        yield Row(2, f"{name}, ours compiled", AGAINST, differences=same, wider=wider, **ratios(times, "compiled"))


def one_step(task: Any, optimizer: torch.optim.Optimizer, *words: Any) -> Callable[[], None]:
    """Losses, gradient, new weights."""

    def run() -> None:
        torch.stack(list(task(*words).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def compare_losses(
    distiller: pkdzoo.Distiller, reference: nn.Module, batch: Batch, images: list[Tensor], targets: Any
) -> dict[str, float]:
    """How far losses and the gradient of the first trained layer are apart.

    FCOS weighs boxes by centerness and torchvision's does not: ours is computed again without weights for that.
    """
    ours, theirs = distiller(batch), reference(images, targets)
    found = {key: difference(ours[key], theirs[NAMES[key]]) for key in ours if key in NAMES}
    found["loss_pkd"] = difference(ours["loss_pkd"], theirs["pkd"])
    student: Any = distiller.student
    if "loss_centerness" in ours:
        found["loss_box"] = difference(unweighted_boxes(student, batch), theirs["bbox_regression"])
    else:
        torch.stack(list(ours.values())).sum().backward()
        torch.stack(list(theirs.values())).sum().backward()
        first = reference.student.backbone.body.layer2[0].conv1.weight  # type: ignore[union-attr, index]
        found["gradient"] = difference(student.backbone.layer2[0].conv1.weight.grad, first.grad)
        student.zero_grad()
        reference.zero_grad()
    return found


def unweighted_boxes(student: Any, batch: Batch) -> Tensor:
    """FCOS' box loss as torchvision defines it: the mean over positives."""
    trace = student.trace(batch)
    picture, prior = student.positives(trace.targets)
    distances = student.flat(trace.outputs)[1][picture, prior]
    boxes = decode_distances(distances, trace.priors.centers[prior])
    return giou_loss(boxes, trace.targets.boxes[picture, prior]).sum() / len(prior)
