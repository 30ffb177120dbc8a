"""An annotation file of COCO's full size: seconds and memory of loading it, and of eight workers that share it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.scripts import ROOT
from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads memory from /proc"),
]

IMAGES, BOXES = 118_000, 860_000

# In a process of its own, so that the peak is that of loading; PSS counts a page shared by n processes as 1/n.
LOAD = """
import json, os, sys, time
from pathlib import Path
import torch
from torch.utils.data import DataLoader
from pkdzoo.data import CocoDataset
from pkdzoo.data.image_io import read_image
import pkdzoo.data.image_reader as reader

def rollup(key, process="self"):
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

file, images = sys.argv[1:3]
torch.set_num_threads(1)
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before, started, busy = rollup("Rss"), time.perf_counter(), time.process_time()
data = CocoDataset(file, images)
found = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - busy, "peak": peak() - before}
found |= {"images": len(data), "boxes": data.report.boxes, "polygons_kept": data.segments is not None}

def read(path, size, at_least):  # one real image of twenty: decoding them all would be most of this test
    return read_image(sys.argv[3]) if int(path.stem) % 20 == 0 else torch.zeros(3, 480, 640, dtype=torch.uint8)

reader.read_image = read
loader = DataLoader(data, batch_size=8, num_workers=8, collate_fn=lambda items: len(items), prefetch_factor=2)
alone = rollup("Pss")
each = []
for number, _ in enumerate(batches := iter(loader)):
    if number == 2400:  # 2,400 images of each
        each = [rollup("Pss", worker.pid) for worker in batches._workers]
        break
found |= {"alone": alone, "workers": each, "all": rollup("Pss") + sum(each)}
print(json.dumps(found))
os._exit(0)
"""


def write(path: Path) -> int:
    """Boxes and polygons of COCO's number and length, drawn; returns the number of polygons."""
    rng = random.Random(0)
    with path.open("w") as file:
        file.write('{"info": {"year": 2017}, "images": [')
        for k in range(IMAGES):
            name = f"{k:012d}.jpg"
            row = {"license": 3, "file_name": name, "coco_url": f"http://images.example.org/train2017/{name}",
                   "height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45", "id": 2 * k + 1}  # fmt: skip
            file.write((", " if k else "") + json.dumps(row))
        file.write('], "annotations": [')
        outlines = [[round(rng.uniform(0, 400), 2) for _ in range(2 * rng.randint(8, 40))] for _ in range(500)]
        for k in range(BOXES):
            x, y, w, h = (round(rng.uniform(1, 200), 2) for _ in range(4))
            row = {"segmentation": [outlines[k % 500]], "area": round(w * h / 2, 3), "iscrowd": 0,
                   "image_id": 2 * rng.randrange(IMAGES) + 1, "bbox": [x, y, w, h], "category_id": rng.randint(1, 80),
                   "id": k}  # fmt: skip
            file.write((", " if k else "") + json.dumps(row))
        rows = [{"supercategory": "thing", "id": k, "name": f"class {k}"} for k in range(1, 81)]
        file.write('], "categories": ' + json.dumps(rows) + "}")
    return BOXES


def test_a_file_of_full_size_loads_quickly_and_stays_small(tmp_path) -> None:
    file = tmp_path / "instances.json"
    polygons = write(file)
    assert file.stat().st_size > 300e6 and polygons == BOXES
    image = Image.effect_noise((640, 480), 80).convert("RGB")
    image.save(tmp_path / "image.jpg")
    command = [sys.executable, "-c", LOAD, str(file), str(tmp_path), str(tmp_path / "image.jpg")]
    around = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=around, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    added = found["all"] - found["alone"]
    print(
        f"{file.stat().st_size / 1e6:.0f} MB of JSON: {found['seconds']:.1f} s ({found['cpu_seconds']:.1f} s of CPU), "
        f"{found['peak']:.0f} MB at its peak; 8 workers {min(found['workers']):.0f} to {max(found['workers']):.0f} MB "
        f"each, {added / 8:.0f} MB more for each"
    )
    assert (found["images"], found["boxes"], found["polygons_kept"]) == (IMAGES, BOXES, False)
    assert found["cpu_seconds"] <= 10  # of a core of its own: seconds on the clock are those of others as well
    assert found["peak"] <= 250
    assert len(found["workers"]) == 8 and added / 8 < 100 and max(found["workers"]) < 200
