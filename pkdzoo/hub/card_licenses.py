"""Licenses of what is published: weights, data set, teacher and the weights that the backbone started from."""

from __future__ import annotations

import re

from pkdzoo.hub.card import UNKNOWN, Card
from pkdzoo.utils.text import printable

# Licenses of initial weights under which a detector may be published with any license of its own.
PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0")


class UnknownLicense(ValueError):
    """Raised where something would be published whose license is unknown.

    Attributes:
        card: the facts that were to be published.
    """

    def __init__(self, message: str, card: Card) -> None:
        super().__init__(message)
        self.card = card


class ForbiddenLicense(UnknownLicense):
    """Raised where something would be published under a license that its initial weights do not allow."""


def check_licenses(card: Card) -> None:
    """Check that all licenses are known.

    Raises:
        UnknownLicense: names the arguments of all unknown licenses at once.
        ForbiddenLicense: for initial weights whose license does not allow that of the weights.
    """
    licenses = {
        "the weights": (card.license, "license"),
        f"the data set ({card.data.name})": (card.data.license, "data_license"),
    }
    if card.pair is not None:
        licenses[f"the teacher ({card.pair.teacher})"] = (card.teacher_license or UNKNOWN, "teacher_license")
    missing = {
        subject: argument
        for subject, (license, argument) in licenses.items()
        if license.strip().lower() in ("", UNKNOWN)
    }
    if missing:
        options = " ".join(f"--{argument.replace('_', '-')} ID" for argument in missing.values())
        keywords = ", ".join(f'{argument}="ID"' for argument in missing.values())
        several = len(missing) > 1
        raise UnknownLicense(
            f"{card.name}: nothing is published, because the license{'s' if several else ''} of "
            f"{' and of '.join(missing)} {'are' if several else 'is'} unknown: write {options} (in Python {keywords}); "
            "an ID is, for example, Apache-2.0, CC-BY-4.0 or MIT",
            card,
        )
    check_initial_weights(card)


def check_initial_weights(card: Card) -> None:
    """Check that the license of the weights that the backbone started from allows the license of these.

    Raises:
        ForbiddenLicense: for other terms than those of a permissive license, unless both licenses are the same.
    """
    start = card.initial
    if start is None or start.license.lower() in PERMISSIVE:
        return
    if start.license.strip().lower() in ("", UNKNOWN):
        raise ForbiddenLicense(
            f"{card.name}: nothing is published, because the license of the weights that its backbone started from "
            f"({start.name}) is unknown: train from weights that state one",
            card,
        )
    if start.license.lower() != card.license.lower():
        raise ForbiddenLicense(
            f"{card.name}: nothing is published under {card.license}, because its backbone started from {start.name}, "
            f"which is under {start.license}: write --license {start.license} (in Python license="
            f"{start.license!r}) if its terms allow to share these weights, or train from other weights",
            card,
        )


def licenses(card: Card) -> list[str]:
    """Licenses of the weights, the data set and the teacher, one per line of plain text."""
    lines = [f"these weights: {card.license}", f"data set {card.data.name}: {card.data.license}"]
    if card.initial is not None:
        lines.append(f"weights that the backbone started from, {card.initial.name}: {limited(card.initial.license)}")
    if card.pair is not None:
        lines.append(f"teacher {card.pair.teacher}: {card.teacher_license or UNKNOWN}")
    return [printable(" ".join(line.split())) for line in lines]


def limited(license: str) -> str:
    """A license of initial weights, with what follows from it."""
    if license.lower() in PERMISSIVE:
        return license
    if re.search(r"-nc\b|non-?commercial", license.lower()):
        return f"{license}, no commercial use; it holds for these weights, too"
    return f"{license}, which has terms of its own; they hold for these weights, too"
