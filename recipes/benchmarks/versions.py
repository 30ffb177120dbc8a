"""Measure two versions of pkdzoo in one run, with the same benchmark: what became faster, what slower?

    git worktree add ../earlier COMMIT
    python -m recipes.benchmarks.versions ../earlier --rows assign,profile
    python -m recipes.benchmarks.versions ../earlier --output recipes/benchmark_results/versions/two_cores.json

Every part of recipes/benchmark.py runs for both versions in turns, each time in a new process. Both run the parts of
this clone. A part that asks for something the earlier version lacks is run from the earlier version's own benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pkdzoo.utils.files import write_json
from pkdzoo.utils.option_types import positive_int
from recipes.benchmarks import PARTS, parts_of
from recipes.benchmarks.measure import Settings, about, commit, other_facts
from recipes.benchmarks.table import PROFILE_HEAD, RESULTS, amount, describe, profile_line, recorded_in

HERE = Path(__file__).resolve().parents[2]
HEAD = (
    "| measured | earlier | now | earlier / now | earlier, against the compared | now, against the compared |\n"
    "|---|---:|---:|---:|---:|---:|"
)
SIDES = ("earlier", "now")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the file, print the table."""
    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    commits = {"earlier": commit(args.earlier), "now": commit()}
    found: dict[str, Any] = {"about": about(Settings()), "commits": commits, "quick": args.quick, "parts": {}}
    if args.update:
        found["parts"] = read_parts(args.output, found)
    options = ["--threads", str(args.threads), *(["--quick"] if args.quick else [])]
    options += ["--no-compile"] if args.no_compile else []
    with TemporaryDirectory() as folder:
        trees = {"earlier": [tree_of(args.earlier, Path(folder)), args.earlier.resolve()], "now": [HERE]}
        for part in args.rows:
            found["parts"][part] = measure(part, trees, args.rounds, options)
            if args.output:  # after every part, so that an interrupted run keeps what it measured
                args.output.parent.mkdir(parents=True, exist_ok=True)
                write_json(args.output, found)
    print(markdown(found))
    return 0


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("earlier", type=Path, help="a clone or worktree of the earlier version")
    parser.add_argument("--rows", default=",".join(PARTS), help="parts, e.g. assign,profile (default: all)")
    parser.add_argument("--rounds", type=positive_int, default=2, help="runs of each part and version (default: 2)")
    parser.add_argument(
        "--threads", type=positive_int, default=torch.get_num_threads(), help="CPU threads (default: torch's)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--no-compile", action="store_true", help="leave out the rows of torch.compile")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--update", action="store_true", help="replace only --rows in the file of an earlier run")
    args = parser.parse_args(argv)
    if not (args.earlier / "pkdzoo" / "__init__.py").is_file():
        parser.error(f"{args.earlier}: no pkdzoo/__init__.py there: write the folder of a clone of pkdzoo")
    if args.update and not (args.output and args.output.is_file()):
        parser.error("--update: --output has to be the file of an earlier run")
    try:
        args.rows = parts_of(args.rows.split(","))
    except ValueError as error:
        parser.error(f"--rows: {error}")
    return args


def read_parts(path: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of an earlier run, if it compared the same versions on the same machine with the same packages."""
    before = json.loads(path.read_text())
    other = other_facts(now["about"], before["about"])
    other += [key for key in ("commits", "quick") if now[key] != before[key]]
    if other:
        sys.exit(f"error: {path} was measured with another {', '.join(other)}: write a new file")
    parts: dict[str, Any] = before["parts"]
    return parts


def tree_of(earlier: Path, folder: Path) -> Path:
    """A folder with the earlier version's package and the benchmark of this clone."""
    shutil.copytree(earlier / "pkdzoo", folder / "pkdzoo", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "recipes").mkdir()
    shutil.copy(HERE / "recipes" / "benchmark.py", folder / "recipes")
    shutil.copytree(HERE / "recipes" / "benchmarks", folder / "recipes" / "benchmarks")
    return folder


def measure(part: str, trees: Mapping[str, list[Path]], rounds: int, options: list[str]) -> dict[str, Any]:
    """One part, both versions in turns; for an earlier version that cannot run it an empty list and the error."""
    found: dict[str, Any] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            try:
                found[side].append(first_that_runs(part, trees[side], options))
            except RuntimeError as error:
                if side == "now":
                    sys.exit(f"error: --rows {part} does not run with this version: {error}")
                found["error"] = str(error)
                print(f"{part}: {error}", file=sys.stderr)
    return found


def first_that_runs(part: str, trees: list[Path], options: list[str]) -> dict[str, Any]:
    """The results of a part from the first tree whose benchmark can run it, and whether that is the version's own.

    Raises:
        RuntimeError: if there is none, with the last line that each printed.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    errors = []
    for tree in trees:
        with TemporaryDirectory() as folder:
            output = Path(folder) / "part.json"
            script = [sys.executable, str(tree / "recipes" / "benchmark.py"), "--rows", part, "--output", str(output)]
            done = subprocess.run([*script, *options], env=environment, capture_output=True, text=True)
            if done.returncode == 0:
                result: dict[str, Any] = json.loads(output.read_text())["parts"][part]
                return {**result, "own benchmark": tree is not trees[0]}
            errors += done.stderr.strip().splitlines()[-1:]
    raise RuntimeError("; ".join(errors))


def markdown(found: Mapping[str, Any]) -> str:
    """Both versions side by side: a sentence about the machine, a table of rows, and one of profiles."""
    commits = {side: found["commits"][side][:9] for side in SIDES}
    text = [describe(found["about"]), f"Earlier is {commits['earlier']}, now is {commits['now']}.", ""]
    parts = found["parts"].values()
    lines = [line for part in parts for line in row_lines(part)]
    text += [HEAD, *lines] if lines else []
    profiles = [line for part in parts for line in profile_lines(part)]
    text += ["", PROFILE_HEAD, *profiles] if profiles else []
    return "\n".join(text) + "\n"


def row_lines(part: Mapping[str, Any]) -> list[str]:
    """One line for each row that the version of now measures, with medians over the rounds."""
    sides = {side: gather(part[side], "rows") for side in SIDES}
    lines = []
    for name, now in sides["now"].items():
        if now[0]["ours"] is None:
            continue
        earlier = sides["earlier"].get(name)
        own = any(found.get("own benchmark") for found in part["earlier"])
        unit = now[0]["unit"]
        ours, ratio = median(now, "ours"), f"{median(now, 'ratio'):.2f}"
        if earlier is None or earlier[0]["ours"] is None:
            why = "not there" if part["earlier"] else "does not run"
            lines.append(f"| {name} | {why} | {amount(ours, unit)} | | | {ratio} |")
            continue
        before = median(earlier, "ours")
        cells = [amount(before, unit), amount(ours, unit), f"{before / ours:.2f}", f"{median(earlier, 'ratio'):.2f}"]
        lines.append(f"| {' | '.join([name + ' (by its own benchmark)' * own, *cells, ratio])} |")
    return lines


def profile_lines(part: Mapping[str, Any]) -> list[str]:
    """Two lines for each profile, of the first round: a step's shares belong together."""
    sides = {side: gather(part[side], "profiles") for side in SIDES}
    both = [(side, name, found) for name in sides["now"] for side in SIDES if (found := sides[side].get(name))]
    return [profile_line({**found[0], "name": f"{name}, {side}"}) for side, name, found in both]


def gather(rounds: Sequence[Mapping[str, Any]], kind: str) -> dict[str, list[Any]]:
    """The items of all rounds, by name."""
    names = [item["name"] for item in (rounds[0].get(kind, []) if rounds else [])]
    return {name: [item for found in rounds for item in found[kind] if item["name"] == name] for name in names}


def median(items: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(statistics.median(item[key] for item in items))


def recorded() -> str:
    """Every comparison in ``recipes/benchmark_results/versions``, for the page in its parent folder."""
    return recorded_in(RESULTS / "versions", markdown)


if __name__ == "__main__":
    sys.exit(main())
