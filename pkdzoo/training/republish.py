"""The card of a detector that was published before: its license and provenance stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pkdzoo.hub.card import Card, DataSet
from pkdzoo.hub.card_facts import read_card_facts
from pkdzoo.hub.card_licenses import data_set, known_or_stated
from pkdzoo.hub.card_metrics import MEASURED, WEIGHTS
from pkdzoo.hub.files import SETTINGS, TENSORS, read_config
from pkdzoo.hub.saved_folder import CONFIG
from pkdzoo.hub.upload import METRICS_FILE, PLOTS, RECIPE
from pkdzoo.models._card import describe_card
from pkdzoo.models._saved_config import newer_version, read_saved
from pkdzoo.models.detector import Detector
from pkdzoo.training.provenance import numbers_of, read_json_object, source_of_metrics, speed
from pkdzoo.utils.files import open_regular_file, sha256_of_file

# What the config's provenance has besides the card's own, see pkdzoo.hub.upload.with_provenance.
OF_THE_PAIR = ("teacher", "student", "AP", "gap_closed", "source")


def published_settings(folder: Path) -> dict[str, Any] | None:
    """Our settings in the config of a folder that was published; None for another saved detector.

    Raises:
        ValueError: if its tensors are not those that were published, or its license was taken out.
    """
    config = read_config(folder / CONFIG)
    own: dict[str, Any] = config.get(SETTINGS, {})
    if read_saved(config).license is None:
        if "card" in own:  # else a license of the caller's own would replace it
            raise ValueError(
                f"{folder} was published, and its {CONFIG} has no license any more: put it back under {SETTINGS}, or "
                "publish the run"
            )
        return None
    if own.get("sha256") != sha256_of_file(folder / TENSORS):
        raise ValueError(
            f"{folder} was published, and {TENSORS} is not what was published: its license and numbers belong to other "
            "weights. Publish the run, or save the detector anew by save_pretrained()"
        )
    return own


def card_of_published(
    folder: Path,
    own: dict[str, Any],
    model: Detector,
    license: str,
    teacher_license: str | None,
    data: str | None,
    data_license: str | None,
) -> Card:
    """The card that was published with a detector; the last arguments may only state what it does not.

    Args:
        folder: of the published detector.
        own: its settings, see :func:`published_settings`.
        model: the detector; the weights that its training started from become those of the first publication.
        license: see :func:`pkdzoo.training.publish.prepare`, as for the following.
        teacher_license: of the teacher.
        data: name of the data set.
        data_license: of the data set.

    Raises:
        ValueError: for another license or data set than the published one.
    """
    config = read_config(folder / CONFIG)
    model.initial_weights = read_saved(config).settings.get("initial_weights")
    try:
        facts: dict[str, Any] = read_card_facts(own["card"]) if "card" in own else {}
    except ValueError as error:
        raise ValueError(f"{folder}: {error}{newer_version(config)}") from error
    known = known_or_stated(f"{folder}, which was published before,", "license", own["license"], license)
    found = published_data(folder, facts.pop("data", None), data, data_license)
    pair = facts.get("pair")
    if pair is not None:
        stated = known_or_stated(
            f"the teacher {pair.teacher}", "teacher_license", facts.get("teacher_license"), teacher_license
        )
        facts["teacher_license"] = stated
    about = own.get("provenance")
    about = dict(about) if isinstance(about, dict) else {}
    if pair is not None:
        about = {key: value for key, value in about.items() if key not in OF_THE_PAIR}
        about = {key: value for key, value in about.items() if key != "methods" or isinstance(value, dict)}
    metrics = numbers_of(folder)
    source = metrics.pop("source", "")
    more = {"metrics": metrics, "source": source if isinstance(source, str) else "", "provenance": about, **facts}
    if was_measured_again(folder, own, metrics):
        about = {key: value for key, value in about.items() if key not in MEASURED}
        more["provenance"] = about | {key: metrics[key] for key in MEASURED if key in metrics}
        more |= {"source": source_of_metrics(metrics), "speed": speed(metrics)}
    more["recipe"] = more.get("recipe") if more.get("recipe") != RECIPE or (folder / RECIPE).is_file() else None
    return describe_card(model, known, found, **more)


def was_measured_again(folder: Path, own: Mapping[str, Any], metrics: Mapping[str, Any]) -> bool:
    """Whether the metrics of a published folder come from an evaluation after its publication.

    Raises:
        ValueError: for metrics that are neither of such an evaluation nor those that were published.
    """
    if WEIGHTS in read_json_object(folder / METRICS_FILE):  # published metrics have the hash in the config
        return True
    if metrics and metrics.get("AP") != own.get("AP"):
        raise ValueError(
            f"{folder / METRICS_FILE} has AP {metrics.get('AP')}, and {CONFIG} says that {own.get('AP')} was "
            f"published: put it back, or measure again, pkdzoo eval {folder} --data DIR --output "
            f"{folder / METRICS_FILE}"
        )
    return False


def published_data(folder: Path, found: DataSet | None, data: str | None, data_license: str | None) -> DataSet:
    """The data set of a published detector, with the caller's license where its card states none.

    Raises:
        ValueError: for another data set or another license.
    """
    if found is None:
        return data_set(data, data_license)
    if data is not None and data_set(data).name != found.name:
        raise ValueError(f"--data {data}: {folder} was published with the data set {found.name}: leave --data out")
    return replace(found, license=known_or_stated(found.name, "data_license", found.license, data_license))


def plots_again(folder: Path) -> dict[str, str]:
    """The plots of a folder that was published, by file name."""
    found = {}
    for name in PLOTS:
        if (folder / name).is_file():
            with open_regular_file(folder / name) as file:
                found[name] = file.read().decode("utf-8")
    return found
