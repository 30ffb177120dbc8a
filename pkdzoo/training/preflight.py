"""Checks of a run before its first step, and the summary that is printed then."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import cast

import torch

from pkdzoo.data import CocoDataset, UnlabeledImages, check_headers
from pkdzoo.data.formats.read import findings_of
from pkdzoo.data.image_dataset import ImageDataset, real_paths
from pkdzoo.data.letterbox import square_side
from pkdzoo.distill.base import DistillMethod
from pkdzoo.distill.pairing import shape_of
from pkdzoo.distill.student_base import ModuleStudent
from pkdzoo.distill.task import Task
from pkdzoo.distill.teacher import Teacher
from pkdzoo.layers.norm import has_fixed_statistics
from pkdzoo.models._loading import saved_labels
from pkdzoo.models.backbones import TimmBackbone
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Letterbox
from pkdzoo.training.build import largest_side
from pkdzoo.training.cost_estimate import estimate_cost, estimate_memory, resident_memory
from pkdzoo.training.loaders import batch_per_process, unlabeled_per_pass
from pkdzoo.training.optim import planned_steps
from pkdzoo.training.recipe import Data, Recipe
from pkdzoo.training.schedule_checks import schedule_warnings
from pkdzoo.utils.text import counted, quote_some

LOADER_BYTES = 40e6  # measured: what a loader process holds of its own, besides the batches that it prepares
LOADER_BATCHES = 3  # two that wait and one in work


@dataclass
class Report:
    """Result of the checks: lines of the summary, and warnings."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*self.lines, *(f"warning: {line}" for line in self.warnings)])


def check_run(
    recipe: Recipe,
    task: Task,
    train: CocoDataset,
    val: CocoDataset,
    processes: int,
    steps_per_epoch: int,
    device: torch.device | None = None,
    precision: str = "no",
    unlabeled: UnlabeledImages | None = None,
) -> Report:
    """Check everything that can be checked before the first step, with the models still on the CPU.

    Args:
        recipe: of the run.
        task: not wrapped.
        train: training images.
        val: validation images.
        processes: number of training processes.
        steps_per_epoch: optimizer steps per epoch.
        device: of the training; None means the CPU.
        precision: ``no``, ``bf16`` or ``fp16``.
        unlabeled: images without annotations, if there are any.

    Raises:
        ValueError: for what would fail, or make the run worthless, later.
    """
    report = Report()
    student = task.student
    _describe_models(report, recipe, task)
    _describe_data(report, train, val)
    warn_of_shared_images(report, train, val)
    if unlabeled is not None:
        _describe_unlabeled(report, recipe, task, unlabeled, processes, steps_per_epoch)
    check_val_images(val)
    _describe_steps(report, recipe, task, processes, steps_per_epoch)
    warn_of_frozen_random_layers(report, student)
    _describe_costs(report, recipe, task, processes, steps_per_epoch, device or torch.device("cpu"), precision)
    return report


def _describe_models(report: Report, recipe: Recipe, task: Task) -> None:
    student, teacher = task.student, task.teacher
    trainable = sum(p.numel() for p in task.parameters() if p.requires_grad)
    total = sum(p.numel() for p in student.parameters())
    source = student.loaded_from or recipe.init or "random weights"
    report.lines.append(f"student   {recipe.model}, {total / 1e6:.2f} M parameters, from {source}")
    report.lines.append(f"trainable {trainable / 1e6:.2f} M parameters, those of the methods included")
    if teacher is not None:
        size = sum(p.numel() for p in teacher.parameters()) / 1e6
        methods = ", ".join(recipe.distill.methods) if recipe.distill else ""
        origin = teacher.loaded_from or "random weights"
        report.lines.append(f"teacher   {teacher.name}, {size:.2f} M parameters, from {origin}, by {methods}")
        if teacher.loaded_from is None:
            report.warnings.append(
                "the teacher has random weights, as set in the recipe: it cannot improve the student"
            )
        report.lines.append(f"classes   {_describe_classes(student, teacher)}{_describe_assumed(recipe, teacher)}")
        for name, method in task.methods.items():
            pairs = cast(DistillMethod, method).paired_levels
            if pairs:
                text = ", ".join(f"{i} with {j}" for i, j in pairs)
                report.lines.append(f"levels    {name} compares {len(pairs)}, student's with teacher's: {text}")
        of_other_library = isinstance(student, ModuleStudent) or isinstance(student.backbone, TimmBackbone)
        if of_other_library or isinstance(teacher, Teacher):
            report.lines.append(f"maps      student {shape_of(student)}")
            report.lines.append(f"maps      teacher {shape_of(teacher)}")
    starts = {"student": student.initial_weights, "teacher": getattr(teacher, "origin", None)}
    for role, start in starts.items():
        if start is not None and start.resize_note:
            report.lines.append(f"resize    {role}'s {start.name}: {start.resize_note}")
    detectors = {"student": student, **({"teacher": teacher} if teacher is not None else {})}
    report.lines.append("pixels    " + "; ".join(f"{role} {_pixels(model)}" for role, model in detectors.items()))
    if recipe.expect:
        source = recipe.expect.get("source", "")
        numbers = ", ".join(f"{key} {value}" for key, value in recipe.expect.items() if isinstance(value, (int, float)))
        report.lines.append(f"expect    {numbers}" + (f" ({source})" if source else ""))


def _describe_assumed(recipe: Recipe, teacher: Detector) -> str:
    """That the teacher was given the class names of the data, where its file of weights has none."""
    distill = recipe.distill
    if distill is None or isinstance(teacher, Teacher) or "num_classes" in distill.teacher_args:
        return ""
    if distill.teacher_weights is None or distill.teacher_weights == "random":
        return ""
    if saved_labels(distill.teacher_weights) is not None:
        return ""
    return (
        f"; those of the teacher are not known, because {distill.teacher_weights} has no class names, "
        "and are taken to be the data's in the same order"
    )


def _describe_classes(student: Detector, teacher: Detector) -> str:
    """Which of the student's classes the teacher has, and under which numbers."""
    own, theirs = student.label_names, teacher.label_names
    if own == theirs:
        return f"the same {len(own)} for student and teacher"
    if isinstance(teacher, Teacher) or all(name.startswith("class_") for name in theirs):
        return f"{len(own)} of the student; the teacher's have no names"
    shared = [name for name in own if name in theirs]
    pairs = ", ".join(f"{name} {own.index(name)} is {theirs.index(name)}" for name in shared[:5])
    more = ", ..." if len(shared) > 5 else ""
    counts = f"{len(own)} of the student, {len(theirs)} of the teacher, {len(shared)} in both"
    return f"{counts} ({pairs}{more})" if shared else counts


def _pixels(model: Detector) -> str:
    """Channel order and pixel statistics of a detector, as text."""
    mean, std = (" ".join(f"{float(v):.4g}" for v in s) for s in (model.pixel_mean, model.pixel_std))
    size = getattr(model, "input_size", None)  # of teachers and students of other libraries
    stretched = f", stretched to {size[1]} x {size[0]}" if size else ""
    return f"{model.channel_order}, mean {mean}, std {std}{stretched}"


def _describe_data(report: Report, train: CocoDataset, val: CocoDataset) -> None:
    for name, dataset in (("train", train), ("val", val)):
        report.lines.append(
            f"{name:<9} {dataset.report.describe(evaluated=dataset is not train)}{_describe_reading(dataset)}"
        )
        empty = [label for label, boxes in dataset.report.per_class.items() if not boxes]
        if empty:
            names = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
            report.warnings.append(
                f"the {name} set has no box of {names}: add images that show them, or leave the classes out of the file"
            )
        for what, cases, error in findings_of(dataset.json_path):
            if error and cases:
                report.warnings.append(f"the {name} set has {what}: {len(cases)}, e.g. {cases[0]}")
        missing = dataset.check_files()
        if not missing:
            continue
        allowed = train.max_unreadable * len(train) if dataset is train else 0
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        line = f"{len(missing)} of {len(dataset)} {name} images are not in {dataset.image_dir} ({names})"
        if len(missing) > allowed:
            raise ValueError(
                f"{line}: copy them there, name the right folder with --images, or write each file_name as a path "
                "inside this folder"
            )
        report.warnings.append(f"{line}; they are skipped")


def warn_of_shared_images(report: Report, train: CocoDataset, val: CocoDataset) -> None:
    """Warn of validation images whose files are training images; copies of a file are not found."""
    training = set(real_paths(train))
    shared = [val.file_name(index) for index, path in enumerate(real_paths(val)) if path in training]
    if shared:
        report.warnings.append(
            f"{len(shared)} of {len(val)} val images are training images ({quote_some(shared, 3)}): AP will be "
            "too high. Take them out of one of the splits"
        )


def _describe_unlabeled(
    report: Report, recipe: Recipe, task: Task, unlabeled: UnlabeledImages, processes: int, steps_per_epoch: int
) -> None:
    """How many unlabeled images there are, how many a step takes, and which methods learn from them."""
    assert recipe.distill is not None and recipe.distill.unlabeled is not None
    each = unlabeled_per_pass(recipe, processes)
    per_step = each * processes * recipe.optim.accumulate
    seen = per_step * planned_steps(recipe.schedule, steps_per_epoch) / len(unlabeled)
    own = [name for name, method in task.methods.items() if not cast(DistillMethod, method).takes_unlabeled]
    report.lines.append(f"unlabeled {unlabeled.describe()}{_describe_reading(unlabeled)}")
    report.lines.append(
        f"unlabeled {per_step} a step beside {recipe.data.batch_size} labeled ones, each {seen:.3g} times in all, with "
        f"weight {recipe.distill.unlabeled.weight:g}, for the features of "
        f"{', '.join(name for name in task.methods if name not in own)}; no other loss counts them"
        + (f"; {', '.join(own)} from labeled images alone" if own else "")
    )


def _describe_reading(dataset: ImageDataset) -> str:
    """How images are decoded and how many are kept in memory, where that is not the default."""
    reader = dataset.reader
    decode = "; JPEG files decoded at reduced size (decode=fast)" if reader.decode == "fast" else ""
    if not reader.cache.count:
        return decode
    return f"{decode}; {reader.cache.count} of {len(dataset)} images kept in {_bytes(reader.cache.nbytes)} of memory"


def check_val_images(val: CocoDataset) -> None:
    """Check that every validation image can be read.

    Raises:
        ValueError: with the first files and reasons.
    """
    unreadable = check_headers(val)
    if unreadable:
        more = f"; and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        raise ValueError(
            f"{len(unreadable)} of {len(val)} val images cannot be read, and an evaluation cannot leave any out: "
            f"{'; '.join(unreadable[:5])}{more}. Put whole files there, or remove their entries from {val.json_path}"
        )


def _describe_steps(report: Report, recipe: Recipe, task: Task, processes: int, steps_per_epoch: int) -> None:
    batch, optim = recipe.data.batch_size, recipe.optim
    images = batch_per_process(recipe, processes)
    lr = optim.lr * batch / optim.base_batch_size if optim.scale_lr else optim.lr
    report.lines.append(
        f"batch     {batch} = processes {processes} x passes {optim.accumulate} x images {images}; "
        f"{optim.kind} at {lr:g}" + (f" ({optim.lr:g} x {batch}/{optim.base_batch_size})" if optim.scale_lr else "")
    )
    steps = planned_steps(recipe.schedule, steps_per_epoch)
    epochs = math.ceil(steps / steps_per_epoch)
    report.lines.append(f"steps     {steps} = {counted(epochs, 'epoch')} of {steps_per_epoch}")
    report.warnings += schedule_warnings(recipe, task, steps, epochs)
    if batch != optim.base_batch_size and not optim.scale_lr:
        report.warnings.append(
            f"the learning rate {optim.lr:g} was published for a batch of {optim.base_batch_size}, this run has "
            f"{batch}: write --set optim.scale_lr=true to scale it, or --set optim.base_batch_size={batch} to keep it"
        )


def warn_of_frozen_random_layers(report: Report, student: Detector) -> None:
    """Warn if the backbone has frozen layers whose weights were never loaded."""
    if student.loaded_from is not None:
        return
    backbone = student.backbone
    frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    fixed = any(has_fixed_statistics(layer) for layer in backbone.modules())
    norm = "bn" if isinstance(backbone, TimmBackbone) else "gn"
    if frozen or fixed:
        what = counted(len(frozen), "frozen tensor") if frozen else "the fixed batch norm statistics"
        report.warnings.append(
            f"weights for {what} of the backbone were never loaded: random layers that are not trained. "
            f"Set init, or train from scratch with --set model_args.norm={norm} --set model_args.frozen_stages=0"
        )


def _describe_costs(
    report: Report,
    recipe: Recipe,
    task: Task,
    processes: int,
    steps_per_epoch: int,
    device: torch.device,
    precision: str,
) -> None:
    student, images, more = task.student, batch_per_process(recipe, processes), unlabeled_per_pass(recipe, processes)
    size = largest_image(recipe.data, student.letterbox)
    autocast = None if precision == "no" else torch.autocast("cpu", torch.bfloat16)
    resident = resident_memory() if device.type == "cpu" else 0
    cost = estimate_cost(task, size, images, autocast, more)
    shape = f"{images + more} x {size[1]} x {size[0]} pixels"
    per_image = cost.total / images
    kind, share = ("labeled image", ", its share of the unlabeled ones included") if more else ("image", "")
    report.lines.append(
        f"costs     {_operations(per_image)} per {kind} of {size[1]} x {size[0]}, "
        f"forward, backward and teacher{share}; "
        f"{_operations(per_image * recipe.data.batch_size)} per step (multiply-adds)"
    )
    ema, workers = recipe.optim.ema is not None, recipe.data.workers
    loader = LOADER_BYTES + LOADER_BATCHES * (images + more) * size[0] * size[1] * 3 * 4  # float32 pixels
    memory = estimate_memory(task, student, cost.memory, recipe.optim.kind, ema, processes, resident)
    parts = ", ".join(f"{name} {_bytes(value)}" for name, value in asdict(memory).items() if value)
    report.lines.append(
        f"memory    about {_bytes(memory.total)} per process: {parts} for {shape} (counted on small images and scaled)"
        + (
            f"; {counted(workers, 'loader process takes', 'loader processes take')} about {_bytes(loader)} more each"
            if workers
            else ""
        )
        + ("; CUDA's context takes 0.5 to 1 GB of the GPU more" if device.type == "cuda" else "")
    )
    free = free_memory(device)
    if free is not None and memory.total > free:
        report.warnings.append(
            f"{_bytes(memory.total)} will hardly fit into the {_bytes(free)} that are free on {device}: write "
            f"--set optim.accumulate={2 * recipe.optim.accumulate}, --checkpoint-activations or --mixed-precision bf16"
        )
    report.lines.append("time      printed after a few steps, when it is measured")


def _bytes(size: float) -> str:
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"


def _operations(number: float) -> str:
    return f"{number / 1e9:.3g} GMACs" if number < 1e12 else f"{number / 1e12:.3g} TMACs"


def largest_image(data: Data, letterbox: Letterbox | None = None) -> tuple[int, int]:
    """(height, width) of the largest landscape training image of a recipe, padded to a multiple of 32.

    Args:
        data: of the recipe.
        letterbox: of the student; a square one makes all images squares.
    """
    if letterbox is not None and letterbox.canvas == "square":
        return (square_side(largest_side(data)),) * 2
    short = data.short if isinstance(data.short, int) else max(data.short)
    if data.mix is not None:
        short = data.long  # mixed images are squares
    height, width = (None if data.mix else data.crop) or (min(short, data.long), data.long)
    return -(-height // 32) * 32, -(-width // 32) * 32


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a GPU; None on a CPU, which can swap and shares its memory with other programs."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
