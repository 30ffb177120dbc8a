"""Train a detector, with or without a teacher.

    accelerate launch recipes/train.py recipes/demo.py                  # no data at hand: minutes on two cores
    accelerate launch recipes/train.py recipes/pkd/retina_r50_pkd_swin.py --data coco/    # on every GPU there is
    accelerate launch recipes/train.py RECIPE.py --data DIR --output runs/mine --set optim.lr=0.005
    accelerate launch recipes/train.py RECIPE.py --data DIR --output runs/mine --resume
    accelerate launch recipes/train.py TABLE.py --only NAME --data DIR         # one of the recipes of a file
    torchrun --nproc_per_node 8 recipes/train.py RECIPE.py --data DIR          # more lines in recipes/README.md

DIR holds annotations/instances_{train,val}2017.json with train2017/ and val2017/ (COCO's own layout), or
annotations/instances_{train,val}.json with images/. Read this file from top to bottom: the loop is all here; what a
recipe says is in pkdzoo/training/recipe.py, what is saved and how in run_folder.py and checkpoint.py beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState, skip_first_batches
from torch import Tensor

from pkdzoo import Detector
from pkdzoo.data import TooManyUnreadable
from pkdzoo.distill import Distiller
from pkdzoo.hub.download import DownloadError
from pkdzoo.training import build, checkpoint, machine, run_folder, signals
from pkdzoo.training.compare import TrainedRun, compare
from pkdzoo.training.evaluate import evaluate, table, time_images
from pkdzoo.training.log import Diverged, Monitor
from pkdzoo.training.optim import build_optimizer, build_schedule, planned_steps
from pkdzoo.training.preflight import check_run, check_teacher
from pkdzoo.training.provenance import about_teacher
from pkdzoo.training.recipe import Recipe, load_recipes


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a .py file that defines RECIPE or RECIPES, or a run's recipe.json")
    parser.add_argument("--only", metavar="NAME", help="of a file with several recipes, the one of this name")
    parser.add_argument("--data", type=Path, help="folder of the data set")
    parser.add_argument("--train-json", type=Path, help="annotation file, if it is elsewhere")
    parser.add_argument("--val-json", type=Path, help="likewise")
    parser.add_argument("--images", type=Path, help="image folder, if it is elsewhere")
    parser.add_argument("--output", type=Path, help="folder of the run; runs/<recipe> without it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field, e.g. optim.lr=0.02")
    parser.add_argument("--resume", action="store_true", help="go on where the run in --output stopped")
    parser.add_argument(
        "--check-teacher", type=machine.count, metavar="N", help="measure the teacher on N images first"
    )
    group = parser.add_argument_group("machine")
    group.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    group.add_argument(
        "--threads", type=machine.count, help="CPU threads a process; without it all cores are shared out"
    )
    group.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"))
    group.add_argument("--channels-last", action="store_true")
    group.add_argument("--compile", action="store_true", help="compile backbone and neck")
    group.add_argument("--checkpoint-activations", action="store_true", help="less memory for a third more time")
    group.add_argument("--find-unused", action="store_true", help="for models that leave parameters out of a step")
    group.add_argument("--tracker", help="tensorboard, wandb, ... as Accelerate knows them")
    return parser.parse_args(argv)


def train(recipe: Recipe, args: argparse.Namespace, output: Path, cache: Path, held: ExitStack) -> TrainedRun | None:
    """One run, from an empty folder or from its last checkpoint; None if it was asked to stop.

    Its folder stays this run's own until ``held`` is left.
    """
    accelerator = Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=recipe.optim.accumulate,
        log_with=args.tracker,
        project_dir=output,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=args.find_unused)],
    )
    machine.check(accelerator, args.tracker)
    machine.share_cores(accelerator, args.threads)
    about = run_folder.about(accelerator.num_processes)
    held.enter_context(run_folder.hold(output, accelerator))
    run_folder.check_output(output, recipe, args.resume)
    found = checkpoint.find_checkpoint(output) if args.resume else None
    with accelerator.main_process_first():  # a recipe may generate its data
        places = build.find_data(recipe.data, args.data, args.train_json, args.val_json, args.images, cache)

    # -- what learns, and from what ----------------------------------------------------------------------------------
    train_set, val_set = build.build_datasets(recipe, places)
    about |= run_folder.about_data(val_set.json_path, len(val_set))
    student = build.build_student(recipe, train_set.label_names)
    teacher = build.build_teacher(recipe.distill, train_set.label_names) if recipe.distill else None
    task = build.build_task(recipe, student, teacher)  # the student, or a Distiller around it: losses = task(batch)
    teaching = teacher if isinstance(task, Distiller) else None  # one that was only inherited from is left alone
    machine.apply(student, args.channels_last, args.checkpoint_activations, teaching)
    processes, accumulate = accelerator.num_processes, recipe.optim.accumulate
    train_loader, sampler = build.train_loader(recipe, train_set, processes)
    val_loader = build.val_loader(val_set, recipe.data.eval_batch_size, recipe.data.workers)
    steps_per_epoch = math.ceil(math.ceil(len(train_loader) / processes) / accumulate)
    steps = planned_steps(recipe.schedule, steps_per_epoch)

    # -- everything that can be wrong before the first step ----------------------------------------------------------
    report = check_run(
        recipe, task, train_set, val_set, processes, steps_per_epoch, accelerator.device, accelerator.mixed_precision
    )
    accelerator.print(f"== {recipe.name} -> {output}\n{report}")
    if args.check_teacher and recipe.distill and teacher:
        workers = recipe.data.workers
        accelerator.print(
            check_teacher(recipe.distill.teacher, teacher, val_set, args.check_teacher, workers, accelerator)
        )
    accelerator.wait_for_everyone()  # nobody writes before everybody has looked
    taught = {"teacher": about_teacher(recipe.distill, task)} if recipe.distill and recipe.distill.methods else {}
    run_folder.check_same_teacher(output, taught)
    if accelerator.is_main_process:
        run_folder.open_output(output, recipe, {**about, **taught})

    # -- optimiser, schedule, and the last checkpoint ----------------------------------------------------------------
    optimizer = build_optimizer(task, recipe.optim, recipe.data.batch_size)
    scheduler = build_schedule(optimizer, recipe.schedule, steps_per_epoch)
    ema = machine.average(student, recipe.optim.ema)
    progress = checkpoint.Progress(batch=recipe.data.batch_size)
    if found is not None:
        progress = checkpoint.reopened(found[1], steps, recipe.logging.patience)
        checkpoint.restore(found[0], task, optimizer, scheduler, accelerator.scaler, ema)
        accelerator.print(f"resumed from {found[0]}: epoch {progress.epoch}, step {progress.step} of {steps}")
    if args.compile:
        machine.compile_body(student)
        if teaching is not None:
            machine.compile_body(teaching)
    core = task
    task, optimizer, train_loader, val_loader = accelerator.prepare(task, optimizer, train_loader, val_loader)
    if ema is not None:
        ema.to(accelerator.device)
    judged: Detector = student if ema is None else ema.module  # who is evaluated and exported
    monitor = Monitor(accelerator, output, recipe.logging.log_every, steps, progress)
    if args.tracker:
        accelerator.init_trackers("pkdzoo", {"name": recipe.name, "recipe": json.dumps(recipe.to_dict())})

    def save() -> None:
        progress.window = monitor.window()
        if accelerator.is_main_process:
            content = checkpoint.snapshot(core, optimizer, scheduler, accelerator.scaler, ema)
            checkpoint.save_checkpoint(output, progress, *content, recipe.logging.keep)
        accelerator.wait_for_everyone()

    # -- the loop ----------------------------------------------------------------------------------------------------
    metrics: dict[str, Any] = {}
    with signals.stop_on_signals() as asked:
        while not progress.done:
            epoch = progress.epoch
            build.train_mode(core, recipe)
            checkpoint.seed_step(recipe.seed, -1 - epoch, accelerator.process_index)
            core.set_epoch(epoch)
            build.set_epoch(epoch, train_loader, train_set, sampler)
            if isinstance(core, Distiller) and not progress.step_in_epoch:  # else the checkpoint has what it prepared
                core.on_epoch_start(epoch, train_loader)
                build.set_epoch(epoch, train_loader, train_set, sampler)  # a method may have looked through the loader
            seen = progress.step_in_epoch * accumulate
            batches = skip_first_batches(train_loader, seen) if 0 < seen < len(train_loader) else train_loader
            batches = [] if seen >= len(train_loader) else batches  # a whole epoch cannot be skipped by each Accelerate
            for number, batch in enumerate(monitor.timed(batches)):
                if progress.step >= steps:
                    break
                checkpoint.seed_step(
                    recipe.seed, progress.step * accumulate + number % accumulate, accelerator.process_index
                )
                if isinstance(core, Distiller):
                    core.set_progress(progress.step, steps, epoch, recipe.schedule.epochs)
                with accelerator.accumulate(task):
                    losses: dict[str, Tensor] = task(batch)
                    accelerator.backward(torch.stack(list(losses.values())).sum())
                    monitor.add(batch, losses, core.logs if isinstance(core, Distiller) else {})
                    if not accelerator.sync_gradients:
                        continue
                    norm = accelerator.clip_grad_norm_(task.parameters(), recipe.optim.clip or math.inf)
                    stop = monitor.guard(norm, asked.by is not None, checkpoint.last_good(output))
                    lr = scheduler.get_last_lr()[0]
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                if ema is not None:
                    ema.update_parameters(student)
                progress.step, progress.step_in_epoch = progress.step + 1, progress.step_in_epoch + 1
                monitor.step(progress, lr, norm)
                if stop:
                    save()
                    monitor.close(f"stopped as asked at step {progress.step} of {steps}; go on with --resume")
                    return None
                if recipe.logging.save_every and progress.step % recipe.logging.save_every == 0:
                    save()
            train_set.check_skipped()
            if train_set.skipped:
                monitor.say(f"skipped {train_set.skipped} of {len(train_set)} images that cannot be read")

            # -- the end of an epoch -----------------------------------------------------------------------------
            last = progress.step >= steps
            if last or (epoch + 1) % recipe.logging.eval_every == 0:
                if not recipe.logging.save_every or progress.step % recipe.logging.save_every:
                    save()  # whoever asks the run to stop may not wait as long as it measures
                with monitor.paused():
                    metrics = evaluate(judged, val_loader, val_set, accelerator)
                better = checkpoint.note_metrics(progress, metrics[recipe.logging.best])
                monitor.write({"step": progress.step, "epoch": epoch + 1, **metrics})
                monitor.say(f"epoch {epoch + 1} of {recipe.schedule.epochs}\n{table(metrics, per_class=False)}")
                if accelerator.is_main_process:
                    when = {"recipe": recipe.name, "epoch": epoch + 1, "step": progress.step}
                    timed = time_images(judged, val_set, accelerator)
                    run_folder.export(judged, output, metrics, {**when, **about, **timed}, better)
                last |= recipe.logging.patience is not None and progress.stale >= recipe.logging.patience
            progress.epoch, progress.step_in_epoch, progress.done = epoch + 1, 0, last
            save()
            if monitor.agreed(asked.by is not None):  # while it measured
                monitor.close(f"stopped as asked after epoch {epoch + 1}; go on with --resume")
                return None
    monitor.close()
    teacher = teacher if isinstance(core, Distiller) else None  # one that was only inherited from taught nothing
    metrics = metrics or run_folder.read_metrics(output)
    return TrainedRun(recipe, judged, teacher, metrics, output, val_set, val_loader, accelerator)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    signals.follow_launcher()
    try:
        recipes = load_recipes(args.recipe, args.set, args.only)
        alone = len(recipes) == 1
        output = args.output or Path("runs") / (recipes[0].name if alone else args.recipe.stem)
        arms = []
        with ExitStack() as held:
            for recipe in recipes:
                arm = train(recipe, args, output if alone else output / recipe.name, output / "data", held)
                if arm is None:  # asked to stop: the arms that follow wait for --resume
                    break
                arms.append(arm)
            if not alone and len(arms) == len(recipes):
                compare(arms, output)
        PartialState().destroy_process_group()
    except (ValueError, OSError, DownloadError, Diverged, TooManyUnreadable) as error:
        sys.exit(f"error: {machine.plainly(error)}")
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        sys.exit(f"error: {error} Go on with --resume; if memory ran out, with fewer data.workers")


if __name__ == "__main__":
    main()
