"""``pkdzoo eval``: COCO's twelve numbers, and by class AP and the best threshold, on any number of processes."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkdzoo.cli.common import (
    LAYOUTS,
    Parser,
    Verb,
    add_detector,
    detector_from_args,
    exported_from_args,
    is_exported,
    note,
    show,
)
from pkdzoo.utils.option_types import natural_int, positive_int
from pkdzoo.utils.text import printable

if TYPE_CHECKING:
    from accelerate import Accelerator


def eval_arguments(parser: Parser) -> None:
    """Add the arguments of ``eval``."""
    files = (
        "; or a file of 'pkdzoo export' (.onnx, .xml); or detections: a COCO results file (.json) of any program, or "
        "a file of 'predict --save'"
    )
    add_detector(parser, files, device=False)
    default = "(default: %(default)s)"
    parser.add_argument("--data", type=Path, metavar="FOLDER", help=f"data set ({LAYOUTS})")
    parser.add_argument("--split", default="val", metavar="NAME", help=f"split of the data set {default}")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="annotation file, if it is elsewhere")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="image folder, if it is elsewhere")
    output = "file for the numbers (default: eval_SPLIT.json in the folder of a run, none for other detectors)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=output)
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=1,
        metavar="N",
        help="images per batch; published numbers use 1 (default: 1)",
    )
    parser.add_argument(
        "--workers", type=natural_int, default=2, metavar="N", help=f"processes that load images {default}"
    )
    parser.add_argument(
        "--skip-other-classes", action="store_true", help="ignore classes that the detector does not have"
    )
    parser.add_argument(
        "--backend", choices=("auto", "pycocotools", "faster"), default="auto", help=f"evaluator {default}"
    )
    parser.add_argument("--cpu", action="store_true", help="use the CPU, not the GPU")
    parser.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="CPU threads per process (default: an equal share of the cores)",
    )
    parser.add_argument(
        "--mixed-precision", choices=("no", "bf16", "fp16"), help="precision of the network (default: no)"
    )


def eval_run(args: argparse.Namespace) -> int:
    """Evaluate, and print and write the numbers."""
    from accelerate import Accelerator

    from pkdzoo.data import find_split
    from pkdzoo.evaluation import write_metrics
    from pkdzoo.evaluation.results_file import SUFFIXES
    from pkdzoo.training import run_folder, threads
    from pkdzoo.training.errors import describe_error
    from pkdzoo.training.evaluate import table
    from pkdzoo.training.processes import run_on_main_process
    from pkdzoo.utils.files import check_target

    accelerator = Accelerator(cpu=args.cpu, mixed_precision=args.mixed_precision)
    threads.share_cores(accelerator, args.threads)
    path = args.output or output_in_run(args)
    if path is not None:
        run_on_main_process(lambda: check_target(path))  # the evaluation may take hours
    try:
        if args.model.endswith(SUFFIXES):  # no image is needed
            annotations = args.annotations or find_split(args.data, args.split, None, args.images)[0]
            check_overwriting(path, Path(args.model), annotations)
            metrics, about = evaluate_file(args, annotations)
        else:
            paths = find_split(args.data, args.split, args.annotations, args.images)
            check_overwriting(path, paths[0])
            metrics, about = evaluate_detector(args, accelerator, paths)
    except (ValueError, OSError) as error:  # an error of a loader process contains its traceback
        if args.debug:
            raise
        message = describe_error(error).replace("pass skip_other_classes=True", "write --skip-other-classes")
        raise ValueError(message) from None
    if accelerator.is_main_process:
        # printed first: the disk may be full by now
        show(args, f"{table(metrics)}\n\n{threshold_table(metrics['best_f1'])}", {**about, **metrics})
        if path is not None:
            write_metrics(path, metrics, **about, **run_folder.about(accelerator.num_processes))
            if not args.json:
                print(printable(f"written to {path.resolve()}"))
    return 0


def output_in_run(args: argparse.Namespace) -> Path | None:
    """The file for the numbers of a run's student, in the folder of the run; None for other detectors."""
    folder = Path(args.model)
    student = f"_{folder.name}" if folder.name == "last" else ""
    run = folder.parent if folder.name in ("best", "last") else folder
    return run / f"eval_{args.split}{student}.json" if (run / "recipe.json").is_file() else None


def check_overwriting(output: Path | None, *inputs: Path) -> None:
    """Refuse to write the numbers over a file from which they are computed."""
    for file in inputs:
        for part in (file, file.parent):  # the annotations of YOLO are data.yaml/SPLIT
            if output is not None and output.is_file() and part.is_file() and output.samefile(part):
                raise ValueError(f"--output {output} would overwrite {part}, which is read: choose another file")


def threshold_table(best: dict[str, Any]) -> str:
    """The threshold with the highest F1, and precision, recall and F1 at it, for all classes and by class."""
    rows = {"all classes": best["all"], **{printable(name): row for name, row in best["per_class"].items()}}
    # all digits: a rounded threshold may lie above the scores that it is to keep, which are often close to 1
    width = max(map(len, rows))
    lines = ["threshold with the highest F1 at IoU 0.5", f"{'':<{width}}  threshold  precision  recall    F1"]
    for name, row in rows.items():
        if row is None:
            lines.append(f"{name:<{width}}  {'-':>9}  {'-':>9}  {'-':>6}  {'-':>4}")
            continue
        precision, recall, f1 = (f"{row[key]:.1f}" for key in ("precision", "recall", "f1"))
        lines.append(f"{name:<{width}}  {row['threshold']:>9.8g}  {precision:>9}  {recall:>6}  {f1:>4}")
    return "\n".join(lines)


def evaluate_file(args: argparse.Namespace, annotations: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate a file of detections; the numbers, and facts about the files."""
    from pkdzoo.evaluation import evaluate_results
    from pkdzoo.evaluation.ground_truth import AnnotationFile
    from pkdzoo.evaluation.results_file import SUFFIXES
    from pkdzoo.training import run_folder

    options = ("checkpoint", "labels", "skip_other_classes", "mixed_precision")
    given = [f"--{name.replace('_', '-')}" for name in options if getattr(args, name) not in (None, False)]
    if given:
        raise ValueError(f"{args.model} holds detections, and no detector runs: leave {', '.join(given)} out")
    for file in (args.model, args.annotations):
        if file is not None and Path(file).suffix in SUFFIXES and not Path(file).is_file():
            raise ValueError(f"there is no file {file}: check the path")
    truth = AnnotationFile(annotations)
    for remark in truth.remarks():
        note(remark)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        metrics = evaluate_results(args.model, truth, args.backend, thresholds=True)
    for warning in caught:
        note(str(warning.message))
    about = {"detections": args.model, "annotations": str(annotations)}
    return metrics, about | run_folder.about_data(annotations, len(truth.image_ids))


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
    from pkdzoo.hub.card_metrics import WEIGHTS
    from pkdzoo.hub.files import TENSORS
    from pkdzoo.inference.predictor import own_size
    from pkdzoo.training import build, loaders, run_folder
    from pkdzoo.training.evaluate import evaluate, time_images
    from pkdzoo.utils.files import sha256_of_file

    exported = is_exported(args.model)
    model = exported_from_args(args, args.threads) if exported else detector_from_args(args, accelerator.device)
    dataset = build.val_dataset(
        paths, own_size(model), model.label_names, args.skip_other_classes, model.letterbox, model.canvas
    )
    if accelerator.is_main_process:
        note(dataset.report.describe(evaluated=True))
    loader = accelerator.prepare(loaders.val_loader(dataset, args.batch_size, args.workers))
    metrics = evaluate(model, loader, dataset, accelerator, args.backend, thresholds=True)
    about = {"detector": args.model, "weights": model.loaded_from, "annotations": str(paths[0])}
    file = Path(str(args.checkpoint or str(model.loaded_from).removeprefix("local-dir:")))
    file = file / TENSORS if file.is_dir() else file
    about |= {WEIGHTS: sha256_of_file(file)} if file.is_file() and not exported else {}  # for what is published
    speed = time_images(model, dataset, accelerator)
    return metrics, about | run_folder.about_data(dataset.json_path, len(dataset)) | speed


EVAL = Verb(
    "evaluate a detector: COCO's twelve numbers, AP per class, and the threshold with the highest F1",
    (
        "pkdzoo eval retina_r50_pkd_swin --data coco",
        "pkdzoo eval runs/mine --data my/data.yaml --split test --output test.json",
        "pkdzoo eval results/detections.json --data coco --json > numbers.json",
        "pkdzoo eval results/found.jsonl --data my/data.yaml",
    ),
    eval_arguments,
    eval_run,
)
