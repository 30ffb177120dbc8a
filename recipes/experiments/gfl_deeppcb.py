"""DeepPCB, 1,000 images of defects on circuit boards, in full resolution: a narrow GFL, to learn from a wider one.

python recipes/experiments/run.py recipes/experiments/gfl_deeppcb.py --data deeppcb/ -- --cache-images 2
accelerate launch recipes/train.py recipes/experiments/gfl_deeppcb.py --data deeppcb/ --only gfl_deeppcb_plain

The detectors, methods and seeds of gfl_bccd.py, and CrossKD, with data, augmentation and schedule of rtmdet_deeppcb.py.
Only the teacher, a plain student and one with CrossKD have been trained.
"""

import runpy
from pathlib import Path

BOARDS, GFL = (runpy.run_path(str(Path(__file__).with_name(name))) for name in ("rtmdet_deeppcb.py", "gfl_bccd.py"))
CROSSKD = GFL["distilled"]("crosskd", {"crosskd": {}})
RECIPES = [BOARDS["on_boards"](recipe) for recipe in (*GFL["RECIPES"], CROSSKD)]
RUNS = tuple((tuple(map(BOARDS["renamed"], names)), seeds) for names, seeds in (*GFL["RUNS"], ((CROSSKD.name,), 1)))
