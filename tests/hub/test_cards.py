"""Cards say what the registry says, in the Hub's own words, and nobody's license is guessed."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from helpers.reference import load
from huggingface_hub import ModelCardData
from huggingface_hub.repocard import ModelCard
from markdown_it import MarkdownIt

import pkdzoo
from pkdzoo.data.labels import KNOWN, label_names
from pkdzoo.hub.card import COCO, UNKNOWN, Card, DataSet, known_data
from pkdzoo.hub.card_licenses import UnknownLicense
from pkdzoo.hub.card_methods import METHODS
from pkdzoo.hub.card_text import HUB_METRICS, eval_results, front_matter, render
from pkdzoo.hub.weights import Distilled
from pkdzoo.maintain.cards import zoo_cards
from pkdzoo.models._card import card_of, describe_card
from pkdzoo.models._registry import entries

ROOT = Path(__file__).parents[2]
NAMES = pkdzoo.list_detectors(pretrained=True)
TINY = Card("tiny", "retina_r10w16", "MIT", ("cat", "dog"), DataSet("pets", "CC0-1.0"), {"AP": 12.3456, "AP50": None})


def read_front(text: str) -> ModelCardData:
    """The front matter as the Hub's client reads it from a whole card."""
    return ModelCard(text, ignore_metadata_errors=False).data


def test_cards_on_disk_are_what_the_registry_says() -> None:
    expected = zoo_cards(ROOT / "recipes")
    found = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "hub_cards").glob("*.md")}
    assert sorted(found) == sorted(expected)
    stale = [name for name, text in expected.items() if found[name] != text]
    assert not stale, "write them again: python -m pkdzoo.maintain cards"


@pytest.mark.parametrize("name", NAMES)
def test_card_table_and_registry_agree(name: str) -> None:
    text = (ROOT / "hub_cards" / f"{name}.md").read_text(encoding="utf-8")
    row, (line,) = pkdzoo.get_weights(name), pkdzoo.results(name)
    data = read_front(text)
    assert data.library_name == "pkdzoo"
    assert data.license == row.license.lower()
    assert data.pipeline_tag == "object-detection"
    found = {result.metric_name: result.metric_value for result in data.eval_results or ()}
    assert found == {key: value for key, value in row.metrics.items() if key in HUB_METRICS}
    assert found.get("AP") == line.AP
    mask = row.metrics.get("mask_AP")
    assert ("Mask AP" in text) == (mask is not None) and (mask is None or f"in percent: {mask:.1f}." in text)
    assert f"Source: {row.source}." in text
    size = f"{line.params:.1f}" if line.params >= 1 else f"{line.params:.2f}"
    assert f"{size} million parameters, {line.gflops:.1f} billion" in text
    if line.teacher is None:
        assert "## Distillation" not in text
        return
    assert f"Teacher: `{line.teacher}`." in text
    assert f"teacher:{line.teacher}" in data.tags
    if line.distilled is not None:
        triple = re.findall(r"^\| (?:teacher|plain|distilled) [^|]*\| ([\d.]+) \|$", text, re.M)
        assert triple == [f"{value:.1f}" for value in (line.teacher_AP, line.baseline, line.distilled)]
        if line.gap_closed is None:
            assert "a gain is not shown" in text.lower() and "of the gap" not in text
        else:
            closed = f"closes {line.gap_closed:.0%} of" if line.gap_closed > 0 else "does not close"
            assert f"Distillation {closed} the gap" in text
        assert f"Source: {line.triple_source}." in text


def test_recipes_on_cards_exist() -> None:
    named = {
        found
        for path in (ROOT / "hub_cards").glob("*.md")
        for found in re.findall(r"`(recipes/[^`]+)`", path.read_text(encoding="utf-8"))
    }
    assert named
    assert all((ROOT / path).is_file() for path in named)


@pytest.mark.parametrize(
    ("card", "whose"),
    [
        (replace(TINY, license="unknown"), "the weights"),
        (replace(TINY, license=""), "the weights"),
        (replace(TINY, data=DataSet("pets")), r"the data set \(pets\)"),
        (replace(TINY, pair=Distilled("retina_r10w16", "big", ("pkd",))), r"the teacher \(big\)"),
    ],
)
def test_unknown_licenses_are_not_published(card: Card, whose: str) -> None:
    with pytest.raises(
        ValueError, match=f"nothing is published, because the license of {whose} is unknown: write --.*license ID"
    ):
        render(card)
    assert "# tiny" in render(card, publish=False)


def test_all_unknown_licenses_are_named_at_once() -> None:
    card = Card("a", "retina_r10w16", "unknown", ("x",), DataSet("pets"), pair=Distilled("s", "big", ("pkd",)))
    words = r"licenses of the weights and of the data set \(pets\) and of the teacher \(big\) are unknown: "
    with pytest.raises(
        UnknownLicense, match=words + "write --license ID --data-license ID --teacher-license ID"
    ) as raised:
        render(card)
    assert raised.value.card is card


def test_front_matter() -> None:
    data = read_front(render(TINY))
    assert (data.license, data.datasets, data.base_model) == ("mit", None, None)
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("map", 12.346, "pets")
    other = read_front(render(replace(TINY, license="Our Own 1.0")))
    assert (other.license, other.license_name) == ("other", "our-own-1.0")
    assert read_front(render(replace(TINY, metrics={}))).eval_results is None
    assert front_matter(card_of("retina_r50_pkd_swin")).startswith("---\nbase_model: timm/resnet50.tv_in1k\n")


def test_backbones_of_others_are_not_claimed() -> None:
    assert card_of("fcos_r50_caffe.coco_1x").base_model is None
    assert card_of("retina_swin_t").base_model == "microsoft/swin-tiny-patch4-window7-224"


def test_newer_evaluation_file() -> None:
    name, text = eval_results(replace(card_of("retina_r50_pkd_swin"), data=COCO)) or ("", "")
    assert name == ".eval_results/coco-2017.yaml"
    (entry,) = yaml.safe_load(text)
    assert (entry["dataset"]["id"], entry["value"]) == ("detection-datasets/coco", 41.5)
    assert eval_results(TINY) is None


def test_classes_and_places() -> None:
    measured = replace(TINY, metrics={"AP": 1.0, "per_class": {"cat": 2.0, "dog": None}}, repository="org/pets")
    text = render(replace(measured, image="predictions.png"))
    assert "| cat | 2.0 |\n| dog | - |" in text
    assert 'create_detector("hf-hub:org/pets")' in text
    assert "![Predictions](predictions.png)" in text
    assert "$" not in text
    assert "\n\n\n" not in text


def test_learning_curves_are_a_table() -> None:
    curves = {"epoch": (6, 12), "this | student": (20.04, 30.0)}
    text = render(replace(TINY, metrics={"AP": 1.0}, curves=curves))
    assert "AP by epoch:\n\n| epoch | 6 | 12 |\n| --- | ---: | ---: |\n| this \\| student | 20.0 | 30.0 |\n" in text
    for broken in ({"a": (1.0,)}, {"epoch": (1, 2), "a": (1.0,)}):
        with pytest.raises(ValueError, match="curves needs 'epoch' and as many APs as epochs"):
            render(replace(TINY, metrics={"AP": 1.0}, curves=broken))


HOSTILE = (
    "<img src=x onerror=alert(1)> [a](http://evil.example) ![b](//c) | `d`\n\n# e\n```\n\x1b[31m\u202ef &lt; "
    "www.evil.example *g* _h_ ~~i~~"
)


class Reader(HTMLParser):
    """A document as a reader sees it: its text, the names of its elements, and its links by the text that they show."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.text, self.elements, self.links = "", set[str](), list[tuple[str, str]]()
        self.href: str | None = None
        self.feed(MarkdownIt("gfm-like").render(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        if tag == "a":
            self.href = dict(attrs)["href"]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.href is not None:
            self.links.append((data, self.href))
            self.href = None


def test_names_from_strangers_are_text_on_a_card() -> None:
    """Class names, names of teachers, sources and licenses add neither elements nor sections to a harmless card."""

    def card(text: str) -> Card:
        return Card(
            text,
            "retina_r10w16",
            text,
            (text, "dog"),
            DataSet(text, text),
            {"AP": 1.0, "per_class": {text: 2.0}},
            source=f"`{text.replace('`', '')}` and {text.replace('`', '')}",
            pair=Distilled(text, text, (text,), (3.0, 1.0, 2.0), text),
            teacher_license=text,
            speed=text,
            params=1.0,
            launch=f"train.py {text}",
            recipe="recipe.json",
            provenance={text: text, "list": [text, {text: 1}]},
            note=text,
            repository=None,
        )

    def body(text: str) -> str:
        return render(card(text)).split("---\n", 2)[2]

    hostile, usual = Reader(body(HOSTILE)), Reader(body("harmless"))
    assert hostile.elements - {"a"} <= usual.elements  # bare addresses of licenses become links that show themselves
    assert all(href.removeprefix("http://") == text.removeprefix("http://") for text, href in hostile.links)
    assert hostile.text.count("<img src=x onerror=alert(1)> [a](http://evil.example) ![b](//c) |") >= 10
    assert hostile.text.count("*g* _h_ ~~i~~") >= 10
    assert "\x1b" not in hostile.text and "\u202e" not in hostile.text
    headings = [sum(line.startswith("#") for line in body(text).splitlines()) for text in (HOSTILE, "harmless")]
    assert headings[0] == headings[1]


def test_every_method_of_the_zoo_is_explained() -> None:
    used = {method for entry in entries() if entry.distilled for method in entry.distilled.methods}
    assert used and used <= set(METHODS)


def test_unlicensed_weights_say_so_before_the_example() -> None:
    text = render(card_of("rtmdet_tiny_kd_s"), publish=False)
    assert "**The license of these weights is not known.**" in text.partition("## Usage")[0]
    assert "license of these weights" not in render(card_of("retina_r50_pkd_swin"), publish=False)


def test_weights_of_other_projects_are_not_claimed() -> None:
    """The cards of published files say whose they are; 15 files lie on pages that only a browser opens."""
    texts = {name: (ROOT / "hub_cards" / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
    elsewhere = {name for name, text in texts.items() if "Trained elsewhere" in text}
    assert elsewhere == {name for name in NAMES if pkdzoo.get_weights(name).url}
    browser = {name for name, text in texts.items() if "only a browser can open" in text}
    assert browser == {name for name in NAMES if not pkdzoo.get_weights(name).direct}
    assert elsewhere == set(load("published")["weights"]) and len(browser) == 15
    for name in NAMES:
        assert ("pretrained=True" in texts[name]) == (name not in browser)
        assert ("pkdzoo.load_checkpoint(" in texts[name]) == (name in browser)
        assert "pip install -e ." in texts[name]
    assert all("arxiv.org/abs/2207.02039" in texts[name] for name in NAMES if "_pkd_" in name)


def test_a_published_file_is_in_its_repository() -> None:
    """Also one that its authors have on a page that only a browser opens."""
    card = card_of("gfl_r50_crosskd_r101")
    assert "Save it there first" in render(card, publish=False)
    text = render(replace(card, repository="org/mine"), publish=False)
    assert "hf-hub:org/mine" in text and "Save it there first" not in text and "has to be opened in a browser" in text


def test_no_weights_no_card() -> None:
    with pytest.raises(ValueError, match=r"no weights for .* a card describes weights"):
        card_of("retina_r10w16")


@pytest.mark.parametrize("labels", KNOWN)
def test_known_classes_have_a_data_set_with_its_license_and_limits(labels: str) -> None:
    data = known_data(labels)
    assert data is not None and data is known_data(label_names(labels))
    assert data.license != UNKNOWN and data.limits.endswith(".")
    model = pkdzoo.create_detector("retina_r10w16", num_classes=len(label_names(labels)))
    model.label_names = label_names(labels)
    text = render(describe_card(model, "Apache-2.0", labels))
    assert data.name in text and data.limits in text and data.license in text
