"""Tables and claims from the cells' numbers, and the statistics behind them.

Everything is paired by seed: a student and the plain student of its seed start from the same weights and see the same
pictures in the same order, so their difference is free of what seeds do to both. The interval is Student's t at 95 %
over those differences. It says nothing about other data sets, teachers or budgets, and a difference whose interval
holds 0 is none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkdzoo.evaluation import METRICS

Cell = Mapping[str, Any]
# Quantiles of Student's t at 97.5 %, by degrees of freedom 1 to 30.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

__all__ = ["CLAIMS", "METRICS", "Claim", "Summary", "load", "paired", "summarise", "table", "verdict", "write"]


# -- statistics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Numbers of several seeds.

    Attributes:
        count: how many.
        mean: of them.
        deviation: with n - 1; None for a single number.
        half: half the width of the 95 % interval of the mean; None for a single number.
    """

    count: int
    mean: float
    deviation: float | None
    half: float | None

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return -math.inf if self.half is None else self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return math.inf if self.half is None else self.mean + self.half


def t_quantile(freedom: int) -> float:
    """Of Student's t at 97.5 %; beyond 30 degrees of freedom that of 30, which is on the safe side."""
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom: an interval takes two numbers or more")
    return T_975[min(freedom, len(T_975)) - 1]


def summarise(values: Sequence[float]) -> Summary:
    """Mean, deviation and interval.

    Raises:
        ValueError: without any number.
    """
    if not values:
        raise ValueError("no number to summarise")
    count, mean = len(values), math.fsum(values) / len(values)
    if count == 1:
        return Summary(1, mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Summary(count, mean, deviation, t_quantile(count - 1) * deviation / math.sqrt(count))


def paired(ours: Mapping[int, float], than: Mapping[int, float]) -> Summary | None:
    """Differences of the seeds that both have; None where they share none."""
    seeds = sorted(set(ours) & set(than))
    return summarise([ours[seed] - than[seed] for seed in seeds]) if seeds else None


def verdict(difference: Summary | None) -> str:
    """What a difference that was said to be above 0 allows to say."""
    if difference is None:
        return "not run"
    if difference.half is None:
        return "one seed: undecided"
    if difference.low > 0:
        return "seen"
    return "the opposite was seen" if difference.high < 0 else "undecided: the interval holds 0"


# -- cells -----------------------------------------------------------------------------------------------------------


def load(results: Path) -> list[Cell]:
    """Every cell below a folder, by matrix, arm and seed."""
    cells = [json.loads(path.read_text()) for path in sorted(results.glob("*/*.json"))]
    return sorted(cells, key=lambda cell: (cell["matrix"], cell["arm"], cell["seed"]))


def by_seed(
    cells: Sequence[Cell], matrix: str, arm: str, metric: str | Callable[[Cell], float] = "AP"
) -> dict[int, float]:
    """One number of an arm by seed."""
    of_cell = metric if callable(metric) else lambda cell: cell["metrics"][metric]
    return {cell["seed"]: of_cell(cell) for cell in cells if (cell["matrix"], cell["arm"]) == (matrix, arm)}


def arms_of(cells: Sequence[Cell], matrix: str, role: str) -> dict[str, Cell]:
    """The first cell of each arm."""
    found: dict[str, Cell] = {}
    for cell in cells:
        if cell["matrix"] == matrix and cell["role"] == role:
            found.setdefault(cell["arm"], cell)
    return found


def plain_of(cells: Sequence[Cell], cell: Cell) -> str | None:
    """The arm that an arm is compared with: the same student without a teacher, at the same rate if there is one."""
    plain = [
        (other["recipe"]["optim"] == cell["recipe"]["optim"], name)
        for name, other in arms_of(cells, cell["matrix"], "student").items()
        if other["recipe"]["distill"] is None
        and all(other["recipe"][key] == cell["recipe"][key] for key in ("model", "model_args", "init"))
    ]
    return max(plain, key=lambda each: each[0])[1] if plain and cell["recipe"]["distill"] else None


# -- words -----------------------------------------------------------------------------------------------------------


def spread(summary: Summary) -> str:
    """Mean and deviation."""
    return f"{summary.mean:.1f}" + ("" if summary.deviation is None else f" ± {summary.deviation:.1f}")


def interval(difference: Summary | None) -> str:
    """A difference and its interval."""
    if difference is None:
        return ""
    if difference.half is None:
        return f"{difference.mean:+.1f} (one seed)"
    return f"{difference.mean:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"


def table(cells: Sequence[Cell], matrix: str) -> str:
    """The matrix as Markdown: teachers, then students in the order of their mean AP."""
    lines = [
        "| | seeds | AP | AP50 | AP75 | minus plain, same seeds | Pearson's r of levels |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    rows = [("teacher", arms_of(cells, matrix, "teacher")), ("student", arms_of(cells, matrix, "student"))]
    for role, arms in rows:
        for arm in sorted(arms, key=lambda name: -summarise(list(by_seed(cells, matrix, name).values())).mean):
            numbers = [summarise(list(by_seed(cells, matrix, arm, key).values())) for key in ("AP", "AP50", "AP75")]
            plain = plain_of(cells, arms[arm])
            gain = paired(by_seed(cells, matrix, arm), by_seed(cells, matrix, plain)) if plain else None
            shown = [f"{arm} ({role})" if role == "teacher" else arm, str(numbers[0].count), *map(spread, numbers)]
            lines.append("| " + " | ".join([*shown, interval(gain), likeness(cells, matrix, arm)]) + " |")
    return "\n".join(lines)


def likeness(cells: Sequence[Cell], matrix: str, arm: str) -> str:
    """Mean over seeds of Pearson's r of each level."""
    found = [
        cell["pearson"]["r"] for cell in cells if (cell["matrix"], cell["arm"]) == (matrix, arm) and cell["pearson"]
    ]
    return ", ".join(f"{sum(level) / len(level):.2f}" for level in zip(*found, strict=True))


# -- claims ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and the cells that speak to it.

    Attributes:
        text: the sentence.
        paper: where it stands and its numbers.
        checks: (matrix, arm, arm that it should be above, epoch or None for the last).
        why: where no cells can speak to it yet, what has to be done.
        maps: the numbers of maps.py speak to it.
    """

    text: str
    paper: str
    checks: tuple[tuple[str, str, str, int | None], ...] = ()
    why: str = ""
    maps: bool = False


CLAIMS = (
    Claim(
        "PKD beats the plain student, teacher and student of one family",
        "table 2: RetinaNet 37.4 to 40.8, FCOS 39.1 to 42.8, Faster R-CNN 38.4 to 40.5",
        (("deeppcb", "pkd_retina", "plain", None),),
    ),
    Claim(
        "PKD beats the plain student, teacher of another family",
        "table 3: RetinaNet from Swin 37.4 to 41.5, FCOS from GFL 39.1 to 43.5; table 5: RetinaNet from FCOS 41.3",
        (("bccd", "pkd", "plain", None), ("deeppcb", "pkd", "plain", None), ("deeppcb", "pkd_faster", "plain", None)),
    ),
    Claim(
        "PKD beats MSE, most where magnitudes differ",
        "table 5, FCOS to RetinaNet: 41.3 against 36.3 (plain: 37.4); RetinaNet to RetinaNet: 40.8 against 40.4",
        (("bccd", "pkd", "mse", None), ("deeppcb", "pkd", "mse", None)),
    ),
    Claim(
        "MSE from another family harms the student",
        "table 5, FCOS to RetinaNet: 36.3, plain 37.4",
        (("bccd", "plain", "mse", None), ("deeppcb", "plain", "mse", None)),
    ),
    Claim(
        "the weight hardly matters between 3 and 13",
        "table 6: 41.0 to 41.3",
        (("bccd", "pkd", "pkd_weight_3", None), ("deeppcb", "pkd", "pkd_weight_3", None)),
    ),
    Claim(
        "Norm + KL at T = 50 gives about the same",
        "table 7: RetinaNet 40.9 (PKD 40.8), GFL 43.1 (PKD 43.3)",
        (("bccd", "pkd", "norm_kl", None), ("deeppcb", "pkd", "norm_kl", None)),
    ),
    Claim(
        "with PKD a student converges faster (AP after a quarter of the epochs)",
        "figure 3, a curve",
        (("bccd", "pkd", "plain", 2), ("deeppcb", "pkd", "plain", 1)),
    ),
    Claim(
        "a head learns about as much on another detector's frozen pyramid",
        "table 1: FCOS on GFL's 37.6 (its own: 36.5), RetinaNet on FCOS's 35.2 (its own: 36.3)",
        why="needs a matrix with frozen bodies, as recipes/pkd/table_1_frozen_body.py",
    ),
    Claim("few levels and channels dominate a pyramid", "figures 1, 4 to 7", why="run maps.py", maps=True),
    Claim("the teacher's head costs nothing", "its head never runs", why="needs times of a step on a quiet machine"),
    Claim(
        "a teacher of other classes and pictures helps through PKD",
        "not in the paper: our own",
        (("bccd", "pkd_from_shapes", "plain", None), ("deeppcb", "pkd_from_shapes", "plain", None)),
    ),
)


def at_epoch(epoch: int | None) -> str | Callable[[Cell], float]:
    """AP after an epoch; at the end for None."""
    if epoch is None:
        return "AP"
    return lambda cell: next(point["AP"] for point in cell["curve"] if point["epoch"] == epoch)


def claim_rows(cells: Sequence[Cell], maps: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """One line for each check of each claim."""
    rows = []
    for claim in CLAIMS:
        for matrix, arm, than, epoch in claim.checks:
            ours, others = (by_seed(cells, matrix, name, at_epoch(epoch)) for name in (arm, than))
            found = paired(ours, others)
            setting = f"{matrix}: {arm} - {than}"
            said = "" if found is None else f"{interval(found)}, {found.count} seeds"
            rows.append(f"| {claim.text} | {claim.paper} | {setting} | {said} | {judged(claim, found)} |")
        if claim.maps and maps:
            rows.append(f"| {claim.text} | {claim.paper} | the table of maps | | numbers only, see there |")
        elif not claim.checks:
            rows.append(f"| {claim.text} | {claim.paper} | | | not run: {claim.why} |")
    return rows


def judged(claim: Claim, found: Summary | None) -> str:
    """The verdict; a claim of equality is not settled by an interval that holds 0."""
    equal = "about the same" in claim.text or "hardly matters" in claim.text
    if found is None or found.half is None or not equal:
        return verdict(found)
    return f"within {max(abs(found.low), abs(found.high)):.1f} AP of each other"


def maps_table(maps: Sequence[Mapping[str, Any]]) -> str:
    """What maps.py measured, as Markdown."""
    lines = ["| pyramid | root mean square of levels | share of the strongest 5 % of channels |", "|---|---|---|"]
    for each in maps:
        rms = ", ".join(f"{level['rms']:.2f}" for level in each["levels"])
        share = ", ".join(f"{level['strongest']:.0%}" for level in each["levels"])
        lines.append(f"| {each['name']}, {each['pictures']} pictures | {rms} | {share} |")
    return "\n".join(lines)


HEAD = """# Experiments: does it distil?

What [run.py](run.py) measured, from the files below `results/`, one for each cell (recipe x seed): command, commits,
versions, hardware, data by hash, the twelve COCO numbers, AP as it rose, and Pearson's r with the teacher's pyramid.
This page is generated: `python recipes/experiments/run.py --report`.

Students of one matrix have the same pictures, batches, epochs and rates. AP is in percent, of the last epoch, on the
validation pictures; ± is the deviation over seeds. "Minus plain" is the mean difference to the plain student of the
same seed with its 95 % interval (Student's t). One whose interval holds 0 is no difference, one seed shows nothing.
r is over validation pictures, from the finest level on; a plain student's is with the matrix's first teacher.
"""


def page(results: Path) -> str:
    """The text of README.md."""
    cells = load(results)
    parts = [HEAD]
    for matrix in sorted({cell["matrix"] for cell in cells}):
        of_matrix = [cell for cell in cells if cell["matrix"] == matrix]
        parts.append(f"## {matrix}\n\n{source(of_matrix, results)}\n\n{table(cells, matrix)}\n")
    maps = [json.loads(path.read_text()) for path in sorted((results.parent / "maps").glob("*.json"))]
    if maps:
        parts.append(f"## Maps\n\nBy [maps.py](maps.py), from the finest level on.\n\n{maps_table(maps)}\n")
    head = "| claim | the paper | here | AP difference | verdict |\n|---|---|---|---|---|"
    parts.append("\n".join(["## The paper's claims", "", head, *claim_rows(cells, maps)]))
    return "\n".join(parts) + "\n"


def source(cells: Sequence[Cell], results: Path) -> str:
    """What all cells of a matrix have in common, in a sentence or two."""
    first = next((cell for cell in cells if cell["role"] == "student"), cells[0])
    data, budget = first["data"], first["budget"]
    path = f"{first['matrix']}.py"
    if first["role"] == "teacher":
        return f"[{path}]({path}): no student yet. On {first['hardware']}, torch {first['versions']['torch']}."
    return (
        f"[{path}]({path}): {data['train']['pictures']} pictures to train, {data['val']['pictures']} to judge; a "
        f"student ({first['recipe']['model']}) takes {budget['steps']} steps, {budget['pictures']} pictures. "
        f"On {first['hardware']}, torch {first['versions']['torch']}."
    )


def write(results: Path) -> Path:
    """Write README.md beside the folder of the numbers."""
    path = results.parent / "README.md"
    path.write_text(page(results))
    return path
