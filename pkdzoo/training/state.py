"""What a run keeps on disk, so that it can be killed at any moment and go on as if nothing had happened.

    OUTPUT/recipe.json        the recipe, overrides included
    OUTPUT/run.json           command, versions, data files
    OUTPUT/data               generated pictures, where a recipe makes its own
    OUTPUT/log.jsonl          one line every few steps
    OUTPUT/metrics.json       the numbers of the last evaluation; best/metrics.json those of the best
    OUTPUT/checkpoints/step_N everything that resuming needs, with a manifest of hashes
    OUTPUT/last, OUTPUT/best  the student alone: model.safetensors and config.json
    OUTPUT/.lock              held by the run while it runs

A checkpoint is written beside its place, forced to the disk and renamed: it is there as a whole or not at all. How far
the run is stands in its manifest, not in the folder's name. Randomness needs no saving: every step is seeded by
(seed, step, process), every picture by (seed, epoch, picture), every order by (seed, epoch).
"""

from __future__ import annotations

import hashlib
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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from safetensors.torch import load_file
from torch import Tensor, nn

from pkdzoo.checkpoints.io import save_archive, save_safetensors
from pkdzoo.evaluation import write_metrics
from pkdzoo.models.base import Detector
from pkdzoo.saved import TENSORS
from pkdzoo.training.provenance import WEIGHTS
from pkdzoo.training.recipe import Recipe
from pkdzoo.version import __version__

MANIFEST = "manifest.json"
LOCK = ".lock"
ORPHANS = 8.0  # seconds: loader processes share the lock of the run that was killed, and look after it every 5
IDENTITY = ("name", "model", "model_args", "distill")  # what may not change when a run is resumed


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: the one under way, counted from 0; epochs completed.
        step: optimiser steps done.
        step_in_epoch: those done in this epoch.
        best: highest value of the watched metric.
        stale: evaluations since then.
        done: nothing is left to train.
        window: unfinished sums of the log.
        batch: total batch the run was started with.
    """

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    best: float | None = None
    stale: int = 0
    done: bool = False
    window: dict[str, Any] = field(default_factory=dict)
    batch: int = 0


# -- files -----------------------------------------------------------------------------------------------------------


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def sha256(path: Path) -> str:
    """Hash of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Force a file or a folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- the folder of a run ---------------------------------------------------------------------------------------------


@contextmanager
def hold(output: Path, accelerator: Accelerator) -> Iterator[None]:
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
    old, new = _read_object(held), recipe.to_dict()
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


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object but a {type(content).__name__}")
    return content


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
    began = (_read_object(path) if path.is_file() else {}).get("teacher") or {}
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


# -- checkpoints -----------------------------------------------------------------------------------------------------


def save_checkpoint(
    output: Path, progress: Progress, tensors: Mapping[str, Tensor], rest: Mapping[str, Any], keep: int
) -> Path:
    """Write one checkpoint and drop the oldest ones beyond ``keep``. One process calls it.

    Args:
        output: the run's folder.
        progress: goes into the manifest.
        tensors: weights and buffers of everything that learns, by name.
        rest: state dicts of optimiser, schedule, scaler.
        keep: checkpoints that stay.

    Raises:
        OSError: e.g. a full disk; what was there before is untouched.
    """
    folder = output / "checkpoints"
    # The same step is saved again at an epoch's end, after its evaluation. The new one gets a place of its own: between
    # moving the old one away and the new one there, a killed run would have neither.
    name = f"step_{progress.step:08d}"
    names = [name, *(f"{name}.{number}" for number in range(1, 10))]
    final = next(folder / name for name in names if not (folder / name).exists())
    building = folder / f".building_{progress.step:08d}"
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir()
        save_safetensors(tensors, building / "model.safetensors")
        save_archive(dict(rest), building / "rest.pt")
        for file in building.iterdir():
            _sync(file)
        hashes = {file.name: sha256(file) for file in sorted(building.iterdir())}
        write_json(building / MANIFEST, _signed({"progress": asdict(progress), "sha256": hashes}))
        _sync(building)
        os.replace(building, final)
        _sync(folder)
    except OSError as error:
        what = f"the checkpoint of step {progress.step} could not be written: {error.strerror}"
        raise OSError(error.errno, f"{what}. The newest whole one: {last_good(output)}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    _prune(output, final, progress.step, keep)
    return final


def _prune(output: Path, new: Path, step: int, keep: int) -> None:
    """Drop what the checkpoint ``new`` makes useless: the oldest beyond ``keep``, and an earlier save of its step.

    Later steps go too: they were found damaged, or the run would have gone on from them.
    """
    folder = new.parent
    older = [path for saved, _, path in _listed(output) if saved < step]
    stay = {new, *older[: keep - 1]}
    for old in folder.glob("step_*"):
        if old not in stay:  # renamed first: a folder that is half deleted must not look like a checkpoint
            os.replace(old, old.with_name(f".old_{old.name}"))
    for old in folder.glob(".old_*"):
        shutil.rmtree(old, ignore_errors=True)


def list_checkpoints(output: Path) -> list[Path]:
    """Checkpoints of a run, newest first, by the step and the epoch their manifest states."""
    return [path for *_, path in _listed(output)]


def _listed(output: Path) -> list[tuple[int, int, Path]]:
    found = []
    for manifest in (output / "checkpoints").glob(f"step_*/{MANIFEST}"):
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
            unsigned = {key: content[key] for key in ("progress", "sha256")}
            if content not in (unsigned, _signed(unsigned)):  # the first are older than the hash
                raise ValueError("its own hash differs")
            progress = content["progress"]
            found.append((int(progress["step"]), int(progress["epoch"]), manifest.parent))
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{manifest} cannot be read ({error}); that checkpoint is not used", stacklevel=3)
    return sorted(found, reverse=True)


def _signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the hash of what it says: one flipped byte in a number is another number."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {**content, "manifest_sha256": digest}


def find_checkpoint(output: Path) -> tuple[Path, Progress] | None:
    """The newest checkpoint whose files are what its manifest says, and how far it is."""
    for path in list_checkpoints(output):
        manifest = json.loads((path / MANIFEST).read_text())
        broken = [
            name
            for name, wanted in manifest["sha256"].items()
            if not (path / name).is_file() or sha256(path / name) != wanted
        ]
        if not broken:
            return path, Progress(**manifest["progress"])
        warnings.warn(f"{path}: {', '.join(broken)} is damaged (its hash differs); going back further", stacklevel=2)
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state dicts, as they were given to :func:`save_checkpoint`."""
    rest = torch.load(path / "rest.pt", map_location="cpu", weights_only=True)
    return dict(load_file(path / "model.safetensors")), dict(rest)


def snapshot(
    task: nn.Module, optimizer: Any, scheduler: Any, scaler: Any, average: nn.Module | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that resuming needs, as :func:`save_checkpoint` takes it; no teacher is in it."""
    tensors = {f"task.{key}": value for key, value in task.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{key}": value for key, value in average.state_dict().items()}
    rest = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    if scaler is not None:
        rest["scaler"] = scaler.state_dict()
    return tensors, rest


def restore(
    path: Path, task: nn.Module, optimizer: Any, scheduler: Any, scaler: Any, average: nn.Module | None
) -> None:
    """The inverse of :func:`snapshot`, strictly; before anything is wrapped or moved."""
    tensors, rest = read_checkpoint(path)
    for prefix, module in (("task.", task), ("average.", average)):
        if module is not None:
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    optimizer.load_state_dict(rest["optimizer"])
    scheduler.load_state_dict(rest["scheduler"])
    if scaler is not None and "scaler" in rest:
        scaler.load_state_dict(rest["scaler"])


def last_good(output: Path) -> str:
    """Where the newest checkpoint is, in words."""
    found = list_checkpoints(output)
    return str(found[0]) if found else "no checkpoint yet: the run has to start again"


# -- results ---------------------------------------------------------------------------------------------------------


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


def about_data(annotations: Path, pictures: int) -> dict[str, Any]:
    """Which pictures a number was measured on: how many, and the hash of their annotations where they are one file."""
    return {"pictures": pictures, **({"annotations_sha256": sha256(annotations)} if annotations.is_file() else {})}


def note_metrics(progress: Progress, value: float | None) -> bool:
    """Take a new value of the watched metric into account; whether it is the best so far."""
    better = value is not None and (progress.best is None or value > progress.best)
    progress.best, progress.stale = (value, 0) if better else (progress.best, progress.stale + 1)
    return better


def reopened(progress: Progress, steps: int, patience: int | None) -> Progress:
    """The progress of a run that is resumed: one that was through goes on if its recipe asks for more by now.

    Args:
        progress: as the checkpoint has it.
        steps: optimiser steps of the whole run.
        patience: see ``Watch``.
    """
    stopped_early = patience is not None and progress.stale >= patience
    return replace(progress, done=progress.done and (progress.step >= steps or stopped_early))


def export(model: Detector, output: Path, metrics: Mapping[str, Any], about: Mapping[str, Any], best: bool) -> None:
    """The student alone as ``last`` and, if it is the best so far, as ``best``, each with its numbers.

    Each folder is what ``create_detector("local-dir:FOLDER")`` loads. The numbers name the weights by their hash: a run
    that is killed between the two leaves new weights beside old numbers, and who publishes them is told.
    """
    for folder in [output / "last", output / "best"] if best else [output / "last"]:
        model.save_pretrained(folder)
        write_metrics(folder / "metrics.json", dict(metrics), **about, **{WEIGHTS: sha256(folder / TENSORS)})
    write_metrics(output / "metrics.json", dict(metrics), **about)


def read_metrics(output: Path) -> dict[str, Any]:
    """The numbers of a run's last evaluation."""
    content: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return content


# -- seeds -----------------------------------------------------------------------------------------------------------


def seed_step(seed: int, step: int, process: int) -> None:
    """Seed all of torch for one step of one process: a resumed run draws what the uninterrupted one drew."""
    digest = hashlib.blake2b(f"{seed}/{step}/{process}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)
