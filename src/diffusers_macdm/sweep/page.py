"""The sweep to look at: one page with a small plot of each measure against each option, from `sweep.json`'s content alone."""

from __future__ import annotations

from pathlib import Path

from ..report.page import figure_source, plain, render, write_index
from ..report.plots import curves


def sweep_page(folder: str | Path, result: dict) -> None:
    """Write `index.html`, self-contained.

    Args:
        folder: an existing one.
        result: `conclusion` (sentences), `points` (of each `parameter`, None for a point of a full grid; its `value`, a number,
            a pair, or the dict of all options of a grid point; `measures`: of each `name`, `value`, `interval`),
            `references` (by a measure's name the values of its lines by their name), `notes`, `settings`, `versions`.
    """
    names = dict.fromkeys(point["parameter"] for point in result["points"] if point["parameter"] is not None)
    measures = list(dict.fromkeys(measure["name"] for point in result["points"] for measure in point["measures"]))
    page = render(
        "sweep.html.jinja",
        r=result,
        options=[{"name": name, "plots": _plots(result, name, measures)} for name in names],
        measures=measures,
        references=any(result["references"].get(name) for name in measures),
        by_name=_by_name,
        value_name=value_name,
    )
    write_index(Path(folder), page)


def value_name(value) -> str:
    """A value of an option in words: a number, a pair, or several options of a grid point."""
    if isinstance(value, dict):
        return ", ".join(f"{plain(name)} {value_name(part)}" for name, part in value.items())
    return ":".join(f"{part:g}" for part in value) if isinstance(value, list | tuple) else f"{value:g}"


def _by_name(point: dict) -> dict[str, dict]:
    return {measure["name"]: measure for measure in point["measures"]}


def _plots(result: dict, parameter: str, measures: list[str]) -> dict[str, str]:
    """A plot for each measure that has two values at least; pairs stand side by side in the order of the grid."""
    points = [point for point in result["points"] if point["parameter"] == parameter]
    numbers = not any(isinstance(point["value"], list | tuple) for point in points)
    places = [point["value"] if numbers else index for index, point in enumerate(points)]
    tick_names = {place: value_name(point["value"]) for place, point in zip(places, points, strict=True)}
    plots = {}
    for name in measures:
        found = [
            {"x": place, "value": measure["value"], "interval": measure["interval"]}
            for place, point in zip(places, points, strict=True)
            if (measure := _by_name(point).get(name)) and measure["value"] is not None
        ]
        if len(found) > 1:
            references = result["references"].get(name)
            figure = curves({"synthetic": found}, plain(parameter), plain(name), references, tick_names=tick_names)
            plots[plain(name)] = figure_source(figure)
    return plots
