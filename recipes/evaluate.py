"""Measure a detector: COCO's twelve numbers and AP by class, printed and written.

    python recipes/evaluate.py retina_r50_pkd_swin --data coco/
    python recipes/evaluate.py runs/mine --data DIR                # a run's best student
    accelerate launch --num_processes 8 recipes/evaluate.py runs/mine/last --data DIR
    python recipes/evaluate.py detections.json --data DIR          # a COCO results file, whoever wrote it

Pictures go through one at a time, as published numbers were measured; --batch-size 8 is faster, and the same where all
pictures have one size.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from accelerate import Accelerator

from pkdzoo.data import find_split
from pkdzoo.evaluation import evaluate_results, write_metrics
from pkdzoo.training import build, options, state
from pkdzoo.training.evaluate import evaluate, open_detector, table


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", help="a name, hf-hub:..., a folder of a run or a detector, or COCO results (.json)")
    parser.add_argument("--data", type=Path, help="folder of the data set")
    parser.add_argument("--split", default="val")
    parser.add_argument("--json", type=Path, help="annotation file, if it is elsewhere")
    parser.add_argument("--images", type=Path, help="picture folder, if it is elsewhere")
    parser.add_argument("--output", type=Path, default=Path("metrics.json"), help="where the numbers go")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--skip-other-classes", action="store_true", help="leave out classes the detector lacks")
    parser.add_argument("--backend", choices=("auto", "pycocotools", "faster"), default="auto")
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    parser.add_argument("--threads", type=int, help="CPU threads a process; without it all cores are shared out")
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    accelerator = Accelerator(cpu=args.cpu, mixed_precision=args.mixed_precision)
    options.share_cores(accelerator, args.threads)
    try:
        place = find_split(args.data, args.split, args.json, args.images)
        if args.detector.endswith(".json"):
            metrics = evaluate_results(args.detector, place[0], args.backend)
            write_metrics(args.output, metrics, detections=args.detector, annotations=str(place[0]), **state.about(1))
            return print(f"{table(metrics)}\nwritten to {args.output.resolve()}")
        model = open_detector(args.detector).to(accelerator.device)
        dataset = build.val_dataset(place, model.resize, model.label_names, args.skip_other_classes)
        accelerator.print(dataset.report)
        loader = accelerator.prepare(build.val_loader(dataset, args.batch_size, args.workers))
        metrics = evaluate(model, loader, dataset, accelerator, args.backend)
        if accelerator.is_main_process:
            about = {"detector": args.detector, "weights": model.loaded_from, "annotations": str(place[0])}
            about |= state.about_data(dataset.json_path, len(dataset))
            write_metrics(args.output, metrics, **about, **state.about(accelerator.num_processes))
            print(f"{table(metrics)}\nwritten to {args.output.resolve()}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {options.plainly(error)}")


if __name__ == "__main__":
    main()
