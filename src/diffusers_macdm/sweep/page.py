"""The sweep to look at: one page with a small plot of each measure against each option, from `sweep.json`'s content alone."""

from __future__ import annotations

from pathlib import Path

from ..report.page import plain, render, write_index
from ..report.plots import curves


PAGE = """{% extends "base.html" %}
{% from "parts.html" import ending, estimate, head, picture %}
{% block title %}Sweep{% endblock %}
{% block body %}
<h1>What each option does</h1>
{% for sentence in r.conclusion %}<p class="verdict">{{ sentence }}</p>{% endfor %}
<p>Each option was varied alone, the others kept. Bars are 95 % intervals; gray lines are what the same measure gives without a
generator, such as real cases against real cases.</p>
<nav aria-label="Sections">{% for option in options %}<a href="#{{ option.name }}">{{ option.name | plain }}</a>{% endfor %}
<a href="#points">all numbers</a><a href="#glossary">glossary</a><a href="#settings">settings</a></nav>
{% for option in options %}
<h2 id="{{ option.name }}">{{ option.name | plain | capitalize }}</h2>
{% if option.plots %}<div class="pictures">{% for measure, source in option.plots.items() %}{{ picture(
  source, measure ~ " against " ~ option.name | plain ~ ", with 95 % intervals; the numbers are in the table below"
) }}{% endfor %}</div>{% else %}<p>Not measured: a curve needs two values.</p>{% endif %}
{% endfor %}
<h2 id="points">All numbers</h2>
<div class="scroll"><table><caption>Every point of the grid (95 % interval)</caption>
{{ head(["option", "value"] + measures | map("plain") | list) }}<tbody>
{% for point in r.points %}<tr><th scope="row">{{ point.parameter | plain if point.parameter else "grid" }}</th>
<td>{{ value_name(point.value) }}</td>
{% for name in measures %}<td>{{ estimate(by_name(point).get(name)) }}</td>{% endfor %}</tr>
{% endfor %}{% if references %}<tr><th scope="row">for comparison</th><td></td>
{% for name in measures %}<td>{% for line, value in r.references.get(name, {}).items() %}{{ line }}: {{ value | number }}<br>
{% endfor %}</td>{% endfor %}</tr>{% endif %}
</tbody></table></div>
<h2 id="glossary">What the numbers mean</h2>
<dl>
<dt>KID, precision, recall</dt><dd>How near the radiographs come to real ones in the features of a network. KID: 0 is
alike. Precision: share of synthetic images that look like some real one; recall: of real images that look like some synthetic
one.</dd>
<dt>Fit (Dice)</dt><dd>Overlap of a pair's masks with those that a segmenter, trained on real pairs alone, sees in its
radiograph.</dd>
<dt>Class agreement</dt><dd>How often a diagnosis classifier, trained on real cases alone, sees the label that was asked
for.</dd>
<dt>Copy rate, closeness</dt><dd>Share of radiographs that lie closer to a training film than 95 % of validation films do (5 %
by chance), and how close they lie.</dd>
</dl>
{{ ending(r.notes, {"settings": r.settings, "versions": r.versions}) }}
{% endblock %}
"""


def sweep_page(folder: str | Path, result: dict) -> None:
    """`index.html`, self-contained.

    Args:
        folder: an existing one.
        result: `conclusion` (sentences), `points` (of each `parameter`, None for a point of a full grid; its `value`, a number,
            a pair, or the dict of all options of a grid point; `measures`: of each `name`, `value`, `interval`),
            `references` (by a measure's name the values of its lines by their name), `notes`, `settings`, `versions`.
    """
    names = dict.fromkeys(point["parameter"] for point in result["points"] if point["parameter"] is not None)
    measures = list(dict.fromkeys(measure["name"] for point in result["points"] for measure in point["measures"]))
    page = render(
        PAGE,
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
            plots[plain(name)] = curves({"synthetic": found}, plain(parameter), plain(name), references, tick_names=tick_names)
    return plots
