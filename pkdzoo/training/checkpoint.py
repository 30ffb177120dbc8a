"""Progress and checkpoints of a run: it can be killed at any moment and resumed with the same results, bit by bit.

A checkpoint is written to a temporary folder, synchronized to the disk and renamed, so it exists completely or not at
all. The progress is in its manifest, not in the folder's name. Random states need not be saved: every step is seeded by
(seed, step, process), every image by (seed, epoch, image), every order by (seed, epoch).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pkdzoo.checkpoints.io import TEMPORARY as SAFETENSORS_TEMPORARY
from pkdzoo.checkpoints.io import save_safetensors
from pkdzoo.utils.files import read_json, sha256_of_file, sync_to_disk, write_json

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
NAME = re.compile(r"step_\d{8,}(\.[1-9])?")  # of a checkpoint
UNFINISHED = re.compile(r"\.(building_\d{8,}|old_step_\d{8,}(\.[1-9])?)")  # half written or half deleted
FILES = re.compile(  # of a checkpoint, with the temporary files of atomic writes: ours, and those of safetensors
    r"(model|optimizer)\.safetensors|(state|manifest)\.json"
    r"|\.(model|optimizer|state|manifest)\.\w+\.(safetensors|json)|" + SAFETENSORS_TEMPORARY
)


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: current epoch, counted from 0; also the number of finished epochs.
        step: finished optimizer steps.
        step_in_epoch: finished optimizer steps of the current epoch.
        best: highest value so far of the metric ``logging.best``; None before the first evaluation.
        stale: evaluations since then in which the metric had a value.
        done: whether the run is finished.
        window: sums of the log since its last line.
    """

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    best: float | None = None
    stale: int = 0
    done: bool = False
    window: dict[str, Any] = field(default_factory=dict)


# -- checkpoints -----------------------------------------------------------------------------------------------------


def save_checkpoint(
    output: Path, progress: Progress, tensors: Mapping[str, Tensor], rest: Mapping[str, Any], keep: int
) -> Path:
    """Write one checkpoint and delete the oldest ones beyond ``keep``. Only the main process calls it.

    Args:
        output: the run's folder.
        progress: written to the manifest.
        tensors: weights and buffers of everything that is trained, by name.
        rest: state dicts of optimizer, schedule and scaler.
        keep: number of checkpoints that stay.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: e.g. for a full disk; earlier checkpoints are not changed.
    """
    folder = output / "checkpoints"
    if folder.is_symlink():
        raise OSError(f"{folder} is a symbolic link now, and no checkpoint is written through one: put the folder back")
    # The last step of an epoch is saved again after its evaluation. The new checkpoint gets a folder of its own: if it
    # replaced the old one, a run killed between the two renames would have neither.
    name = f"step_{progress.step:08d}"
    names = [name, *(f"{name}.{number}" for number in range(1, 10))]
    final = next(folder / name for name in names if not (folder / name).exists())
    building = folder / f".building_{progress.step:08d}"
    delete_checkpoint(building)
    try:
        building.mkdir()
        state_tensors: dict[str, Tensor] = {}
        state = _without_tensors(rest, state_tensors)
        save_safetensors(tensors, building / MODEL)
        save_safetensors(state_tensors, building / OPTIMIZER)
        write_json(building / STATE, state, allow_nan=True)
        for file in building.iterdir():
            sync_to_disk(file)
        hashes = {file.name: sha256_of_file(file) for file in sorted(building.iterdir())}
        write_json(building / MANIFEST, _signed({"progress": asdict(progress), "sha256": hashes}), allow_nan=True)
        sync_to_disk(building)
        os.replace(building, final)
        sync_to_disk(folder)
    except OSError as error:
        message = f"the checkpoint of step {progress.step} could not be written: {error.strerror}"
        raise OSError(
            error.errno, f"{message}. Last complete checkpoint: {describe_last_checkpoint(output)}"
        ) from error
    finally:
        delete_checkpoint(building)
    _prune(output, final, progress.step, keep)
    return final


def _prune(output: Path, new: Path, step: int, keep: int) -> None:
    """Delete the checkpoints that ``new`` makes unnecessary: the oldest beyond ``keep``, and an older one of its step.

    Those of later steps are deleted, too: they are damaged, otherwise the run would have resumed from them.
    """
    folder = new.parent
    older = [path for saved, _, path in _listed(output) if saved < step]
    kept = {new, *older[: keep - 1]}
    for old in folder.iterdir():
        if NAME.fullmatch(old.name) and old not in kept and _is_ours(old) and (old / MANIFEST).is_file():
            # renamed first: a half-deleted folder must not look like a checkpoint
            os.replace(old, old.with_name(f".old_{old.name}"))
    clear_unfinished(output)


def clear_unfinished(output: Path) -> None:
    """Delete what an interrupted save or an interrupted deletion has left of a checkpoint, and nothing else."""
    folder = output / "checkpoints"
    if folder.is_symlink() or not folder.is_dir():
        return
    for old in folder.iterdir():
        if UNFINISHED.fullmatch(old.name):
            delete_checkpoint(old)


def delete_checkpoint(folder: Path) -> None:
    """Delete the folder of a checkpoint, whole or half written; it stays if it is a link or holds anything else."""
    if _is_ours(folder):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _is_ours(folder: Path) -> bool:
    """Whether a path is a folder that holds nothing but the files of a checkpoint."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(FILES.fullmatch(file.name) and (file.is_symlink() or file.is_file()) for file in folder.iterdir())


def list_checkpoints(output: Path) -> list[Path]:
    """Checkpoints of a run, newest first, by the step and the epoch in their manifests."""
    return [path for *_, path in _listed(output)]


def _listed(output: Path) -> list[tuple[int, int, Path]]:
    listed = []
    for manifest in (output / "checkpoints").glob(f"step_*/{MANIFEST}"):
        if not NAME.fullmatch(manifest.parent.name) or manifest.parent.is_symlink():
            continue
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
            unsigned = {key: content[key] for key in ("progress", "sha256")}
            if content not in (unsigned, _signed(unsigned)):  # manifests of early versions have no hash
                raise ValueError("its own hash differs")
            progress = content["progress"]
            listed.append((int(progress["step"]), int(progress["epoch"]), manifest.parent))
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{manifest} cannot be read ({error}); that checkpoint is not used", stacklevel=3)
    return sorted(listed, reverse=True)


def _signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the hash of its content, which detects a changed byte in a number."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {**content, "manifest_sha256": digest}


def find_checkpoint(output: Path) -> tuple[Path, Progress] | None:
    """The newest checkpoint whose files have the hashes of its manifest, with its progress; None if there is none."""
    for path in list_checkpoints(output):
        manifest = json.loads((path / MANIFEST).read_text())
        broken = [
            name
            for name, sha256 in manifest["sha256"].items()
            if not (path / name).is_file() or sha256_of_file(path / name) != sha256
        ]
        if not broken:
            manifest["progress"].pop("batch", None)  # earlier versions wrote the batch size, too
            return path, Progress(**manifest["progress"])
        warnings.warn(
            f"{path}: {', '.join(broken)} is damaged (its hash differs); an earlier checkpoint is used", stacklevel=2
        )
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state dicts, as passed to :func:`save_checkpoint`."""
    if not (path / STATE).is_file():
        raise ValueError(f"{path} has no {STATE}: a version of pkdzoo before the first release wrote it; train again")
    rest = _with_tensors(read_json(path / STATE), load_file(path / OPTIMIZER))
    return dict(load_file(path / MODEL)), dict(rest)


def _without_tensors(value: Any, tensors: dict[str, Tensor], where: str = "") -> Any:
    """A nested state as JSON values; its tensors are added to ``tensors`` and named in their places."""
    if isinstance(value, Tensor):
        tensors[where] = value
        return {"tensor": where}
    if isinstance(value, Mapping):  # as pairs, since keys may be numbers
        return {"pairs": [[key, _without_tensors(item, tensors, f"{where}.{key}")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_without_tensors(item, tensors, f"{where}.{number}") for number, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`_without_tensors`."""
    if isinstance(value, list):
        return [_with_tensors(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_with_tensors(item, tensors) for item in value["tuple"])
    return {key: _with_tensors(item, tensors) for key, item in value["pairs"]}


def snapshot(
    task: nn.Module, optimizer: Any, scheduler: Any, scaler: Any, average: nn.Module | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that a resumed run needs, as :func:`save_checkpoint` takes it; the teacher is not included."""
    tensors = {f"task.{key}": value for key, value in task.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{key}": value for key, value in average.state_dict().items()}
    rest = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    rest["parameters"] = _parameter_names(task, optimizer)  # in the optimizer's order, which depends on its settings
    if scaler is not None:
        rest["scaler"] = scaler.state_dict()
    return tensors, rest


def restore(
    path: Path, step: int, task: nn.Module, optimizer: Any, scheduler: Any, scaler: Any, average: nn.Module | None
) -> None:
    """The inverse of :func:`snapshot`, with strict loading; call it before anything is wrapped or moved.

    Momentum and moments come from the checkpoint. Rates, decays, momentum, betas and the schedule stay as the recipe
    has them now, and the schedule stands at ``step``: without a changed recipe these are those of the checkpoint.

    Raises:
        ValueError: if the optimizer of the checkpoint trained other parameters.
    """
    tensors, rest = read_checkpoint(path)
    for prefix, module in (("task.", task), ("average.", average)):
        if module is not None:
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    names, saved = _parameter_names(task, optimizer), rest["parameters"]
    if set(names) != set(saved):
        raise ValueError(f"{path} is of a run that trained other parameters: continue it with the recipe that it had")
    state, place = rest["optimizer"]["state"], {name: number for number, name in enumerate(saved)}
    moved = {number: state[place[name]] for number, name in enumerate(names) if place[name] in state}
    optimizer.load_state_dict({"state": moved, "param_groups": optimizer.state_dict()["param_groups"]})
    _set_step(scheduler, step)
    if scaler is not None and "scaler" in rest:
        scaler.load_state_dict(rest["scaler"])


def _parameter_names(task: nn.Module, optimizer: Any) -> list[str]:
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _set_step(scheduler: Any, step: int) -> None:
    """Let a LambdaLR stand where ``step`` calls of ``step()`` would have brought it."""
    rates = [base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates):
        group["lr"] = rate
    state = scheduler.state_dict() | {"last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
    scheduler.load_state_dict(state)


def describe_last_checkpoint(output: Path) -> str:
    """Path of the newest checkpoint, for messages."""
    checkpoints = list_checkpoints(output)
    return str(checkpoints[0]) if checkpoints else "none yet, so the run has to start again"


# -- progress --------------------------------------------------------------------------------------------------------


def record_metric(progress: Progress, value: float | None) -> bool:
    """Record a new value of the metric ``logging.best``; returns whether it is the best so far.

    An evaluation in which the metric has no value, as APl without large objects, does not count as stale.
    """
    if value is None:
        return False
    better = progress.best is None or value > progress.best
    progress.best, progress.stale = (value, 0) if better else (progress.best, progress.stale + 1)
    return better


def reopened(progress: Progress, steps: int, patience: int | None) -> Progress:
    """The progress of a resumed run: a finished run continues if its recipe now has more steps.

    Args:
        progress: of the checkpoint.
        steps: optimizer steps of the whole run.
        patience: see ``Logging``.
    """
    stopped_early = patience is not None and progress.stale >= patience
    return replace(progress, done=progress.done and (progress.step >= steps or stopped_early))


# -- seeds -----------------------------------------------------------------------------------------------------------


def seed_step(seed: int, step: int, process: int) -> None:
    """Seed torch for one pass of one process, so that a resumed run draws the same numbers as an uninterrupted one."""
    digest = hashlib.blake2b(f"{seed}/{step}/{process}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)
