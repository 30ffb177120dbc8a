"""Draws the figures with matplotlib (the extra ``viz``), without a window and without its global state.

The background is always white. Curves have the colors of Okabe and Ito, and maps the color map cividis, which
color-blind readers can distinguish; curves also differ in line style and marker. Figures are 8.4 inches wide, so that
text stays readable at a width of 800 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from pkdzoo.figures.curves import Run
from pkdzoo.figures.measure import STAGES, PyramidMaps, dominant

WIDTH = 8.4  # inches
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"
TITLES = {"before": "raw", "after": "normalized"}
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
}


def activations(detectors: Sequence[PyramidMaps], image: NDArray[np.uint8], index: int = 0) -> Figure:
    """Activation patterns of each level, before and after the normalization (figures 1 and 2 of the paper).

    Bright values are large. Each row has its own scale, from its smallest to its largest value, for all its levels.

    Args:
        detectors: maps of several detectors for the same images, the teacher first.
        image: (H, W, 3) RGB, the image to show.
        index: its index in the batch.
    """
    columns = 1 + max(len(detector.level_names) for detector in detectors)
    height, width = image.shape[:2]
    rows = [(stage, detector) for stage in STAGES for detector in detectors]
    tall = len(rows) * (WIDTH / columns * height / width + 0.32)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure((WIDTH, tall), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for row, (stage, detector) in zip(grid, rows):
            maps = [pattern.numpy() for pattern in detector.patterns(stage, index)]
            low, high = min(m.min() for m in maps), max(m.max() for m in maps)
            row[0].imshow(image, aspect="auto")
            row[0].set_box_aspect(height / width)
            title = f"{detector.name}, {TITLES[stage]} maps: {low:.2g} (dark) to {high:.2g}"
            text = row[0].text(0, 1.05, title, transform=row[0].transAxes)
            text.set_in_layout(False)  # it extends over the next axes
            for axes, name, values in zip(row[1:], detector.level_names, maps):
                axes.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
                axes.set_box_aspect(height / width)
                box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
                axes.text(0, 1, name, transform=axes.transAxes, va="top", fontsize=9, bbox=box)
        return figure


def magnitudes(detectors: Sequence[PyramidMaps]) -> Figure:
    """Histogram of the magnitudes of each level, before and after the normalization (figures 1, 4 and 8).

    The largest 0.05 % of the values of the strongest level lie beyond the right edge; ``PyramidMaps.numbers`` has the
    maximum.

    Args:
        detectors: maps of several detectors for the same images, the teacher first.
    """
    columns = max(len(detector.level_names) for detector in detectors)
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 4.4), layout="constrained")
        grid = figure.subplots(len(STAGES), columns, squeeze=False, sharex="row", sharey="row")
        for row, stage in zip(grid, STAGES):
            magnitude = [
                [values.abs().flatten().numpy() for values in detector.values(stage)] for detector in detectors
            ]
            largest = max(float(np.quantile(values, 0.9995)) for levels in magnitude for values in levels)
            edges = np.linspace(0, largest or 1.0, 41)
            for k, (detector, levels) in enumerate(zip(detectors, magnitude)):
                for axes, values in zip(row, levels):
                    share = np.histogram(values, edges)[0] * (100 / len(values))
                    _curve(axes, (edges[1:] + edges[:-1]) / 2, np.where(share > 0, share, np.nan), k, detector.name)
            row[0].set_yscale("log")
            row[0].set_ylabel(f"{TITLES[stage]} maps\n% of values")
        for column, axes in enumerate(grid[0]):
            names = {detector.level_names[column] for detector in detectors if column < len(detector.level_names)}
            axes.set_title(", ".join(sorted(names)))
        figure.supxlabel("magnitude: absolute value of an entry of a map", fontsize=10)
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        return figure


def channels(detectors: Sequence[PyramidMaps]) -> Figure:
    """Share of the locations at which each channel is the largest (figures 1, 6 and 7).

    Args:
        detectors: maps of several detectors for the same images, the teacher first.
    """
    columns = max(len(detector.level_names) for detector in detectors)
    rows = [(stage, k, detector) for stage in STAGES for k, detector in enumerate(detectors)]
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 1.6 * len(rows) + 0.3), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False, sharex="col", sharey="row")
        for row, (stage, k, detector) in zip(grid, rows):
            for axes, name, values in zip(row, detector.level_names, detector.values(stage)):
                count = dominant(values)
                share = 100 * count.numpy() / int(count.sum())
                edges = np.arange(len(share) + 1) - 0.5
                axes.stairs(share, edges, fill=True, color=COLORS[k % len(COLORS)])
                top = int(share.argmax())
                percent = f"{share[top]:.0f}" if share[top] >= 1 else f"{share[top]:.1f}"
                line = "\n" if axes is row[0] else ""  # room for the row's own title
                axes.set_title(f"{line}{name}: channel {top} in {percent} %", fontsize=9, loc="left")
                axes.margins(x=0.02)
            title = f"{detector.name}, {TITLES[stage]} maps"
            position = {"xytext": (0, 18), "textcoords": "offset points"}
            row[0].annotate(title, (0, 1), xycoords="axes fraction", **position).set_in_layout(False)
        figure.supxlabel("channel", fontsize=10)
        figure.supylabel("% of the locations where a channel is the largest", fontsize=10)
        return figure


def correlation(runs: Sequence[Run], level_names: Sequence[str] = ()) -> Figure:
    """Pearson's r of each level over training.

    Args:
        runs: runs with ``r``.
        level_names: names of the student's levels, finest first; missing names become numbers.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 3.2), layout="constrained")
        panels: list[Axes] = list(figure.subplots(1, len(runs), squeeze=False, sharey=True)[0])
        for axes, run in zip(panels, runs):
            for level, values in enumerate(run.r):
                name = level_names[level] if level < len(level_names) else f"level {level}"
                _curve(axes, run.steps, values, level, f"{name}: {values[-1]:.2f}")
            axes.set_title(run.name)
            axes.set_xlabel("optimizer step")
            axes.legend(title="at the end", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        panels[0].set_ylabel("Pearson's r to the teacher,\nmean over channels")
        return figure


def convergence(runs: Sequence[Run], references: Mapping[str, float] | None = None) -> Figure:
    """AP over epochs of several runs (figure 3).

    Args:
        runs: runs with ``ap``.
        references: name and AP of horizontal lines, e.g. the teacher's.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for k, run in enumerate(runs):
            _curve(axes, run.epochs, run.ap, k + 1, f"{run.name}: {run.ap[-1]:.1f}")
        for name, ap in (references or {}).items():
            axes.axhline(ap, color="#555555", linewidth=1.4, linestyle=(0, (6, 3)), label=f"{name}: {ap:.1f}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("AP on the validation images, %")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure


def _curve(axes: Axes, x: ArrayLike, y: ArrayLike, k: int, label: str) -> None:
    every = max(1, len(np.asarray(x)) // 10)
    style: dict[str, Any] = {"color": COLORS[k % len(COLORS)], "linestyle": DASHES[k % len(DASHES)]}
    axes.plot(x, y, marker=MARKERS[k % len(MARKERS)], markevery=every, markersize=5, label=label, **style)


def pixels_of(images: Tensor, size: tuple[int, int], index: int = 0) -> NDArray[np.uint8]:
    """One image of a batch (B, 3, H, W) without its padding: (h, w, 3) uint8."""
    height, width = size
    pixels: NDArray[np.uint8] = images[index, :3, :height, :width].round().byte().permute(1, 2, 0).cpu().numpy()
    return pixels


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG with 256 colors, which are enough for plots and make the file a third as large."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)
