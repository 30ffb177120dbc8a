"""``pkdzoo list`` and ``pkdzoo info``: what there is."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pkdzoo.cli.common import WHICH, Parser, Verb, show
from pkdzoo.data.labels import label_names
from pkdzoo.hub.weights import Distilled, Weights
from pkdzoo.models._builder import PREFIXES
from pkdzoo.models._factory import create_detector
from pkdzoo.models._registry import find, list_detectors, list_pairs
from pkdzoo.models.detector import Detector
from pkdzoo.training.evaluate import open_detector
from pkdzoo.utils.suggest import did_you_mean

# -- list --------------------------------------------------------------------------------------------------------


def list_arguments(parser: Parser) -> None:
    """Arguments of ``list``."""
    parser.add_argument("pattern", nargs="*", help="wildcards, in quotes; a name is listed if it fits one of them")
    parser.add_argument("--pretrained", action="store_true", help="weights that can be had, as NAME.TAG")
    parser.add_argument("--pairs", action="store_true", help="distilled detectors only")
    parser.add_argument("--family", default="", help="one family only, e.g. retina")


def list_run(args: argparse.Namespace) -> int:
    """Names of detectors, with AP and teacher."""
    names = list_detectors(args.pattern, pretrained=args.pretrained, family=args.family)
    if args.pairs:
        pairs = set(list_pairs())
        names = [name for name in names if name.partition(".")[0] in pairs]
    if not names:
        asked = " ".join([*args.pattern, *(["--family", args.family] if args.family else [])])
        word = args.pattern[0].strip("*") if args.pattern else asked
        raise ValueError(f"no detector fits {asked!r}. {did_you_mean(word, list_detectors())}")
    rows = [list_row(name) for name in names]
    width = max(len(name) for name in names)
    lines = [f"{'name':<{width}}  {'AP':>5}  learned from"]
    for row in rows:
        score = "" if row["AP"] is None else f"{row['AP']:.1f}"
        lines.append(f"{row['name']:<{width}}  {score:>5}  {row['teacher'] or ''}".rstrip())
    show(args, "\n".join(lines), rows)
    return 0


def list_row(name: str) -> dict[str, Any]:
    """What the list says about one name."""
    entry, weights = find(name)
    weights = weights or entry.default
    return {
        "name": name,
        "family": entry.family,
        "AP": weights.metrics.get("AP") if weights else None,
        "weights": [w.tag for w in entry.weights if w.has_source],
        "teacher": entry.distilled.teacher if entry.distilled else None,
        "methods": list(entry.distilled.methods) if entry.distilled else [],
    }


LIST = Verb(
    "list the detectors there are",
    ("pkdzoo list '*pkd*' --pretrained", "pkdzoo list --family gfl --json"),
    list_arguments,
    list_run,
)

# -- info --------------------------------------------------------------------------------------------------------


def info_arguments(parser: Parser) -> None:
    """Arguments of ``info``."""
    parser.add_argument("model", help=WHICH)


def info_run(args: argparse.Namespace) -> int:
    """All that is known about one detector."""
    saved = Path(args.model).is_dir()
    if saved or args.model.startswith(PREFIXES):
        model = open_detector(args.model) if saved else create_detector(args.model)
        known: dict[str, Any] = {"name": args.model, "architecture": model.name, **facts(model)}
    else:
        entry, chosen = find(args.model)
        row = chosen or entry.default
        # of as many classes as its weights have: they are part of its size
        model = create_detector(args.model, label_names=None if row is None else label_names(row.labels))
        known = {"name": args.model, "architecture": model.name, **facts(model)}
        known["family"] = entry.family
        known["distilled"] = distilled_facts(entry.distilled) if entry.distilled else None
        known["weights"] = [asdict(w) for w in entry.weights if chosen in (None, w)]
    show(args, "\n".join(info_lines(known)), known)
    return 0


def facts(model: Detector) -> dict[str, Any]:
    """What a built detector says about itself."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "num_classes": model.num_classes,
        "label_names": list(model.label_names),
        "resize": list(model.resize),
        "channel_order": model.channel_order,
        "postprocess": asdict(model.postprocess_config),
    }


def distilled_facts(distilled: Distilled) -> dict[str, Any]:
    """Who taught it, and the three numbers of one source."""
    return {**asdict(distilled), "gap_closed": distilled.gap_closed}


def info_lines(known: dict[str, Any]) -> list[str]:
    """The facts as lines for people."""
    names = known["label_names"]
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    lines = [
        known["name"],
        f"  parameters   {known['parameters'] / 1e6:.1f} million",
        f"  classes      {known['num_classes']}: {shown}",
        f"  images     short side {known['resize'][0]}, long side up to {known['resize'][1]} pixels",
    ]
    if known.get("family"):
        lines.insert(1, f"  family       {known['family']}")
    taught = known.get("distilled")
    if taught:
        lines.append(f"  learned from {taught['teacher']} by {', '.join(taught['methods'])}, as {taught['student']}")
        if taught["triple"]:
            teacher, plain, distilled = taught["triple"]
            lines.append(f"  AP           teacher {teacher}, plain student {plain}, distilled {distilled}")
            lines.append(f"               {taught['gap_closed']:.0%} of the gap closed ({taught['source']})")
    for row in known.get("weights", []):
        lines += weights_lines(Weights(**row))
    return lines


def weights_lines(row: Weights) -> list[str]:
    """One set of weights."""
    score = f"AP {row.metrics['AP']}" if "AP" in row.metrics else "no AP"
    place = row.hub_id or row.file or row.url or "cannot be had"
    lines = [f"  weights      {row.tag}: {score}{f' ({row.source})' if row.source else ''}, licence {row.license}"]
    lines.append(f"               {place}{'' if row.direct else ' (open by hand)'}")
    return lines + ([f"               {row.note}"] if row.note else [])


INFO = Verb(
    "show what is known about a detector",
    ("pkdzoo info retina_r50_pkd_swin", "pkdzoo info runs/a --json"),
    info_arguments,
    info_run,
)
