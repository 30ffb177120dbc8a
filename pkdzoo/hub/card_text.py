"""The text of model cards: the README.md of a repository on the Hub.

Numbers come from the registry or the metrics file of an evaluation. The template is ``templates/card.md``. The front
matter is written by the Hub's client; it has no field for "distilled from", so the teacher is a tag and ``base_model``
is the backbone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

from pkdzoo.hub.card import SHAPES, UNKNOWN, Card

# Names of the evaluator, and those of metric libraries.
METRICS = {
    "AP": "map", "AP50": "map_50", "AP75": "map_75", "APs": "map_small", "APm": "map_medium", "APl": "map_large",
    "AR1": "mar_1", "AR10": "mar_10", "AR100": "mar_100", "ARs": "mar_small", "ARm": "mar_medium", "ARl": "mar_large",
}  # fmt: skip
HUB_LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0", "gpl-3.0")


def render(card: Card, publish: bool = True) -> str:
    """The text of a card.

    Args:
        card: the facts.
        publish: check the licenses; False is for a preview.

    Raises:
        ValueError: for an unknown license of the weights, the data set or the teacher.
    """
    if publish:
        check_licenses(card)
    sections = {
        "front": front_matter(card),
        "title": title(card),
        "summary": summary(card),
        "image": f"![Predictions]({card.image})" if card.image else "",
        "load": load_lines(card),
        "distillation": distillation(card),
        "numbers": numbers(card),
        "per_class": per_class(card.metrics.get("per_class")),
        "cost": cost(card),
        "training": training(card),
        "provenance": provenance(card),
        "limits": limits(card),
        "licenses": licenses(card),
    }
    template = resources.files("pkdzoo").joinpath("hub/templates/card.md").read_text(encoding="utf-8")
    return re.sub(r"\n{3,}", "\n\n", Template(template).substitute(sections)).strip() + "\n"


def title(card: Card) -> str:
    """The name of the repository without its organization, or the name of the weights."""
    return card.repository.rpartition("/")[2] if card.repository else card.name


def check_licenses(card: Card) -> None:
    """Check that all licenses are known.

    Raises:
        ValueError: for an unknown license; names its argument.
    """
    licenses = {
        "the weights": (card.license, "license"),
        f"the data set ({card.data.name})": (card.data.license, "data_license"),
    }
    if card.pair is not None:
        licenses[f"the teacher ({card.pair.teacher})"] = (card.teacher_license or UNKNOWN, "teacher_license")
    for subject, (license, argument) in licenses.items():
        if license.strip().lower() in ("", UNKNOWN):
            raise ValueError(
                f"{card.name}: the license of {subject} is unknown, so nothing is published; "
                f"write {argument}=... (--{argument.replace('_', '-')} on the command line)"
            )


def check_numbers(card: Card) -> None:
    """Check the metrics of a card.

    Raises:
        ValueError: for a metric that is neither a finite number nor None, and for ``per_class`` without class names.
    """
    classes = card.metrics.get("per_class") or {}
    if not isinstance(classes, Mapping):
        raise ValueError(
            f"{card.name}: per_class is a {type(classes).__name__} in its metrics and should be a mapping from class "
            "to AP: evaluate again"
        )
    values = {key: card.metrics.get(key) for key in METRICS} | {f"per_class {key}": classes[key] for key in classes}
    for key, value in values.items():
        if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value)):
            raise ValueError(
                f"{card.name}: {key} is {value!r} in its metrics and should be a number or null: evaluate again"
            )


def front_matter(card: Card) -> str:
    """The YAML block that the Hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    known = {key: card.metrics.get(key) for key in METRICS}
    values = [
        EvalResult(
            task_type="object-detection",
            dataset_type=card.data.hub_id or slug(card.data.name),
            dataset_name=card.data.name,
            dataset_split=card.data.split,
            metric_type=METRICS[key],
            metric_name=key,
            metric_value=round(float(value), 3),
        )
        for key, value in known.items()
        if value is not None
    ]
    tags = ["pkdzoo", "object-detection", *([card.family] if card.family else [])]
    if card.pair is not None:
        tags += ["knowledge-distillation", *card.pair.methods, f"teacher:{slug(card.pair.teacher)}"]
    lower = card.license.lower()
    license: dict[str, Any] = {"license": lower if lower in (*HUB_LICENSES, UNKNOWN) else "other"}
    if license["license"] == "other":
        license["license_name"] = slug(card.license)
    data = ModelCardData(
        **license,
        library_name="pkdzoo",
        pipeline_tag="object-detection",
        tags=list(dict.fromkeys(tags)),
        datasets=[card.data.hub_id] if card.data.hub_id else None,
        metrics=["map"],
        base_model=card.base_model,
        model_name=title(card) if values else None,
        eval_results=values or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def eval_results(card: Card) -> tuple[str, str] | None:
    """Name and text of the evaluation file of newer Hub pages; None without an AP or a repository of the data set.

    The Hub shows it for registered benchmarks. COCO is not registered yet, so the id of the task is a proposal. The
    front matter has the same number and is always shown.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    value = card.metrics.get("AP")
    if value is None or card.data.hub_id is None:
        return None
    notes = f"box AP on {card.data.split}, IoU 0.50:0.95, in percent; {card.source}".rstrip("; ")
    entry = EvalResultEntry(card.data.hub_id, "object_detection", round(float(value), 3), notes=notes)
    rows = eval_result_entries_to_yaml([entry])
    return f".eval_results/{slug(card.data.name)}.yaml", yaml.safe_dump(rows, sort_keys=False, allow_unicode=True)


def summary(card: Card) -> str:
    """Architecture, teacher and classes."""
    kind = "object detector" + ("" if card.pair is None else f" distilled from `{card.pair.teacher}`")
    shown = ", ".join(card.labels[:12]) + (" and others" if len(card.labels) > 12 else "")
    note = f"\n\n{card.note[0].upper()}{card.note[1:]}." if card.note else ""
    count = f"{len(card.labels)} {'class' if len(card.labels) == 1 else 'classes'}"
    return f"`{card.architecture}`: an {kind}. It detects {count} of {card.data.name}: {shown}.{note}"


def load_lines(card: Card) -> str:
    """Example code."""
    name = f'"hf-hub:{card.repository}"' if card.repository else f'"{card.name}", pretrained=True'
    image = card.data.example
    return (
        f"```python\nimport pkdzoo\n\nmodel = pkdzoo.create_detector({name})\n"
        f'result = model.predict("{image}.jpg", threshold=0.3)  # a path, PIL image, array or tensor\n'
        f'print(result)\nresult.plot().save("{image}_out.png")\n```'
    )


def distillation(card: Card) -> str:
    """APs of teacher, plain student and distilled student."""
    pair = card.pair
    if pair is None:
        return ""
    lines = ["## Distillation\n", f"Teacher: `{pair.teacher}`. Methods: {', '.join(pair.methods)}."]
    teacher_ap = card.provenance.get("teacher_AP")
    if pair.triple is not None:
        rows = zip((f"teacher `{pair.teacher}`", f"plain student `{pair.student}`", "distilled student"), pair.triple)
        lines += ["", "| | AP |", "| --- | ---: |", *(f"| {model} | {value:.1f} |" for model, value in rows)]
        gap = pair.gap_closed
        closed = "" if gap is None else f"Distillation closes {gap:.0%} of the gap from plain student to teacher. "
        if gap is not None and gap <= 0:
            closed = "Distillation does not close the gap from plain student to teacher. "
        lines += ["", f"{closed}Source: {pair.source}."]
    elif teacher_ap is not None:
        source = card.provenance.get("teacher_AP_source")
        lines += [
            "",
            f"AP of the teacher: {teacher_ap:.1f}{f', source: {source}' if source else ''}. The same student "
            "without distillation has not been evaluated.",
        ]
    return "\n".join(lines)


def numbers(card: Card) -> str:
    """Metrics over all classes and their source."""
    if not any(card.metrics.get(key) is not None for key in METRICS):
        return "These weights have not been evaluated yet."
    known = {key: card.metrics[key] for key in METRICS if key in card.metrics}  # None: no objects of that size
    rows = [[*known], ["---:"] * len(known), ["-" if v is None else f"{v:.1f}" for v in known.values()]]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    subject = f"Box metrics on {card.data.name}, {card.data.split}, in percent."
    return f"{subject}\n\n{table}\n\nSource: {card.source or UNKNOWN}."


def per_class(values: Mapping[str, float | None] | None) -> str:
    """AP per class."""
    if not values:
        return ""
    lines = [
        f"| {table_cell(name)} | {'-' if value is None else format(value, '.1f')} |" for name, value in values.items()
    ]
    return "\n".join(["| class | AP |", "| --- | ---: |", *lines])


def table_cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def cost(card: Card) -> str:
    """Parameters, multiply-adds, file size and speed."""
    if card.params is None:
        return "Unknown."
    text = f"{card.params:.1f} million parameters"
    if card.params < 1:
        text = f"{card.params:.2f} million parameters"
    if card.gflops is not None:
        gflops = format(card.gflops, ".1f" if card.gflops >= 1 else ".2g")
        text += f", {gflops} billion multiply-adds for an image of {card.size[0]} x {card.size[1]}"
    file = f"about {4 * card.params:.0f} MB in float32" if card.megabytes is None else f"{card.megabytes:.1f} MB"
    return f"{text}; {file}{f'; {card.speed}' if card.speed else ''}."


def training(card: Card) -> str:
    """Training command and recipe."""
    if card.recipe is None and not card.launch:
        return "These weights were trained with another program and converted; pkdzoo has no recipe for them."
    data = "" if card.data is SHAPES else " --data DIR"
    command = f"```\naccelerate launch recipes/train.py {card.recipe}{data}\n```"
    launch = card.launch if card.launch.startswith("python ") else f"accelerate launch {card.launch}"
    launched = f"Trained with\n\n```\n{launch}\n```"
    if card.recipe is None:
        return launched
    text = f"Recipe: `{card.recipe}`.\n\n{command}"
    return f"{launched}\n\n{text}" if card.launch else text


def provenance(card: Card) -> str:
    """The origin of the weights, one fact per line."""
    origin = {"converted from": f"<{card.origin}>"} if card.origin else {}
    facts = {"architecture": card.architecture, **origin, **card.provenance}
    return "\n".join(f"- {key.replace('_', ' ')}: {format_fact(value)}" for key, value in facts.items())


def format_fact(value: Any) -> str:
    """A fact as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_fact(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(format_fact(item) for item in value)
    return str(value)


def limits(card: Card) -> str:
    """Limitations."""
    limits = card.data.limits or f"It is trained on images of {card.data.name}; its accuracy on others is unknown."
    return f"{limits} Scores are not calibrated probabilities: choose a threshold on your own images."


def licenses(card: Card) -> str:
    """Licenses of the weights, the data set and the teacher."""
    lines = [f"- these weights: {card.license}", f"- data set {card.data.name}: {card.data.license}"]
    if card.pair is not None:
        lines.append(f"- teacher {card.pair.teacher}: {card.teacher_license or UNKNOWN}")
    return "\n".join(lines)


def slug(text: str) -> str:
    """A name in lower case without spaces."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-")
