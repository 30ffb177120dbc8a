"""Draw what a detector sees: annotated images or videos, and all detections in one COCO file.

    python recipes/infer.py retina_r50_pkd_swin street.jpg --output out/
    python recipes/infer.py runs/mine holiday/ --output out/ --threshold 0.5

An image that cannot be read is named and left out; the others are done. This is ``pkdzoo predict`` as a script, with
``--output predictions`` and ``--save OUTPUT/predictions.json`` unless they are given.
"""

import argparse
import sys

from pkdzoo.cli import main

if __name__ == "__main__":
    given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    given.add_argument("--output", default="predictions")
    place, words = given.parse_known_args()
    sys.exit(main(["predict", "--save", f"{place.output}/predictions.json", "--output", place.output, *words]))
