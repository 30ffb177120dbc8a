"""Measure a detector: COCO's twelve numbers and AP by class, printed and written.

    python recipes/evaluate.py retina_r50_pkd_swin --data coco/
    python recipes/evaluate.py runs/mine --data DIR                # a run's best student
    accelerate launch --num_processes 8 recipes/evaluate.py runs/mine/last --data DIR
    python recipes/evaluate.py detections.json --data DIR          # a COCO results file, whoever wrote it

Images go through one at a time, as published numbers were measured; --batch-size 8 is faster, and the same where all
images have one size. This is ``pkdzoo eval`` as a script, for launchers that want one.
"""

import sys

from pkdzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
