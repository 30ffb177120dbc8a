"""The steps before a run's loop (open, build, preflight, restore), and the object that the loop works on."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate import DistributedDataParallelKwargs
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from pkdzoo.data import AspectBatchSampler, CocoDataset, UnlabeledImages
from pkdzoo.data.image_cache import GIGABYTE
from pkdzoo.data.image_dataset import ImageDataset
from pkdzoo.data.letterbox import check_side
from pkdzoo.data.sampler import PairedBatchSampler
from pkdzoo.distill.task import Task
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch
from pkdzoo.training import build, checkpoint, compute, loaders, resume, run_folder, threads
from pkdzoo.training.arguments import TrainArguments
from pkdzoo.training.license_notes import license_notes
from pkdzoo.training.log import Monitor
from pkdzoo.training.optim import build_average, build_optimizer, build_schedule, planned_steps
from pkdzoo.training.preflight import check_run
from pkdzoo.training.processes import run_on_main_process
from pkdzoo.training.provenance import about_teacher
from pkdzoo.training.recipe import Recipe
from pkdzoo.training.teacher_check import check_teacher
from pkdzoo.utils.text import printable


@dataclass(frozen=True)
class Parts:
    """What a run is built of, before anything is wrapped or moved to a device.

    Attributes:
        train_set: training images.
        val_set: validation images.
        task: trains the student, with or without a teacher.
        teacher: of the recipe, also if the student only inherits from it; None without one.
        unlabeled: images without annotations; None without any.
        train_loader: batches of the training images, with unlabeled ones beside them.
        sampler: of ``train_loader``.
        val_loader: batches of the validation images.
        steps_per_epoch: optimizer steps.
        steps: optimizer steps of the whole run.
    """

    train_set: CocoDataset
    val_set: CocoDataset
    task: Task
    teacher: Detector | None
    unlabeled: UnlabeledImages | None
    train_loader: DataLoader[Batch]
    sampler: AspectBatchSampler | PairedBatchSampler
    val_loader: DataLoader[Batch]
    steps_per_epoch: int
    steps: int

    @property
    def train_sets(self) -> list[ImageDataset]:
        """The data sets of the training images, labeled ones first."""
        return [self.train_set, *([] if self.unlabeled is None else [self.unlabeled])]


@dataclass
class TrainingRun:
    """A run that is ready to train or training.

    Attributes:
        recipe: of the run.
        output: folder of the run.
        accelerator: of the run.
        facts: command, versions, hardware and validation data, written beside every number.
        parts: what it is built of.
        raw_task: the task itself, for its attributes and its state dict.
        task: the same task as the loop calls it, wrapped by Accelerate.
        train_loader: prepared by Accelerate.
        val_loader: prepared by Accelerate.
        optimizer: prepared by Accelerate.
        scheduler: of the learning rate, stepped once per optimizer step.
        average: moving average of the student, or None.
        progress: how far training is.
        monitor: its log.
        metrics: of the last evaluation in this process; empty before it.
    """

    recipe: Recipe
    output: Path
    accelerator: accelerate.Accelerator
    facts: dict[str, Any]
    parts: Parts
    raw_task: Task
    task: Any
    train_loader: Any
    val_loader: Any
    optimizer: Any
    scheduler: LambdaLR
    average: AveragedModel | None
    progress: checkpoint.Progress
    monitor: Monitor
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def evaluated_model(self) -> Detector:
        """The detector that is evaluated and exported: the average if there is one, else the student."""
        model = self.raw_task.student if self.average is None else self.average.module
        assert isinstance(model, Detector)
        return model


def open_run(recipe: Recipe, args: TrainArguments, output: Path, locks: ExitStack) -> accelerate.Accelerator:
    """Start Accelerate, lock the run's folder and check that this run may write there.

    Args:
        recipe: of the run.
        args: of the command line.
        output: folder of the run.
        locks: keeps the folder locked until it is closed.

    Raises:
        ValueError: for options that this machine does not support, and for a folder that is in use or holds another
            run.
    """
    compute.refuse_sharding()
    accelerator = accelerate.Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=recipe.optim.accumulate,
        log_with=args.tracker,
        project_dir=output,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=args.find_unused)],
    )
    compute.check_options(accelerator, args.tracker)
    threads.share_cores(accelerator, args.threads)
    locks.enter_context(run_folder.lock_folder(output, accelerator))
    run_folder.check_output(output, recipe, args.resume)
    return accelerator


def build_parts(recipe: Recipe, args: TrainArguments, accelerator: accelerate.Accelerator, place: Path) -> Parts:
    """Build data sets, models, task and loaders.

    Args:
        recipe: of the run.
        args: of the command line.
        accelerator: of the run.
        place: folder for a generated data set.
    """

    def find_data() -> build.DataPaths:
        return build.find_data(recipe.data, args.data, args.train_json, args.val_json, args.images, place)

    run_on_main_process(find_data)  # first there: a recipe may generate its data
    paths = find_data()
    cache = int(args.cache_images * GIGABYTE)
    train_set, val_set = build.build_datasets(recipe, paths, cache)
    cache -= train_set.reader.cache.nbytes + val_set.reader.cache.nbytes
    unlabeled = build.build_unlabeled(recipe, train_set, val_set, paths.test, cache)
    student = build.build_student(recipe, train_set.label_names)
    if student.letterbox is not None:  # known only now: the student needs the names of the training set's classes
        check_side(recipe.data.eval_size[1])  # else the first evaluation would fail, after a whole epoch
        val_set.transform = build.val_transform(recipe.data.eval_size, student.letterbox)
        build.fit_letterbox(recipe, student.letterbox, train_set, unlabeled)
    teacher = build.build_teacher(recipe.distill, train_set.label_names) if recipe.distill else None
    task = build.build_task(recipe, student, teacher)
    if recipe.sync_norms and accelerator.device.type == "cuda" and accelerator.num_processes > 1:
        compute.synchronize_norms(task.student)
    compute.apply_options(student, args.channels_last, args.checkpoint_activations, task.teacher)
    processes = accelerator.num_processes
    train_loader, sampler = loaders.train_loader(recipe, train_set, processes, unlabeled)
    val_loader = loaders.val_loader(val_set, recipe.data.eval_batch_size, recipe.data.workers)
    steps_per_epoch = math.ceil(math.ceil(len(train_loader) / processes) / recipe.optim.accumulate)
    steps = planned_steps(recipe.schedule, steps_per_epoch)
    return Parts(
        train_set, val_set, task, teacher, unlabeled, train_loader, sampler, val_loader, steps_per_epoch, steps
    )


def preflight(
    recipe: Recipe, args: TrainArguments, output: Path, accelerator: accelerate.Accelerator, parts: Parts
) -> dict[str, Any]:
    """Check everything that can be checked before the first step, print a summary, and write what the run is.

    Returns:
        Command, versions, hardware and validation data, to be written beside every number.

    Raises:
        ValueError: for what would fail, or make the run worthless, later.
    """
    processes, distill = accelerator.num_processes, recipe.distill
    device, precision = accelerator.device, accelerator.mixed_precision
    report = check_run(
        recipe, parts.task, parts.train_set, parts.val_set, processes, parts.steps_per_epoch, device, precision,
        parts.unlabeled,
    )  # fmt: skip
    chosen = threads.choose_threads(  # measures steps, which need data and models that the check found to be usable
        recipe, parts.task, parts.train_set, parts.steps, accelerator, args.threads,
        output if args.resume else None, parts.unlabeled,
    )  # fmt: skip
    facts = run_folder.about(processes) | run_folder.about_data(parts.val_set.json_path, len(parts.val_set))
    report.lines += [f"threads   {chosen}"] if chosen else []
    compilation = compute.describe_compilation(device) if args.compile else None
    report.lines += [f"compile   {compilation}"] if compilation else []
    faster = compute.suggest_bf16(device, precision)
    report.lines += [f"precision {faster}"] if faster else []
    taught_by = about_teacher(distill, parts.task) if distill and distill.methods else {}
    teacher_start = None if parts.task.teacher is None else parts.task.teacher.initial_weights
    report.lines += license_notes(parts.task.student.initial_weights, taught_by, teacher_start)
    accelerator.print(printable(f"== {recipe.name} -> {output}\n{report}", keep="\n"))
    if args.check_teacher and distill and parts.teacher:
        workers = recipe.data.workers
        accelerator.print(
            check_teacher(distill.teacher, parts.teacher, parts.val_set, args.check_teacher, workers, accelerator)
        )
    accelerator.wait_for_everyone()  # no process writes before all of them have checked
    own_facts = {**facts, **({"teacher": taught_by} if taught_by else {}), "precision": precision}
    if device.type == "cpu":
        own_facts["threads"] = torch.get_num_threads()
    own_facts["data"] = resume.about_annotations(parts.train_set, parts.val_set, parts.unlabeled)
    resume.check_same_facts(output, own_facts)
    run_on_main_process(lambda: _open_output(output, recipe, own_facts))
    return facts


def _open_output(output: Path, recipe: Recipe, facts: dict[str, Any]) -> None:
    newest = checkpoint.find_checkpoint(output)
    changes = resume.record_changes(output, recipe, newest[1].step if newest else 0)
    run_folder.open_output(output, recipe, {**facts, "changes": changes} if changes else facts)


def restore(
    recipe: Recipe,
    args: TrainArguments,
    output: Path,
    accelerator: accelerate.Accelerator,
    parts: Parts,
    facts: dict[str, Any],
) -> TrainingRun:
    """Build optimizer, schedule and average, load the last checkpoint on ``--resume``, and wrap all by Accelerate.

    Raises:
        ValueError: on every process, if they do not see the same checkpoint.
    """
    task, student, steps = parts.task, parts.task.student, parts.steps
    optimizer = build_optimizer(task, recipe.optim, recipe.data.batch_size)
    scheduler = build_schedule(optimizer, recipe.schedule, parts.steps_per_epoch)
    average = build_average(student, recipe.optim.ema, recipe.optim.ema_warmup)
    progress = saved = checkpoint.Progress()
    newest = checkpoint.find_checkpoint(output) if args.resume else None
    if args.resume:
        resume.check_same_checkpoint(newest)
    if newest is not None:
        path, saved = newest
        progress = checkpoint.reopened(saved, steps, recipe.logging.patience)
        checkpoint.restore(path, progress.step, task, optimizer, scheduler, accelerator.scaler, average)
        accelerator.print(resume.describe_start(path, progress.epoch, progress.step, steps))
    elif args.resume and accelerator.is_main_process:
        kept = resume.keep_old_log(output)
        log = f"; its log is kept in {kept}" if kept else ""
        accelerator.print(f"{output} has no checkpoint to resume from: training starts at step 0{log}")
    if args.compile:
        for detector in (student, task.teacher):
            if detector is not None:
                compute.compile_pyramid(detector)
    prepared = accelerator.prepare(task, optimizer, parts.train_loader, parts.val_loader)
    if average is not None:
        average.to(accelerator.device)
    monitor = Monitor(accelerator, output, recipe.logging.log_every, steps, saved)
    if args.tracker:
        accelerator.init_trackers("pkdzoo", {"name": recipe.name, "recipe": json.dumps(recipe.to_dict())})
    wrapped_task, wrapped_optimizer, train_loader, val_loader = prepared
    return TrainingRun(
        recipe=recipe,
        output=output,
        accelerator=accelerator,
        facts=facts,
        parts=parts,
        raw_task=task,
        task=wrapped_task,
        train_loader=train_loader,
        val_loader=val_loader,
        optimizer=wrapped_optimizer,
        scheduler=scheduler,
        average=average,
        progress=progress,
        monitor=monitor,
    )
