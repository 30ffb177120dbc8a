"""What is published of a training output, of registered weights, or of somebody's checkpoint: a folder and its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pkdzoo.card_facts import SHAPES, Card, DataSet, card_of, license_of
from pkdzoo.factory import create_detector
from pkdzoo.loading import load_checkpoint
from pkdzoo.models.base import Detector
from pkdzoo.models.folder import describe, describe_card
from pkdzoo.registry import Distilled, find, is_detector
from pkdzoo.repository import tidied, write_repository
from pkdzoo.saved import TENSORS, sha256_of
from pkdzoo.training.evaluate import open_detector
from pkdzoo.training.recipe import Recipe

# Of a run's numbers: what they were measured with.
MEASURED = ("pkdzoo", "torch", "processes", "hardware", "date", "epoch", "step", "pictures", "annotations_sha256")


def prepare(
    source: str,
    folder: str | Path,
    repository: str | None = None,
    *,
    arch: str | None = None,
    license: str = "unknown",
    teacher_license: str | None = None,
    data: str | None = None,
    data_license: str | None = None,
) -> Path:
    """Write the folder that is to be published.

    Args:
        source: a run's folder, a registered name (``arch.tag``), or a checkpoint file.
        folder: empty or missing.
        repository: ``org/name`` it is meant for.
        arch: architecture of a checkpoint file, with a tag where the file is that row's; nothing for the others.
        license: of the weights; a registered name has its own.
        teacher_license: of the teacher; a registered teacher has its own.
        data: name of the data set.
        data_license: of the data set.

    Raises:
        ValueError: for an unknown licence or a source that is none of the three.
        FileNotFoundError: for a checkpoint that is not there.
    """
    picture = None
    if Path(source).is_dir():
        model = open_detector(source)
        card = card_of_run(Path(source), model, license, teacher_license, data, data_license)
        pictures = [Path(source) / "predictions.png", Path(source).parent / "predictions.png"]
        picture = next((path for path in pictures if path.is_file()), None)
    elif is_detector(source):
        model, card = create_detector(source, pretrained=True), card_of(source)
    elif arch is not None:
        model = load_checkpoint(create_detector(arch.partition(".")[0], **labels_of(arch)), source)
        card = card_of_file(Path(source), arch, model, license, data, data_license)
    else:
        raise ValueError(
            f"{source!r} is no run's folder and no registered name; for a checkpoint file write --arch NAME, too"
        )
    card = replace(card, repository=repository, picture=None if picture is None else picture.name)
    return write_repository(folder, model.state_dict(), describe(model), card, picture)


def labels_of(arch: str) -> dict[str, Any]:
    """Class names of the row that ``arch.tag`` or ``arch`` stands for."""
    entry, row = find(arch)
    row = row or entry.default
    return {} if row is None else {"label_names": row.labels}


def card_of_file(
    path: Path, arch: str, model: Detector, license: str, data: str | None, data_license: str | None
) -> Card:
    """The card of a checkpoint: a row's where it is named and the file has its hash, else of the file alone."""
    _, row = find(arch)
    digest = sha256_of(path)
    about = {"converted from a file of sha256": digest}
    if row is None:
        return describe_card(model, license, data, data_license, provenance=about)
    if row.sha256 and not digest.startswith(row.sha256):
        raise ValueError(f"{path.name} is not {arch}: its SHA-256 begins with {digest[:8]} and not with {row.sha256}")
    return replace(card_of(arch), provenance=about)


def card_of_run(
    run: Path,
    model: Detector,
    license: str,
    teacher_license: str | None,
    data: str | None,
    data_license: str | None,
) -> Card:
    """The card of a run's best student; its numbers are those that were measured beside it."""
    saved = next((run / name for name in ("best", "last", ".") if (run / name / TENSORS).is_file()), run)
    metrics = read(saved / "metrics.json")
    held = read(run / "recipe.json") or read(run.parent / "recipe.json")
    if not held:
        return describe_card(model, license, data, data_license, metrics=metrics, source=command(metrics))
    recipe = Recipe.from_dict(held)
    about: dict[str, Any] = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        **{key: metrics[key] for key in MEASURED if key in metrics},
    }
    pair = None
    if recipe.distill is not None and recipe.distill.methods:
        pair, taught = teacher_facts(recipe, teacher_license)
        about |= taught
        teacher_license = teacher_license or license_of(recipe.distill.teacher)
    known: str | DataSet | None = data
    if known is None and recipe.data.generate:
        known = SHAPES
    more: dict[str, Any] = {"metrics": metrics, "source": command(metrics), "provenance": about}
    if pair is not None:
        more |= {"pair": pair, "teacher_license": teacher_license}
    return describe_card(model, license, known, data_license, name=recipe.name, **more)


def teacher_facts(recipe: Recipe, teacher_license: str | None) -> tuple[Distilled, dict[str, Any]]:
    """Who taught, and which file of whom, without places on this disk."""
    assert recipe.distill is not None
    name = recipe.distill.teacher
    shown = str(tidied(name.removeprefix("hf-hub:"))) if ":" in name else name
    if name.startswith("local-dir:"):
        shown = Path(name.removeprefix("local-dir:")).name
    facts: dict[str, Any] = {"methods": {key: dict(value) for key, value in recipe.distill.methods.items()}}
    if is_detector(name):
        entry, row = find(name)
        row = row or entry.default
        if row is not None:
            facts |= {"teacher_sha256": row.sha256, "teacher_AP_published": row.metrics.get("AP")}
            shown = f"{entry.name}.{row.tag}"
    folder = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:") and (folder / TENSORS).is_file():
        facts["teacher_sha256"] = sha256_of(folder / TENSORS)
    return Distilled(recipe.model, shown, tuple(recipe.distill.methods)), facts


def command(metrics: Mapping[str, Any]) -> str:
    """The command that measured, without places."""
    return f"`{tidied(metrics['command'])}`" if metrics.get("command") else ""


def read(path: Path) -> dict[str, Any]:
    """A JSON file; nothing where there is none."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
