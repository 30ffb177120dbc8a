"""Prepares a folder with a card for publishing: from a run, from registered weights, or from a checkpoint file."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pkdzoo.data.labels import SHAPES_NAMES
from pkdzoo.distill.adapters import is_of_other_library
from pkdzoo.distill.student_base import ModuleStudent
from pkdzoo.evaluation.saved_detections import DETECTIONS, SavedDetections
from pkdzoo.hub.card import SHAPES, Card
from pkdzoo.hub.card_licenses import data_set, known_or_stated, with_initial_license
from pkdzoo.hub.card_metrics import MEASURED
from pkdzoo.hub.files import TENSORS
from pkdzoo.hub.saved_folder import CONFIG
from pkdzoo.hub.upload import IMAGE, METRICS_FILE, PLOTS, RECIPE, check_repository, write_repository
from pkdzoo.hub.weights import Distilled
from pkdzoo.models._card import card_of, describe_card, license_of
from pkdzoo.models._config import describe
from pkdzoo.models._factory import create_detector
from pkdzoo.models._loading import is_saved, load_checkpoint, saved_beside, saved_labels
from pkdzoo.models._registry import find, folder_of, is_detector
from pkdzoo.models.detector import Detector
from pkdzoo.training.evaluate import open_detector
from pkdzoo.training.provenance import (
    about_teacher,
    compared,
    launch_command,
    numbers_of,
    public_name,
    read_json_object,
    source_of_metrics,
    speed,
)
from pkdzoo.training.recipe import Recipe
from pkdzoo.training.report.charts import Line, standalone
from pkdzoo.training.report.contenders import read_contenders
from pkdzoo.training.report.measures import measure, precision_curve
from pkdzoo.training.report.pairs import plain_student_of
from pkdzoo.training.republish import card_of_published, plots_again, published_settings
from pkdzoo.training.run_table import FinishedRun
from pkdzoo.utils.files import refuse_links, sha256_of_file

COLORS = "blue: distilled, orange: plain, gray: teacher"
PLOT_CAPTIONS = {
    PLOTS[0]: f"AP on the validation images by epoch ({COLORS}).",
    PLOTS[1]: f"Precision over recall at IoU 0.5, mean over classes ({COLORS}).",
}


@dataclass(frozen=True)
class Publication:
    """What is published: a detector, its card, and of a run the recipe, an image of predictions and plots."""

    model: Detector
    card: Card
    recipe: dict[str, Any] | None = None
    image: Path | None = None
    plots: Mapping[str, str] = field(default_factory=dict)


def prepare(
    source: str,
    folder: str | Path,
    repository: str | None = None,
    *,
    arch: str | None = None,
    label_names: str | Sequence[str] | None = None,
    license: str = "unknown",
    teacher_license: str | None = None,
    init_license: str | None = None,
    data: str | None = None,
    data_license: str | None = None,
    image: str | Path | None = None,
    baseline: str | Path | None = None,
    images_allowed: bool = False,
) -> Path:
    """Write the folder to publish.

    Args:
        source: a run's folder, a registered name (``arch.tag``), or a checkpoint file.
        folder: target, empty or missing.
        repository: ``org/name`` on the Hub.
        arch: architecture of a checkpoint file, with a tag if the file has the weights of that tag; None otherwise.
        label_names: class names of a checkpoint file; None means those in it, else those of the architecture's
            weights.
        license: of the weights; registered and published weights have their own, unless their source states none.
        teacher_license: of the teacher; a registered teacher has its own, unless its source states none.
        init_license: of the weights that the training started from, if their source states none.
        data: name of the data set, e.g. ``coco``; class names do not tell it.
        data_license: of the data set; known data sets, such as COCO, have their own.
        image: photograph that the card shows with its detections. Without it, the card shows images only if the run
            used generated ones, because images of a data set may not be published without permission.
        baseline: folder of the run of the plain student, whose AP the card compares with.
        images_allowed: the validation images may be published: the card shows those on which the run drew predictions.

    Raises:
        UnknownLicense: for unknown licenses; it names all of them.
        ValueError: for a source that is none of the three, a symbolic link among the files of the run, and another
            license than one that is recorded.
        FileNotFoundError: if the checkpoint file does not exist.
    """
    if repository is not None:
        check_repository(repository)
    path = folder_of(source)
    if path is not None and path.is_dir():
        found = from_folder(path, license, teacher_license, data, data_license, baseline, images_allowed)
    elif baseline is not None:
        raise ValueError(f"a baseline is compared with a run, and {source!r} is no folder of one: leave it out")
    elif is_detector(source):
        card = with_stated_licenses(card_of(source), license, teacher_license)
        found = Publication(create_detector(source, pretrained=True), card)
    elif arch is not None:
        names = {"label_names": label_names} if label_names is not None else labels_of(arch, source)
        model = load_checkpoint(create_detector(arch.partition(".")[0], **names), source)
        found = Publication(model, card_of_file(Path(source), arch, model, license, data, data_license))
    else:
        raise ValueError(
            f"there is no folder {source!r}, and no registered weights have this name: check the path, or see "
            "`pkdzoo list`; for a checkpoint file write --arch NAME, too"
        )
    found = replace(found, card=with_initial_license(found.card, init_license))
    with tempfile.TemporaryDirectory() as temporary:
        if image is not None:
            found = replace(found, image=draw_predictions(found.model, Path(image), Path(temporary) / IMAGE))
        return write_publication(found, folder, repository)


def write_publication(found: Publication, folder: str | Path, repository: str | None) -> Path:
    """Write the folder of a publication, see :func:`prepare`."""
    card = replace(found.card, repository=repository, image=None if found.image is None else IMAGE)
    card = replace(card, plots={name: PLOT_CAPTIONS[name] for name in found.plots})
    found.model.initial_weights = card.initial
    state, config = found.model.state_dict(), describe(found.model)
    return write_repository(folder, state, config, card, found.image, found.recipe, found.plots)


def from_folder(
    folder: Path,
    license: str,
    teacher_license: str | None,
    data: str | None,
    data_license: str | None,
    baseline: str | Path | None,
    images_allowed: bool = False,
) -> Publication:
    """The publication of a run, or of a saved detector; the arguments are those of :func:`prepare`."""
    model = open_detector(folder)
    if isinstance(model, ModuleStudent):
        raise ValueError(f"{folder} holds {model.name}: publish the model as its own library does")
    saved = Path(str(model.loaded_from).removeprefix("local-dir:"))
    run = next((path for path in (saved, saved.parent) if (path / RECIPE).is_file()), saved)
    of_run = (RECIPE, "run.json", IMAGE, "log.jsonl", DETECTIONS)
    of_saved = (CONFIG, TENSORS, METRICS_FILE, RECIPE, IMAGE, *PLOTS)
    files = [*(saved / name for name in of_saved), *(run / name for name in of_run)]
    compared_with = run.parent.glob("*/") if (run.parent / "comparison.json").is_file() else ()
    beside = [path / name for path in compared_with for name in ("log.jsonl", DETECTIONS, RECIPE, METRICS_FILE)]
    for path in (*files, run.parent / "comparison.json", run.parent / IMAGE, *beside):
        refuse_links(path, within=folder)
    stated = (license, teacher_license, data, data_license)
    own = published_settings(saved)
    if own is not None:
        if baseline is not None:
            raise ValueError(f"{saved} was published before, and a baseline is compared with a run: leave it out")
        card = card_of_published(saved, own, model, *stated)
        recipe = read_json_object(saved / RECIPE) or None
        return Publication(model, card, recipe, image_in(saved), plots_again(saved))
    card = card_of_run(run, saved, model, *stated)
    if baseline is not None:
        card = with_baseline(card, run, saved, Path(str(baseline).removeprefix("local-dir:")))
    recipe = without_local_paths(read_json_object(run / RECIPE), card) if (run / RECIPE).is_file() else None
    shown = image_in(run, run.parent) if images_allowed or card.data == SHAPES else None
    return Publication(model, card, recipe, shown, plots_of(run, saved) if recipe is not None else {})


def image_in(*folders: Path) -> Path | None:
    """The first image of predictions in one of these folders; None if there is none."""
    return next((folder / IMAGE for folder in folders if (folder / IMAGE).is_file()), None)


def plots_of(run: Path, saved: Path) -> dict[str, str]:
    """AP by epoch, and precision over recall if the weights in ``saved`` are those of the last evaluation.

    With its plain student in the same comparison, whose curve is drawn, too.
    """
    together = run.parent if (run.parent / "comparison.json").is_file() else run
    everyone = read_contenders([together], light=True)
    plain = next((plain_student_of(c, everyone) for c in everyone if c.folder == run), None)
    contenders = [c for c in everyone if c.folder == run or c is plain]
    plots = {PLOTS[0]: standalone([Line(c.title, c.curve("AP", "epoch"), c.role) for c in contenders], "epoch", "AP")}
    step, last = (read_json_object(folder / METRICS_FILE).get("step") for folder in (saved, run))
    if step == last and (run / DETECTIONS).is_file():
        for contender in contenders:
            file = Path(str(contender.folder)) / DETECTIONS
            contender.detections = SavedDetections.read(file) if file.is_file() else None
        measured = measure(contenders)
        if measured is not None:
            lines = [Line(c.title, precision_curve(matches), c.role) for c, matches in measured.rows]
            plots[PLOTS[1]] = standalone(lines, "recall", "precision", (0, 100), (0, 100))
    return {name: drawing for name, drawing in plots.items() if drawing}


def with_baseline(card: Card, run: Path, saved: Path, baseline: Path) -> Card:
    """The card with the AP of a plain student from another run.

    Args:
        card: of a distilled run.
        run: folder of the run.
        saved: ``best`` or ``last`` of the run; the same one of the baseline is taken.
        baseline: folder of the run of the plain student.

    Raises:
        ValueError: if the two runs do not train the same detector on the same data, or one has no AP.
    """
    plain = baseline / saved.name if (baseline / saved.name / CONFIG).is_file() else baseline
    if not (baseline / RECIPE).is_file():
        raise ValueError(f"--baseline {baseline} is no folder of a run: it has no {RECIPE}")
    if card.pair is None:
        raise ValueError(f"--baseline {baseline}: {run} was trained without a teacher, leave the baseline out")
    own, other = read_json_object(run / RECIPE), read_json_object(baseline / RECIPE)
    numbers, reference = numbers_of(saved), numbers_of(plain)
    ours, theirs = FinishedRun(run, own, numbers), FinishedRun(baseline, other, reference)
    reasons = [f"another {key}" for key in ours.differences(theirs)]
    reasons += ["a teacher"] if (other.get("distill") or {}).get("methods") else []
    reasons += ["other validation images"] if not ours.has_same_images(theirs) else []
    reasons += ["no AP"] if reference.get("AP") is None or numbers.get("AP") is None else []
    if reasons:
        raise ValueError(f"--baseline {baseline} cannot be compared with {run}, it has {', '.join(reasons)}")
    aps = numbers["AP"], reference["AP"]
    teacher = read_json_object(run / "run.json").get("teacher") or {}
    if teacher.get("teacher_AP") is None or not same_images(numbers, teacher, "teacher_annotations_sha256"):
        return replace(card, pair=replace(card.pair, triple=None, source=""), baseline_AP=float(aps[1]))
    triple = (float(teacher["teacher_AP"]), float(aps[1]), float(aps[0]))
    source = f"one run each on the same images, seeds {own.get('seed')} and {other.get('seed')} (plain)"
    return replace(card, pair=replace(card.pair, triple=triple, source=source))


def same_images(numbers: Mapping[str, Any], other: Mapping[str, Any], key: str = "annotations_sha256") -> bool:
    """Whether two evaluations are known to be of the same annotation file."""
    return numbers.get("annotations_sha256") is not None and numbers["annotations_sha256"] == other.get(key)


def with_stated_licenses(card: Card, license: str, teacher_license: str | None) -> Card:
    """A card of registered weights, with the caller's licenses where the source of the weights states none."""
    card = replace(card, license=known_or_stated(card.name, "license", card.license, license))
    if card.pair is None:
        return card
    teacher = f"the teacher {card.pair.teacher}"
    known = known_or_stated(teacher, "teacher_license", card.teacher_license, teacher_license)
    return replace(card, teacher_license=known)


def draw_predictions(model: Detector, image: Path, target: Path) -> Path:
    """Save an image with its detections as PNG, without the metadata of the photograph (location, camera, owner)."""
    result = model.predict(image)
    assert not isinstance(result, list)
    Image.fromarray(np.asarray(result.plot())).save(target)
    return target


def labels_of(arch: str, source: str | Path) -> dict[str, Any]:
    """Class names for a checkpoint file, as an argument of ``create_detector``.

    Args:
        arch: ``arch.tag`` or ``arch``, whose registered weights have the names where the file has none.
        source: path of the file.
    """
    saved = saved_labels(source)
    if saved is not None:
        return {"label_names": saved}
    entry, row = find(arch)
    row = row or entry.default
    return {} if row is None else {"label_names": row.labels}


def card_of_file(
    path: Path, arch: str, model: Detector, license: str, data: str | None, data_license: str | None
) -> Card:
    """The card of a checkpoint: of registered weights if a tag is given and the hash is theirs, else of the file.

    Raises:
        ValueError: if the file has another hash than the weights of the tag.
    """
    _, row = find(arch)
    digest = sha256_of_file(path)
    about = {"converted from a file of sha256": digest}
    if is_saved(path):  # perhaps of a published detector
        known = saved_beside(path).license
        license = known_or_stated(path.parent.name, "license", known, license)
    if row is None:
        return describe_card(model, license, data, data_license, provenance=about)
    if row.sha256 and not digest.startswith(row.sha256):
        raise ValueError(f"{path.name} is not {arch}: its SHA-256 begins with {digest[:8]} and not with {row.sha256}")
    return replace(with_stated_licenses(card_of(arch), license, None), provenance=about)


def card_of_run(
    run: Path,
    saved: Path,
    model: Detector,
    license: str,
    teacher_license: str | None,
    data: str | None,
    data_license: str | None,
) -> Card:
    """The card of a run's best student, with the metrics that were saved with it."""
    metrics = numbers_of(saved)
    recipe_content = read_json_object(run / RECIPE)
    more: dict[str, Any] = {"metrics": metrics, "source": source_of_metrics(metrics), "speed": speed(metrics)}
    if not recipe_content:
        return describe_card(model, license, data, data_license, **more)
    recipe = Recipe.from_dict(recipe_content)
    about: dict[str, Any] = {"recipe": recipe.name, "seed": recipe.seed}
    about |= {key: metrics[key] for key in MEASURED if key in metrics}
    if recipe.distill is not None and recipe.distill.methods:
        facts = dict(read_json_object(run / "run.json").get("teacher") or about_teacher(recipe.distill))
        known_license = facts.pop("teacher_license", None)
        if known_license is None and recipe.distill.teacher_weights is None:
            known_license = license_of(recipe.distill.teacher)
        teacher = f"the teacher {facts['teacher']}"
        more["teacher_license"] = known_or_stated(teacher, "teacher_license", known_license, teacher_license)
        plain = Distilled(recipe.model, facts["teacher"], tuple(recipe.distill.methods))
        more["pair"] = compared(run, recipe, facts["teacher"]) or plain
        about |= {key: value for key, value in facts.items() if key != "teacher"}
        more_images = (read_json_object(run / "run.json").get("data") or {}).get("unlabeled_images")
        about |= {} if more_images is None else {"unlabeled_images": more_images}
    # With --data, a run learns from other images than its recipe would generate; their class names differ.
    generated = recipe.data.generate is not None and set(model.label_names) <= set(SHAPES_NAMES)
    known = data_set("shapes", data_license) if data is None and generated else data
    launch = launch_command(read_json_object(run / "run.json"))
    more |= {"provenance": about, "recipe": RECIPE, "launch": launch, "name": recipe.name}
    return describe_card(model, license, known, data_license, **more)


def without_local_paths(recipe: Mapping[str, Any], card: Card) -> dict[str, Any]:
    """A recipe without local paths: a teacher in a folder is given by its name, a file by its file name."""
    content: dict[str, Any] = json.loads(json.dumps(recipe))
    distill = content.get("distill") or {}
    if is_of_other_library(str(distill.get("teacher", ""))):
        distill["teacher"] = public_name(distill["teacher"])
    if folder_of(str(distill.get("teacher", ""))) is not None and card.pair is not None:
        distill["teacher"] = f"local-dir:{card.pair.teacher}"
    if distill.get("unlabeled"):
        distill["unlabeled"]["folder"] = re.split(r"[/\\]", distill["unlabeled"]["folder"].rstrip("/\\"))[-1]
    for part, key in ((content, "init"), (distill, "teacher_weights")):
        source = str(part.get(key) or "")
        if source and not source.startswith("hf-hub:") and not is_detector(source):
            part[key] = re.split(r"[/\\]", source)[-1]
    return content
