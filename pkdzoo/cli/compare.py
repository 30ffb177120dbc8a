"""``pkdzoo compare``: one table of finished runs."""

from __future__ import annotations

import argparse

from pkdzoo.cli.common import Parser, Verb, note, show


def compare_arguments(parser: Parser) -> None:
    """Add the arguments of ``compare``."""
    parser.add_argument("runs", nargs="+", metavar="FOLDER", help="folders of runs, or folders that hold several runs")


def compare_run(args: argparse.Namespace) -> int:
    """Print the table of the runs."""
    from pkdzoo.training.run_table import compare_runs, find_runs, format_table, table_rows

    runs, left_out = find_runs(args.runs)
    for sentence in left_out:
        note(sentence)
    table = compare_runs(runs)
    show(args, format_table(table), {"rows": table_rows(table), "warnings": table.warnings})
    return 0


COMPARE = Verb(
    "compare finished runs: seeds side by side, gain over the plain student",
    ("pkdzoo compare runs/*", "pkdzoo compare runs/plain-0 runs/plain-1 runs/pkd-0 runs/pkd-1 --json"),
    compare_arguments,
    compare_run,
)
