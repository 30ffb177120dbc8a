"""``pkdzoo doctor``: versions, devices, extras, caches, the network and a short self-test, for people and for reports.

Paths in the home folder begin with ``~``, and no token is read, so that the output can be published.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import Any

from pkdzoo.cli.common import Parser, Verb, show
from pkdzoo.utils.text import counted
from pkdzoo.version import __version__

LIBRARIES = (
    "torch", "torchvision", "accelerate", "huggingface_hub", "safetensors", "numpy", "pillow", "pycocotools",
)  # fmt: skip
VARIABLES = (
    "HF_HUB_OFFLINE", "PKDZOO_CACHE", "PKDZOO_MIRROR", "PKDZOO_HUB_NAMESPACE", "PKDZOO_REQUIRE_SHA256",
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "ACCELERATE_USE_CPU",
)  # fmt: skip
TIMEOUT = 3.0  # seconds that the Hub may take to answer


def doctor_arguments(parser: Parser) -> None:
    """Add the arguments of ``doctor``."""
    parser.add_argument("--no-network", action="store_true", help="do not ask whether the Hub can be reached")


def doctor_run(args: argparse.Namespace) -> int:
    """Print what was found; exit code 1 if the self-test fails."""
    facts: dict[str, Any] = {"pkdzoo": {"version": __version__, "folder": short_path(Path(__file__).parents[1])}}
    facts["system"] = about_system()
    parts: dict[str, Callable[[], Any]] = {
        "versions": about_versions,
        "device": about_device,
        "extras": about_extras,
        "cache": about_cache,
        "hub": lambda: about_hub(ask=not args.no_network),
        "variables": lambda: {name: short(os.environ[name]) for name in VARIABLES if name in os.environ},
        "self-test": self_test,
    }
    for name, part in parts.items():
        try:
            facts[name] = part()
        except Exception as error:  # the other parts are still worth a report
            facts[name] = {"error": short(f"{type(error).__name__}: {error}")}
    show(args, as_text(facts), facts)
    return 1 if "error" in facts["self-test"] else 0


def as_text(facts: dict[str, Any]) -> str:
    """The facts as aligned text."""
    lines = []
    for title, content in facts.items():
        rows = content if isinstance(content, dict) else {"": content}
        shown = [f"{key}: {value}" if key else str(value) for key, value in rows.items()]
        lines += [f"{title if k == 0 else '':<10} {row}" for k, row in enumerate(shown or ["none"])]
    return "\n".join(lines)


def short(text: str) -> str:
    """A text with the home folder as ``~``, and without the user and password of links."""
    home = str(Path.home())
    if len(home) > 1:
        text = text.replace(home, "~")
    return re.sub(r"://[^/@\s]*@", "://", text)


def short_path(path: Path) -> str:
    """A path with the home folder as ``~``."""
    return short(str(path))


def about_system() -> dict[str, str]:
    """Python and the operating system."""
    return {"python": platform.python_version(), "platform": platform.platform(), "executable": short(sys.executable)}


def about_versions() -> dict[str, str]:
    """Versions of the libraries that every installation needs."""
    return {name: version_of(name) for name in LIBRARIES}


def version_of(name: str) -> str:
    """The installed version of a package, or ``missing``."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def about_device() -> dict[str, Any]:
    """GPUs, cores, threads and the evaluator."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {
        "cpu": f"{cores} of {counted(os.cpu_count() or 0, 'core')}, {counted(torch.get_num_threads(), 'thread')}"
    }
    if torch.cuda.is_available():
        facts["cuda"] = torch.version.cuda
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            facts[f"gpu {index}"] = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    elif torch.backends.mps.is_available():
        facts["gpu"] = "mps"
    else:
        built = torch.version.cuda
        facts["gpu"] = f"none that torch can use (torch is built for {f'CUDA {built}' if built else 'the CPU only'})"
    facts["evaluator"] = "faster-coco-eval" if util.find_spec("faster_coco_eval") else "pycocotools"
    return facts


def about_extras() -> dict[str, str]:
    """Each extra: installed, or the packages that it lacks."""
    lacking: dict[str, list[str]] = {}
    for requirement in metadata.requires("pkdzoo") or []:
        match = re.match(r"([\w.-]+)", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if match is None or extra is None or extra[1] == "dev":
            continue
        missing = lacking.setdefault(extra[1], [])
        if version_of(match[1]) == "missing":
            missing.append(match[1])
    return {name: f"lacks {', '.join(missing)}" if missing else "installed" for name, missing in lacking.items()}


def about_cache() -> dict[str, Any]:
    """The folder of downloaded weights: its files, whether it can be written, and the free space."""
    from pkdzoo.hub.fetch import cache_folder

    folder = cache_folder()
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    files = [path for path in folder.glob("*.safetensors") if path.is_file()] if folder.is_dir() else []
    return {
        "folder": short_path(folder),
        "weights": f"{counted(len(files), 'file')}, {sum(path.stat().st_size for path in files) / 1e6:.0f} MB",
        "writable": os.access(existing, os.W_OK),
        "free": f"{shutil.disk_usage(existing).free / 1e9:.1f} GB",
    }


def about_hub(ask: bool) -> dict[str, str]:
    """Whether the Hub answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return {"state": "not asked: HF_HUB_OFFLINE forbids it"}
    if not ask:
        return {"state": "not asked"}
    from pkdzoo.hub.download import AGENT
    from pkdzoo.utils.http import Limits, open_link

    begin = time.monotonic()
    try:
        with open_link(constants.ENDPOINT, Limits(size=1 << 20, seconds=TIMEOUT, idle=TIMEOUT, slowest=0.0), AGENT):
            return {"state": f"reachable, {1000 * (time.monotonic() - begin):.0f} ms"}
    except Exception as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        return {"state": short(f"not reachable: {reason}. Weights then come from the cache")}


def self_test() -> dict[str, str]:
    """Detect in an image, train a step and save, with the detector of the package; about two seconds.

    Raises:
        RuntimeError: for a wrong result.
    """
    import tempfile

    import torch

    from pkdzoo.data import make_shapes
    from pkdzoo.data.image_io import read_image
    from pkdzoo.models._factory import create_detector
    from pkdzoo.structures import Batch, Instances

    begin = time.monotonic()
    model = create_detector("fcos_r18w24.shapes", pretrained=True)
    with tempfile.TemporaryDirectory() as folder:
        image = min(make_shapes(Path(folder) / "shapes", train=1, val=1, size=(128, 160)).glob("train2017/*"))
        found: Any = model.predict(image, threshold=0.3)
        if not len(found):
            raise RuntimeError("the packaged detector finds nothing in a generated image")
        pixels = read_image(image)[None].float()
        target = Instances(found.boxes, found.labels)
        losses = model.train()(Batch(pixels, [tuple(pixels.shape[-2:])], [target]))  # type: ignore[list-item]
        total = torch.stack(list(losses.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        if not torch.isfinite(total):
            raise RuntimeError(f"the loss of a training step is {float(total)}")
        model.save_pretrained(Path(folder) / "saved")
        create_detector(f"local-dir:{folder}/saved")
    return {"detect, train, save, load": f"good, {time.monotonic() - begin:.1f} s"}


DOCTOR = Verb(
    "show versions, devices, extras, caches and the network, and run a short self-test",
    ("pkdzoo doctor", "pkdzoo doctor --json --no-network"),
    doctor_arguments,
    doctor_run,
)
