"""How fast is it? Ours beside theirs, as ratios, each with a check that both compute the same numbers.

    python recipes/benchmark.py                                   # every row: under twenty minutes on two cores
    python recipes/benchmark.py --rows loss,predict --threads 2
    python recipes/benchmark.py --quick --no-compile              # does the instrument work? about a minute
    python recipes/benchmark.py --output recipes/benchmark_results/two_cores.json

The table of README.md is generated from recipes/benchmark_results/*.json (PYTHONPATH=. python tests/test_readme.py).
Exit status 1 when two things that ought to compute the same do not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the folder that holds recipes/

from pkdzoo.utils.files import write_json
from recipes.benchmarks import PARTS, parts_of
from recipes.benchmarks.growth import plot
from recipes.benchmarks.measure import LOAD, Row, Settings, about, commit, load
from recipes.benchmarks.table import markdown


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(PARTS), help="parts, e.g. loss,step-fcos; all without it")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--threads", type=int, help="CPU threads; all cores without it")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: shows that it works")
    parser.add_argument("--no-compile", action="store_true", help="leave the rows of torch.compile out")
    parser.add_argument("--images", type=Path, help="folder of JPEG files for the row of loading")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    parser.add_argument("--update", action="store_true", help="measure --rows anew in that file, keep its other ones")
    args = parser.parse_args(argv)
    try:
        args.rows = parts_of(args.rows.split(","))
    except ValueError as error:
        parser.error(f"--rows: {error}")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: this torch sees no GPU")
    if args.update and not (args.output and args.output.is_file()):
        parser.error("--update: --output has to be the file of an earlier run")
    return args


def earlier(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """What the file of --output holds, if it was measured on the same machine with the same packages."""
    found: dict[str, Any] = json.loads(args.output.read_text())
    now = about(settings)
    other = [key for key in now if key != LOAD and now[key] != found["about"].get(key)]
    if other or found["quick"] != args.quick:
        sys.exit(f"error: {args.output} was measured with another {', '.join(other) or '--quick'}: write a new file")
    return found


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = Settings(torch.device(args.device), args.quick, not args.no_compile, args.images)
    found = earlier(args, settings) if args.update else {"about": about(settings), "quick": args.quick, "parts": {}}
    for name in args.rows:
        before = time.perf_counter()
        torch.manual_seed(0)  # whichever parts are measured, each has the same weights
        part: dict[str, Any] = {"rows": [], "curves": [], "load": load(), "commit": commit()}
        for item in PARTS[name](settings):
            part["rows" if isinstance(item, Row) else "curves"].append(item.to_dict())
        part["seconds"] = round(time.perf_counter() - before)
        found["parts"] = {key: {**found["parts"], name: part}[key] for key in PARTS if key in {*found["parts"], name}}
        if args.output:  # after every part: a run that is cut off still leaves what it measured
            args.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.output, found)
        print(f"{name}: {part['seconds']} s", file=sys.stderr, flush=True)
    curves = [curve for part in found["parts"].values() for curve in part["curves"]]
    if args.output and curves and find_spec("matplotlib"):
        plot(curves, args.output.with_suffix(".png"))
    print(markdown(found))
    unequal = [row for part in found["parts"].values() for row in part["rows"] if not row["equal"]]
    for row in unequal:
        passes = f"up to {row['tolerance']} passes, of single ones {row['wider']}"
        print(f"not equal: {row['name']}: {row['differences']} ({passes})", file=sys.stderr)
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
