"""The HTML of a report: everything in one file, which loads nothing from anywhere."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pkdzoo.evaluation.matches import confusion, f1_by_threshold, score_histogram
from pkdzoo.training.report import measures
from pkdzoo.training.report.charts import Line, histogram, line_chart
from pkdzoo.training.report.contenders import DISTILLED, Contender, read_contenders
from pkdzoo.training.report.gallery import gallery
from pkdzoo.training.report.measures import Measured
from pkdzoo.training.run_table import COLUMNS
from pkdzoo.utils.files import write_text
from pkdzoo.utils.text import printable
from pkdzoo.version import __version__

REPORT = "report.html"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
CLASSES = 40  # rows of the table by class, and curves that the filter shows
CONFUSED = 20  # classes of the confusion matrix
DEFAULT_THRESHOLD = 0.3  # where nothing is right at any threshold


def write_report(
    folders: Sequence[str | Path], target: str | Path | None = None, pictures: bool = True, light: bool = False
) -> Path:
    """Write the report of one or several runs.

    Args:
        folders: of runs, see :func:`read_contenders`.
        target: the file; None means ``report.html`` in the first folder.
        pictures: embed validation images; the report is then not for publication where they may not be published.
        light: numbers and curves only, which takes no time in a run that is going on.

    Returns:
        The file.

    Raises:
        ValueError: for a folder without a run, or files that are not as a run wrote them.
    """
    contenders = read_contenders(folders, light)
    path = Path(target) if target is not None else Path(folders[0]) / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(contenders, title_of(folders), pictures))
    return path


def update_report(folder: Path, light: bool) -> None:
    """Write the report of a run that is going on; what goes wrong is a warning, because the run is worth more."""
    try:
        write_report([folder], light=light)
    except Exception as error:
        warnings.warn(f"the report of {folder} was not written: {type(error).__name__}: {error}", stacklevel=2)


def verdict_of(folder: Path) -> str:
    """The sentences at the top of the report of a run; empty, with a warning, where something goes wrong."""
    try:
        contenders = read_contenders([folder])
        return _verdict(contenders, measures.measure(contenders))
    except Exception as error:
        warnings.warn(f"no verdict on {folder}: {type(error).__name__}: {error}", stacklevel=2)
        return ""


def _verdict(contenders: Sequence[Contender], measured: Measured | None) -> str:
    if measured is None:
        return measures.verdict(contenders, None, 0)
    return measures.verdict(contenders, measures.difference(measured), len(measured.truth.image_ids))


def title_of(folders: Sequence[str | Path]) -> str:
    """The names of the folders."""
    return ", ".join(Path(folder).resolve().name for folder in folders)


def render(contenders: Sequence[Contender], title: str, pictures: bool = True) -> str:
    """The report as HTML.

    Args:
        contenders: detectors, in the order of the columns.
        title: of the page.
        pictures: embed validation images.
    """
    measured = measures.measure(contenders)
    data: dict[str, Any] = {"classes": [], "gallery": []}
    parts = [_comparison(contenders)]
    if measured is not None:
        best = measures.best_f1(measured, measured.main[1])
        threshold = DEFAULT_THRESHOLD if best is None else float(best["threshold"])
        data["classes"] = [printable(name) for name in measured.truth.label_names]
        if pictures:
            data["gallery"] = gallery(measured, threshold)
        parts += [
            _curves(contenders), _precision(measured), _per_class(contenders, measured), _scores(measured, best),
            _confusion(measured, threshold), _gallery_section(data["gallery"], threshold, pictures),
        ]  # fmt: skip
        parts += [f'<p class="soft">{_text(sentence)}</p>' for sentence in measured.left_out]
    else:
        parts += [_curves(contenders), _per_class(contenders, None)]
    parts += [_cost(contenders), _origin(contenders)]
    return _document(title, _verdict(contenders, measured), _filter(data["classes"]), "".join(parts), data)


def _document(title: str, verdict: str, controls: str, body: str, data: Mapping[str, Any]) -> str:
    folder = Path(__file__).parent
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    content = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)} - pkdzoo</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<main>
<header><div><h1>{_text(title)}</h1><p class="soft">pkdzoo {__version__}, {date}</p></div>
<div class="controls"><button id="theme" type="button">light / dark</button></div></header>
<p class="verdict">{_text(verdict)}</p>
{controls}{body}
</main>
<script type="application/json" id="data">{content}</script>
<script>
{script}</script>
</body>
</html>
"""


def _text(text: object) -> str:
    return escape(printable(str(text), keep="\n"))


def _section(title: str, content: str, note: str = "") -> str:
    about = f'<p class="soft">{_text(note)}</p>' if note else ""
    return f"<section><h2>{_text(title)}</h2>{about}{content}</section>" if content else ""


def _card(title: str, content: str, note: str = "") -> str:
    about = f'<p class="soft">{_text(note)}</p>' if note else ""
    return f'<div class="card"><h3>{_text(title)}</h3>{content}{about}</div>' if content else ""


def _table(head: Sequence[str], rows: Iterable[tuple[Sequence[str], str]], kind: str = "") -> str:
    """Rows of cells, which are HTML, with the name of the object class that a row is about."""
    lines = []
    for cells, name in rows:
        about = f' data-class="{_text(name)}"' if name else ""
        lines.append(f"<tr{about}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    return (
        f'<div class="scroll {kind}"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _number(value: Any, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"


def _filter(classes: Sequence[str]) -> str:
    if len(classes) < 2:
        return ""
    options = "".join(f'<option value="{k}">{_text(name)}</option>' for k, name in enumerate(classes))
    return (
        '<div class="bar-top controls"><label for="class">class</label><select id="class">'
        f'<option value="-1">all {len(classes)}</option>{options}</select></div>'
    )


def _name(contender: Contender) -> str:
    return f'<span class="key {contender.role}">{_text(contender.title)}</span>'


def _comparison(contenders: Sequence[Contender]) -> str:
    best = max((c.metrics.get("AP") or -1.0 for c in contenders), default=-1.0)
    rows = []
    for contender in contenders:
        numbers = [_number(contender.metrics.get(key)) for key in COLUMNS]
        if contender.metrics.get("AP") == best and len(contenders) > 1:
            numbers[0] = f"<b>{numbers[0]}</b>"
        rows.append(([_name(contender), contender.role, *numbers], ""))
    return _section(
        "Comparison", _table(["", "role", *COLUMNS], rows),
        "COCO's metrics in percent, of runs after the last epoch, of the teacher beside them as it taught. AP is the "
        "mean over IoU 0.5 to 0.95; s, m and l are objects below 32 x 32 pixels, up to 96 x 96, and above.",
    )  # fmt: skip


def _curves(contenders: Sequence[Contender]) -> str:
    ap = [Line(c.title, c.curve("AP", "epoch"), c.role) for c in contenders]
    loss = [Line(c.title, _own_loss(c), c.role) for c in contenders]
    cards = _card("AP by epoch", line_chart(ap, "epoch", "AP"))
    cards += _card("Loss by step", line_chart(loss, "step", "loss"), "The detector's own loss, without distillation.")
    main = next((c for c in reversed(contenders) if c.role == DISTILLED), None)
    if main is not None:
        keys = [key for key in main.keys("log/") if key.rpartition("/")[2][:1] == "r"]
        levels = [Line(f"level {k}", main.curve(key), f"s{k % 6}") for k, key in enumerate(keys)]
        cards += _card(
            "Pearson's r by level", line_chart(levels, "step", "r", y_range=(min(0.0, _lowest(levels)), 1.0)),
            "Correlation of the student's pyramid with the teacher's, from the finest level.",
        )  # fmt: skip
        taught = [Line(key.removeprefix("loss_"), main.curve(key), f"s{k}") for k, key in enumerate(_methods(main))]
        cards += _card("Loss of the method", line_chart(taught, "step", "loss"))
    return _section("Training", f'<div class="grid charts">{cards}</div>' if cards else "")


def _methods(contender: Contender) -> list[str]:
    """Keys of the log with the losses of the distillation methods."""
    methods = (contender.recipe.get("distill") or {}).get("methods") or {}
    return [key for key in contender.keys("loss_") if any(name in key for name in methods)]


def _own_loss(contender: Contender) -> list[tuple[float, float]]:
    taught = _methods(contender)
    lines = [line for line in contender.log if line.get("loss") is not None]
    return [(float(n["step"]), float(n["loss"]) - sum(float(n.get(key) or 0.0) for key in taught)) for n in lines]


def _lowest(lines: Sequence[Line]) -> float:
    return min((y for line in lines for _, y in line.points), default=0.0)


def _precision(measured: Measured) -> str:
    lines = [Line(c.title, measures.precision_curve(m), c.role) for c, m in measured.rows]
    names = measured.truth.label_names
    if len(names) > 1:
        for contender, matches in measured.rows:
            lines += [
                Line(contender.title, measures.precision_curve(matches, k), contender.role, printable(name))
                for k, name in enumerate(names[:CLASSES])
            ]
    chart = line_chart(lines, "recall", "precision", (0, 100), (0, 100))
    note = "Mean over classes; the filter adds the curves of one class."
    return _section("Precision and recall", f'<div class="grid charts">{_card("At IoU 0.5", chart, note)}</div>')


def _per_class(contenders: Sequence[Contender], measured: Measured | None) -> str:
    names = list(dict.fromkeys(name for c in contenders for name in c.metrics.get("per_class") or {}))
    if not names:
        return ""
    counts: dict[str, int] = {}
    if measured is not None:
        category = dict(zip(measured.truth.label_to_coco_id, measured.truth.label_names))
        for number in measured.objects["category_id"].tolist():
            counts[category[number]] = counts.get(category[number], 0) + 1
    names.sort(key=lambda name: -counts.get(name, 0))
    shown = [c for c in contenders if c.metrics.get("per_class")]
    rows = []
    for name in names[:CLASSES]:
        cells = [_number(c.metrics["per_class"].get(name)) for c in shown]
        rows.append(([_text(name), str(counts.get(name, "-")), *cells], printable(name)))
    note = f"The {CLASSES} classes with most objects of {len(names)}." if len(names) > CLASSES else ""
    return _section("AP by class", _table(["class", "objects", *(c.title for c in shown)], rows, "per-class"), note)


def _scores(measured: Measured, best: Mapping[str, Any] | None) -> str:
    contender, matches = measured.main
    mark = None if best is None else float(best["threshold"])
    lines = [Line(c.title, _f1_points(f1_by_threshold(m)), c.role) for c, m in measured.rows]
    note = "Nothing is right at any threshold."
    if best is not None:
        note = (
            f"F1 is highest at {best['threshold']:.8g}: precision {best['precision']:.1f}, recall "
            f"{best['recall']:.1f}, F1 {best['f1']:.1f} (percent, IoU 0.5)."
        )
    cards = _card(f"Scores of {contender.title}", histogram(*score_histogram(matches), mark))
    cards += _card("F1 by threshold", line_chart(lines, "threshold", "F1", (0, 1), (0, 100), mark), note)
    return _section("Which threshold to use", f'<div class="grid charts">{cards}</div>')


def _f1_points(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(k / len(values), value) for k, value in enumerate(values)]


def _confusion(measured: Measured, threshold: float) -> str:
    contender, matches = measured.main
    counts, names = confusion(matches, threshold), [printable(name) for name in measured.truth.label_names]
    order = sorted(range(len(names)), key=lambda k: -int(counts[k].sum() + counts[:, k].sum()))[:CONFUSED]
    chosen = [*order, len(names)]
    titles = [*(names[k] for k in order), "background"]
    rows = []
    for k, title in zip(chosen, titles):
        total = max(int(counts[k].sum()), 1)
        cells = [_text(title)]
        for other in chosen:
            count = int(counts[k, other])
            shade = f"rgba(var(--heat),{0.75 * count / total:.2f})"
            cells.append(f'<span style="display:block;background:{shade}">{count or ""}</span>')
        rows.append((cells, title if k < len(names) else ""))
    note = (
        f"{contender.title}, scores above {threshold:.8g}, IoU 0.5. Rows: true class; columns: detected class. Column "
        "background: objects that were missed; row background: detections of nothing."
    )
    if len(names) > CONFUSED:
        note += f" The {CONFUSED} classes with most objects of {len(names)}."
    return _section("Confusion", _table(["", *titles], rows, "confusion card"), note)


def _gallery_section(images: Sequence[Any], threshold: float, pictures: bool) -> str:
    if not images:
        note = "The validation images could not be read." if pictures else "Left out of this report."
        return _section("Validation images", f'<p class="soft" id="gallery">{note}</p>')
    note = (
        f"The images on which the detectors differ most in errors. Detections with scores above {threshold:.8g}; solid "
        "green boxes are right (IoU 0.5), dashed red ones are wrong."
    )
    return _section("Validation images", '<div id="gallery"></div>', note)


def _cost(contenders: Sequence[Contender]) -> str:
    machines = sorted({machine for c in contenders if (machine := _measured_on(c))})
    rows = []
    for c in contenders:
        params, operations = c.costs or (None, None)
        size = "-" if c.size is None else " x ".join(map(str, c.size))
        latency = _number(c.metrics.get("ms_per_image"))
        cells = [_name(c), _number(params, 2), _number(operations, 2), size, latency, _text(_measured_on(c) or "-")]
        rows.append((cells if len(machines) > 1 else cells[:-1], ""))
    head = ["", "million parameters", "billion multiply-adds", "short x long side", "ms per image"]
    note = f"Latency: one image at a time, median, measured on {machines[0]}." if machines else ""
    if len(machines) > 1:
        head.append("measured on")
        note = (
            "Latency: one image at a time, median. It can be compared only where it was measured on the same hardware."
        )
    return _section("Size and speed", _table(head, rows), note)


def _measured_on(contender: Contender) -> str:
    """The hardware of a latency; empty without one."""
    metrics = contender.metrics
    return "" if metrics.get("ms_per_image") is None else str(metrics.get("hardware") or "unknown hardware")


def _origin(contenders: Sequence[Contender]) -> str:
    cards = []
    for contender in contenders:
        facts, metrics = contender.facts, contender.metrics
        data = facts.get("data") or {}
        entries = {
            "command": facts.get("command"),
            "folder": contender.folder,
            "versions": ", ".join(f"{key} {facts[key]}" for key in ("pkdzoo", "torch") if key in facts),
            "hardware": facts.get("hardware"),
            "begun": facts.get("date"),
            "validation images": metrics.get("images"),
            "annotations": metrics.get("annotations_sha256"),
            "training data": data.get("train_sha256"),
        }
        shown = "".join(f"<dt>{key}</dt><dd>{_text(value)}</dd>" for key, value in entries.items() if value)
        recipe = f"<pre>{_text(json.dumps(contender.recipe, indent=1))}</pre>" if contender.recipe else ""
        details = f"<details><summary>recipe</summary>{recipe}</details>" if recipe else ""
        if shown or details:
            cards.append(_card(contender.title, f"<dl>{shown}</dl>{details}"))
    return _section("How it was made", f'<div class="grid">{"".join(cards)}</div>' if cards else "")
