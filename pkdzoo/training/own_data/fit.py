"""``Detector.fit`` and ``Detector.evaluate``: training and evaluation of one detector on one's own data."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator

from pkdzoo.data import find_split
from pkdzoo.data.formats.read import splits_of
from pkdzoo.inference.predictor import own_size
from pkdzoo.models._registry import find
from pkdzoo.models.detector import Detector
from pkdzoo.training import build, loaders, run_folder
from pkdzoo.training import evaluate as evaluation
from pkdzoo.training.arguments import TrainArguments
from pkdzoo.training.command import expected_errors
from pkdzoo.training.compute import open_processes, own_accelerators
from pkdzoo.training.loop import train
from pkdzoo.training.own_data import settings as choices
from pkdzoo.training.own_data.arguments import default_folder
from pkdzoo.training.own_data.budget import Job, fit_time
from pkdzoo.training.own_data.data import data_places, look_at
from pkdzoo.training.own_data.distill import machine_of, say
from pkdzoo.training.own_data.timer import Timer, training_images
from pkdzoo.training.own_data.weights import Start, overrides_of
from pkdzoo.training.processes import run_on_main_process
from pkdzoo.training.task import SupervisedTask
from pkdzoo.utils.files import write_json

START_MARK = "fit.json"  # in a folder that may be written again


def fit(
    model: Detector,
    data: str | Path,
    output: str | Path | None,
    budget: str | None,
    assignments: list[str],
    cpu: bool,
    threads: int | None,
) -> None:
    """Train a detector in place; see ``Detector.fit``."""
    begin, seconds = time.monotonic(), None if budget is None else choices.parse_time(budget)
    folder = Path(output) if output is not None else default_folder(model.name, data)
    with expected_errors(), own_accelerators():
        state = open_processes(cpu)
        if (folder / "recipe.json").is_file():
            raise ValueError(f"{folder} holds a run already: choose another output")
        run_folder.check_folder(folder)
        own = run_on_main_process(lambda: look_at(Path(data), folder / "data", say))
        start_folder = run_on_main_process(lambda: save_start(model, folder.with_name(f"{folder.name}-start")))
        start = Start(model.name, overrides_of(model), f"local-dir:{start_folder}", find(model.name)[0].family)
        machine = machine_of(state, threads)
        job = Job(folder.name, start, choices.choose(own, start, machine), assignments=assignments)
        student = build.build_student(job.recipe(), own.classes)
        timer = Timer(own, machine, state.device, budget=seconds)
        job.seconds = timer.measure(job.recipe(), SupervisedTask(student), training_images(job.recipe(), own))
        chosen = threads if threads is not None or not machine.thread_counts else torch.get_num_threads()
        fit_time([job], own, machine, seconds, time.monotonic() - begin, say)
        recipe = job.recipe()
        own_folder, train_json, val_json, pixels = (None if p is None else Path(p) for p in data_places(own))
        args = TrainArguments(
            folder, data=own_folder, train_json=train_json, val_json=val_json, images=pixels, output=folder, cpu=cpu,
            threads=chosen,
        )  # fmt: skip
        with ExitStack() as locks:
            train(recipe, args, folder, folder, locks)
    trained = evaluation.open_detector(folder).to(next(model.parameters()).device)
    vars(model).clear()  # the head may have another number of classes now
    vars(model).update(vars(trained))


def save_start(model: Detector, folder: Path) -> Path:
    """Save a detector as it is before the training, which the recipe of the run names.

    Raises:
        ValueError: for a folder that an earlier ``fit`` has not made.
    """
    if folder.exists() and not (folder / START_MARK).is_file():
        raise ValueError(
            f"the detector as it is now would be saved in {folder}, which exists already: delete it, or choose another "
            "output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / START_MARK, {"detector": model.name, "saved by": "Detector.fit, before the training"})
    return model.save_pretrained(folder)


def evaluate(model: Detector, data: str | Path, split: str, batch_size: int, workers: int, cpu: bool) -> dict[str, Any]:
    """COCO's metrics of a detector; see ``Detector.evaluate``."""
    device = next(model.parameters()).device
    with own_accelerators(), TemporaryDirectory() as folder:
        accelerator = Accelerator(cpu=cpu, mixed_precision="no")
        dataset = build.val_dataset(
            split_of(Path(data), split, Path(folder)), own_size(model), model.label_names, False, model.letterbox
        )
        loader = accelerator.prepare(loaders.val_loader(dataset, batch_size, workers))
        model.to(accelerator.device)
        try:
            return evaluation.evaluate(model, loader, dataset, accelerator, thresholds=True)
        finally:
            model.to(device)


def split_of(data: Path, split: str, folder: Path) -> tuple[Path, Path]:
    """Annotation file and image folder of a split; without a validation split, what the training holds out.

    Args:
        data: the data set.
        split: its name.
        folder: takes the annotation file of a split that is held out.
    """
    if split != "val" or "val" in splits_of(data):
        return find_split(data, split)
    own = look_at(data, folder, say=lambda line: None)
    return Path(str(own.val_json)), Path(str(own.images))
