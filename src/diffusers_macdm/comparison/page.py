"""The comparison to look at: one page, from `comparison.json`'s content and a contact sheet of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..report.page import plain, png_source, render, write_index
from ..report.plots import curves, forest_plot


# What each measure of the pairs is best at: 1 high, -1 low; telling real from synthetic is best at 0.5 and has no best here.
DIRECTIONS = {"kid": -1, "precision": 1, "recall": 1, "copy_rate": -1, "anatomy_mask_fit_dice": 1, "lesion_mask_fit_dice": 1}

PAGE = """{% extends "base.html" %}
{% from "parts.html" import difference, ending, estimate, head, mark, picture %}
{% macro cell(row) %}
<td>{% if row and row.get("best") %}<strong>{{ estimate(row) }}</strong>{% else %}{{ estimate(row) }}{% endif %}</td>
{% endmacro %}
{% block title %}Generative models compared{% endblock %}
{% block body %}
<h1>Generative models compared</h1>
{% for sentence in r.conclusion %}<p class="verdict">{{ sentence }}</p>{% endfor %}
<p>Every model learned from the same cases in the same number of steps, drew the same number of pairs, and was measured by the
same networks. Its pairs <em>help</em> a task only where they beat <em>every</em> control: the real cases alone, with ordinary
augmentation, and merely shown more often.</p>
<nav aria-label="Sections"><a href="#help">help</a><a href="#pairs">pairs</a>
{%- if curves %}<a href="#sizes">sizes</a>{% endif %}<a href="#models">models</a><a href="#pictures">pictures</a>
<a href="#glossary">glossary</a><a href="#settings">settings</a></nav>

<h2 id="help">Do the pairs help?</h2>
<div class="scroll"><table><caption>Against the controls
{%- if sizes | length > 1 %}, with the most training cases{% endif %}</caption>
{{ head(["model"] + r.verdicts | list) }}<tbody>
{% for model in r.models %}<tr><th scope="row">{{ model | plain }}</th>
{% for verdicts in r.verdicts.values() %}<td>{{ mark(verdicts[model]) if model in verdicts else not_measured }}</td>
{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% for part in sizes %}
{% if sizes | length > 1 %}<h3>Trained on {{ part.size }} cases</h3>{% endif %}
{% for task, rows in part.results.items() %}
<div class="scroll"><table>
<caption>{{ task | capitalize }} of test cases after training with each model's pairs (95 % interval)</caption>
{{ head(["arm"] + part.metrics[task] | map("plain") | list) }}<tbody>
{% for arm, row in rows.items() %}<tr><th scope="row">{{ arm | plain }}</th>
{% for metric in part.metrics[task] %}{{ cell(row.get(metric)) }}{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}
<div class="pictures">{% for title, source in part.forests.items() %}{{ picture(
  source, title ~ ", with 95 % intervals; the table below has the numbers", title
) }}{% endfor %}</div>
{% for table in part.differences %}
<div class="scroll"><table><caption>{{ table.caption }} (95 % interval)</caption>
{{ head(["arm"] + table.against | map("plain") | list) }}<tbody>
{% for arm, row in table.rows.items() %}<tr><th scope="row">{{ arm | plain }}</th>
{% for other in table.against %}<td>{{ difference(row[other]) if other in row else "" }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}
{% else %}<p>Not measured: no downstream network was trained.</p>{% endfor %}
<p class="note">Bold: the best value, where its interval overlaps with that of no other row; no bold, no winner.</p>

<h2 id="pairs">The pairs themselves</h2>
{% for part in sizes %}{% for title, measures in part.measures.items() %}
<div class="scroll"><table>
<caption>{{ title }}{% if sizes | length > 1 %}, trained on {{ part.size }} cases{% endif %} (95 % interval)</caption>
{{ head(["model"] + measures | map("plain") | list) }}<tbody>
{% for model in r.models %}<tr><th scope="row">{{ model | plain }}</th>
{% for name in measures %}{{ cell(part.pairs.get(model, {}).get(name)) }}{% endfor %}</tr>
{% endfor %}
<tr><th scope="row">for comparison</th>{% for name in measures %}<td>{{ part.references[name] | number }}</td>{% endfor %}</tr>
</tbody></table></div>
{% endfor %}{% endfor %}
<p class="note">For comparison: what two halves of the real cases give against each other, the fit of real pairs, and the
copies that there are by chance. Fit: Dice between the masks of a pair and those that a segmenter, trained on real pairs alone,
sees in it. A model that makes no masks, or keeps those it was given, has no such value or one that says less. Copies are closer
to a training film than 95 % of other patients' films are.</p>

{% if curves %}<h2 id="sizes">More training cases</h2>
<div class="pictures">{% for title, source in curves.items() %}{{ picture(
  source, title ~ " against the number of training cases, with 95 % intervals", title
) }}{% endfor %}</div>{% endif %}

<h2 id="models">The models</h2>
<div class="scroll"><table><caption>What they are and what they cost</caption>
{{ head(["model", "masks", "parameters", "training, s", "sampling, s a pair", "description"], ["masks", "description"]) }}
<tbody>
{% for name, model in r.models.items() %}<tr><th scope="row">{{ name | plain }}</th>
<td class="text">{{ model.makes_masks }}</td>
<td>{{ model.num_parameters | number }}</td><td>{{ model.seconds_training | number }}</td>
<td>{{ model.seconds_per_pair | number }}</td><td class="text note">{{ model.description }}</td></tr>
{% endfor %}</tbody></table></div>

<h2 id="pictures">Pictures</h2>
<p>The first ones, not the best ones. Outlined: anatomy mask cyan, lesion mask red.</p>
<div class="pictures">{% for name, source in sheets.items() %}{{ picture(
  source, "Synthetic pairs of " ~ name | plain, name | plain
) }}{% endfor %}</div>

<h2 id="glossary">What the numbers mean</h2>
<dl>
<dt>95 % interval</dt><dd>The values that are compatible with the data: chance in the choice of test patients and in the
training of the downstream networks. For the same training cases each generative model was trained once: how another training
of it would turn out is not in it.</dd>
<dt>ROC AUC</dt><dd>How often the diagnosis classifier gives a case with a lesion a higher score than a normal one; 0.5 by
chance.</dd>
<dt>Dice</dt><dd>Overlap of two outlined areas: 1 the same, 0 no common pixel.</dd>
<dt>KID, precision, recall</dt><dd>How near the radiographs come to real ones in the features of a network. KID: 0 is alike.
Precision: share of synthetic images that look like some real one; recall: of real images that look like some synthetic
one.</dd>
<dt>Real or synthetic AUC</dt><dd>How well a classifier tells the two apart: 0.5 not at all, 1 always.</dd>
</dl>
{{ ending(r.notes, {"settings": r.settings, "versions": r.versions}) }}
{% endblock %}
"""


def write_comparison_page(folder: str | Path, result: dict, sheets: Mapping[str, Path]) -> None:
    """`index.html`, self-contained.

    Args:
        folder: an existing one.
        result: what `comparison.json` says: `conclusion`, `verdicts` (by task and model), `models`, `results` and `differences`
            (as in `evaluation.json`, each with its `train_size`; an arm is a control or a model), `realism` and `fit` (the rows
            of their measures) and `copies` (`value`, `interval`, `nominal_rate`), each row with its `model` and `train_size`,
            `notes`, `settings`, `versions`.
        sheets: a contact sheet of each model, as a PNG file.
    """
    primary = {row["task"]: row["metric"] for row in result["results"] if row["primary"]}
    sizes = [_of_size(result, size, primary) for size in dict.fromkeys(row["train_size"] for row in result["results"])]
    page = render(
        PAGE,
        r=result,
        sizes=sizes,
        curves=_curves(sizes, primary) if len(sizes) > 1 else {},
        sheets={name: png_source(Path(path).read_bytes()) for name, path in sheets.items()},
    )
    write_index(Path(folder), page)


def _of_size(result: dict, size: int, primary: Mapping[str, str]) -> dict:
    """All tables and plots of one number of training cases."""
    rows = {
        name: [row for row in result[name] if row["train_size"] == size]
        for name in ("results", "differences", "realism", "fit", "copies")
    }
    results: dict[str, dict[str, dict]] = {}
    directions: dict[str, dict[str, int]] = {}
    for row in rows["results"]:
        results.setdefault(row["task"], {}).setdefault(row["arm"], {})[row["metric"]] = dict(row)
        directions.setdefault(row["task"], {})[row["metric"]] = 1 if row["higher_is_better"] else -1
    for task, of_task in directions.items():
        for metric, direction in of_task.items():
            _mark_best(results[task], metric, direction)

    pairs: dict[str, dict] = {}
    references: dict[str, float] = {}
    measures: dict[str, list] = {}
    for title, model, name, row, reference in _measures(rows):
        pairs.setdefault(model, {})[name] = {"value": row["value"], "interval": row["interval"]}
        if name not in references:
            references[name] = reference
            measures.setdefault(title, []).append(name)
    for name, direction in DIRECTIONS.items():
        _mark_best(pairs, name, direction)

    found = [row for row in rows["differences"] if primary.get(row["task"]) == row["metric"]]
    against_controls = [row for row in found if row["against"] not in result["models"] and row["arm"] in result["models"]]
    between_models = [row for row in found if row["against"] in result["models"]]
    differences, forests = [], {}
    for what, chosen in (("difference to the controls", against_controls), ("difference between models", between_models)):
        for task in dict.fromkeys(row["task"] for row in chosen):
            of_task = [row for row in chosen if row["task"] == task]
            caption = f"{_column(task, primary[task])}, {what}"
            table: dict[str, dict] = {}
            for row in of_task:
                table.setdefault(row["arm"], {})[row["against"]] = row
            differences.append(
                {"caption": caption, "rows": table, "against": list(dict.fromkeys(row["against"] for row in of_task))}
            )
            # One row for each pair of models; the controls share a row, told apart by color and marker.
            series: dict[str, dict] = {}
            for row in of_task:
                name, versus = plain(row["arm"]), plain(row["against"])
                place = (name, f"against {versus}") if chosen is against_controls else (f"{name} − {versus}", "difference")
                series.setdefault(place[0], {})[place[1]] = row
            forests[caption] = forest_plot(series, f"difference in {plain(primary[task])}", "no difference")
    return {
        "size": size,
        "results": results,
        "metrics": {task: list(of_task) for task, of_task in directions.items()},
        "pairs": pairs,
        "measures": measures,
        "references": references,
        "differences": differences,
        "forests": forests,
    }


def _column(task: str, metric: str) -> str:
    return f"{task.capitalize()}: {plain(metric)}"


def _measures(rows: Mapping[str, list[dict]]):
    """Table, model, name, row and what there is for comparison, of all measures of the pairs over all labels."""
    for row in rows["realism"]:
        if row["label"] is None:
            yield "Radiographs", row["model"], row["name"], row, row["real_versus_real"]
    for row in rows["fit"]:
        if row["label"] is None:
            yield "Masks and copies", row["model"], f"{row['mask']}_fit_dice", row, row["real"]
    for row in rows["copies"]:
        yield "Masks and copies", row["model"], "copy_rate", row, row["nominal_rate"]


def _mark_best(table: Mapping[str, dict], column: str, direction: int) -> None:
    """Marks the best cell of a column, where its interval overlaps with that of no other."""
    cells = [row[column] for row in table.values() if column in row and row[column]["value"] is not None]
    if len(cells) < 2 or any(cell["interval"] is None for cell in cells):
        return
    best, *others = sorted(cells, key=lambda cell: -direction * cell["value"])
    worst_end = min(direction * end for end in best["interval"])
    best["best"] = all(max(direction * end for end in other["interval"]) < worst_end for other in others)


def _curves(sizes: Sequence[dict], primary: Mapping[str, str]) -> dict[str, str]:
    """Primary metrics and KID against the number of training cases."""
    tables = [
        *(
            (_column(task, metric), metric, [part["results"].get(task, {}) for part in sizes])
            for task, metric in primary.items()
        ),
        ("KID", "kid", [part["pairs"] for part in sizes]),
    ]
    plots = {}
    for title, name, by_size in tables:
        lines: dict[str, list] = {}
        for part, table in zip(sizes, by_size, strict=True):
            for arm, row in table.items():
                if name in row:
                    point = {"x": part["size"], "value": row[name]["value"], "interval": row[name]["interval"]}
                    lines.setdefault(plain(arm), []).append(point)
        if lines:
            plots[title] = curves(lines, "training cases", title, log_x=True)
    return plots
