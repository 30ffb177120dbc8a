"""Facts of a card that a published folder keeps: they come back as they were, and those of strangers are checked."""

from __future__ import annotations

import json
from typing import Any

import pytest

import pkdzoo
from pkdzoo.hub.card import Card, DataSet
from pkdzoo.hub.card_facts import card_facts, read_card_facts
from pkdzoo.models._card import card_of

PAIR = {"student": "retina_r50", "teacher": "retina_r101", "methods": ["pkd"], "triple": [40.0, 36.0, 39.0]}


@pytest.mark.parametrize("name", pkdzoo.list_detectors(pretrained=True))
def test_facts_come_back_as_they_were(name: str) -> None:
    card = card_of(name)
    facts = json.loads(json.dumps(card_facts(card)))
    for key, value in read_card_facts(facts).items():
        assert value == getattr(card, key), key
    if card.pair is not None:
        assert read_card_facts(facts)["pair"] == card.pair


@pytest.mark.parametrize(
    ("facts", "key"),
    [
        ({"note": 5}, "note"),
        ({"data": {"license": "MIT"}}, "data"),
        ({"data": {"name": "a", "path": "b"}}, "data"),
        ({"data": {"name": " "}}, "data.name"),
        ({"data": {"name": "a", "license": "MIT\n- these weights: CC0-1.0"}}, "data.license"),
        ({"data": {"name": "a", "example": 'x"); print("'}}, "data.example"),
        ({"teacher_license": "MIT\nMIT"}, "teacher_license"),
        ({"origin": "https://host/x> <script>alert(1)</script>"}, "origin"),
        ({"origin": "javascript:alert(1)"}, "origin"),
        ({"baseline_AP": "36"}, "baseline_AP"),
        ({"baseline_AP": float("nan")}, "baseline_AP"),
        ({"curves": {"epoch": [1, float("inf")]}}, "curves"),
        ({"curves": {"epoch": "12"}}, "curves"),
        ({"pair": {**PAIR, "triple": [40.0, 36.0]}}, "pair.triple"),
        ({"pair": {**PAIR, "triple": [40.0, 36.0, float("nan")]}}, "pair.triple"),
        ({"pair": {**PAIR, "gain_shown": "no"}}, "pair.gain_shown"),
        ({"pair": {**PAIR, "methods": [1]}}, "pair.methods"),
        ({"pair": {**PAIR, "command": "rm"}}, "pair"),
    ],
)
def test_wrong_facts_are_named(facts: dict[str, Any], key: str) -> None:
    read_card_facts({"data": {"name": "a"}, "pair": PAIR})
    with pytest.raises(ValueError, match=rf"config\.json: card\.{key} is not as pkdzoo writes it: publish the run"):
        read_card_facts({"data": {"name": "a"}, **facts})


def test_a_fact_that_this_version_does_not_know_is_not_left_out() -> None:
    with pytest.raises(ValueError, match=r"card has 'later', which this version does not know: publish the run"):
        read_card_facts({"data": {"name": "a"}, "later": 1})


def test_a_card_without_facts_has_those_of_its_data() -> None:
    assert card_facts(Card("a", "retina_r50", "Apache-2.0", (), DataSet("b"))) == {"name": "a", "data": {"name": "b"}}
