"""How fast is it? Ours beside theirs, as ratios, each with a check that both compute the same numbers.

    python recipes/benchmark.py                                   # every row: about ten minutes on two cores
    python recipes/benchmark.py --rows loss,predict --threads 2
    python recipes/benchmark.py --quick                           # does the instrument work? under a minute
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

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the folder that holds recipes/

from recipes.benchmarks import ROWS
from recipes.benchmarks.growth import plot
from recipes.benchmarks.measure import Row, Settings, about
from recipes.benchmarks.table import markdown


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="which, with commas between; all without it")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--threads", type=int, help="CPU threads; all cores without it")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: shows that it works")
    parser.add_argument("--no-compile", action="store_true", help="leave the rows of torch.compile out")
    parser.add_argument("--pictures", type=Path, help="folder of JPEG files for the row of loading")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    args = parser.parse_args(argv)
    args.rows = args.rows.split(",")
    unknown = [name for name in args.rows if name not in ROWS]
    if unknown:
        parser.error(f"--rows: no {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = Settings(torch.device(args.device), args.quick, not args.no_compile, args.pictures)
    started = time.perf_counter()
    found = {"about": about(settings), "quick": args.quick, "rows": [], "curves": []}
    for name in args.rows:
        before = time.perf_counter()
        for item in ROWS[name](settings):
            found["rows" if isinstance(item, Row) else "curves"].append(item.to_dict())
            if args.output:  # after every row: a run that is cut off still leaves what it measured
                args.output.parent.mkdir(parents=True, exist_ok=True)
                args.output.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {time.perf_counter() - before:.0f} s", file=sys.stderr, flush=True)
    found["seconds"] = round(time.perf_counter() - started)
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n")
        if found["curves"] and find_spec("matplotlib"):
            plot(found["curves"], args.output.with_suffix(".png"))
    print(markdown(found))
    unequal = [row for row in found["rows"] if not row["equal"]]
    for row in unequal:
        passes = f"up to {row['tolerance']} passes, of single ones {row['wider']}"
        print(f"not equal: {row['name']}: {row['differences']} ({passes})", file=sys.stderr)
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
