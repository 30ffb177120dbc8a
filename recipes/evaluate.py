"""Evaluate a detector: COCO's twelve metrics, and by class AP and the threshold with the highest F1.

    python recipes/evaluate.py retina_r50_pkd_swin --data coco/
    python recipes/evaluate.py runs/mine --data DIR                # a run's best student
    accelerate launch --num_processes 8 recipes/evaluate.py runs/mine/last --data DIR
    python recipes/evaluate.py detections.json --data DIR          # detections of any program, or of predict --save

The numbers are printed; those of a run are written to RUN/eval_SPLIT.json, others with --output FILE.
Images are evaluated one at a time, as for published numbers; --batch-size 8 is faster, and gives the same numbers if
all images have one size. This is ``pkdzoo eval`` as a script, for launchers that need one.
"""

import sys

from pkdzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
