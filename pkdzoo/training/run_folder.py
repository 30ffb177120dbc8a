"""The folder of a run: whose it is, what it says about itself, and what is left in it for people.

OUTPUT/recipe.json        the recipe, overrides included
OUTPUT/run.json           command, versions, data files
OUTPUT/data               generated images, where a recipe makes its own
OUTPUT/log.jsonl          one line every few steps
OUTPUT/metrics.json       the numbers of the last evaluation; best/metrics.json those of the best
OUTPUT/checkpoints/step_N everything that resuming needs, see pkdzoo/training/state.py
OUTPUT/last, OUTPUT/best  the student alone: model.safetensors and config.json
OUTPUT/.lock              held by the run while it runs
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from pkdzoo.evaluation import write_metrics
from pkdzoo.hub.files import TENSORS
from pkdzoo.models.detector import Detector
from pkdzoo.training.provenance import WEIGHTS, read_object
from pkdzoo.training.recipe import Recipe
from pkdzoo.utils.files import sha256_of_file, write_json
from pkdzoo.version import __version__

LOCK = ".lock"
ORPHANS = 8.0  # seconds: loader processes share the lock of the run that was killed, and look after it every 5
IDENTITY = ("name", "model", "model_args", "distill")  # what may not change when a run is resumed


# -- whose it is -------------------------------------------------------------------------------------------------------


@contextmanager
def lock_folder(output: Path, accelerator: Accelerator) -> Iterator[None]:
    """Be the only run that writes to a folder. Every process calls it, the main one holds the lock.

    The system lets go of the lock when the process ends, however it ends: nothing has to be cleaned up after a kill.

    Args:
        output: the run's folder; made when missing.
        accelerator: of the run.

    Raises:
        ValueError: on every process, when another run holds it, or it is no place for a run.
    """
    lock, refused = FileLock(output / LOCK), ""
    if accelerator.is_main_process:
        try:
            check_place(output)
            output.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=ORPHANS)
        except Timeout:
            refused = f"another run is writing to {output}: wait until it has ended, or choose another --output"
        except NotImplementedError as error:
            warnings.warn(f"nothing keeps a second run out of {output}: its disk has no locks ({error})", stacklevel=3)
        except (ValueError, OSError) as error:
            refused = str(error)
    (refused,) = broadcast_object_list([refused])
    if refused:
        raise ValueError(refused)
    try:
        yield
    finally:
        lock.release()


def check_place(output: Path) -> None:
    """Refuse a folder that is none or holds something else than a run; nothing is written.

    Raises:
        ValueError: saying so.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: --output names a folder")
    if (output / "recipe.json").is_file() or not output.is_dir():
        return
    if any(_foreign(entry) for entry in output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no run: choose another --output")


def check_output(output: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse a folder that holds something else; nothing is written.

    Raises:
        ValueError: it holds another run, this run without ``resume``, or no run at all.
    """
    check_place(output)
    held = output / "recipe.json"
    if not held.is_file():
        return
    old, new = read_object(held), recipe.to_dict()
    if not resume:
        raise ValueError(
            f"{output} holds a run of {old.get('name')!r} already: continue it with --resume, "
            "or choose another --output"
        )
    changed = differences(old, new)
    moved = _moved_teacher(old.get("distill") or {}, new.get("distill") or {})
    fatal = [line for line in changed if re.split("[.:]", line)[0] in IDENTITY and line.split(":")[0] not in moved]
    if fatal:
        raise ValueError(f"{output} holds another run, --resume cannot continue it: {'; '.join(fatal)}")
    if changed:
        warnings.warn(f"resuming with a changed recipe: {'; '.join(changed)}", stacklevel=2)


def _moved_teacher(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Fields that say where a teacher's file is: it may lie elsewhere on another machine, see check_same_teacher."""
    folders = all(str(part.get("teacher")).startswith("local-dir:") for part in (old, new))
    files = all(part.get("teacher_weights") not in (None, "random") for part in (old, new))
    return ["distill.teacher"] * folders + ["distill.teacher_weights"] * files


def check_same_teacher(output: Path, taught: Mapping[str, Any]) -> None:
    """Refuse to go on with other weights of the teacher than the run began with.

    Args:
        output: the run's folder; new, or with a ``run.json``.
        taught: what this run would write there: ``teacher``, if there is one.

    Raises:
        ValueError: saying the hashes of both.
    """
    path = output / "run.json"
    began = (read_object(path)).get("teacher") or {}
    old, new = (str(facts.get("teacher_sha256") or "") for facts in (began, taught.get("teacher") or {}))
    if old and new and not (old.startswith(new) or new.startswith(old)):  # rows of published weights know a part
        raise ValueError(
            f"{output} began with teacher weights of sha256 {old[:8]}, these have {new[:8]}: --resume needs the same "
            "file, another teacher another --output"
        )


def _foreign(entry: Path) -> bool:
    """Whether a run that was killed before it had written its recipe cannot have left this."""
    if entry.name == "checkpoints" and entry.is_dir():
        return any(entry.iterdir())
    return entry.name not in ("data", LOCK) and not entry.name.startswith(
        ".recipe.json."
    )  # data may have been generated


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Every field in which two recipes differ, as ``field: old -> new``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
        ]
    return [] if old == new else [f"{where}: {json.dumps(old)} -> {json.dumps(new)}"]


def open_output(output: Path, recipe: Recipe, about: Mapping[str, Any]) -> None:
    """Make the folder and write what the run is; on resume the parts of a save that was cut short go."""
    (output / "checkpoints").mkdir(parents=True, exist_ok=True)
    for rest in (output / "checkpoints").glob(".*"):
        shutil.rmtree(rest, ignore_errors=True)
    for rest in (path for folder in (output, output / "last", output / "best") for path in folder.glob(".*.*")):
        rest.unlink(missing_ok=True)  # files on their way to be renamed
    write_json(output / "recipe.json", recipe.to_dict())
    write_json(output / "run.json", dict(about))


# -- what is left in it ------------------------------------------------------------------------------------------------


def about(processes: int) -> dict[str, Any]:
    """What a number should be able to say about where it comes from."""
    return {
        "command": shlex.join(sys.argv),
        "pkdzoo": __version__,
        "torch": torch.__version__,
        "processes": processes,
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def hardware() -> str:
    """What computes, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores, {platform.machine()}"


def about_data(annotations: Path, images: int) -> dict[str, Any]:
    """Which images a number was measured on: how many, and the hash of their annotations where they are one file."""
    return {"images": images, **({"annotations_sha256": sha256_of_file(annotations)} if annotations.is_file() else {})}


def export(model: Detector, output: Path, metrics: Mapping[str, Any], about: Mapping[str, Any], best: bool) -> None:
    """The student alone as ``last`` and, if it is the best so far, as ``best``, each with its numbers.

    Each folder is what ``create_detector("local-dir:FOLDER")`` loads. The numbers name the weights by their hash: a run
    that is killed between the two leaves new weights beside old numbers, and who publishes them is told.
    """
    for folder in [output / "last", output / "best"] if best else [output / "last"]:
        model.save_pretrained(folder)
        write_metrics(folder / "metrics.json", dict(metrics), **about, **{WEIGHTS: sha256_of_file(folder / TENSORS)})
    write_metrics(output / "metrics.json", dict(metrics), **about)


def read_metrics(output: Path) -> dict[str, Any]:
    """The numbers of a run's last evaluation."""
    content: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return content
