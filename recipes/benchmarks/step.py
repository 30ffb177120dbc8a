"""A training step of PKD, compared with the same step assembled from torchvision's parts.

RetinaNet and FCOS on a ResNet-50 learn from the pyramid of a ResNet-101, with frozen norms, stem and first stage, and
with SGD. Both sides have the same weights and the same two images. The images have the same objects, because
torchvision's RetinaNet divides by the positives of each image and ours by those of the batch.
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
from pkdzoo.training import Optim, compute
from pkdzoo.training.optim import build_optimizer
from recipes.benchmarks import torchvision_parts as parts
from recipes.benchmarks.loss import literature
from recipes.benchmarks.measure import Row, Settings, Times, difference, full_precision, in_turns, ratios, unmeasured

LEVELS = 4  # PKD's published number of level pairs
WEIGHT = 10.0  # PKD's published weight with a one-stage teacher
NAMES = {
    "loss_cls": "classification",
    "loss_box": "bbox_regression",
    "loss_centerness": "bbox_ctrness",
    "loss_pkd": "pkd",
}
AGAINST = "the same step from torchvision's parts"
TITLES = {"retina": "RetinaNet", "fcos": "FCOS"}
EAGER = "torchvision's eager float32 step"
SHARE = 0.35  # target: the largest share of a step that the teacher takes
NARROW = {"gradient, float64": 1e-8}  # both match float32 boxes; the centerness of a target is float32, too
PART = f"{100 * SHARE:.0f} % of the step"
OPTIM = Optim(lr=1e-5)  # small, so that the weights of all sides stay nearly equal
NOTES = {
    "fcos": "torchvision's box loss has no centerness weights: to be compared, ours is computed again without them, by "
    "the compiled model where the step is; the weighted one, which is trained, and its gradient are not compared"
}


class Assembled(nn.Module):
    """PKD around torchvision's detectors: the forward pass of both, the student's losses, and PKD's loss."""

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
            imitated = list(self.teacher(padded.tensors).values())
        losses["pkd"] = WEIGHT * torch.stack([literature(s, t) for s, t in zip(features[:LEVELS], imitated)]).sum()
        return dict(losses)


def batch_of(size: tuple[int, int], count: int, device: torch.device, boxes: int = 7) -> Batch:
    """Smooth random images that all have the same objects: boxes of many sizes that hardly overlap."""
    height, width = size
    draw = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, height // 16, width // 16, generator=draw) * 255
    images = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").to(device)
    columns = int(boxes**0.5 + 0.999)
    cell = torch.tensor([width / columns, height / -(-boxes // columns)])
    corners = torch.stack([torch.arange(boxes) % columns, torch.arange(boxes) // columns], dim=1) * cell
    # no round side lengths: at the edge of a size range rounding would decide which level gets the object
    share = 0.2123 + 0.6 * torch.rand(boxes, 2, generator=draw)
    objects = torch.cat([corners + 1.37, corners + 1.37 + cell * share], dim=1).to(device)
    labels = torch.randint(0, 80, (boxes,), generator=draw).to(device)
    return Batch(images, [size] * count, [Instances(objects.clone(), labels.clone()) for _ in range(count)])


def rows(family: str, settings: Settings) -> Iterator[Row]:
    """One detector, eager and compiled; on a GPU also at COCO's image size."""
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
    """Both sides of a step in eager mode, with their inputs.

    Attributes:
        ours: with a folded teacher, in NHWC memory.
        theirs: assembled from torchvision's parts, with the same weights.
        batch: two images with objects, for ours.
        images: the same images, for theirs.
        targets: the same objects, for theirs.
        teacher: before its norms were folded.
    """

    ours: pkdzoo.Distiller
    theirs: Assembled
    batch: Batch
    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    teacher: pkdzoo.Detector

    def double(self) -> Sides:
        """A copy in float64, with everything that float32 has rounded computed anew.

        Rounded numbers would differ between the sides by 1e-8, which changes the sign before some ReLU of a large image
        and with it the gradient by up to 1e-4.
        """
        student, teacher, theirs = copy.deepcopy((self.ours.student, self.teacher, self.theirs))
        transform = theirs.double().student.transform
        for model in (student.double(), teacher.double()):
            model.pixel_mean = 255 * model.pixel_mean.new_tensor(transform.image_mean)
            model.pixel_std = 255 * model.pixel_std.new_tensor(transform.image_std)
        batch = replace(self.batch, images=self.batch.images.double())
        return Sides(distiller_of(student, teacher), theirs, batch, *theirs_of(batch), teacher)


def sides_of(family: str, settings: Settings, size: tuple[int, int]) -> Sides:
    """Build both sides for one detector."""
    device = settings.device
    batch = batch_of(size, 2, device)
    student, teacher = parts.ours(family, settings.student), parts.our_pyramid(settings.teacher)
    net = parts.theirs(family, student, size, settings.student)
    reference = Assembled(net.train(), parts.pyramid_of(teacher, settings.teacher)).to(device)
    compute.apply_options(student, channels_last=True, checkpoint_activations=False)
    ours = distiller_of(student.to(device), teacher.to(device))
    return Sides(ours, reference, batch, *theirs_of(batch), teacher)


def distiller_of(student: pkdzoo.Detector, teacher: pkdzoo.Detector) -> pkdzoo.Distiller:
    """PKD with the published weight, from a copy of the teacher whose norms are folded."""
    return pkdzoo.Distiller(student, copy.deepcopy(teacher).optimize(), {"pkd": {"weight": WEIGHT}}).train()


def theirs_of(batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """A batch as torchvision takes it: images in 0..1 and targets."""
    assert batch.instances is not None
    targets = [{"boxes": objects.boxes, "labels": objects.labels} for objects in batch.instances]
    return list((batch.images / 255).unbind()), targets


def step_rows(family: str, title: str, settings: Settings, size: tuple[int, int]) -> Iterator[Row]:
    """The rows of one detector: float32 as it is, compiled, and on a CPU both in bf16, too."""
    sides = sides_of(family, settings, size)
    differences = compare_in_eager_mode(sides)
    runs = {"ours": our_step(sides.ours, sides.ours.student, sides.batch), "theirs": their_step(sides)}
    others = variants_of(sides, settings)
    for how, (distiller, task, _) in others.items():
        runs[how] = our_step(task, distiller.student, sides.batch)
    times = in_turns(runs, settings, warmup=2)
    name = f"PKD step of {title}-{settings.student.upper()} from {settings.teacher.upper()}, 2 x {size[0]} x {size[1]}"
    note = NOTES.get(family, "")
    cpu = settings.device.type == "cpu"
    want, of_compiled = (1.1, 1.25) if cpu else (None, None)  # the targets are for two CPU cores
    yield Row(2, name, AGAINST, want=want, differences=differences, wider=NARROW, note=note, **ratios(times))
    for how, (_, _, gaps) in others.items():
        wider = {"gradient": 1e-2} | {key: 1e-2 for key in gaps if key.endswith(", bf16")}  # see compare_gradients
        against, want = (EAGER, None) if "bf16" in how else (AGAINST, of_compiled)
        row = Row(2, f"{name}, ours {how}", against, want=want, differences=gaps, wider=wider, note=note)
        yield replace(row, **ratios(times, how))


Variant = tuple[pkdzoo.Distiller, Callable[..., Any], dict[str, float]]


def variants_of(sides: Sides, settings: Settings) -> dict[str, Variant]:
    """Further forms of our step with equal weights: the distiller, the call to be timed, and its differences."""
    found: dict[str, Variant] = {}
    if settings.compiled:
        compiled = copy.deepcopy(sides.ours)
        compile_both(compiled)
        gaps = {**compare_losses(compiled, sides), "gradient": compare_gradients(compiled, sides)}
        found["compiled"] = compiled, compiled, gaps
    if settings.device.type != "cpu":
        return found
    for how in ("in bf16", *(f"in bf16, {how}" for how in list(found))):
        distiller = copy.deepcopy(sides.ours)
        if how.endswith("compiled"):
            compile_both(distiller)
        task = in_bf16(distiller, settings.device)
        losses = losses_apart(task(sides.batch), sides.theirs(sides.images, sides.targets))
        weighted = {"loss_box"} if "loss_centerness" in losses else set()  # see NOTES
        found[how] = distiller, task, {f"{key}, bf16": value for key, value in losses.items() if key not in weighted}
    return found


def large_names(settings: Settings, size: tuple[int, int]) -> tuple[str, str]:
    """Names of the rows of :func:`large_rows`."""
    pair = f"RetinaNet-{settings.student.upper()} from {settings.teacher.upper()}, 2 x {size[0]} x {size[1]}"
    how = "bf16, channels last" + (", compiled" if settings.compiled else "")
    return f"PKD step of {pair}, ours in {how}", f"the teacher's pass in the PKD step of {pair}, {how}"


def large_rows(settings: Settings, size: tuple[int, int]) -> Iterator[Row]:
    """Our step in bf16, NHWC, compiled, compared with torchvision's eager float32 step, and the teacher's share of it.

    Losses and the gradient are first compared in eager mode, then the losses of the step that is timed.
    """
    sides = sides_of("retina", settings, size)
    ours = sides.ours
    differences = compare_in_eager_mode(sides)
    if settings.compiled:
        compile_both(ours)
    half = in_bf16(ours, settings.device)
    with full_precision():
        losses = losses_apart(half(sides.batch), sides.theirs(sides.images, sides.targets))
    differences |= {f"{key}, bf16": value for key, value in losses.items()}
    wider = NARROW | {key: 1e-2 for key in differences if key.endswith(", bf16")}
    teacher = in_bf16(lambda batch: ours.frozen.trace(batch, ours.depth, ours.tap), settings.device)
    runs = {
        "ours": our_step(half, ours.student, sides.batch),
        "theirs": their_step(sides),
        "teacher": lambda: teacher(sides.batch),
    }
    times = in_turns(runs, settings, warmup=2)
    name, share = large_names(settings, size)
    want = 1.8 if settings.compiled else None
    yield Row(2, name, EAGER, want=want, differences=differences, wider=wider, **ratios(times))
    allowed = Times([SHARE * s for s in times["ours"].wall], [SHARE * s for s in times["ours"].cpu])
    yield Row(2, share, PART, want=1.0, **ratios({"ours": times["teacher"], "theirs": allowed}))


def compile_both(distiller: pkdzoo.Distiller) -> None:
    """Compile student and teacher for the one image size that follows."""
    torch.compiler.reset()  # after runs with another size torch would compile for variable sizes
    for model in (distiller.student, distiller.teacher):
        compute.compile_pyramid(model)


def in_bf16(task: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The same call under autocast."""

    def run(*args: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return task(*args)

    return run


def our_step(task: Callable[..., Any], student: pkdzoo.Detector, batch: Batch) -> Callable[[], None]:
    """A step with our optimizer."""
    return one_step(task, build_optimizer(student, OPTIM, 2), batch)


def their_step(sides: Sides) -> Callable[[], None]:
    """A step with torch's optimizer as it is commonly used."""
    trainable = [p for p in sides.theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, OPTIM.lr, OPTIM.momentum, weight_decay=OPTIM.weight_decay)
    return one_step(sides.theirs, optimizer, sides.images, sides.targets)


def one_step(task: Any, optimizer: torch.optim.Optimizer, *args: Any) -> Callable[[], None]:
    """A training step: losses, gradient, update."""

    def run() -> None:
        torch.stack(list(task(*args).values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return run


def compare_in_eager_mode(sides: Sides) -> dict[str, float]:
    """Differences of the losses in float32 and of the gradient in float64."""
    wide = sides.double()
    return {**compare_losses(sides.ours, sides), "gradient, float64": compare_gradients(wide.ours, wide)}


@full_precision()
def compare_losses(distiller: pkdzoo.Distiller, sides: Sides) -> dict[str, float]:
    """Differences between our losses and torchvision's.

    Our FCOS weights boxes by centerness, torchvision's does not, so our box loss is computed again without weights.
    """
    ours, theirs = distiller(sides.batch), sides.theirs(sides.images, sides.targets)
    differences = losses_apart(ours, theirs)
    if "loss_centerness" in ours:
        differences["loss_box"] = difference(
            unweighted_boxes(distiller.student, sides.batch), theirs["bbox_regression"]
        )
    return differences


@full_precision()
def compare_gradients(distiller: pkdzoo.Distiller, sides: Sides) -> float:
    """Difference between the gradients of the first trained layer, for all losses that both define in the same way.

    In float32 each side differs by 1e-4 to 5e-3 from its own gradient in float64, and those agree to 1e-7: where
    rounding changes the sign before an early ReLU, all later layers change.
    """
    ours, theirs = distiller(sides.batch), sides.theirs(sides.images, sides.targets)
    alike = [key for key in ours if key != "loss_box" or "loss_centerness" not in ours]
    student: Any = distiller.student
    layers = student.backbone.layer2[0].conv1, sides.theirs.student.backbone.body.layer2[0].conv1
    sums = [torch.stack(each).sum() for each in zip(*((ours[key], theirs[NAMES[key]]) for key in alike))]
    grads = [torch.autograd.grad(loss, layer.weight)[0] for loss, layer in zip(sums, layers, strict=True)]
    return difference(*grads)


def losses_apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """Difference between each loss and torchvision's."""
    return {key: difference(value, theirs[NAMES[key]]) for key, value in ours.items()}


def unweighted_boxes(student: Any, batch: Batch) -> Tensor:
    """The box loss of FCOS as torchvision defines it: the mean over positives."""
    trace = student.trace(batch)
    image, prior = student.positives(trace.targets)
    distances = student.flat(trace.outputs)[1][image, prior]
    boxes = decode_distances(distances, trace.priors.centers[prior])
    return giou_loss(boxes, trace.targets.boxes[image, prior]).sum() / len(prior)
