"""``pkdzoo eval``: COCO's twelve numbers and AP by class, over any number of processes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from pkdzoo.cli.common import Parser, Verb, add_detector, count, note, open_detector, show
from pkdzoo.data import find_split
from pkdzoo.evaluation import evaluate_results, write_metrics
from pkdzoo.evaluation.ground_truth import JsonGroundTruth
from pkdzoo.training import build, machine, run_folder
from pkdzoo.training.evaluate import evaluate, table, time_images


def eval_arguments(parser: Parser) -> None:
    """Arguments of ``eval``."""
    add_detector(parser, "; or a COCO results file (.json), whoever wrote it", device=False)
    told = "(default: %(default)s)"
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="data set in COCO's, VOC's or YOLO's layout")
    parser.add_argument("--split", default="val", metavar="NAME", help=f"of the data set {told}")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="annotation file, if it is elsewhere")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="image folder, if it is elsewhere")
    metrics = Path("metrics.json")
    parser.add_argument("--output", type=Path, default=metrics, metavar="FILE", help=f"where the numbers go {told}")
    parser.add_argument("--batch-size", type=count, default=1, metavar="N", help="images in one pass; 1 as published")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help=f"processes that read images {told}")
    parser.add_argument("--skip-other-classes", action="store_true", help="leave out classes the detector lacks")
    parser.add_argument(
        "--backend", choices=("auto", "pycocotools", "faster"), default="auto", help=f"evaluator {told}"
    )
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    parser.add_argument("--threads", type=count, metavar="N", help="CPU threads a process; otherwise cores are shared")
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), help="of the passes")


def eval_run(args: argparse.Namespace) -> int:
    """Measure, print and write."""
    accelerator = Accelerator(cpu=args.cpu, mixed_precision=args.mixed_precision)
    machine.share_cores(accelerator, args.threads)
    try:
        place = find_split(args.data, args.split, args.annotations, args.images)
        if args.model.endswith(".json"):
            about: dict[str, Any] = {"detections": args.model, "annotations": str(place[0])}
            about |= run_folder.about_data(place[0], len(JsonGroundTruth(place[0]).image_ids))
            metrics = evaluate_results(args.model, place[0], args.backend)
        else:
            metrics, about = measured(args, accelerator, place)
    except (ValueError, OSError) as error:  # a loader process sends its traceback along
        if args.debug:
            raise
        told = machine.plainly(error).replace("pass skip_other_classes=True", "write --skip-other-classes")
        raise ValueError(told) from None
    if accelerator.is_main_process:
        path = write_metrics(args.output, metrics, **about, **run_folder.about(accelerator.num_processes))
        show(args, f"{table(metrics)}\nwritten to {path.resolve()}", {**about, **metrics})
    return 0


def measured(
    args: argparse.Namespace, accelerator: Accelerator, place: tuple[Path, Path]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The numbers of a detector on a split, and what they are about."""
    model = open_detector(args, accelerator.device)
    dataset = build.val_dataset(place, model.resize, model.label_names, args.skip_other_classes)
    if accelerator.is_main_process:
        note(str(dataset.report))
    loader = accelerator.prepare(build.val_loader(dataset, args.batch_size, args.workers))
    metrics = evaluate(model, loader, dataset, accelerator, args.backend)
    about = {"detector": args.model, "weights": model.loaded_from, "annotations": str(place[0])}
    timed = time_images(model, dataset, accelerator)
    return metrics, about | run_folder.about_data(dataset.json_path, len(dataset)) | timed


EVAL = Verb(
    "measure a detector: COCO's twelve numbers and AP by class",
    (
        "pkdzoo eval retina_r50_pkd_swin --data coco",
        "pkdzoo eval runs/mine --data my/data.yaml --split test --output test.json",
        "pkdzoo eval found/detections.json --data coco --json > numbers.json",
    ),
    eval_arguments,
    eval_run,
)
