"""A process that talks to the Hub on loopback by the Hub's real client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers.loopback_hub import TOKEN, Hub

ROOT = Path(__file__).parents[2]
# Reads one JSON line {"code": ...} after another, runs it, and answers with what it left in `answer`.
CLIENT = """
import json, sys
import numpy as np, torch
import pkdzoo, pkdzoo.utils.retry
out, sys.stdout = sys.stdout, sys.stderr
pkdzoo.utils.retry.WAIT = 0.01
from pathlib import Path
from huggingface_hub import HfApi
image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
def seen(model):
    result = model.predict(image, threshold=0.0)
    return [result.boxes.tolist(), result.scores.tolist(), list(result.names)]
def detector(seed):
    torch.manual_seed(seed)
    return pkdzoo.create_detector("retina_r10w16", label_names=["cat", "dog"], resize=(64, 96))
model = detector(0)
FACTS = dict(license="MIT", data="pets", data_license="CC0-1.0", metrics={"AP": 12.5}, source="a test")
print(json.dumps("ready"), file=out, flush=True)
for line in sys.stdin:
    answer = None
    try:
        exec(json.loads(line))
    except Exception as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(answer), file=out, flush=True)
"""


class Client:
    """A process that talks to the loopback Hub."""

    def __init__(self, hub: Hub, home: Path, **more: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "PKDZOO_"))}
        env = {
            **clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([os.environ.get("PKDZOO_TEST_HUB_CLIENT", ""), str(ROOT)]).strip(os.pathsep),
            **more,
        }  # fmt: skip
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-c", CLIENT], stdin=pipe, stdout=pipe, text=True, env=env)
        assert self.answer() == "ready"

    def __call__(self, code: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)
