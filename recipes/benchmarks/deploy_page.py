"""The table and the plot of ``recipes/benchmark.py --rows deploy``, and the latencies that ``pkdzoo list`` shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmark_results" / "deploy"
FILE = RESULTS / "two_cores.json"
BUSY = 0.7  # load before a run from which on its numbers are called provisional
OURS = ("rtmdet_tiny_kd_s", "rtmdet_s_kd_m", "rtmdet_m_kd_l")  # of README's short table
ONE_THREAD = ("onnxruntime, 1", "openvino, 1")


def fastest(row: Mapping[str, Any], keys: Sequence[str] = ONE_THREAD) -> float:
    """The lowest median of a row, in milliseconds."""
    return float(min(row["ms"][key][0] for key in keys if key in row["ms"]))


def frontier(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that no other one beats in both latency and AP, fastest first."""
    best: list[Mapping[str, Any]] = []
    for row in sorted((row for row in rows if row["AP"] is not None), key=lambda row: (fastest(row), -row["AP"])):
        if not best or row["AP"] > best[-1]["AP"]:
            best.append(row)
    return best


def table(path: Path = FILE) -> str:
    """One row per detector, fastest first, with what it is and where its AP stands."""
    if not path.is_file():
        return "No run is recorded yet.\n"
    results = json.loads(path.read_text())
    about, rows = results["about"], sorted(results["rows"], key=fastest)
    ahead = {row["name"] for row in frontier(rows)}
    columns = list(rows[0]["ms"])
    heads = ["detector", "library", "AP", *(f"{key} (ms)" for key in columns), "params (M)", "G multiply-adds"]
    lines = [[*heads, "code", "weights"], ["---", "---", "---:", *["---:"] * (len(columns) + 2), "---", "---"]]
    for row in rows:
        name = f"**{row['name']}**" if row["name"] in ahead else row["name"]
        score = "" if row["AP"] is None else f"{row['AP']:.1f}"
        times = ["{:.0f} ({:.0f})".format(*row["ms"][key][:2]) for key in columns]
        sizes = [f"{row['parameters'] / 1e6:.1f}", f"{row['operations'] / 1e9:.1f}"]
        lines.append([name, row["library"], score, *times, *sizes, row["code"], row["weights"]])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    load = "" if about["load before"] is None else f", load before the run {about['load before']:g}"
    if (about["load before"] or 0) > BUSY:
        load += ", so **these numbers are provisional**: other programs were running"
    machine = f"{about['machine']}, {about['cores']} cores, {about['vectors']}{load}; {packages}."
    return (
        f"Median and (90th percentile) of the time of one image, batch 1, on {machine}\n\n{text}\n"
        f"Bold: no other row has both a lower latency and a higher AP, by the faster runtime with one thread.\n\n"
        f"{verdict(rows)}\n{sources(rows)}{prediction(results)}"
    )


def short_table(path: Path = FILE) -> str:
    """Our small detectors and the others on the frontier of latency and AP, one column each."""
    rows = sorted(json.loads(path.read_text())["rows"], key=fastest)
    chosen = [row for row in rows if row["name"] in OURS or (row in frontier(rows) and row["library"] != "pkdzoo")]
    lines = [["", *(f"`{row['name']}`" if row["library"] == "pkdzoo" else row["name"] for row in chosen)]]
    lines += [["---", *["---:"] * len(chosen)]]
    lines += [["AP", *(f"{row['AP']:.1f}" for row in chosen)], ["ms", *(f"{fastest(row):.0f}" for row in chosen)]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def prediction(results: Mapping[str, Any]) -> str:
    """Prediction in PyTorch against the exported file, and folders."""
    if "eager" not in results:
        return ""
    lines = ["\nPrediction in PyTorch (`model.optimize()`) and by the ONNX file, one thread:\n\n"]
    lines.append("| detector | PyTorch (ms) | onnxruntime (ms) | ratio of wall time | ratio of CPU time |\n")
    lines.append("|---|---:|---:|---:|---:|\n")
    for row in results["eager"]:
        times = " | ".join(f"{row['ms'][key]:.0f}" for key in ("PyTorch", "onnxruntime"))
        lines.append(f"| {row['name']} | {times} | {row['ratio']:.2f} | {row['cpu_ratio']:.2f} |\n")
    folder = results["folder"]
    plain, ahead = (folder["images per second"][key] for key in ("0", "1"))
    lines.append(
        f"\nA folder ({folder['images']}, `{folder['name']}`, one thread for the network): {plain:.2f} images per "
        f"second in a plain loop (`workers=0`), {ahead:.2f} with images decoded ahead (`workers=1`, the default).\n"
    )
    return "".join(lines)


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether ours are ahead, in sentences that follow from the numbers."""
    lines = []
    for row in (row for row in rows if row["library"] == "pkdzoo" and row["AP"] is not None):
        better = [
            other
            for other in rows
            if other["AP"] is not None and other["AP"] >= row["AP"] and fastest(other) < fastest(row)
        ]
        if better:
            names = ", ".join(f"{one['name']} ({one['AP']:.1f} AP, {fastest(one):.0f} ms)" for one in better[:3])
            more = f" and {len(better) - 3} more" if len(better) > 3 else ""
            lines.append(f"- `{row['name']}` ({row['AP']:.1f} AP, {fastest(row):.0f} ms) loses to {names}{more}.\n")
        else:
            lines.append(
                f"- `{row['name']}` ({row['AP']:.1f} AP, {fastest(row):.0f} ms): nothing here is better in both.\n"
            )
    return "".join(lines)


def sources(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where the APs stand."""
    by_source: dict[str, list[str]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row["name"])
    return (
        "Sources of the APs: "
        + "; ".join(f"{', '.join(names)}: {source}" for source, names in by_source.items())
        + ".\n"
    )


def parity(path: Path = RESULTS / "parity.json") -> str:
    """The rows of :mod:`recipes.benchmarks.parity` as a table."""
    if not path.is_file():
        return "Not measured yet.\n"
    results = json.loads(path.read_text())
    heads = ["detector", "format", "weights", "boxes (pixels)", "scores", "without counterpart", "AP difference"]
    lines = [heads, ["---", "---", "---", "---:", "---:", "---:", "---:"]]
    for row in results["rows"]:
        if "pixels" not in row:
            lines.append([row["detector"], row["format"], row["precision"], "", "", "", ""])
            continue
        share = f"{row['alone']} of {2 * row['detections']}"
        difference = f"{row['AP difference']:+.2f}" if "AP difference" in row else ""
        numbers = [f"{row['pixels']:.1e}", f"{row['score']:.1e}", share, difference]
        lines.append([row["detector"], row["format"], row["precision"].replace(" weights", ""), *numbers])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latencies(path: Path = FILE) -> dict[str, Any]:
    """Latency by name of our detectors, for ``pkdzoo list``."""
    if not path.is_file():
        return {"about": "", "ms": {}}
    results = json.loads(path.read_text())
    ours = {row["name"]: round(fastest(row), 1) for row in results["rows"] if row["library"] == "pkdzoo"}
    machine = results["about"]["machine"]
    return {"about": f"one image, one thread of {machine}, the faster of onnxruntime and OpenVINO", "ms": ours}


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw AP over latency; needs matplotlib."""
    from matplotlib.figure import Figure

    rows = [row for row in results["rows"] if row["AP"] is not None]
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axis = figure.subplots()
    for ours, color, label in ((True, "tab:blue", "pkdzoo"), (False, "tab:orange", "other libraries")):
        own = [row for row in rows if (row["library"] == "pkdzoo") == ours]
        axis.scatter([fastest(row) for row in own], [row["AP"] for row in own], color=color, label=label, zorder=3)
        for row in own:
            short = row["name"].replace("_mobilenet_v3_large", "").replace("_320_fpn", "")
            axis.annotate(short, (fastest(row), row["AP"]), (4, 4), textcoords="offset points", fontsize=6.5)
    ahead = frontier(rows)
    axis.step([fastest(row) for row in ahead], [row["AP"] for row in ahead], where="post", color="gray", linewidth=0.8)
    axis.set(xscale="log", xlabel="milliseconds per image, one thread, faster runtime", ylabel="published COCO AP")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)
