"""``pkdzoo list`` and ``pkdzoo info``: the detectors of the zoo, from the registry and its index, without torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pkdzoo.cli.common import MODEL_HELP, Parser, Verb, show
from pkdzoo.data.labels import label_names
from pkdzoo.hub.card import COCO, known_data
from pkdzoo.hub.weights import Distilled, InitialWeights, Weights
from pkdzoo.models._registry import find, folder_of, is_detector, list_detectors, list_pairs
from pkdzoo.models._zoo_index import INDEX, IndexRow
from pkdzoo.training.published_files import recipes_of
from pkdzoo.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from pkdzoo.models.detector import Detector

# -- list --------------------------------------------------------------------------------------------------------


def list_arguments(parser: Parser) -> None:
    """Add the arguments of ``list``."""
    parser.add_argument("pattern", nargs="*", help="wildcards in quotes; a name is listed if it matches one of them")
    parser.add_argument("--pretrained", action="store_true", help="list weights as NAME.TAG")
    parser.add_argument("--pairs", action="store_true", help="list distilled detectors only")
    parser.add_argument("--family", default="", help="list this family only, e.g. retina")
    orders = (
        "name or AP, highest first, one data set after another; or measured latency of the exported file, where there "
    )
    orders += "is one (default: name)"
    parser.add_argument("--sort", choices=("name", "AP", "latency"), default="name", help=orders)


def list_run(args: argparse.Namespace) -> int:
    """Print names of detectors with AP, data set and teacher."""
    names = list_detectors(args.pattern, pretrained=args.pretrained, family=args.family)
    if args.pairs:
        pairs = set(list_pairs())
        names = [name for name in names if name.partition(".")[0] in pairs]
    if not names:
        query = " ".join([*args.pattern, *(["--family", args.family] if args.family else [])])
        word = args.pattern[0].strip("*") if args.pattern else query
        if not args.pretrained and list_detectors(args.pattern, pretrained=True, family=args.family):
            raise ValueError(f"no detector is called {query!r}, but weights are: write --pretrained to list them")
        raise ValueError(f"no detector matches {query!r}. {did_you_mean(word, list_detectors())}")
    rows = [list_row(name) for name in names]
    if args.sort == "latency":
        latency = read_latency()
        rows = [{**row, "ms": latency["ms"].get(row["name"].partition(".")[0])} for row in rows]
        rows.sort(key=lambda row: (row["ms"] is None, row["ms"], row["name"]))
        show(args, latency_text(rows, latency["about"]), rows)
        return 0
    if args.sort == "AP":
        rows.sort(key=lambda row: -(row["AP"] or 0.0))
    show(args, list_text(rows), rows)
    return 0


def read_latency() -> dict[str, Any]:
    """Milliseconds by name, and how they were measured: docs/deploy.md."""
    return cast(dict[str, Any], json.loads((files("pkdzoo.models") / "_latency.json").read_text(encoding="utf-8")))


def latency_text(rows: list[dict[str, Any]], about: str) -> str:
    """A table, fastest first; detectors whose latency was not measured come last."""
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'name':<{width}}  {'ms':>7}  {'AP':>5}  teacher"]
    for row in rows:
        time, score = ("" if row[key] is None else f"{row[key]:.1f}" for key in ("ms", "AP"))
        lines.append(f"{row['name']:<{width}}  {time:>7}  {score:>5}  {row['teacher'] or ''}".rstrip())
    return "\n".join([*lines, *([f"ms: {about}"] if about else [])])


def list_row(name: str) -> dict[str, Any]:
    """The facts about one name, in JSON's types."""
    entry, weights = find(name)
    weights = weights or entry.default
    data = known_data(weights.labels) if weights else None
    return {
        "name": name,
        "family": entry.family,
        "AP": weights.metrics.get("AP") if weights else None,
        "data": data.name if data else None,
        "weights": [w.tag for w in entry.weights if w.has_source],
        "teacher": entry.distilled.teacher if entry.distilled else None,
        "methods": list(entry.distilled.methods) if entry.distilled else [],
    }


def list_text(rows: list[dict[str, Any]]) -> str:
    """A table, one data set after another, COCO first, because APs on different data sets cannot be compared."""
    order = sorted(rows, key=lambda row: (row["AP"] is None, row["data"] != COCO.name, row["data"] or ""))
    width = max(len(row["name"]) for row in rows)
    data_width = max(len("data set"), *(len(row["data"] or "") for row in rows))
    lines = [f"{'name':<{width}}  {'AP':>5}  {'data set':<{data_width}}  teacher"]
    for row in order:
        score = "" if row["AP"] is None else f"{row['AP']:.1f}"
        line = f"{row['name']:<{width}}  {score:>5}  {row['data'] or '':<{data_width}}  {row['teacher'] or ''}"
        lines.append(line.rstrip())
    return "\n".join(lines)


LIST = Verb(
    "list detectors",
    ("pkdzoo list '*pkd*' --pretrained", "pkdzoo list --family gfl --json", "pkdzoo list --sort AP"),
    list_arguments,
    list_run,
)

# -- info --------------------------------------------------------------------------------------------------------


def info_arguments(parser: Parser) -> None:
    """Add the arguments of ``info``."""
    parser.add_argument("model", help=MODEL_HELP)


def info_run(args: argparse.Namespace) -> int:
    """Print the facts about one detector."""
    content = saved_facts(args.model) if is_saved(args.model) else registered_facts(args.model)
    show(args, "\n".join(info_lines(content)), content)
    return 0


def is_saved(name: str) -> bool:
    """Whether a name is a folder or has a prefix, ``hf-hub:`` or ``local-dir:``."""
    return folder_of(name) is not None or ":" in name


def saved_facts(name: str) -> dict[str, Any]:
    """Facts about a saved detector, which is built for this."""
    from pkdzoo.training.evaluate import open_detector

    model = open_detector(name)
    family = find(model.name)[0].family if is_detector(model.name) else None
    return {"name": name, "architecture": model.name, **model_facts(model), "family": family, **run_facts(name)}


def run_facts(name: str) -> dict[str, Any]:
    """Teacher, methods and AP of a run, from the files in its folder; nothing for another detector."""
    from pkdzoo.training.provenance import read_json_object
    from pkdzoo.training.recipe import Recipe

    folder = Path(folder_of(name) or "")
    facts: dict[str, Any] = {}
    if (folder / "recipe.json").is_file():
        distill = Recipe.from_dict(read_json_object(folder / "recipe.json")).distill
        facts["teacher"] = distill.teacher if distill else None
        facts["methods"] = list(distill.methods) if distill else []
    if (folder / "metrics.json").is_file():
        metrics = read_json_object(folder / "metrics.json")
        facts |= {"AP": metrics.get("AP"), "epoch": metrics.get("epoch")}
    return facts


def registered_facts(name: str) -> dict[str, Any]:
    """Facts about ``arch`` or ``arch.tag``; an architecture has the classes of its default weights."""
    entry, selected = find(name)
    row = selected or entry.default
    labels = None if row is None else label_names(row.labels)
    if entry.name in INDEX:
        facts = index_facts(INDEX[entry.name], labels)
    else:
        from pkdzoo.models._factory import create_detector

        facts = model_facts(create_detector(name, label_names=labels))
    if row is not None and row.resize is not None:
        facts["resize"] = list(row.resize)
    return {
        "name": name,
        "architecture": entry.name,
        **facts,
        "family": entry.family,
        "distilled": distilled_facts(entry.distilled) if entry.distilled else None,
        "weights": [asdict(weights) for weights in entry.weights if selected in (None, weights)],
        "students": [pair for pair in list_pairs() if cast(Distilled, find(pair)[0].distilled).student == entry.name],
        # weights that say how they were trained have no other recipe; those of an architecture are for COCO
        "recipes": [] if selected is not None and selected.launch else recipes_of(entry.name),
    }


def index_facts(row: IndexRow, labels: tuple[str, ...] | None) -> dict[str, Any]:
    """What :func:`model_facts` gives for the detector of an index row.

    Args:
        row: of the architecture.
        labels: class names of its weights; None for a detector without weights.
    """
    if labels is None:
        labels = tuple(f"class_{i}" for i in range(row.num_classes))
    return {
        "parameters": row.parameters[len(labels)],
        "num_classes": len(labels),
        "label_names": list(labels),
        "resize": list(row.resize),
        "channel_order": row.channel_order,
        "postprocess": dict(row.postprocess),
    }


def model_facts(model: Detector) -> dict[str, Any]:
    """Facts about a detector that is built."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "num_classes": model.num_classes,
        "label_names": list(model.label_names),
        "resize": list(model.resize),
        "channel_order": model.channel_order,
        "postprocess": asdict(model.postprocess_config),
        **({} if model.initial_weights is None else {"initial_weights": asdict(model.initial_weights)}),
    }


def distilled_facts(distilled: Distilled) -> dict[str, Any]:
    """Teacher, methods and the published APs of a distilled detector."""
    return {**asdict(distilled), "gap_closed": distilled.gap_closed}


def info_lines(content: dict[str, Any]) -> list[str]:
    """The facts as lines of text."""
    names = content["label_names"]
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    lines = [
        content["name"],
        f"  parameters   {content['parameters'] / 1e6:.1f} million",
        f"  classes      {content['num_classes']}: {shown}",
        f"  images       short side {content['resize'][0]}, long side up to {content['resize'][1]} pixels",
    ]
    if content.get("family"):
        lines.insert(1, f"  family       {content['family']}")
    if content["architecture"] != content["name"]:
        lines.insert(1, f"  architecture {content['architecture']}")
    start = content.get("initial_weights")
    if start:
        lines.append(f"  training     started from {start['name']}, license {start['license']}")
        note = InitialWeights(**start).resize_note
        lines += [f"               {note}"] if note else []
    pair = content.get("distilled")
    if pair:
        lines.append(f"  teacher      {pair['teacher']}, by {', '.join(pair['methods'])}; student {pair['student']}")
        if pair["triple"]:
            teacher, plain, distilled = pair["triple"]
            lines.append(f"  AP           teacher {teacher}, plain student {plain}, distilled {distilled}")
            gap = pair["gap_closed"]
            said = "a gain is not shown" if gap is None else f"{gap:.0%} of the gap closed"
            lines.append(f"               {said} ({pair['source']})")
    elif content.get("teacher"):
        lines.append(f"  teacher      {content['teacher']}, by {', '.join(content['methods'])}")
    if content.get("AP") is not None:
        when = "" if content.get("epoch") is None else f" after epoch {content['epoch']}"
        lines.append(f"  AP           {content['AP']:.1f}{when}")
    for row in content.get("weights", []):
        lines += weights_lines(Weights(**row))
    return lines + (training_lines(content) if "recipes" in content else [])


def training_lines(content: dict[str, Any]) -> list[str]:
    """How a registered detector is trained, and which students with a teacher it is the architecture of."""
    name, recipes, lines = content["architecture"], content["recipes"], []
    if not content["weights"]:
        lines.append("  weights      none are published")
    if content["students"]:
        lines.append(f"  distilled    {some(content['students'])}")
    if recipes:
        lines.append(f"  recipes      {some(recipes)}")
        lines.append(f"               pkdzoo train {recipes[0]} --data DIR")
    return [*lines, f"  own data     pkdzoo distill --data DIR --student {name}"]


def some(names: Sequence[str], limit: int = 4) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def weights_lines(row: Weights) -> list[str]:
    """The lines of one set of weights."""
    score = f"AP {row.metrics['AP']}" if "AP" in row.metrics else "no AP"
    lines = [f"  weights      {row.tag}: {score}{f' ({row.source})' if row.source else ''}, license {row.license}"]
    if row.has_source:
        where = f"{row.file}, inside the package" if row.file else row.hub_id or row.url
        lines.append(f"               {where}{'' if row.direct else ' (open it in a browser)'}")
        lines.append(f"               SHA-256: {row.hash_digits} known{f', {row.sha256[:8]}' if row.sha256 else ''}")
    else:
        lines.append(f"               not published{f'; train them with {row.launch}' if row.launch else ''}")
    return lines + ([f"               {row.note}"] if row.note else [])


INFO = Verb(
    "show the facts about a detector",
    ("pkdzoo info retina_r50_pkd_swin", "pkdzoo info runs/a --json"),
    info_arguments,
    info_run,
)
