"""The plots of the pages, as matplotlib figures: estimates with intervals, in rows or as curves; points; histograms.

Colors and markers say the same thing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .palette import GRAY, PALETTE, VERMILION


if TYPE_CHECKING:
    from matplotlib.figure import Figure


MARKERS = "osD^vPX"
DASHES = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))
WIDTH = 5.2  # inches: half a page of 1200 px, and letters that can still be read on a phone


def _figure(height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15)  # half of a tick's label, which may stand at the very end of the axis
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def forest_plot(rows: Mapping[str, Mapping[str, dict]], xlabel: str, zero: str) -> Figure:
    """Draw estimates with intervals in rows, with a line at zero.

    Args:
        rows: for each row its estimates by series, each with `value` and `interval` (None: a point without a line).
        xlabel: what the values are.
        zero: what zero means.
    """
    series = list(dict.fromkeys(name for estimates in rows.values() for name in estimates))
    height = 0.17 * len(series) + 0.14
    figure, axes = _figure(1.3 + height * len(rows))
    axes.axvline(0, color="black", linewidth=1, label=zero)
    for place, estimates in enumerate(rows.values()):
        for index, name in enumerate(series):
            if name not in estimates or estimates[name]["value"] is None:
                continue
            y = place * height + 0.17 * (index - (len(series) - 1) / 2)
            color, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
            label = name if name not in axes.get_legend_handles_labels()[1] else None
            if estimates[name]["interval"] is not None:
                axes.plot(estimates[name]["interval"], (y, y), color=color, linewidth=1.6, solid_capstyle="butt")
            axes.plot(estimates[name]["value"], y, marker, color=color, markersize=5, label=label)
        if place % 2:
            axes.axhspan((place - 0.5) * height, (place + 0.5) * height, color="0.955", zorder=-1)
    axes.set_yticks([place * height for place in range(len(rows))], rows)
    axes.set_ylim((len(rows) - 0.5) * height, -0.5 * height)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside upper left", fontsize=9, ncols=2, frameon=False)
    return figure


def curves(
    lines: Mapping[str, Sequence[dict]],
    xlabel: str,
    ylabel: str,
    references: Mapping[str, float] | None = None,
    log_x: bool = False,
    tick_names: Mapping[float, str] | None = None,
) -> Figure:
    """Draw values against a quantity, with their intervals as bars.

    Args:
        lines: for each curve its points, each with `x`, `value` and `interval` (None: no bar).
        references: values at which a horizontal line is drawn, by name.
        log_x: whether x is drawn on a logarithmic axis.
        tick_names: what is written at each x; its number when None.
    """
    figure, axes = _figure(3.6)
    ticks = sorted({point["x"] for points in lines.values() for point in points})
    if log_x:
        axes.set_xscale("log")
        axes.minorticks_off()
    for index, (name, points) in enumerate(lines.items()):
        points = sorted((point for point in points if point["value"] is not None), key=lambda point: point["x"])
        # Side by side, so that the bars of several curves do not hide each other.
        shift = index - (len(lines) - 1) / 2
        step = min((b - a for a, b in zip(ticks, ticks[1:], strict=False)), default=1)
        x = [point["x"] * 1.03**shift if log_x else point["x"] + 0.06 * step * shift for point in points]
        color, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
        axes.plot(x, [point["value"] for point in points], f"{marker}-", color=color, label=name, markersize=5, linewidth=1.4)
        for place, point in zip(x, points, strict=True):
            if point["interval"] is not None:
                axes.plot((place, place), point["interval"], color=color, linewidth=1.6, alpha=0.75)
    for index, (name, value) in enumerate((references or {}).items()):
        axes.axhline(value, color=GRAY, linewidth=1.2, linestyle=DASHES[index % len(DASHES)], label=name)
    axes.set_xticks(ticks, [tick_names[tick] if tick_names else f"{tick:g}" for tick in ticks])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside upper left", fontsize=9, ncols=2, frameon=False)
    return figure


def loss_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the squared error of each channel by update, on a logarithmic axis: as logged, and smoothed.

    Args:
        rows: of a denoiser's training_log.jsonl, `step` and `simple/CHANNEL` each; values that are missing are left out.
    """
    figure, axes = _figure(3.6)
    steps = np.array([row["step"] for row in rows], dtype=float)
    width = max(1, len(rows) // 20)
    for index, name in enumerate(("radiograph", "anatomy_mask", "lesion_mask")):
        values = np.array([row.get(f"simple/{name}") or np.nan for row in rows], dtype=float)
        known = np.isfinite(values)
        if not known.any():
            continue
        color = PALETTE[index]
        axes.plot(steps[known], values[known], color=color, linewidth=0.6, alpha=0.4)
        weights = np.ones(min(width, known.sum()))
        smooth = np.convolve(values[known], weights, "valid") / weights.sum()
        places = np.convolve(steps[known], weights, "valid") / weights.sum()
        dash = "-" if index == 0 else DASHES[index - 1]
        axes.plot(places, smooth, color=color, linewidth=1.8, linestyle=dash, label=name.replace("_", " "))
    axes.set(yscale="log", xlabel="update", ylabel="squared error")
    axes.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside upper left", fontsize=9, ncols=3, frameon=False)
    return figure


def scatter(groups: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draw the points of several groups in the plane of a projection, whose axes mean nothing."""
    figure, axes = _figure(4.6)
    for index, (name, points) in enumerate(groups.items()):
        x, y = zip(*points, strict=True)
        color, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
        axes.scatter(x, y, s=16, c=color, marker=marker, alpha=0.6, linewidths=0, label=name)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper left", fontsize=9, ncols=2, frameon=False)
    return figure


def histograms(panels: Mapping[str, tuple[np.ndarray, np.ndarray, float]], names: tuple[str, str, str], ylabel: str) -> Figure:
    """Draw the distributions of two sets of values over each other, a panel for each quantity.

    Args:
        panels: by its title, what is compared against, the values themselves (`[N]` each) and a threshold, drawn as a line.
        names: of the three.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(panels), 3.4), layout="constrained")
    rows = zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)
    for axes, (title, (reference, values, threshold)) in rows:
        low, high = np.quantile(np.concatenate([values, reference]), (0.002, 0.995))
        bins = np.linspace(low, max(high, low + 1e-6), 41)
        for shown, name, color in ((reference, names[0], GRAY), (values, names[1], VERMILION)):
            weights = np.full(len(shown), 1 / len(shown))
            axes.hist(np.clip(shown, bins[0], bins[-1]), bins, weights=weights, label=name, color=color, alpha=0.55)
        axes.axvline(threshold, color="black", linewidth=1, linestyle="--", label=names[2])
        axes.set(title=title, ylabel=ylabel)
    axes.legend(fontsize=8)
    return figure
