"""The text of model cards: the README.md of a repository on the Hub.

Numbers come from the registry or the metrics file of an evaluation. The template is ``templates/card.md``. The front
matter is written by the Hub's client; it has no field for "distilled from", so the teacher is a tag and ``base_model``
is the backbone. Names, numbers and commands of a card come from run folders and class names, perhaps of strangers: they
are escaped, so that they show as they are and neither HTML, links nor further sections come of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

from pkdzoo.data.labels import COCO_NAMES
from pkdzoo.hub.card import SHAPES, UNKNOWN, Card
from pkdzoo.hub.card_licenses import check_licenses, licenses
from pkdzoo.hub.card_methods import METHODS
from pkdzoo.hub.card_metrics import HUB_METRICS
from pkdzoo.hub.weights import Distilled
from pkdzoo.utils.text import counted, escape_markdown, install_line, markdown_code, printable

MASK_FAMILIES = ("mask_rcnn", "cascade_rcnn")
HUB_LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0", "gpl-3.0")


def render(card: Card, publish: bool = True) -> str:
    """The text of a card.

    Args:
        card: the facts.
        publish: check the licenses; False is for a preview.

    Raises:
        UnknownLicense: for an unknown license of the weights, the data set or the teacher.
    """
    if publish:
        check_licenses(card)
    sections = {
        "front": front_matter(card),
        "title": escape_markdown(title(card)),
        "summary": summary(card),
        "image": f"![Predictions]({card.image})" if card.image else "",
        "plots": "\n\n".join(f"![{text}]({file})" + f"\n{text}" for file, text in card.plots.items()),
        "load": load_lines(card),
        "distillation": distillation(card),
        "numbers": numbers(card),
        "per_class": per_class(card.metrics.get("per_class")),
        "curves": curves(card),
        "cost": cost(card),
        "training": training(card),
        "provenance": provenance(card),
        "limits": limits(card),
        "licenses": "\n".join(f"- {escape_markdown(line, links=True)}" for line in licenses(card)),
    }
    template = resources.files("pkdzoo").joinpath("hub/templates/card.md").read_text(encoding="utf-8")
    return re.sub(r"\n{3,}", "\n\n", Template(template).substitute(sections)).strip() + "\n"


def title(card: Card) -> str:
    """The name of the repository without its organization, or the name of the weights."""
    return card.repository.rpartition("/")[2] if card.repository else card.name


def front_matter(card: Card) -> str:
    """The YAML block that the Hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    known = {key: card.metrics.get(key) for key in HUB_METRICS}
    values = [
        EvalResult(
            task_type="object-detection",
            dataset_type=card.data.hub_id or slug(card.data.name),
            dataset_name=card.data.name,
            dataset_split=card.data.split,
            metric_type=HUB_METRICS[key],
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
    """One paragraph on architecture, teacher and classes."""
    kind = "object detector" + ("" if card.pair is None else f" distilled from {markdown_code(card.pair.teacher)}")
    shown = ", ".join(map(escape_markdown, card.labels[:12])) + (" and others" if len(card.labels) > 12 else "")
    masks = " and predicts their masks" if card.family in MASK_FAMILIES else ""
    count = counted(len(card.labels), "class")
    data = escape_markdown(card.data.name)
    text = f"{markdown_code(card.architecture)}: an {kind}. It detects {count} of {data}{masks}: {shown}."
    return f"{text}{unlicensed(card)}"


def unlicensed(card: Card) -> str:
    """A warning about weights whose authors state no license; empty for others."""
    if card.license != UNKNOWN:
        return ""
    note = f" {capitalized(card.note)}." if card.note else ""
    return f"\n\n**The license of these weights is not known.** Ask their authors before you use or publish them.{note}"


def load_lines(card: Card) -> str:
    """How to install pkdzoo, and example code."""
    architecture = json.dumps(card.architecture)
    if card.repository:
        load = [f"model = pkdzoo.create_detector({json.dumps('hf-hub:' + card.repository)})"]
    elif card.direct:
        load = [f"model = pkdzoo.create_detector({json.dumps(card.name)}, pretrained=True)"]
    else:
        labels = ', label_names="coco"' if card.labels == COCO_NAMES else ""
        load = [
            f"model = pkdzoo.create_detector({architecture}{labels})",
            'pkdzoo.load_checkpoint(model, "the_saved_file.pth")',
        ]
    image = card.data.example
    code = [
        "import pkdzoo",
        "",
        *load,
        f'result = model.predict("{image}.jpg", threshold=0.3)  # a path, PIL image, array or tensor',
        "print(result)",
        f'result.plot().save("{image}_out.png")',
    ]
    browser = (
        f"The file is on a page that only a browser can open: <{card.origin}>. Save it there first.\n\n"
        if not card.direct and not card.repository
        else ""
    )
    return f"Install: {install_line()}.\n\n{browser}```python\n{printable(chr(10).join(code), keep=chr(10))}\n```"


def distillation(card: Card) -> str:
    """APs of teacher, plain student and distilled student."""
    pair = card.pair
    if pair is None:
        return ""
    teacher, methods = markdown_code(pair.teacher), ", ".join(map(escape_markdown, pair.methods))
    known = "".join(f" {METHODS[name]}" for name in pair.methods if name in METHODS)
    lines = ["## Distillation\n", f"Teacher: {teacher}. Methods: {methods}.{known}"]
    teacher_ap = card.provenance.get("teacher_AP")
    if pair.triple is not None:
        names = (f"teacher {teacher}", f"plain student {markdown_code(pair.student)}", "distilled student")
        rows = [f"| {table_cell(name)} | {value:.1f} |" for name, value in zip(names, pair.triple)]
        lines += [
            "",
            "| | AP |",
            "| --- | ---: |",
            *rows,
            "",
            f"{gap_sentence(pair)}Source: {shown_source(pair.source)}.",
        ]
    elif card.baseline_AP is not None and card.metrics.get("AP") is not None:
        plain, gain = card.baseline_AP, card.metrics["AP"] - card.baseline_AP
        rows = [f"| plain student | {plain:.1f} |", f"| distilled student | {card.metrics['AP']:.1f} |"]
        lines += ["", "| | AP |", "| --- | ---: |", *rows]
        lines += ["", f"The distilled student has {gain:+.1f} AP. The teacher was not evaluated on these images."]
    elif isinstance(teacher_ap, (int, float)):
        source = card.provenance.get("teacher_AP_source")
        origin = f", source: {shown_source(source)}" if source else ""
        alone = "The same student without distillation has not been evaluated."
        lines += ["", f"AP of the teacher: {teacher_ap:.1f}{origin}. {alone}"]
    if pair.note:
        lines += ["", f"{capitalized(pair.note)}."]
    return "\n".join(lines)


def gap_sentence(pair: Distilled) -> str:
    """How much of the gap from plain student to teacher is closed; empty without a gap."""
    gap = pair.gap_closed
    if gap is None:
        return ""
    if gap <= 0:
        return "Distillation does not close the gap from plain student to teacher. "
    return f"Distillation closes {gap:.0%} of the gap from plain student to teacher. "


def shown_source(text: object) -> str:
    """A source as Markdown; commands in it, between backticks, stay code."""
    parts = str(text).split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner
        return escape_markdown(text)
    shown = [markdown_code(part) if k % 2 else escape_edges(part) for k, part in enumerate(parts)]
    return "".join(shown)


def escape_edges(text: str) -> str:
    """Text between two pieces of code: escaped, with its spaces at both ends."""
    inner = text.strip()
    start, end = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :] if inner else ""
    return f"{' ' if start else ''}{escape_markdown(inner)}{' ' if end else ''}"


def numbers(card: Card) -> str:
    """Metrics over all classes and their source."""
    mask, source = card.metrics.get("mask_AP"), f"Source: {shown_source(card.source or UNKNOWN)}."
    where = f"{escape_markdown(card.data.name)}, {escape_markdown(card.data.split)}"
    of_masks = "" if mask is None else f"Mask AP on {where}, in percent: {mask:.1f}."
    if not any(card.metrics.get(key) is not None for key in HUB_METRICS):
        return (
            f"{of_masks} The source prints no box AP. {source}"
            if of_masks
            else "These weights have not been evaluated yet."
        )
    known = {key: card.metrics[key] for key in HUB_METRICS if key in card.metrics}  # None: no objects of that size
    rows = [[*known], ["---:"] * len(known), ["-" if v is None else f"{v:.1f}" for v in known.values()]]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    below = f"{of_masks} {source}" if of_masks else source
    return f"Box metrics on {where}, in percent.\n\n{table}\n\n{below}"


def per_class(values: Mapping[str, float | None] | None) -> str:
    """The AP of each class as a table, empty without numbers."""
    if not values:
        return ""
    lines = [
        f"| {escape_markdown(name)} | {'-' if value is None else format(value, '.1f')} |"
        for name, value in values.items()
    ]
    return "\n".join(["| class | AP |", "| --- | ---: |", *lines])


def curves(card: Card) -> str:
    """AP by epoch of the trainings, as a table; empty without numbers."""
    if not card.curves:
        return ""
    epochs = card.curves.get("epoch", ())
    uneven = [name for name, values in card.curves.items() if len(values) != len(epochs)]
    if not epochs or uneven:
        raise ValueError(
            f"{card.name}: curves needs 'epoch' and as many APs as epochs in each curve, got {len(epochs)} epochs and "
            f"others in {', '.join(uneven) or 'none'}"
        )
    lines = [["epoch", *(f"{epoch:g}" for epoch in epochs)], ["---", *["---:"] * len(epochs)]]
    for name in (name for name in card.curves if name != "epoch"):
        lines.append([table_cell(escape_markdown(name)), *(f"{ap:.1f}" for ap in card.curves[name])])
    return "\n".join(["AP by epoch:\n", *(f"| {' | '.join(line)} |" for line in lines)])


def table_cell(markdown: str) -> str:
    """Markdown, e.g. code, for a cell of a table."""
    return re.sub(r"(?<!\\)\|", r"\|", markdown)


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
    return f"{text}; {file}{f'; {escape_markdown(card.speed)}' if card.speed else ''}."


def training(card: Card) -> str:
    """Who trained the weights; training command and recipe."""
    data = "" if card.data == SHAPES else " --data DIR"
    recipe = printable(card.recipe or "")
    command = f"```\naccelerate launch recipes/train.py {recipe}{data}\n```"
    if card.origin is not None:
        elsewhere = "Trained elsewhere: the authors of the source trained these weights, with their own program."
        if card.recipe is None:
            return f"{elsewhere} pkdzoo has no recipe for them."
        own = f"pkdzoo's recipe {markdown_code(recipe)} repeats their training and gives weights of its own:"
        return f"{elsewhere} {own}\n\n{command}"
    if card.recipe is None and not card.launch:
        return "How these weights were trained is not recorded."
    launch = printable(card.launch)
    by_itself = launch.startswith(("python ", "pkdzoo "))
    launched = f"Trained with\n\n```\n{launch if by_itself else f'accelerate launch {launch}'}\n```"
    if card.recipe is None:
        return launched
    text = f"Recipe: {markdown_code(recipe)}.\n\n{command}"
    return f"{launched}\n\n{text}" if card.launch else text


def provenance(card: Card) -> str:
    """The origin of the weights, one fact per line."""
    lines = [f"- architecture: {escape_markdown(card.architecture)}"]
    if card.origin is not None:
        browser = "" if card.direct else " (a page that has to be opened in a browser)"
        lines.append(f"- converted from: <{card.origin}>{browser}")
    if card.initial is not None:
        start = card.initial
        revision = f", commit {start.revision}" if start.revision else ""
        digest = f", SHA-256 {start.sha256}" if start.sha256 else ""
        note = f", {start.resize_note}" if start.resize_note else ""
        lines.append(f"- training started from: {escape_markdown(f'{start.name}{revision}{digest}{note}')}")
    facts = [(key.replace("_", " "), format_fact(value)) for key, value in card.provenance.items()]
    if card.note and card.license != UNKNOWN:  # without a license it stands at the top
        facts.append(("note", card.note))
    return "\n".join([*lines, *(f"- {escape_markdown(key)}: {shown_source(value)}" for key, value in facts)])


def capitalized(text: str) -> str:
    """Text that begins a sentence, escaped."""
    return escape_markdown(text[0].upper() + text[1:])


def format_fact(value: Any) -> str:
    """A fact as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_fact(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(format_fact(item) for item in value)
    return str(value)


def limits(card: Card) -> str:
    """What the detector is limited to."""
    name = escape_markdown(card.data.name)
    limits = card.data.limits or f"It is trained on images of {name}; its accuracy on others is unknown."
    return f"{limits} Scores are not calibrated probabilities: choose a threshold on your own images."


def slug(text: str) -> str:
    """A name in lower case without spaces."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-")
