"""Model cards: what a repository on the Hub tells people and machines about one set of weights.

Every number comes from the registry's rows or from what an evaluation wrote; the words around them lie in
``templates/card.md``, inside the package, so that an installed one renders cards too. The front matter is made by the
Hub's own client. It has no word for "distilled from": the teacher is a tag, and ``base_model`` is the backbone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

from pkdzoo.hub.card import SHAPES, UNKNOWN, Card

# Names of the evaluator, and those that metric libraries know them by.
METRICS = {
    "AP": "map", "AP50": "map_50", "AP75": "map_75", "APs": "map_small", "APm": "map_medium", "APl": "map_large",
    "AR1": "mar_1", "AR10": "mar_10", "AR100": "mar_100", "ARs": "mar_small", "ARm": "mar_medium", "ARl": "mar_large",
}  # fmt: skip
HUB_LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0", "gpl-3.0")


def render(card: Card, publish: bool = True) -> str:
    """The text of a card.

    Args:
        card: what it says.
        publish: refuse what may not be published. False is for looking at.

    Raises:
        ValueError: when a licence is unknown: of the weights, of the data set, or of the teacher.
    """
    if publish:
        check_licenses(card)
    sections = {
        "front": front_matter(card),
        "title": title(card),
        "summary": summary(card),
        "image": f"![What it finds]({card.image})" if card.image else "",
        "load": load_lines(card),
        "learned": learned(card),
        "numbers": numbers(card),
        "per_class": per_class(card.metrics.get("per_class")),
        "cost": cost(card),
        "training": training(card),
        "provenance": "\n".join(f"- {key.replace('_', ' ')}: {in_words(value)}" for key, value in facts(card).items()),
        "limits": limits(card),
        "licences": licences(card),
    }
    template = resources.files("pkdzoo").joinpath("hub/templates/card.md").read_text(encoding="utf-8")
    return re.sub(r"\n{3,}", "\n\n", Template(template).substitute(sections)).strip() + "\n"


def title(card: Card) -> str:
    """The repository's own name, or what the weights are called."""
    return card.repository.rpartition("/")[2] if card.repository else card.name


def check_licenses(card: Card) -> None:
    """Refuse to publish what nobody allowed.

    Raises:
        ValueError: saying whose licence is unknown and where to write it.
    """
    held = {
        "the weights": (card.license, "license"),
        f"the data set ({card.data.name})": (card.data.license, "data_license"),
    }
    if card.pair is not None:
        held[f"the teacher ({card.pair.teacher})"] = (card.teacher_license or UNKNOWN, "teacher_license")
    for whose, (license, word) in held.items():
        if license.strip().lower() in ("", UNKNOWN):
            raise ValueError(
                f"{card.name}: the licence of {whose} is unknown, so nothing is published; "
                f"write {word}=... once you know it (--{word.replace('_', '-')} on the command line)"
            )


def check_numbers(card: Card) -> None:
    """Refuse figures that no evaluation writes.

    Raises:
        ValueError: naming the one that is neither a finite number nor None, or ``per_class`` without names.
    """
    classes = card.metrics.get("per_class") or {}
    if not isinstance(classes, Mapping):
        raise ValueError(
            f"{card.name}: per_class is a {type(classes).__name__} in its metrics, an AP for each class belongs there: "
            "measure it again"
        )
    told = {key: card.metrics.get(key) for key in METRICS} | {f"per_class {key}": classes[key] for key in classes}
    for key, value in told.items():
        if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value)):
            raise ValueError(
                f"{card.name}: {key} is {value!r} in its metrics, a number or null belongs there: measure it again"
            )


def front_matter(card: Card) -> str:
    """YAML between two lines of dashes, as the Hub reads it."""
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
    """Name and text of the file that newer pages read numbers from; None without an AP or the data set's repository.

    Pages show it for data sets that are registered as benchmarks. COCO is none yet, so the task's id is a proposal; the
    same number stands in the front matter, which pages do show.
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
    """What it is and what it detects."""
    kind = "object detector" + ("" if card.pair is None else f" distilled from `{card.pair.teacher}`")
    shown = ", ".join(card.labels[:12]) + (", ..." if len(card.labels) > 12 else "")
    note = f"\n\n{card.note[0].upper()}{card.note[1:]}." if card.note else ""
    count = f"{len(card.labels)} {'class' if len(card.labels) == 1 else 'classes'}"
    return f"`{card.architecture}`: an {kind}. It finds {count} of {card.data.name}: {shown}.{note}"


def load_lines(card: Card) -> str:
    """How to use it, in code."""
    name = f'"hf-hub:{card.repository}"' if card.repository else f'"{card.name}", pretrained=True'
    image = card.data.example
    return (
        f"```python\nimport pkdzoo\n\nmodel = pkdzoo.create_detector({name})\n"
        f'result = model.predict("{image}.jpg", score=0.3)  # a path, PIL, numpy or tensor\n'
        f'print(result)\nresult.plot().save("{image}_out.png")\n```'
    )


def learned(card: Card) -> str:
    """Teacher, plain student and distilled student side by side."""
    pair = card.pair
    if pair is None:
        return ""
    lines = ["## Whom it learned from\n", f"Taught by `{pair.teacher}` with {', '.join(pair.methods)}."]
    alone = card.provenance.get("teacher_AP")
    if pair.triple is not None:
        rows = zip((f"teacher `{pair.teacher}`", f"plain student `{pair.student}`", "distilled student"), pair.triple)
        lines += ["", "| | AP |", "| --- | ---: |", *(f"| {who} | {value:.1f} |" for who, value in rows)]
        gap = pair.gap_closed
        closed = "" if gap is None else f"{gap:.0%} of the gap from plain student to teacher is closed. "
        if gap is not None and gap <= 0:
            closed = "Nothing of the gap from plain student to teacher is closed. "
        lines += ["", f"{closed}Source: {pair.source}."]
    elif alone is not None:
        told = card.provenance.get("teacher_AP_source")
        lines += [
            "",
            f"The teacher's AP: {alone:.1f}{f', source: {told}' if told else ''}. Nobody has measured the "
            "same student without it.",
        ]
    return "\n".join(lines)


def numbers(card: Card) -> str:
    """Overall numbers, and who says so."""
    if not any(card.metrics.get(key) is not None for key in METRICS):
        return "Nobody has measured these weights yet."
    known = {key: card.metrics[key] for key in METRICS if key in card.metrics}  # None: no object of that size
    rows = [[*known], ["---:"] * len(known), ["-" if v is None else f"{v:.1f}" for v in known.values()]]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"Of boxes on {card.data.name}, {card.data.split}, in percent.\n\n{table}\n\nSource: {card.source or UNKNOWN}."
    )


def per_class(values: Mapping[str, float | None] | None) -> str:
    """AP of each class."""
    if not values:
        return ""
    lines = [f"| {cell(name)} | {'-' if value is None else format(value, '.1f')} |" for name, value in values.items()]
    return "\n".join(["| class | AP |", "| --- | ---: |", *lines])


def cell(text: str) -> str:
    """Text on one line that ends no column."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def cost(card: Card) -> str:
    """How much it weighs, computes and takes."""
    if card.params is None:
        return "Not counted."
    text = f"{card.params:.1f} million parameters"
    if card.params < 1:
        text = f"{card.params:.2f} million parameters"
    if card.gflops is not None:
        gflops = format(card.gflops, ".1f" if card.gflops >= 1 else ".2g")
        text += f", {gflops} billion multiply-adds for an image of {card.size[0]} x {card.size[1]}"
    file = f"about {4 * card.params:.0f} MB in float32" if card.megabytes is None else f"{card.megabytes:.1f} MB"
    return f"{text}; {file}{f'; {card.speed}' if card.speed else ''}."


def training(card: Card) -> str:
    """The recipe and how to start it."""
    if card.recipe is None and not card.launch:
        return "These weights were trained elsewhere and converted; pkdzoo has no recipe of them."
    data = "" if card.data is SHAPES else " --data DIR"
    again = f"```\naccelerate launch recipes/train.py {card.recipe}{data}\n```"
    launch = card.launch if card.launch.startswith("python ") else f"accelerate launch {card.launch}"
    own = f"Trained with\n\n```\n{launch}\n```"
    if card.recipe is None:
        return own
    text = f"Recipe: `{card.recipe}`.\n\n{again}"
    return f"{own}\n\n{text}" if card.launch else text


def facts(card: Card) -> dict[str, Any]:
    """Where the weights come from."""
    origin = {"converted from": f"<{card.origin}>"} if card.origin else {}
    return {"architecture": card.architecture, **origin, **card.provenance}


def in_words(value: Any) -> str:
    """A fact on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_words(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(in_words(item) for item in value)
    return str(value)


def limits(card: Card) -> str:
    """What to expect less of."""
    own = card.data.limits or f"It knows images like those of {card.data.name}; how it does on others is not known."
    return f"{own} Scores are no probabilities: choose a threshold on images of your own."


def licences(card: Card) -> str:
    """Licence of the weights, and those of what they were made from."""
    lines = [f"- these weights: {card.license}", f"- data set {card.data.name}: {card.data.license}"]
    if card.pair is not None:
        lines.append(f"- teacher {card.pair.teacher}: {card.teacher_license or UNKNOWN}")
    return "\n".join(lines)


def slug(text: str) -> str:
    """A name in small letters without spaces."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-")


# -- all of the zoo --------------------------------------------------------------------------------------------------
