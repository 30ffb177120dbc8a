"""The folder of a run: its lock, its checks and its files.

OUTPUT/recipe.json        the recipe, overrides included
OUTPUT/run.json           command, versions, hardware, teacher
OUTPUT/data               generated images, if the recipe generates its data
OUTPUT/log.jsonl          one line every few steps, and one per evaluation
OUTPUT/metrics.json       metrics of the last evaluation; best/metrics.json has those of the best
OUTPUT/detections.safetensors  detections of the last evaluation, and OUTPUT/report.html, which is made from them
OUTPUT/checkpoints/step_N everything that a resumed run needs, see checkpoint.py
OUTPUT/last, OUTPUT/best  the student: model.safetensors and config.json
OUTPUT/.lock              locked while the run is active
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from pkdzoo.checkpoints.io import TEMPORARY as SAFETENSORS_TEMPORARY
from pkdzoo.evaluation import write_metrics
from pkdzoo.evaluation.saved_detections import DETECTIONS
from pkdzoo.hub.card_metrics import WEIGHTS
from pkdzoo.hub.files import TENSORS
from pkdzoo.models.detector import Detector
from pkdzoo.training import checkpoint
from pkdzoo.training import resume as resume_rules
from pkdzoo.training.processes import run_on_main_process
from pkdzoo.training.provenance import read_json_object
from pkdzoo.training.recipe import Recipe
from pkdzoo.utils.files import sha256_of_file, write_json
from pkdzoo.version import __version__

LOCK = ".lock"
LOCK_TIMEOUT = 8.0  # seconds: loader processes of a killed run share its lock, and check every 5 s whether it is gone
# What a run writes to besides generated data, and the temporary files of its atomic writes.
WRITTEN = (
    "checkpoints", "last", "best", "recipe.json", "run.json", "metrics.json", "log.jsonl", DETECTIONS, "report.html",
    LOCK,
)  # fmt: skip
TEMPORARY = re.compile(  # atomic writes: ours, and those of safetensors
    r"\.(recipe|run|metrics|log|model|config|detections|report)\.[a-z0-9_]{8}\.(json|jsonl|safetensors|html)|"
    + SAFETENSORS_TEMPORARY
)


# -- lock and checks --------------------------------------------------------------------------------------------------


@contextmanager
def lock_folder(output: Path, accelerator: Accelerator) -> Iterator[None]:
    """Lock a folder, so that only one run writes to it. Every process calls it; the main process holds the lock.

    The system releases the lock when the process ends, also when it is killed.

    Args:
        output: the run's folder; created if missing.
        accelerator: of the run.

    Raises:
        ValueError: on every process, if another run holds the lock or the folder cannot hold a run.
    """
    lock = FileLock(output / LOCK)
    created: list[Path] = []

    def open_and_lock() -> None:
        try:
            check_folder(output)
            created.extend(path for path in (output, *output.parents) if not path.exists())
            output.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=LOCK_TIMEOUT)
        except Timeout:
            message = f"another run is writing to {output}: wait until it has ended, or choose another --output"
            raise ValueError(message) from None
        except NotImplementedError as error:
            warnings.warn(
                f"{output} cannot be locked, its file system has no locks ({error}): do not start a second run there",
                stacklevel=5,
            )
        except OSError as error:
            raise ValueError(str(error)) from error

    run_on_main_process(open_and_lock)
    try:
        yield
    finally:
        _remove_empty(output, created)
        lock.release()


def _remove_empty(output: Path, created: Iterable[Path]) -> None:
    """Remove the folders that a run made before it failed, as long as nothing but its lock is in them."""
    try:
        if created and [path.name for path in output.iterdir()] == [LOCK]:
            (output / LOCK).unlink()
        for folder in created:  # the run's own first, then its parents
            folder.rmdir()
    except OSError:  # not empty, or a system that keeps the file of a lock
        return


def check_folder(output: Path) -> None:
    """Check that a path is missing, empty or the folder of a run without symbolic links; nothing is written.

    Raises:
        ValueError: if it is a file, holds something else, or has a link in place of what a run writes.
    """
    refuse_links(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: --output takes a folder")
    if (output / "recipe.json").is_file() or not output.is_dir():
        return
    if any(not _left_by_a_run(entry) for entry in output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no run: choose another --output")


def check_output(output: Path, recipe: Recipe, resume: bool) -> None:
    """Check that this run may write to a folder; nothing is written.

    Raises:
        ValueError: if it holds another run, this run without ``resume``, or something else than a run.
    """
    check_folder(output)
    recipe_file = output / "recipe.json"
    if not recipe_file.is_file():
        return
    old = read_json_object(recipe_file)
    if not resume:
        raise ValueError(
            f"{output} holds a run of {old.get('name')!r} already: continue it with --resume, "
            "or choose another --output"
        )
    resume_rules.check_changes(output, old, recipe.to_dict())
    resume_rules.check_checkpoints(output)


def refuse_links(output: Path) -> None:
    """Check that nothing that a run writes or deletes is a symbolic link to somewhere else.

    Raises:
        ValueError: naming the link.
    """
    for name in (*WRITTEN, "data"):
        if (output / name).is_symlink():
            raise ValueError(
                f"{output / name} is a symbolic link, and a run would write or delete where it leads: put the folder "
                "or file itself there. To keep a run on another disk, let --output be a folder there"
            )


def _left_by_a_run(entry: Path) -> bool:
    """Whether a run that was killed before it wrote its recipe can have left this file or folder."""
    if entry.name == "checkpoints" and entry.is_dir():
        return not any(entry.iterdir())
    return entry.name in ("data", LOCK) or TEMPORARY.fullmatch(entry.name) is not None  # data may be generated


def open_output(output: Path, recipe: Recipe, about: Mapping[str, Any]) -> None:
    """Create the folder, write ``recipe.json`` and ``run.json``, and delete what interrupted saves have left."""
    (output / "checkpoints").mkdir(parents=True, exist_ok=True)
    checkpoint.clear_unfinished(output)
    for file in (path for folder in (output, output / "last", output / "best") for path in folder.glob(".*")):
        if TEMPORARY.fullmatch(file.name):
            file.unlink(missing_ok=True)
    write_json(output / "recipe.json", recipe.to_dict())
    write_json(output / "run.json", dict(about))


# -- files ------------------------------------------------------------------------------------------------------------


def about(processes: int) -> dict[str, Any]:
    """Command, versions, hardware and time of this run, which are written beside its metrics."""
    return {
        "command": command_line(),
        "pkdzoo": __version__,
        "torch": torch.__version__,
        "processes": processes,
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def command_line() -> str:
    """The command of this process; ``pkdzoo`` for its command line, from wherever it is started."""
    program = Path(sys.argv[0])
    own = program.name == "pkdzoo" or program.parts[-2:] == ("pkdzoo", "__main__.py")
    return shlex.join(["pkdzoo" if own else sys.argv[0], *sys.argv[1:]])


def hardware() -> str:
    """GPUs or CPU cores of this process, as text."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores, {platform.machine()}"


def about_data(annotations: Path, images: int) -> dict[str, Any]:
    """The number of evaluated images, and the SHA-256 of their annotations if these are one file."""
    return {"images": images, **({"annotations_sha256": sha256_of_file(annotations)} if annotations.is_file() else {})}


def export(model: Detector, output: Path, metrics: Mapping[str, Any], about: Mapping[str, Any], best: bool) -> None:
    """Write the model to ``last`` and, if it is the best so far, to ``best``, each with its metrics.

    ``create_detector("local-dir:FOLDER")`` loads each folder. The metrics include the hash of the weights: a run killed
    between writing the two leaves new weights beside old metrics, which publishing detects.
    """
    for folder in [output / "last", output / "best"] if best else [output / "last"]:
        model.save_pretrained(folder)
        write_metrics(folder / "metrics.json", dict(metrics), **about, **{WEIGHTS: sha256_of_file(folder / TENSORS)})
    write_metrics(output / "metrics.json", dict(metrics), **about)


def read_metrics(output: Path) -> dict[str, Any]:
    """The metrics of a run's last evaluation."""
    content: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return content
