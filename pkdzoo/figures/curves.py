"""Curves from a run's log: AP over epochs, and the Pearson r of each level over steps."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEVEL_R = re.compile(r"log/\w+/r(\d+)")  # keys under which PKD logs the r of each level


@dataclass
class Run:
    """Curves of one run.

    Attributes:
        name: name of the run.
        epochs: epochs after which the run was evaluated.
        ap: AP in percent, after each of ``epochs``.
        steps: steps at which r was logged.
        r: Pearson's r of each level at each of ``steps``, the mean since the previous line; empty where the method does
            not log it.

    Example:
        >>> from pkdzoo.figures import Run
        >>> Run("mine", epochs=[1, 2], ap=[10.5, 14.0]).to_dict()["ap"]
        [10.5, 14.0]
    """

    name: str
    epochs: list[int] = field(default_factory=list)
    ap: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    r: list[list[float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, ready for ``json.dump``."""
        return dict(vars(self))


def read_run(folder: str | Path, name: str | None = None) -> Run:
    """Read the curves of a run from its log.

    Args:
        folder: the run's folder, which holds ``log.jsonl``.
        name: name of the run; None means that of the folder.

    Raises:
        ValueError: there is no log, or one of its lines is invalid.

    Example:
        >>> import tempfile, pathlib
        >>> from pkdzoo.figures import read_run
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> lines = ['{"step": 5, "log/pkd/r0": 0.25, "log/pkd/r1": 0.5}', '{"step": 5, "epoch": 1, "AP": 12.5}']
        >>> with (folder / "log.jsonl").open("w") as file:
        ...     print(*lines, sep=chr(10), file=file)
        >>> run = read_run(folder, "mine")
        >>> run.epochs, run.ap, run.steps, run.r
        ([1], [12.5], [5], [[0.25], [0.5]])
    """
    path = Path(folder) / "log.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run's folder: there is no log.jsonl in it")
    run = Run(name or Path(folder).resolve().name)
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            if line.get("AP") is not None:
                run.epochs.append(int(line["epoch"]))
                run.ap.append(float(line["AP"]))
            logged = {int(match[1]): float(line[key]) for key in line if (match := LEVEL_R.fullmatch(key))}
            if logged:
                run.steps.append(int(line["step"]))
                run.r += [[] for _ in range(len(logged) - len(run.r))]
                for level, values in enumerate(run.r):
                    values.append(logged[level])
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            if number == len(lines):
                break  # the last line may be incomplete, in a run that is going on or was killed
            raise ValueError(f"{path}, line {number} is not a line of a run's log: {text[:60]!r}") from error
    return run
