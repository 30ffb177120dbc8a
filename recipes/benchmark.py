"""Compare the speed and memory of pkdzoo with those of other libraries, and check that both compute the same.

    python recipes/benchmark.py                                   # all parts: under twenty minutes on two cores
    python recipes/benchmark.py --rows loss,predict --threads 2
    python recipes/benchmark.py --quick --no-compile              # does it run? about a minute
    python recipes/benchmark.py --output recipes/benchmark_results/two_cores.json
    python recipes/benchmark.py --rows deploy --files FOLDER      # docs/deploy.md: exported files, alone on the machine

recipes/benchmark_results/README.md is generated from the files in that folder (python -m pkdzoo.maintain pages).
The exit status is 1 when two implementations that should compute the same do not.
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
from pkdzoo.utils.option_types import positive_int
from recipes.benchmarks import PARTS, parts_of
from recipes.benchmarks.measure import Row, Settings, about, commit, load, other_facts
from recipes.benchmarks.profiles import Profile
from recipes.benchmarks.scaling import Curve, plot
from recipes.benchmarks.table import markdown

KINDS: dict[type, str] = {Row: "rows", Curve: "curves", Profile: "profiles"}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(PARTS), help="parts, e.g. loss,step-fcos (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--threads", type=positive_int, help="CPU threads (default: all cores)")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to see that it runs")
    parser.add_argument("--no-compile", action="store_true", help="leave out the rows of torch.compile")
    parser.add_argument("--images", type=Path, help="folder of JPEG files for the loading part")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument(
        "--files", type=Path, default=Path("deploy"), help="with --rows deploy: folder of its ONNX files"
    )
    parser.add_argument("--checks", type=Path, help="figures of the checks of tests/gpu, a file of JSON lines")
    parser.add_argument("--update", action="store_true", help="replace only --rows in the file of an earlier run")
    args = parser.parse_args(argv)
    if args.rows == "deploy":
        return args
    try:
        args.rows = parts_of(args.rows.split(","))
    except ValueError as error:
        parser.error(f"--rows: {error}")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: this torch sees no GPU")
    if args.update and not (args.output and args.output.is_file()):
        parser.error("--update: --output has to be the file of an earlier run")
    return args


def read_earlier(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """The content of --output, if it was measured on the same machine with the same packages."""
    results: dict[str, Any] = json.loads(args.output.read_text())
    other = other_facts(about(settings), results["about"])
    if other or results["quick"] != args.quick:
        sys.exit(f"error: {args.output} was measured with another {', '.join(other) or '--quick'}: write a new file")
    return results


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = Settings(torch.device(args.device), args.quick, not args.no_compile, args.images)
    if args.rows == "deploy":
        from recipes.benchmarks import deploy, deploy_page  # not for other parts: they also run with earlier versions

        return deploy.main(args.files, args.output or deploy_page.FILE, args.quick)
    results: dict[str, Any] = {"about": about(settings), "quick": args.quick, "parts": {}}
    if args.update:
        results = read_earlier(args, settings)
    if args.checks and args.checks.is_file():
        results["checks"] = [json.loads(line) for line in args.checks.read_text().splitlines()]
    for name in args.rows:
        start = time.perf_counter()
        torch.manual_seed(0)  # the weights of a part do not depend on which parts run before it
        part: dict[str, Any] = {"rows": [], "curves": [], "profiles": [], "load": load(), "commit": commit()}
        for item in PARTS[name](settings):
            part[KINDS[type(item)]].append(item.to_dict())
        part["seconds"] = round(time.perf_counter() - start)
        parts = {**results["parts"], name: part}
        results["parts"] = {key: parts[key] for key in PARTS if key in parts}
        if args.output:  # after every part, so that an interrupted run keeps what it measured
            args.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.output, results)
        print(f"{name}: {part['seconds']} s", file=sys.stderr, flush=True)
    curves = [curve for part in results["parts"].values() for curve in part["curves"]]
    if args.output and curves and find_spec("matplotlib"):
        plot(curves, args.output.with_suffix(".png"))
    print(markdown(results))
    unequal = [row for part in results["parts"].values() for row in part["rows"] if not row["equal"]]
    for row in unequal:
        allowed = f"allowed: {row['tolerance']}, for single values {row['wider']}"
        print(f"not equal: {row['name']}: {row['differences']} ({allowed})", file=sys.stderr)
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
