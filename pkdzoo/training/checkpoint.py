"""How far a run is and its checkpoints, so that it can be killed at any moment and go on as if nothing had happened.

A checkpoint is written beside its place, forced to the disk and renamed: it is there as a whole or not at all. How far
the run is stands in its manifest, not in the folder's name. Randomness needs no saving: every step is seeded by
(seed, step, process), every image by (seed, epoch, image), every order by (seed, epoch).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pkdzoo.checkpoints.io import save_archive, save_safetensors
from pkdzoo.utils.files import sha256_of_file, sync_to_disk, write_json

MANIFEST = "manifest.json"


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
            sync_to_disk(file)
        hashes = {file.name: sha256_of_file(file) for file in sorted(building.iterdir())}
        write_json(building / MANIFEST, _signed({"progress": asdict(progress), "sha256": hashes}), allow_nan=True)
        sync_to_disk(building)
        os.replace(building, final)
        sync_to_disk(folder)
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
            if not (path / name).is_file() or sha256_of_file(path / name) != wanted
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


# -- progress --------------------------------------------------------------------------------------------------------


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
        patience: see ``Logging``.
    """
    stopped_early = patience is not None and progress.stale >= patience
    return replace(progress, done=progress.done and (progress.step >= steps or stopped_early))


# -- seeds -----------------------------------------------------------------------------------------------------------


def seed_step(seed: int, step: int, process: int) -> None:
    """Seed all of torch for one step of one process: a resumed run draws what the uninterrupted one drew."""
    digest = hashlib.blake2b(f"{seed}/{step}/{process}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)
