"""Target 2: a training step of PKD against the same step put together from torchvision's parts.

RetinaNet and FCOS on a ResNet-50 learn from a ResNet-101 pyramid: frozen norms, stem and first stage frozen, SGD. Both
sides hold the same weights and see the same two images. The images have the same objects, because torchvision's
RetinaNet divides by the positives of each image and ours by those of the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import pkdzoo
from pkdzoo.losses import giou_loss
from pkdzoo.ops.boxes import decode_distances
from pkdzoo.structures import Batch, Instances
from pkdzoo.training import Optim, machine
from pkdzoo.training.optim import build_optimizer
from recipes.benchmarks import torchvision_parts as parts
from recipes.benchmarks.loss import literature
from recipes.benchmarks.measure import Row, Settings, Times, difference, full_precision, in_turns, ratios, unmeasured

LEVELS = 4  # PKD's published number of level pairs
WEIGHT = 10.0  # and its weight with a one-stage teacher
NAMES = {
    "loss_cls": "classification",
    "loss_box": "bbox_regression",
    "loss_centerness": "bbox_ctrness",
    "loss_pkd": "pkd",
}
AGAINST = "the same step from torchvision's parts"
TITLES = {"retina": "RetinaNet", "fcos": "FCOS"}
EAGER = "torchvision's eager float32 step"
SHARE = 0.35  # of a step, that a teacher may take at most
PART = f"{100 * SHARE:.0f} % of the step"
OPTIM = Optim(lr=1e-5)  # small: all sides go on computing nearly the same
NOTES = {
    "fcos": "torchvision's box loss has no centerness weights: to be compared, ours is computed again without them, by "
    "the compiled body where the step is; the weighted one, which is trained, and its gradient are not compared"
}


class Assembled(nn.Module):
    """What one writes around torchvision's detectors to distil: a pass of both bodies, their losses, PKD's."""

    def __init__(self, student: Any, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        student = self.student
        padded, targets = student.transform(images, targets)
        features = list(student.backbone(padded.tensors).values())
        outputs = student.head(features)
        anchors = student.anchor_generator(padded, features)
        counts = [[m.shape[-2] * m.shape[-1] for m in features]] if hasattr(student, "center_sampling_radius") else []
        losses = student.compute_loss(targets, outputs, anchors, *counts)
        with torch.no_grad():
            wanted = list(self.teacher(padded.tensors).values())
        losses["pkd"] = WEIGHT * torch.stack([literature(s, t) for s, t in zip(features[:LEVELS], wanted)]).sum()
        return dict(losses)


def batch_of(size: tuple[int, int], count: int, device: torch.device, boxes: int = 7) -> Batch:
    """Smooth random images, all with the same objects: boxes of many sizes that hardly overlap."""
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
    """One detector, eager and compiled; on a GPU also at the size of COCO."""
    small, large = ((96, 128), (96, 128)) if settings.quick else ((320, 416), (800, 1344))
    yield from step_rows(family, TITLES[family], settings, small)
    if family != "retina":
        return
    if settings.device.type == "cuda":
        yield from large_rows(settings, large)
    else:
        name, share = large_names(settings, large)
        yield unmeasured(2, f"{name}, on a GPU", EAGER, 1.8, "no GPU")
        yield unmeasured(2, f"{share}, on a GPU", PART, 1.0, "no GPU")


@dataclass(frozen=True)
class Sides:
    """The same step twice, in eager mode, and what each is given.

    Attributes:
        ours: folded teacher, NHWC.
        theirs: from torchvision's parts, with the same weights.
        batch: two images, for ours.
        images: the same, for theirs.
        targets: and theirs.
    """

    ours: pkdzoo.Distiller
    theirs: Assembled
    batch: Batch
    images: list[Tensor]
    targets: list[dict[str, Tensor]]

    def double(self) -> Sides:
        """A copy in float64."""
        batch = replace(self.batch, images=self.batch.images.double())
        bodies = copy.deepcopy(self.ours).double(), copy.deepcopy(self.theirs).double()
        return Sides(*bodies, batch, [image.double() for image in self.images], self.targets)


def sides_of(family: str, settings: Settings, size: tuple[int, int]) -> Sides:
    """Both sides of a step with one detector."""
    device = settings.device
    batch = batch_of(size, 2, device)
    student, teacher = parts.ours(family, settings.student), parts.our_pyramid(settings.teacher)
    net = parts.theirs(family, student, size, settings.student)
    reference = Assembled(net.train(), parts.pyramid_of(teacher, settings.teacher)).to(device)
    distiller = pkdzoo.Distiller(student, teacher.optimize(), {"pkd": {"weight": WEIGHT}})
    machine.apply(student, channels_last=True, checkpoint_activations=False)
    distiller.to(device).train()
    images = list((batch.images / 255).unbind())
    assert batch.instances is not None
    targets = [{"boxes": objects.boxes, "labels": objects.labels} for objects in batch.instances]
    return Sides(distiller, reference, batch, images, targets)


def step_rows(family: str, title: str, settings: Settings, size: tuple[int, int]) -> Iterator[Row]:
    """One detector, in float32."""
    sides = sides_of(family, settings, size)
    differences = compare_in_eager_mode(sides)
    runs = {"ours": our_step(sides.ours, sides.ours.student, sides.batch), "theirs": their_step(sides)}
    if settings.compiled:
        compiled = copy.deepcopy(sides.ours)
        compile_bodies(compiled)
        same = {**compare_losses(compiled, sides), "gradient": compare_gradients(compiled, sides)}
        runs["compiled"] = our_step(compiled, compiled.student, sides.batch)

    name = f"PKD step of {title}-{settings.student.upper()} from {settings.teacher.upper()}, 2 x {size[0]} x {size[1]}"
    note = NOTES.get(family, "")
    times = in_turns(runs, settings, warmup=2)
    want = None if settings.device.type == "cuda" else 1.1  # the target is one of two cores
    yield Row(2, name, AGAINST, want=want, differences=differences, note=note, **ratios(times))
    if settings.compiled:
        name, wider = f"{name}, ours compiled", {"gradient": 1e-2}  # of float32: see compare_gradients
        yield Row(2, name, AGAINST, differences=same, wider=wider, note=note, **ratios(times, "compiled"))


def large_names(settings: Settings, size: tuple[int, int]) -> tuple[str, str]:
    """What the rows of :func:`large_rows` are called."""
    pair = f"RetinaNet-{settings.student.upper()} from {settings.teacher.upper()}, 2 x {size[0]} x {size[1]}"
    how = "bf16, channels last" + (", compiled" if settings.compiled else "")
    return f"PKD step of {pair}, ours in {how}", f"the teacher's pass in the PKD step of {pair}, {how}"


def large_rows(settings: Settings, size: tuple[int, int]) -> Iterator[Row]:
    """Ours with all that a GPU is for against torchvision's eager float32, and the teacher's part of ours.

    Losses and the gradient are compared in eager mode first, then the losses of the step that is timed.
    """
    sides = sides_of("retina", settings, size)
    ours = sides.ours
    found = compare_in_eager_mode(sides)
    if settings.compiled:
        compile_bodies(ours)
    short = in_bf16(ours, settings.device)
    with full_precision():
        losses = losses_apart(short(sides.batch), sides.theirs(sides.images, sides.targets))
    found |= {f"{key}, bf16": value for key, value in losses.items()}
    wider = {key: 1e-2 for key in found if key.endswith(", bf16")}
    teacher = in_bf16(lambda batch: ours.frozen.trace(batch, ours.depth, ours.tap), settings.device)
    runs = {
        "ours": our_step(short, ours.student, sides.batch),
        "theirs": their_step(sides),
        "teacher": lambda: teacher(sides.batch),
    }
    times = in_turns(runs, settings, warmup=2)
    name, share = large_names(settings, size)
    want = 1.8 if settings.compiled else None
    yield Row(2, name, EAGER, want=want, differences=found, wider=wider, **ratios(times))
    allowed = Times([SHARE * s for s in times["ours"].wall], [SHARE * s for s in times["ours"].cpu])
    yield Row(2, share, PART, want=1.0, **ratios({"ours": times["teacher"], "theirs": allowed}))


def compile_bodies(distiller: pkdzoo.Distiller) -> None:
    """Student's and teacher's, for the one size that follows."""
    torch.compiler.reset()  # code that another model has run with another size would be compiled for any size
    for body in (distiller.student, distiller.teacher):
        machine.compile_body(body)


def in_bf16(task: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The same under autocast."""

    def run(*words: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return task(*words)

    return run


def our_step(task: Callable[..., Any], student: pkdzoo.Detector, batch: Batch) -> Callable[[], None]:
    """One with our optimiser."""
    return one_step(task, build_optimizer(student, OPTIM, 2), batch)


def their_step(sides: Sides) -> Callable[[], None]:
    """One with torch's optimiser as it is commonly used."""
    learning = [p for p in sides.theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, OPTIM.lr, OPTIM.momentum, weight_decay=OPTIM.weight_decay)
    return one_step(sides.theirs, optimizer, sides.images, sides.targets)


def one_step(task: Any, optimizer: torch.optim.Optimizer, *words: Any) -> Callable[[], None]:
    """Losses, gradient, new weights."""

    def run() -> None:
        torch.stack(list(task(*words).values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return run


def compare_in_eager_mode(sides: Sides) -> dict[str, float]:
    """Losses in float32, the gradient in float64."""
    wide = sides.double()
    return {**compare_losses(sides.ours, sides), "gradient, float64": compare_gradients(wide.ours, wide)}


@full_precision()
def compare_losses(distiller: pkdzoo.Distiller, sides: Sides) -> dict[str, float]:
    """How far losses are from torchvision's.

    FCOS weighs boxes by centerness and torchvision's does not: ours is computed again without weights for that.
    """
    ours, theirs = distiller(sides.batch), sides.theirs(sides.images, sides.targets)
    found = losses_apart(ours, theirs)
    if "loss_centerness" in ours:
        found["loss_box"] = difference(unweighted_boxes(distiller.student, sides.batch), theirs["bbox_regression"])
    return found


@full_precision()
def compare_gradients(distiller: pkdzoo.Distiller, sides: Sides) -> float:
    """How far gradients of the first trained layer are apart, of all losses that both define alike.

    In float32 each side is 1e-4 to 5e-3 from its own gradient in float64, and those agree to 1e-7: a ReLU that rounding
    flips early goes through all that follows.
    """
    ours, theirs = distiller(sides.batch), sides.theirs(sides.images, sides.targets)
    alike = [key for key in ours if key != "loss_box" or "loss_centerness" not in ours]
    student: Any = distiller.student
    layers = student.backbone.layer2[0].conv1, sides.theirs.student.backbone.body.layer2[0].conv1
    sums = [torch.stack(each).sum() for each in zip(*((ours[key], theirs[NAMES[key]]) for key in alike))]
    grads = [torch.autograd.grad(loss, layer.weight)[0] for loss, layer in zip(sums, layers, strict=True)]
    return difference(*grads)


def losses_apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """How far each loss is from torchvision's."""
    return {key: difference(value, theirs[NAMES[key]]) for key, value in ours.items()}


def unweighted_boxes(student: Any, batch: Batch) -> Tensor:
    """FCOS' box loss as torchvision defines it: the mean over positives."""
    trace = student.trace(batch)
    image, prior = student.positives(trace.targets)
    distances = student.flat(trace.outputs)[1][image, prior]
    boxes = decode_distances(distances, trace.priors.centers[prior])
    return giou_loss(boxes, trace.targets.boxes[image, prior]).sum() / len(prior)
