"""Evaluate a detector: COCO's twelve metrics and AP by class, printed and written to a file.

    python recipes/evaluate.py retina_r50_pkd_swin --data coco/
    python recipes/evaluate.py runs/mine --data DIR                # a run's best student
    accelerate launch --num_processes 8 recipes/evaluate.py runs/mine/last --data DIR
    python recipes/evaluate.py detections.json --data DIR          # a COCO results file of any program

Images are evaluated one at a time, as for published numbers; --batch-size 8 is faster, and gives the same numbers if
all images have one size. This is ``pkdzoo eval`` as a script, for launchers that need one.
"""

import sys

from pkdzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
