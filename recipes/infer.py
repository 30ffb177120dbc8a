"""Run a detector: annotated images or videos, and all detections in one COCO results file.

    python recipes/infer.py retina_r50_pkd_swin street.jpg --output out/
    python recipes/infer.py runs/mine holiday/ --output out/ --threshold 0.5

Images that cannot be read are reported and skipped. This is ``pkdzoo predict`` as a script, with
the defaults ``--output predictions`` and ``--save OUTPUT/predictions.json``.
"""

import argparse
import sys

from pkdzoo.cli import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output", default="predictions")
    args, others = parser.parse_known_args()
    sys.exit(main(["predict", "--save", f"{args.output}/predictions.json", "--output", args.output, *others]))
