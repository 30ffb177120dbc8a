"""``pkdzoo eval``: COCO's twelve numbers and AP per class, on any number of processes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkdzoo.cli.common import Parser, Verb, add_detector, count, note, open_detector, show

if TYPE_CHECKING:
    from accelerate import Accelerator


def eval_arguments(parser: Parser) -> None:
    """Add the arguments of ``eval``."""
    add_detector(parser, "; or a COCO results file (.json) of any program", device=False)
    default = "(default: %(default)s)"
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="data set in the layout of COCO, VOC or YOLO")
    parser.add_argument("--split", default="val", metavar="NAME", help=f"split of the data set {default}")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="annotation file, if it is elsewhere")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="image folder, if it is elsewhere")
    metrics = Path("metrics.json")
    parser.add_argument("--output", type=Path, default=metrics, metavar="FILE", help=f"file for the numbers {default}")
    parser.add_argument(
        "--batch-size",
        type=count,
        default=1,
        metavar="N",
        help="images per batch; published numbers use 1 (default: 1)",
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help=f"processes that load images {default}")
    parser.add_argument(
        "--skip-other-classes", action="store_true", help="ignore classes that the detector does not have"
    )
    parser.add_argument(
        "--backend", choices=("auto", "pycocotools", "faster"), default="auto", help=f"evaluator {default}"
    )
    parser.add_argument("--cpu", action="store_true", help="use the CPU, not the GPU")
    parser.add_argument(
        "--threads", type=count, metavar="N", help="CPU threads per process (default: an equal share of the cores)"
    )
    parser.add_argument(
        "--mixed-precision", choices=("no", "bf16", "fp16"), help="precision of the network (default: no)"
    )


def eval_run(args: argparse.Namespace) -> int:
    """Evaluate, and print and write the numbers."""
    from accelerate import Accelerator

    from pkdzoo.data import find_split
    from pkdzoo.evaluation import evaluate_results, write_metrics
    from pkdzoo.evaluation.ground_truth import JsonGroundTruth
    from pkdzoo.training import run_folder, threads
    from pkdzoo.training.errors import describe_error
    from pkdzoo.training.evaluate import table

    accelerator = Accelerator(cpu=args.cpu, mixed_precision=args.mixed_precision)
    threads.share_cores(accelerator, args.threads)
    try:
        paths = find_split(args.data, args.split, args.annotations, args.images)
        if args.model.endswith(".json"):
            about: dict[str, Any] = {"detections": args.model, "annotations": str(paths[0])}
            about |= run_folder.about_data(paths[0], len(JsonGroundTruth(paths[0]).image_ids))
            metrics = evaluate_results(args.model, paths[0], args.backend)
        else:
            metrics, about = evaluate_detector(args, accelerator, paths)
    except (ValueError, OSError) as error:  # an error of a loader process contains its traceback
        if args.debug:
            raise
        message = describe_error(error).replace("pass skip_other_classes=True", "write --skip-other-classes")
        raise ValueError(message) from None
    if accelerator.is_main_process:
        path = write_metrics(args.output, metrics, **about, **run_folder.about(accelerator.num_processes))
        show(args, f"{table(metrics)}\nwritten to {path.resolve()}", {**about, **metrics})
    return 0


def evaluate_detector(
    args: argparse.Namespace, accelerator: Accelerator, paths: tuple[Path, Path]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate a detector on a split.

    Args:
        args: of the command line.
        accelerator: of the processes.
        paths: annotation file and image folder.

    Returns:
        The numbers; and facts about the detector, the data and the speed.
    """
    from pkdzoo.training import build, run_folder
    from pkdzoo.training.evaluate import evaluate, time_images

    model = open_detector(args, accelerator.device)
    dataset = build.val_dataset(paths, model.resize, model.label_names, args.skip_other_classes, model.letterbox)
    if accelerator.is_main_process:
        note(str(dataset.report))
    loader = accelerator.prepare(build.val_loader(dataset, args.batch_size, args.workers))
    metrics = evaluate(model, loader, dataset, accelerator, args.backend)
    about = {"detector": args.model, "weights": model.loaded_from, "annotations": str(paths[0])}
    speed = time_images(model, dataset, accelerator)
    return metrics, about | run_folder.about_data(dataset.json_path, len(dataset)) | speed


EVAL = Verb(
    "evaluate a detector: COCO's twelve numbers and AP per class",
    (
        "pkdzoo eval retina_r50_pkd_swin --data coco",
        "pkdzoo eval runs/mine --data my/data.yaml --split test --output test.json",
        "pkdzoo eval results/detections.json --data coco --json > numbers.json",
    ),
    eval_arguments,
    eval_run,
)
