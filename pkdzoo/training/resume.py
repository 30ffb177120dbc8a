"""What may change when a run is continued with ``--resume``, and what may not.

The optimizer's numbers (rate, decay, momentum, betas, factors), the schedule, augmentation and logging may change: they
apply from the next step on. What the steps so far cannot be reconciled with is refused, with the reason.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from pkdzoo.data import CocoDataset, UnlabeledImages
from pkdzoo.models._registry import folder_of
from pkdzoo.training import checkpoint
from pkdzoo.training.provenance import read_json_object
from pkdzoo.training.recipe import Data, Recipe
from pkdzoo.utils.files import sha256_of_bytes, sha256_of_file
from pkdzoo.utils.text import counted

IDENTITY = ("name", "model", "model_args", "distill")  # another run altogether
FIXED = {
    "init": "the weights come from the checkpoint",
    "seed": "it decides the order of the images",
    "data.batch_size": "the steps so far and the schedule count batches of the first size",
    "data.drop_empty": "the training images would be others",
    "data.min_image_size": "the training images would be others",
    "data.generate": "the images would be others",
    "optim.kind": "the checkpoint holds the state of the first optimizer",
    "logging.best": "the best value so far is of the first metric",
}
DATA = {  # keys of run.json; runs of earlier versions lack some, which are not compared then
    "train_sha256": "the train images or their boxes",
    "val_sha256": "the val images or their boxes",
    "train_masks_sha256": "the masks of the train images",
    "val_masks_sha256": "the masks of the val images",
    "unlabeled_sha256": "the unlabeled images",
    "val_truth_sha256": "areas, crowd regions or objects marked 'ignore' of the val images",
}
REORDERED = "optim.accumulate"  # as a change of the number of processes does


def check_changes(output: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Check that a run may continue with a changed recipe; warns of the changes that it continues with.

    Args:
        output: the run's folder, for messages.
        old: the recipe that the run has had, as JSON values.
        new: the recipe that it is continued with.

    Returns:
        The changes, as ``field: old -> new``.

    Raises:
        ValueError: with every change that cannot be made, and the reason.
    """
    changed = differences(old, new)
    moved = _moved_paths(old.get("distill") or {}, new.get("distill") or {})
    fields = {line: line.split(":")[0] for line in changed}
    other_run = [line for line, field in fields.items() if field.split(".")[0] in IDENTITY and field not in moved]
    if other_run:
        raise ValueError(
            f"{output} holds another run, --resume cannot continue it: {'; '.join(other_run)}. Choose another --output "
            "for the changed recipe"
        )
    refused = [f"{line} ({FIXED[field]})" for line, field in fields.items() if field in FIXED]
    averages = [(recipe.get("optim") or {}).get("ema") for recipe in (old, new)]
    sizes = [_test_size(recipe.get("data") or {}) for recipe in (old, new)]
    if sizes[0] != sizes[1]:
        refused.append(
            f"the size of the val images: {sizes[0]} -> {sizes[1]} (best/ would compare metrics of two sizes: keep it "
            f"with --set data.test={sizes[0][0]},{sizes[0][1]})"
        )
    if (averages[0] is None) != (averages[1] is None):
        refused.append(f"optim.ema: {averages[0]} -> {averages[1]} (an average has to begin with the run)")
    if refused:
        raise ValueError(
            f"--resume cannot continue {output} with these changes: {'; '.join(refused)}. Leave them out, or choose "
            f"another --output, which may begin with the weights so far: --set init={output / 'last/model.safetensors'}"
        )
    if changed:
        warnings.warn(
            f"resuming with a changed recipe: {'; '.join(changed)}. The new values apply from the next step on",
            stacklevel=3,
        )
    if REORDERED in fields.values():
        warnings.warn(f"{REORDERED} changed: {_reordered()}", stacklevel=3)
    return changed


def _test_size(data: Mapping[str, Any]) -> tuple[int, int]:
    """See ``Data.eval_size``; of a recipe as JSON values."""
    names = ("short", "long", "test")
    given: dict[str, Any] = {
        name: tuple(data[name]) if isinstance(data[name], list) else data[name] for name in names if name in data
    }
    return Data(**given).eval_size


def _reordered() -> str:
    return "if the run stopped within an epoch, the rest of that epoch repeats some images and leaves out others"


def _moved_paths(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Fields with a path that may differ between machines, see check_same_teacher and check_same_data."""
    folders = all(folder_of(str(part.get("teacher"))) is not None for part in (old, new))
    files = all(part.get("teacher_weights") not in (None, "random") for part in (old, new))
    # what is in the folder of unlabeled images is compared by its hash
    return ["distill.teacher"] * folders + ["distill.teacher_weights"] * files + ["distill.unlabeled.folder"]


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


# -- the facts of run.json --------------------------------------------------------------------------------------------


def check_same_facts(output: Path, facts: Mapping[str, Any]) -> None:
    """Check that teacher and data are those that the run began with; warns where the machine is used in another way.

    Args:
        output: the run's folder; new, or with a ``run.json``.
        facts: the new content of ``run.json``.

    Raises:
        ValueError: for another teacher or other data.
    """
    old = read_json_object(output / "run.json")
    check_same_teacher(output, old.get("teacher") or {}, facts.get("teacher") or {})
    check_same_data(output, old.get("data") or {}, facts.get("data") or {})
    watched = {"precision": "--mixed-precision", "processes": "the number of processes", "threads": "--threads"}
    for key, what in watched.items():
        if key in old and key in facts and old[key] != facts[key]:
            consequence = _reordered() if key == "processes" else "losses differ in their last digits from now on"
            warnings.warn(f"{what} changed from {old[key]} to {facts[key]}: {consequence}", stacklevel=2)


def check_same_teacher(output: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check that the teacher has the same weights and the same configuration as when the run began.

    Args:
        output: the run's folder, for messages.
        old: facts about the teacher of the run, see ``provenance.about_teacher``; may be empty.
        new: those of the teacher that was loaded now.

    Raises:
        ValueError: with both hashes, if they differ.
    """
    for key, what in (("teacher_sha256", "weights"), ("teacher_config_sha256", "a config.json")):
        before, now = str(old.get(key) or ""), str(new.get(key) or "")
        if before and now and not (before.startswith(now) or now.startswith(before)):  # published ones may be short
            raise ValueError(
                f"{output} began with teacher {what} of sha256 {before[:8]}, these have {now[:8]}: --resume needs the "
                "same file; choose another --output for another teacher"
            )


def about_annotations(train: CocoDataset, val: CocoDataset, unlabeled: UnlabeledImages | None = None) -> dict[str, Any]:
    """What ``run.json`` says of the data: class names, and a hash of the annotations of each split as they were read.

    Args:
        train: training images.
        val: validation images.
        unlabeled: images without annotations; their number and a hash of their names and sizes are added.
    """
    hashes = {
        "train_sha256": hash_annotations(train),
        "val_sha256": hash_annotations(val),
        "train_masks_sha256": hash_masks(train),
        "val_masks_sha256": hash_masks(val),
        "val_truth_sha256": hash_truth(val),
    }
    facts: dict[str, Any] = {
        "classes": list(train.label_names),
        **{key: value for key, value in hashes.items() if value},
    }
    if unlabeled is not None:
        facts |= {"unlabeled_images": len(unlabeled), "unlabeled_sha256": unlabeled.digest()}
    return facts


def hash_annotations(dataset: CocoDataset) -> str:
    """SHA-256 over classes, image ids, names and sizes, and all boxes with their labels; pixels are not read."""
    table = dataset.table
    arrays = (table.image_ids, table.sizes, table.names, table.box_ends, table.boxes, table.labels, table.crowd)
    parts = [json.dumps(list(dataset.label_names)).encode()]
    return sha256_of_bytes(*parts, *(np.ascontiguousarray(array).tobytes() for array in arrays))


def hash_masks(dataset: CocoDataset) -> str:
    """SHA-256 over the segmentations of all boxes, in the order of the boxes; empty for data without masks."""
    segments, rows = dataset.segments, dataset.table.rows
    if segments is None:
        return ""
    ends = np.concatenate(([0], np.asarray(segments.ends)))
    content = np.asarray(segments.blob)
    digest = hashlib.sha256(np.ascontiguousarray(np.asarray(segments.kinds)[rows]).tobytes())
    digest.update(np.ascontiguousarray(ends[rows + 1] - ends[rows]).tobytes())
    for start, end in zip(ends[rows].tolist(), ends[rows + 1].tolist()):
        digest.update(content[start:end].tobytes())
    return digest.hexdigest()


def hash_truth(dataset: CocoDataset) -> str:
    """SHA-256 over what an evaluation reads besides the boxes of training: areas, and objects marked ``ignore``."""
    truth = dataset.ground_truth()
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd", "ignore")
    return sha256_of_bytes(*(np.ascontiguousarray(truth[key]).tobytes() for key in keys))


def check_same_data(output: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check that the annotations are those that the run began with.

    Args:
        output: the run's folder, for messages.
        old: facts about the data of the run, see :func:`about_annotations`; may be empty.
        new: those of the data that was read now.

    Raises:
        ValueError: naming what differs.
    """
    changed = [what for key, what in DATA.items() if _differ(old, new, key)]
    if _differ(old, new, "classes"):
        changed = [f"the classes ({', '.join(old['classes'][:10])} -> {', '.join(new['classes'][:10])})"]
    if changed:
        raise ValueError(
            f"the data changed since {output} began: {' and '.join(changed)}. --resume continues on the same data: put "
            "it back, or choose another --output, which may begin with the weights so far: --set "
            f"init={output / 'last/model.safetensors'}"
        )


def _differ(old: Mapping[str, Any], new: Mapping[str, Any], key: str) -> bool:
    return key in old and key in new and old[key] != new[key]


# -- checkpoints and log ----------------------------------------------------------------------------------------------


def describe_start(path: Path, epoch: int, step: int, steps: int) -> str:
    """Where a resumed run goes on, or that nothing is left to train.

    Args:
        path: of the checkpoint.
        epoch: of the checkpoint.
        step: of the checkpoint.
        steps: optimizer steps of the whole run.
    """
    if step < steps:
        return f"resumed from {path}: epoch {epoch}, step {step} of {steps}"
    return (
        f"resumed from {path}, which has {counted(step, 'step')}; the schedule ends after {steps}: "
        "nothing is left to train. "
        "Raise schedule.epochs or schedule.max_steps to train on"
    )


def check_checkpoints(output: Path) -> None:
    """Check that a run that has saved something still has a checkpoint to continue from.

    Raises:
        ValueError: if none is left.
    """
    saved = [name for name in ("last", "best") if (output / name / "config.json").is_file()]
    saved += [path.name for path in (output / "checkpoints").glob("step_*")][:1]
    if saved and checkpoint.find_checkpoint(output) is None:
        raise ValueError(
            f"{output} has trained already, but {output / 'checkpoints'} has no usable checkpoint: put one back, or "
            f"choose another --output, which may begin with the weights so far: --set "
            f"init={output / 'last/model.safetensors'}"
        )


def check_same_checkpoint(newest: tuple[Path, checkpoint.Progress] | None) -> None:
    """Check that every process continues from the same checkpoint, or none from any. Every process calls it.

    Args:
        newest: what ``find_checkpoint`` gave this process.

    Raises:
        ValueError: on every process, where one sees another checkpoint or none, as on machines without a shared disk.
    """
    own = None
    if newest is not None:
        path, progress = newest
        own = (progress.step, progress.epoch, sha256_of_file(path / checkpoint.MANIFEST), str(path))
    seen = gather_object([own])
    last = max((one for one in seen if one is not None), default=None)
    if last is None:
        return
    for process, one in enumerate(seen):
        if one is None or one[:3] != last[:3]:
            raise ValueError(
                f"process {process} does not see {last[3]}: --resume on several machines needs a folder that all of "
                "them see, on a shared disk"
            )


def keep_old_log(output: Path) -> Path | None:
    """Rename the log of a run that starts again; returns its new name, or None if there was no line in it."""
    log = output / "log.jsonl"
    if not log.is_file() or not log.stat().st_size:
        return None
    names = (output / f"log.{number}.jsonl" for number in range(1, 10_000))
    name = next(path for path in names if not path.exists())
    log.rename(name)
    return name


def record_changes(output: Path, recipe: Recipe, step: int) -> list[str]:
    """All changes of a run's recipe, earlier ones and those of this start, for ``run.json``."""
    earlier = list(read_json_object(output / "run.json").get("changes") or [])
    recipe_file = output / "recipe.json"
    if not recipe_file.is_file():
        return earlier
    return earlier + [f"step {step}: {line}" for line in differences(read_json_object(recipe_file), recipe.to_dict())]
