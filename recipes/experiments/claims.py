"""The claims of the PKD paper, and the comparisons of runs that test them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pkdzoo.training.intervals import Summary, interval, minus, spread, summarize, verdict
from recipes.experiments.result_files import RunResult, at_epoch, by_seed, data_of, same_torch

Row = tuple[str, str, str, str]
SUMMARY_HEAD = "| claim | what was measured here |\n|---|---|"
HEAD = "| student and teacher | AP | difference | verdict |\n|---|---|---|---|"


@dataclass(frozen=True)
class Check:
    """Two variants, of which the first should have the higher AP.

    Attributes:
        experiment: of both variants.
        variant: the variant that should have the higher AP.
        than: the variant that it is compared with.
        who: student and teacher, as the page shows them.
        epoch: compare after this epoch; None for the last.
        over: two further variants, whose difference is subtracted.
    """

    experiment: str
    variant: str
    than: str
    who: str
    epoch: int | None = None
    over: tuple[str, str] | None = None


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and what tests it.

    Attributes:
        text: the claim.
        paper: its place in the paper, with the numbers.
        checks: differences of runs that should be above 0.
        below: they should be below 0.
        equal: the claim is that the differences are small.
        numbers: ``maps`` or ``costs`` for claims that are tested by those measurements instead of runs.
        here: what was measured, a sentence with the differences of checks, ``{0}`` for that of the first. For maps and
            costs ``{low}`` and ``{high}`` are the least and the greatest number, in percent; for maps ``{least}`` and
            ``{most}`` compare the strongest level of a pyramid with its weakest.
        decided: the checks in ``here`` whose interval does not contain 0, as the sentence says.
    """

    text: str
    paper: str
    checks: tuple[Check, ...] = ()
    below: bool = False
    equal: bool = False
    numbers: str = ""
    here: str = ""
    decided: tuple[int, ...] = ()


BCCD, PCB = "RetinaNet from GFL", "RetinaNet from FCOS"
HOME, FASTER, FCOS = "RetinaNet from RetinaNet", "RetinaNet from Faster R-CNN", "FCOS from FCOS"
UNEVEN = "RetinaNet from a GFL with dominant channels"
WIDER, AT_HOME = "RTMDet from a wider one", ("mse_retina", "pkd_retina")
LONG = f"{WIDER}, longer training"
FADING = "the weight of PKD falling to 0"
GFL = "GFL from one on CSPNeXt, 60 epochs"
LONGER_GFL = "GFL from one on CSPNeXt, 120 epochs"
LONGEST_GFL = "GFL from one on CSPNeXt, 240 epochs"
OTHERS = (("norm_cwd", "CWD after a norm"), ("crosskd", "CrossKD"), ("ld", "LD"))
ONE_SEED = (("norm_kl", "Norm + KL"), ("fgd", "FGD"))
CLAIMS = (
    Claim(
        "PKD beats the plain student, from a teacher of its own family and of another one",
        "tables 2, 3, 5: RetinaNet 37.4 to 40.8, from Swin 41.5, from FCOS 41.3; FCOS 39.1 to 42.8, from GFL 43.5",
        (
            Check("bccd", "pkd", "plain", BCCD),
            Check("deeppcb", "pkd", "plain", PCB),
            Check("deeppcb", "pkd_faster", "plain", FASTER),
            Check("deeppcb", "pkd_retina", "plain", HOME),
            Check("deeppcb", "fcos_pkd", "fcos_plain", FCOS),
            Check("rtmdet_bccd", "pkd", "plain", LONG),
            Check("rtmdet_deeppcb", "pkd", "plain", LONG),
            Check("rtmdet_bccd", "pkd_fading", "plain", f"{LONG}, {FADING}"),
            Check("rtmdet_deeppcb", "pkd_fading", "plain", f"{LONG}, {FADING}"),
            Check("gfl_bccd", "pkd", "plain", GFL),
            Check("gfl_bccd", "pkd_fading", "plain", f"{GFL}, {FADING}"),
            Check("gfl_bccd", "pkd_weight_1", "plain", f"{GFL}, the weight of PKD 1"),
            Check("gfl_bccd_120", "pkd", "plain", LONGER_GFL),
            Check("gfl_bccd_120", "pkd_twice", "plain_twice", LONGEST_GFL),
        ),
        here="In short trainings yes: {0} on blood cells, {1} on circuit boards, from teachers of another family; of "
        "its own family {3} and {4} on circuit boards. In longer ones a gain is not shown: for an RTMDet {5} on blood "
        "cells and {6} on circuit boards, there {8} where the weight of PKD falls to 0; for a GFL of blood cells {9} "
        "after 60 epochs, {12} after 120 and {13} after 240; with 480 the plain one was no better (one seed).",
        decided=(0, 1),
    ),
    Claim(
        "PKD beats MSE",
        "table 5: RetinaNet from FCOS 41.3 against 36.3, RetinaNet from RetinaNet 40.8 against 40.4",
        (
            Check("bccd", "pkd", "mse", BCCD),
            Check("deeppcb", "pkd", "mse", PCB),
            Check("deeppcb", "pkd_faster", "mse_faster", FASTER),
            Check("deeppcb", "pkd_retina", "mse_retina", HOME),
            Check("deeppcb", "fcos_pkd", "fcos_mse", FCOS),
            Check("magnitudes", "pkd", "mse_weight_10", f"{UNEVEN}, MSE's weight 10"),
            Check("magnitudes", "pkd", "mse_weight_30", f"{UNEVEN}, MSE's weight 30"),
            Check("rtmdet_bccd", "pkd", "mse", LONG),
            Check("rtmdet_deeppcb", "pkd", "mse", LONG),
            Check("gfl_bccd", "pkd", "mse", GFL),
            Check("gfl_bccd_120", "pkd", "mse", LONGER_GFL),
            Check("gfl_bccd", "pkd", "mse_weight_0.1", f"{GFL}, MSE's weight 0.1, the best of 0.01, 0.1, 1, 10"),
        ),
        here="Where magnitudes differ: {5} from a teacher that was given a few dominant channels, with MSE's best "
        "weight; {10} from a GFL whose levels differ in size by a factor of hundreds, both with weight 10, after 120 "
        "epochs of blood cells, and {11} after 60 with the best of four weights of MSE, though with each of them "
        "imitation stayed the largest loss; neither method was above the plain student. "
        "From other teachers no difference is shown: {0} and {7} on blood cells, {1} and {8} on circuit boards.",
        decided=(5, 10),
    ),
    Claim(
        "MSE from a teacher of another family, whose magnitudes differ, lowers the AP; PKD does not",
        "table 5: RetinaNet 37.4, from FCOS by MSE 36.3, by PKD 41.3; from RetinaNet by MSE 40.4, by PKD 40.8",
        (
            Check("bccd", "mse", "plain", BCCD),
            Check("deeppcb", "mse", "plain", PCB),
            Check("deeppcb", "mse_faster", "plain", FASTER),
            Check("deeppcb", "mse", "pkd", f"{PCB}, MSE minus PKD, less the same from RetinaNet", over=AT_HOME),
            Check("deeppcb", "mse_faster", "pkd_faster", f"{FASTER}, the same", over=AT_HOME),
            Check("gfl_bccd", "mse", "plain", GFL),
            Check("gfl_bccd_120", "mse", "plain", LONGER_GFL),
        ),
        below=True,
        here="Not in short trainings, where MSE raised the AP, too: {0} on blood cells, {1} on circuit boards. From a "
        "teacher of the student's own family, a GFL whose levels differ in size by a factor of hundreds, it lowered "
        "the AP, {6} after 120 epochs; that PKD lowered it, too, is not shown (first row).",
        decided=(0, 1, 6),
    ),
    Claim(
        "the weight hardly matters between 3 and 13 (PKD's own is 10), and Norm + KL at T = 50 is as good",
        "table 6: 41.0 to 41.3; table 7: RetinaNet 40.9 (PKD 40.8), GFL 43.1 (PKD 43.3)",
        (
            Check("bccd", "pkd", "pkd_weight_3", f"{BCCD}, weights 10 and 3"),
            Check("deeppcb", "pkd", "pkd_weight_3", f"{PCB}, weights 10 and 3"),
            Check("gfl_bccd", "pkd", "pkd_weight_1", f"{GFL}, weights 10 and 1"),
            Check("bccd", "pkd", "norm_kl", BCCD),
            Check("deeppcb", "pkd", "norm_kl", PCB),
            Check("gfl_bccd_120", "pkd", "norm_kl", LONGER_GFL),
        ),
        equal=True,
        here="Undecided. Weight 10 gave {0} more than weight 3 on blood cells; below that range, weight 10 minus "
        "weight 1 is {2} with a longer training of a GFL. PKD minus Norm + KL is {3} on blood cells, {4} on "
        "circuit boards, and {5} with a longer training of a GFL.",
    ),
    Claim(
        "with PKD a student converges faster",
        "figure 3, without numbers",
        (
            Check("bccd", "pkd", "plain", f"{BCCD}, after 3 of 12 epochs", epoch=3),
            Check("deeppcb", "pkd", "plain", f"{PCB}, after 2 of 4 epochs", epoch=2),
            Check("rtmdet_bccd", "pkd", "plain", f"{WIDER}, after 10 of 60 epochs", epoch=10),
            Check("rtmdet_deeppcb", "pkd", "plain", f"{WIDER}, after 6 of 24 epochs", epoch=6),
            Check("rtmdet_deeppcb", "pkd_fading", "plain", f"{WIDER}, {FADING}, after 6 of 24 epochs", epoch=6),
            Check("gfl_bccd_120", "pkd", "plain", "GFL from one on CSPNeXt, after 10 of 120 epochs", epoch=10),
            Check("gfl_bccd_120", "pkd", "plain", "GFL from one on CSPNeXt, after 20 of 120 epochs", epoch=20),
        ),
        here="In short trainings yes: {0} after 3 of 12 epochs of blood cells, {1} after 2 of 4 epochs of boards. "
        "In longer ones a lead is not shown: {2} after 10 of 60 epochs of blood cells, {3} after 6 of 24 of boards. A "
        "GFL learned more slowly, at first not by a shown difference: {5} after 10 of 120 epochs of blood cells and "
        "{6} after 20.",
        decided=(0, 1, 6),
    ),
    Claim(
        "a head learns about as well on another detector's frozen pyramid as on its own kind's",
        "table 1: FCOS on GFL's 37.6, on its own 36.5; RetinaNet on FCOS's 35.2, on its own 36.3",
        (
            Check("frozen_pyramids", "fcos_on_gfl", "fcos_on_fcos", "FCOS's head, GFL's pyramid"),
            Check("frozen_pyramids", "retina_on_fcos", "retina_on_retina", "RetinaNet's head, FCOS's pyramid"),
            Check("frozen_pyramids", "fcos_on_retina", "fcos_on_fcos", "FCOS's head, RetinaNet's pyramid"),
        ),
        equal=True,
        here="Nearly. No difference is shown for FCOS's head on the pyramids of GFL and RetinaNet ({0} and {2}); "
        "RetinaNet's head was better on FCOS's pyramid than on its own kind's, {1}.",
        decided=(1,),
    ),
    Claim(
        "few levels and channels dominate a pyramid",
        "figures 1 and 4 to 7, without numbers",
        numbers="maps",
        here="In part: the strongest 6 % of the channels hold {low} to {high} % of a level's energy, and the strongest "
        "level of a pyramid is {least} to {most} times its weakest.",
    ),
    Claim(
        "leaving out the teacher's head saves time",
        "it is never run; no time is printed",
        numbers="costs",
        here="Yes: with the teacher's head a step of PKD would take {low} to {high} % longer.",
    ),
    Claim(
        "a method other than PKD and MSE beats the plain student in a longer training (our own question)",
        "nothing about it",
        (
            Check("rtmdet_deeppcb", "norm_cwd", "plain", f"{LONG}, CWD after a norm"),
            Check("rtmdet_deeppcb", "norm_cwd", "plain", f"{WIDER}, CWD after a norm, after 18 of 24 epochs", epoch=18),
            *(Check("rtmdet_deeppcb", name, "plain", f"{LONG}, {title}") for name, title in ONE_SEED),
            *(Check("gfl_bccd_120", name, "plain", f"{LONGER_GFL}, {title}") for name, title in OTHERS + ONE_SEED),
            Check("gfl_deeppcb", "crosskd", "plain", "GFL from one on CSPNeXt, 24 epochs, CrossKD"),
            *(Check("rtmdet_bccd", name, "plain", f"{LONG}, {title}") for name, title in (OTHERS[0], *ONE_SEED)),
            Check("gfl_bccd_120", "norm_cwd_twice", "plain_twice", f"{LONGEST_GFL}, CWD after a norm"),
        ),
        here="Not shown at the end. An RTMDet of circuit boards was ahead with CWD after a norm, {1} after 18 of "
        "24 epochs and {0} at the end; with Norm + KL it is {2}, with FGD {3}. For a GFL of blood cells it is"
        " {4} with CWD after a norm ({13} with twice the epochs), {5} with CrossKD, {6} with LD, "
        "{7} with Norm + KL, {8} with FGD. For a GFL of circuit boards it is {9} with CrossKD.",
        decided=(1,),
    ),
    Claim(
        "a teacher of other classes and images helps, too (our own question)",
        "nothing about it",
        (
            Check("deeppcb", "pkd_from_shapes", "plain", "RetinaNet from an FCOS of generated shapes"),
            Check("bccd", "pkd_from_shapes", "plain", "RetinaNet from an FCOS of generated shapes"),
            Check("unrelated_teachers", "shapes", "plain", "RetinaNet on BCCD from an FCOS of generated shapes"),
            Check("unrelated_teachers", "shapes_weight_3", "plain", "the same with a third of the weight"),
            Check(
                "unrelated_teachers", "shapes_fading", "plain", "the same, the weight of PKD falling to 0 over the run"
            ),
            Check("unrelated_teachers", "boards", "plain", "RetinaNet on BCCD from an FCOS of DeepPCB"),
            Check(
                "unrelated_teachers", "boards_fading", "plain", "the same, the weight of PKD falling to 0 over the run"
            ),
        ),
        here="No. A teacher of circuit boards made a student of blood cells worse, {5}; with one of generated shapes "
        "no gain is shown, {2}.",
        decided=(5,),
    ),
)


def summary_rows(
    runs: Sequence[RunResult], maps: Sequence[Mapping[str, Any]] = (), costs: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """One row for each claim: the sentence on what was measured here."""
    rows = ((claim, rows_of(claim, runs, maps, costs)) for claim in CLAIMS)
    return [f"| {claim.text} | {sentence_of(claim, found, maps, costs)} |" for claim, found in rows]


def sentence_of(
    claim: Claim, found: Sequence[Row], maps: Sequence[Mapping[str, Any]], costs: Sequence[Mapping[str, Any]]
) -> str:
    """What was measured of a claim; the verdicts alone where a measurement that the sentence names is missing.

    Raises:
        ValueError: for a sentence that calls a difference decided whose interval contains 0, or the reverse.
    """
    if claim.numbers:
        shares = [100 * level["strongest"] for each in maps for level in each["levels"]]
        longer = [100 * (each["whole / cut"]["median"] - 1) for each in costs]
        values = shares if claim.numbers == "maps" else longer
        if not values:
            return summary_of(found)
        times = [strongest_level(each) for each in maps] or [0.0]
        shown = {"low": f"{min(values):.0f}", "high": f"{max(values):.0f}"}
        return claim.here.format(**shown, least=f"{min(times):.1f}", most=f"{max(times):.0f}")
    named = [k for k in range(len(found)) if f"{{{k}}}" in claim.here]
    if not named or any(found[k][-1].startswith("not ") for k in named):
        return summary_of(found)
    for k in named:
        open_ = any(text in found[k][-1] for text in ("undecided", "no difference shown"))
        if open_ == (k in claim.decided):
            raise ValueError(f"the sentence on '{claim.text}' does not fit '{found[k][0]}': {' '.join(found[k][2:])}")
    return claim.here.format(*(row[2].partition("], ")[0] + "]" * ("], " in row[2]) for row in found))


def summary_of(found: Sequence[Row]) -> str:
    """Verdicts of the checks of a claim, those of one seed last; what was not run is left out."""
    groups: dict[str, list[str]] = {}
    for who, _, difference, text in found:
        if not text.startswith("not run"):
            group = text.partition(":")[0].partition(";")[0]
            groups.setdefault(group, []).append(f"{who} {difference.removesuffix(' (one seed)')}")
    order = sorted(groups, key=lambda text: (text == "one seed", -len(groups[text])))
    shown = [f"{text[0].upper()}{text[1:]}: {'; '.join(groups[text])}." for text in order]
    return " ".join(shown) or "Not run."


def claim_rows(
    runs: Sequence[RunResult], maps: Sequence[Mapping[str, Any]] = (), costs: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """Lines on each claim: a heading, its place in the paper, and a table of the comparisons that were run."""
    lines = []
    for claim in CLAIMS:
        rows = [row for row in rows_of(claim, runs, maps, costs) if not row[-1].startswith("not run")]
        table = [HEAD, *(f"| {' | '.join(row)} |" for row in rows)] if rows else ["Not run."]
        lines += [f"### {claim.text[0].upper()}{claim.text[1:]}", "", f"In the paper: {claim.paper}.", "", *table, ""]
    return lines


def rows_of(
    claim: Claim, runs: Sequence[RunResult], maps: Sequence[Mapping[str, Any]], costs: Sequence[Mapping[str, Any]]
) -> list[Row]:
    """Student and teacher, numbers, difference and verdict of each comparison that tests a claim."""
    if claim.numbers == "maps":
        return [maps_row(each) for each in maps] or [("", "", "", "not run: maps.py")]
    if claim.numbers == "costs":
        return [cost_row(each) for each in costs] or [("", "", "", "not run: head_cost.py")]
    return [check_row(runs, check, claim) for check in claim.checks]


def check_row(runs: Sequence[RunResult], check: Check, claim: Claim) -> Row:
    """Student and teacher, numbers, difference and verdict of one check."""

    def of(variant: str) -> dict[int, float]:
        return by_seed(runs, check.experiment, variant, at_epoch(check.epoch))

    who = f"{check.experiment}: {check.who}"
    variants = (check.variant, check.than, *(check.over or ()))
    compared = [run for run in runs if run["experiment"] == check.experiment and run["variant"] in variants]
    for what, values in (
        ("budgets", [run["budget"] for run in compared]),
        ("data", [data_of(run) for run in compared]),
    ):
        if any(value != values[0] for value in values):
            return who, "", "", f"not comparable: unequal {what}"
    ours, other = of(check.variant), of(check.than)
    seeds = minus(ours, other)
    if check.over is not None:
        seeds = minus(seeds, minus(*map(of, check.over)))
    if not seeds:
        return who, "", "", verdict(None)
    if not same_torch(runs, check.experiment, *variants):
        who += ", some seeds with two versions of torch"
    sides = [f"{variant} {spread(summarize([of(variant)[k] for k in seeds]))}" for variant in variants]
    found = summarize(list(seeds.values()))
    count = "" if found.count == 1 else f", {found.count} seeds"
    expected = summarize([-value for value in seeds.values()]) if claim.below else found
    return who, ", ".join(sides), f"{interval(found)}{count}", verdict_of(expected, claim.equal)


def verdict_of(found: Summary, equal: bool) -> str:
    """The verdict. For a claim of equality, an interval that contains 0 only bounds the difference."""
    if not equal or found.half is None:
        return verdict(found)
    least, most = sorted((abs(found.low), abs(found.high)))
    if found.low <= 0 <= found.high:
        return f"no difference shown; it is at most {most:.1f} AP"
    return f"they differ by {least:.1f} to {most:.1f} AP"


def maps_row(found: Mapping[str, Any]) -> Row:
    """The row of one pyramid, measured by maps.py. Channels dominate if they hold half of a level's energy."""
    levels = found["levels"]
    shares = [level["strongest"] for level in levels]
    times = [level["strongest"] * level["channels"] / level["counted"] for level in levels]
    share = f"the strongest {counted(found)} channels hold {min(shares):.0%} to {max(shares):.0%} of a level's energy"
    between = f"the strongest level is {strongest_level(found):.1f} times the weakest"
    seen = "seen" if max(shares) >= 0.5 else "in part, no level reaches half"
    return found["name"], share, between, f"{seen}: {min(times):.1f} to {max(times):.1f} times an equal share"


def strongest_level(found: Mapping[str, Any]) -> float:
    """The largest root mean square of a level, divided by the smallest."""
    sizes = [level["rms"] for level in found["levels"]]
    return float(max(sizes) / min(sizes))


def counted(found: Mapping[str, Any]) -> str:
    """The number of channels that make up the strongest 5 %, and of all channels."""
    return ", ".join(dict.fromkeys(f"{level['counted']} of {level['channels']}" for level in found["levels"]))


def cost_row(found: Mapping[str, Any]) -> Row:
    """The row of one pair, measured by head_cost.py."""
    cut, whole = (f"{1000 * found[name]['median']:.0f} ms" for name in ("cut", "whole"))
    median, low, high = (f"{100 * (found['whole / cut'][key] - 1):+.0f}" for key in ("median", "low", "high"))
    steps, times = f"PKD's step takes {cut}, with the teacher's head {whole}", f"{median} % [{low}, {high}], quartiles"
    return found["name"].replace("_", ": ", 1), steps, times, "seen: with the head a step would take so much longer"
