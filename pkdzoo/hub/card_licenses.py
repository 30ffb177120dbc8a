"""Licenses of what is published: weights, data set, teacher and the weights that the training started from."""

from __future__ import annotations

import re
from dataclasses import replace

from pkdzoo.hub.card import BY_NAME, UNKNOWN, Card, DataSet, known_data
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.utils.text import printable

MAX_LICENSE = 1000  # characters
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


def is_unknown(license: str | None) -> bool:
    """Whether a license is not stated."""
    return (license or UNKNOWN).strip().lower() in ("", UNKNOWN)


def is_line(license: str) -> bool:
    """Whether a license is one line of text without spaces around it."""
    return license.isprintable() and license == license.strip() and len(license) <= MAX_LICENSE


def known_or_stated(subject: str, argument: str, known: str | None, stated: str | None) -> str:
    """The known license of something, else the one that a caller states.

    Args:
        subject: whose license it is, for the message.
        argument: of the caller, e.g. ``teacher_license``.
        known: recorded license; None or ``unknown`` if there is none.
        stated: by the caller; None or ``unknown`` if it states none.

    Raises:
        ValueError: if both are known and differ: a recorded license is not replaced.
    """
    if known is None or is_unknown(known):
        return UNKNOWN if stated is None or is_unknown(stated) else stated
    if stated is not None and not is_unknown(stated) and stated.strip().lower() != known.strip().lower():
        option = f"--{argument.replace('_', '-')}"
        raise ValueError(
            f"{option} {stated}: {subject} is under {known}, which stays: leave {option} out (in Python {argument})"
        )
    return known


def with_initial_license(card: Card, stated: str | None) -> Card:
    """The card with the caller's license of the weights that training started from, where these state none.

    Raises:
        ValueError: if they state another one, and for weights that started from no others.
    """
    if card.initial is None:
        if stated is not None:
            raise ValueError(
                f"--init-license {stated}: {card.name} names no weights that its training started from: leave "
                "--init-license out (in Python init_license)"
            )
        return card
    license = known_or_stated(card.initial.name, "init_license", card.initial.license, stated)
    return replace(card, initial=replace(card.initial, license=license))


def stricter(first: InitialWeights | None, second: InitialWeights | None) -> InitialWeights | None:
    """Of two sets of weights that a detector has parts of, the one whose license has terms; the second if both do."""
    permissive = second is None or second.license.lower() in PERMISSIVE
    return first if first is not None and permissive and first.license.lower() not in PERMISSIVE else second or first


def data_set(name: str | None, license: str | None = None) -> DataSet:
    """The data set of a name; a known one (``coco``, ``COCO 2017``, ``bccd``) has its license and limits.

    Args:
        name: as the caller states it. None is a data set of the caller's own: class names do not tell it, because
            many data sets have the classes of a known one.
        license: see :func:`known_or_stated`.
    """
    found = DataSet("a custom data set") if name is None else BY_NAME.get(name.strip().lower()) or DataSet(name)
    known = known_or_stated(found.name, "data_license", found.license, license)
    return found if known == found.license else replace(found, license=known)


def check_licenses(card: Card) -> None:
    """Check that all licenses are known.

    Raises:
        UnknownLicense: names the arguments of all unknown licenses at once.
        ForbiddenLicense: for initial weights whose license does not allow that of the weights.
    """
    stated = stated_licenses(card)
    missing = {subject: argument for subject, (license, argument) in stated.items() if is_unknown(license)}
    if missing:
        options = " ".join(f"--{argument.replace('_', '-')} ID" for argument in missing.values())
        keywords = ", ".join(f'{argument}="ID"' for argument in missing.values())
        several = len(missing) > 1
        hint = known_names(card) if "data_license" in missing.values() else ""
        raise UnknownLicense(
            f"{card.name}: nothing is published, because the license{'s' if several else ''} of "
            f"{' and of '.join(missing)} {'are' if several else 'is'} unknown: write {options} (in Python {keywords}); "
            f"an ID is, for example, Apache-2.0, CC-BY-4.0 or MIT{hint}",
            card,
        )
    check_initial_weights(card)


def stated_licenses(card: Card) -> dict[str, tuple[str, str]]:
    """The licenses of weights, data set and teacher, each with the argument that states it, by their subject."""
    found = {
        "the weights": (card.license, "license"),
        f"the data set ({card.data.name})": (card.data.license, "data_license"),
    }
    if card.pair is not None:
        found[f"the teacher ({card.pair.teacher})"] = (card.teacher_license or UNKNOWN, "teacher_license")
    return found


def check_license_lines(card: Card) -> None:
    """Check that each license is one line: with more lines, the folder could not be opened again.

    Raises:
        ValueError: for a license of several lines, with invisible characters, or with spaces around it.
    """
    for subject, (license, argument) in stated_licenses(card).items():
        if not is_line(license):
            raise ValueError(
                f"--{argument.replace('_', '-')} {license[:100]!r}: write the license of {subject} in one line of at "
                f"most {MAX_LICENSE} characters, e.g. Apache-2.0 (in Python {argument})"
            )


def known_names(card: Card) -> str:
    """The end of a message about an unknown data set: the name of a known one that has the same classes."""
    same = known_data(card.labels)
    name = next((name for name, data in BY_NAME.items() if data is same), None)
    return "" if same is None else f"; if it is {same.name}, write --data {name} (in Python data={name!r})"


def check_initial_weights(card: Card) -> None:
    """Check that the license of the weights that the training started from allows the license of these.

    Raises:
        ForbiddenLicense: for other terms than those of a permissive license, unless both licenses are the same.
    """
    start = card.initial
    if start is None or start.license.lower() in PERMISSIVE:
        return
    if is_unknown(start.license):
        raise ForbiddenLicense(
            f"{card.name}: nothing is published, because the license of the weights that its training started from "
            f"({start.name}) is unknown: write --init-license ID (in Python init_license) if their authors told you, "
            "or train from weights that state one",
            card,
        )
    if start.license.lower() != card.license.lower():
        raise ForbiddenLicense(
            f"{card.name}: nothing is published under {card.license}, because its training started from {start.name}, "
            f"which is under {start.license}: write --license {start.license} (in Python license="
            f"{start.license!r}) if its terms allow to share these weights, or train from other weights",
            card,
        )


def licenses(card: Card) -> list[str]:
    """Licenses of the weights, the data set and the teacher, one per line of plain text."""
    lines = [f"these weights: {card.license}", f"data set {card.data.name}: {card.data.license}"]
    if card.initial is not None:
        lines.append(f"weights that training started from, {card.initial.name}: {limited(card.initial.license)}")
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
