"""The training loop, from top to bottom: open a run, build it, check it, restore it; then epoch, step, evaluate, save.

``train_epoch`` holds the loop over batches: forward, backward, clip, step, log, save. The steps before the loop are
in run.py; the files of a run are in run_folder.py and checkpoint.py.

A run may be stopped at any moment: its state is saved after each epoch, before each evaluation and on a stop request,
and a resumed run computes the same numbers as an uninterrupted one, bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import PartialState, skip_first_batches
from torch import Tensor

from pkdzoo.evaluation.saved_detections import DETECTIONS
from pkdzoo.structures import Batch
from pkdzoo.training import build, checkpoint, loaders, run_folder
from pkdzoo.training.arguments import TrainArguments
from pkdzoo.training.compare import TrainedRun, compare, print_where
from pkdzoo.training.evaluate import evaluate, table, time_images
from pkdzoo.training.processes import run_on_main_process
from pkdzoo.training.recipe import Recipe
from pkdzoo.training.report.page import update_report
from pkdzoo.training.run import TrainingRun, build_parts, open_run, preflight, restore
from pkdzoo.training.signals import RunStopped, StopRequest, stop_on_signals
from pkdzoo.training.task import losses_of


def train_recipes(recipes: Sequence[Recipe], args: TrainArguments) -> list[TrainedRun]:
    """Train recipes one after the other, and compare them if there are several.

    Args:
        recipes: one recipe, or those of one comparison; then each has a folder of its own below the output folder.
        args: of the command line.

    Returns:
        The finished runs.

    Raises:
        RunStopped: after a stop request; the recipes that follow are not trained.
    """
    single = len(recipes) == 1
    output = args.output or Path("runs") / (recipes[0].name if single else args.recipe.stem)
    runs: list[TrainedRun] = []
    try:
        with ExitStack() as locks:
            for recipe in recipes:
                runs.append(train(recipe, args, output if single else output / recipe.name, output / "data", locks))
            if not single:
                compare(runs, output)
                if PartialState().is_main_process:
                    update_report(output, light=False)
            elif runs[0].accelerator.is_main_process:
                print_where(output, output)
    except RunStopped:
        PartialState().destroy_process_group()
        raise
    PartialState().destroy_process_group()
    return runs


def train(recipe: Recipe, args: TrainArguments, output: Path, cache: Path, locks: ExitStack) -> TrainedRun:
    """One run, from the start or from its last checkpoint.

    Args:
        recipe: of the run.
        args: of the command line.
        output: folder of the run.
        cache: folder for a generated data set.
        locks: keeps ``output`` locked until it is closed.

    Returns:
        The finished run.

    Raises:
        RunStopped: after a stop request, when the run can be continued with ``--resume``.
    """
    accelerator = open_run(recipe, args, output, locks)
    parts = build_parts(recipe, args, accelerator, cache)
    facts = preflight(recipe, args, output, accelerator, parts)
    run = restore(recipe, args, output, accelerator, parts, facts)
    with stop_on_signals() as stop_request:
        while not run.progress.done:
            stopped = train_epoch(run, stop_request)
            if stopped:
                where = f"at step {run.progress.step} of {parts.steps}"
            else:
                finish_epoch(run)
                stopped = run.monitor.any_process(stop_request.by is not None)  # e.g. during the evaluation
                where = f"after epoch {run.progress.epoch}"
            if stopped:
                run.monitor.close(f"stopped on request {where}; continue with --resume")
                run.accelerator.wait_for_everyone()  # a launcher ends the others when the first one ends
                raise RunStopped(stop_request.by)
    run.monitor.close()
    if accelerator.is_main_process:
        update_report(output, light=False)
    metrics = run.metrics or run_folder.read_metrics(output)
    teacher = parts.task.teacher
    return TrainedRun(recipe, run.evaluated_model, teacher, metrics, output, parts.val_set, run.val_loader, accelerator)


def train_epoch(run: TrainingRun, stop_request: StopRequest) -> bool:
    """Train the rest of the current epoch; returns whether a stop request ended it early, after saving."""
    recipe, accelerator, progress = run.recipe, run.accelerator, run.progress
    accumulate, monitor = recipe.optim.accumulate, run.monitor
    trained, passes = progress.step_in_epoch * accumulate, len(run.train_loader)
    for number, batch in enumerate(monitor.time_loading(start_epoch(run))):
        if progress.step >= run.parts.steps:
            break
        pass_number = progress.step * accumulate + number % accumulate
        checkpoint.seed_step(recipe.seed, pass_number, accelerator.process_index)
        run.raw_task.set_progress(progress.step, run.parts.steps, progress.epoch, recipe.schedule.epochs)

        with accelerator.accumulate(run.task):
            losses = losses_of(run.task, batch)
            accelerator.backward(share_of_step(trained + number, passes, accumulate) * total_of(losses))
            monitor.add_pass(batch, losses, run.raw_task.logs)
            if not accelerator.sync_gradients:
                continue  # more passes to accumulate before the step
            grad_norm = accelerator.clip_grad_norm_(run.task.parameters(), recipe.optim.clip or math.inf)
            assert isinstance(grad_norm, Tensor)
            stop = monitor.check_step(
                grad_norm, stop_request.by is not None, checkpoint.describe_last_checkpoint(run.output)
            )
            lr = float(run.scheduler.get_last_lr()[0])
            run.optimizer.step()
            run.scheduler.step()
            run.optimizer.zero_grad()

        if run.average is not None:
            run.average.update_parameters(run.raw_task.student)
        progress.step += 1
        progress.step_in_epoch += 1
        monitor.end_step(progress, lr, grad_norm)
        if stop or save_is_due(run):
            save(run)
        if stop:
            return True
    return False


def share_of_step(number: int, passes: int, accumulate: int) -> float:
    """Factor of the loss of a pass, which Accelerate divides by ``accumulate``.

    It is 1, except in an epoch's last step where that has fewer passes: there Accelerate would divide by too much.

    Args:
        number: of the pass in the epoch, from 0.
        passes: of the epoch.
        accumulate: passes of a step.
    """
    first = number // accumulate * accumulate
    return accumulate / min(accumulate, passes - first)


def total_of(losses: dict[str, Tensor]) -> Tensor:
    """The sum of the losses, which is what is minimized."""
    return torch.stack(list(losses.values())).sum()


def start_epoch(run: TrainingRun) -> Iterable[Batch]:
    """Prepare the current epoch; returns its batches, without those that a resumed run has trained on already."""
    recipe, parts, loader, epoch = run.recipe, run.parts, run.train_loader, run.progress.epoch
    build.train_mode(run.raw_task, recipe)
    checkpoint.seed_step(recipe.seed, -1 - epoch, run.accelerator.process_index)
    run.raw_task.set_epoch(epoch)
    loaders.set_epoch(epoch, loader, parts.train_sets, parts.sampler)
    if not run.progress.step_in_epoch:  # in a resumed epoch, the checkpoint holds what the methods prepared
        run.raw_task.on_epoch_start(epoch, loader)
        loaders.set_epoch(epoch, loader, parts.train_sets, parts.sampler)  # a method may have iterated over the loader
    trained = run.progress.step_in_epoch * recipe.optim.accumulate
    if trained >= len(loader):
        return []  # not every version of Accelerate can skip a whole epoch
    if trained:
        loader = skip_first_batches(loader, trained)
        loader.set_epoch(epoch)  # the oldest versions of Accelerate begin a new loader with epoch 0
    batches: Iterable[Batch] = loader
    return batches


def finish_epoch(run: TrainingRun) -> None:
    """Evaluate and export the model if it is due, count the epoch and save.

    An epoch that ``schedule.max_steps`` cut short is not counted: with more steps, a resumed run trains on its rest.
    """
    recipe, progress = run.recipe, run.progress
    for images in run.parts.train_sets:
        images.share_skipped(run.accelerator.device)  # then every process counts, and raises, alike
        images.check_skipped()
        if images.skipped:
            run.monitor.print(f"skipped {images.skipped} of {len(images)} images that cannot be read")
    last = progress.step >= run.parts.steps
    if last or (progress.epoch + 1) % recipe.logging.eval_every == 0:
        if not save_is_due(run):  # else the step was saved just now
            save(run)  # before the evaluation, which may take longer than a stop request leaves time
        evaluate_and_export(run)
        if not last and recipe.logging.patience is not None and progress.stale >= recipe.logging.patience:
            last = True
            run.monitor.print(
                f"stopped after epoch {progress.epoch + 1} of {recipe.schedule.epochs}: {progress.stale} evaluations "
                f"without a better {recipe.logging.best} than {progress.best or 0:.1f} (logging.patience)"
            )
    if progress.step_in_epoch >= run.parts.steps_per_epoch:
        progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
    progress.done = last
    save(run)


def evaluate_and_export(run: TrainingRun) -> None:
    """Evaluate the model, log its metrics and write it to ``last/`` and, if it is the best so far, to ``best/``."""
    recipe, progress, monitor, val_set = run.recipe, run.progress, run.monitor, run.parts.val_set
    model, epoch = run.evaluated_model, progress.epoch + 1
    first = not run.metrics
    with monitor.paused():
        saved = run.output / DETECTIONS
        run.metrics = metrics = evaluate(model, run.val_loader, val_set, run.accelerator, save=saved)
    value = metrics[recipe.logging.best]
    if value is None and first:
        monitor.print(
            f"warning: {recipe.logging.best} has no value on this val set, so no best/ is kept and logging.patience "
            "ends nothing: write --set logging.best=AP"
        )
    better = checkpoint.record_metric(progress, value)
    monitor.write_line({"step": progress.step, "epoch": epoch, **metrics})
    monitor.print(f"epoch {epoch} of {recipe.schedule.epochs}\n{table(metrics, per_class=False)}")
    facts = {"recipe": recipe.name, "epoch": epoch, "step": progress.step, **run.facts}

    def export() -> None:
        speed = time_images(model, val_set, run.accelerator)
        run_folder.export(model, run.output, metrics, facts | speed, better)
        update_report(run.output, light=True)

    run_on_main_process(export)


def save_is_due(run: TrainingRun) -> bool:
    """Whether the recipe saves a checkpoint after the step that was made last."""
    every = run.recipe.logging.save_every
    return every is not None and run.progress.step % every == 0


def save(run: TrainingRun) -> None:
    """Save a checkpoint; all processes call it, the main process writes."""
    run.progress.window = run.monitor.unfinished_sums()

    def save_all() -> None:
        tensors, rest = checkpoint.snapshot(
            run.raw_task, run.optimizer, run.scheduler, run.accelerator.scaler, run.average
        )
        checkpoint.save_checkpoint(run.output, run.progress, tensors, rest, run.recipe.logging.keep)

    run_on_main_process(save_all)
