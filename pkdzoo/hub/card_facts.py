"""The facts on a card as JSON values in the config of a published detector, from which its card is written again.

Numbers are in ``metrics.json``; sizes, labels and the weights that training started from follow from the detector.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from pkdzoo.hub.card import UNKNOWN, Card, DataSet
from pkdzoo.hub.card_licenses import is_line
from pkdzoo.hub.weights import Distilled

TEXTS = ("name", "source", "teacher_license", "speed", "base_model", "origin", "recipe", "launch", "note")
OTHERS = ("data", "pair", "baseline_AP", "direct", "curves")
LINK = re.compile(r"https?://[^\s<>]+")  # shown between < and >
ADVICE = "publish the run or the file that it was made from"


def card_facts(card: Card) -> dict[str, Any]:
    """The facts of a card that differ from its defaults, except for its provenance."""
    own = {field.name: field for field in fields(Card)}
    facts = {key: getattr(card, key) for key in (*TEXTS, *OTHERS) if getattr(card, key) != own[key].default}
    facts["data"] = without_defaults(card.data)
    if card.pair is not None:
        facts["pair"] = {**without_defaults(card.pair), "methods": list(card.pair.methods)}
    if not card.curves:
        facts.pop("curves", None)
    return facts


def without_defaults(value: DataSet | Distilled) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults."""
    known = {field.name: field.default for field in fields(value)}
    return {key: item for key, item in asdict(value).items() if known[key] is MISSING or item != known[key]}


def read_card_facts(facts: Any) -> dict[str, Any]:
    """Arguments of :class:`Card` from :func:`card_facts`; the config may be a stranger's, so that types are checked.

    Raises:
        ValueError: for a value of another type, and for a fact that this version does not know, because it would be
            missing on the card that is written; the message names it.
    """
    if not isinstance(facts, Mapping):
        raise ValueError(f"config.json: card is a {type(facts).__name__} and should be an object: {ADVICE}")
    unknown = [str(key) for key in facts if key not in (*TEXTS, *OTHERS)]
    if unknown:
        raise ValueError(f"config.json: card has {unknown[0][:50]!r}, which this version does not know: {ADVICE}")
    read: dict[str, Any] = {key: facts[key] for key in TEXTS if key in facts}
    for key, value in read.items():
        check(key, isinstance(value, str))
    check("origin", LINK.fullmatch(read.get("origin", "https://host")) is not None)
    data, pair, curves = facts.get("data", {}), facts.get("pair"), facts.get("curves", {})
    texts = [field.name for field in fields(DataSet)]
    check("data", isinstance(data, Mapping) and "name" in data and set(data) <= set(texts))
    check("data", all(isinstance(value, str) for value in data.values()))
    check("data.license", is_line(data.get("license", UNKNOWN)))
    check("teacher_license", is_line(read.get("teacher_license", UNKNOWN)))
    check("data.name", data["name"].strip() != "")
    check("data.example", re.fullmatch(r"\w[\w.-]*", data.get("example", "image")) is not None)  # becomes code
    read["data"] = DataSet(**data)
    if pair is not None:
        read["pair"] = read_pair(pair)
    if facts.get("baseline_AP") is not None:
        check("baseline_AP", is_number(facts["baseline_AP"]))
        read["baseline_AP"] = float(facts["baseline_AP"])
    check("curves", isinstance(curves, Mapping) and all(is_numbers(values) for values in curves.values()))
    read["curves"] = {str(key): tuple(values) for key, values in curves.items()}
    read["direct"] = facts.get("direct", True) is not False
    return read


def read_pair(pair: Any) -> Distilled:
    """Student, teacher and their APs; ValueError for values of another type."""
    check("pair", isinstance(pair, Mapping) and set(pair) <= {field.name for field in fields(Distilled)})
    texts = [pair.get("student"), pair.get("teacher"), pair.get("source", ""), pair.get("note", "")]
    methods, triple = pair.get("methods"), pair.get("triple")
    check("pair", all(isinstance(text, str) for text in texts) and isinstance(methods, (list, tuple)))
    check("pair.gain_shown", isinstance(pair.get("gain_shown", True), bool))
    check("pair.methods", all(isinstance(method, str) for method in methods or ()))
    check("pair.triple", triple is None or (is_numbers(triple) and len(triple) == 3))
    return Distilled(**{**pair, "methods": tuple(methods or ()), "triple": None if triple is None else tuple(triple)})


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number; Python reads NaN and infinity there, too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_numbers(values: Any) -> bool:
    """Whether a value of a JSON file is a list of numbers."""
    return isinstance(values, (list, tuple)) and all(map(is_number, values))


def check(key: str, valid: bool) -> None:
    """Raise ValueError for a value of the wrong type."""
    if not valid:
        raise ValueError(f"config.json: card.{key} is not as pkdzoo writes it: {ADVICE}")
