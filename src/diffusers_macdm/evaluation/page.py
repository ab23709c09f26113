"""The evaluation to look at: one page, readable without knowing the package, from `evaluation.json`'s content alone."""

from __future__ import annotations

import re
from pathlib import Path

from ..data.cases import Cases
from ..macdm.joint_sample import NORMAL_LABEL
from ..report.page import plain, render, sheet_source, write_index
from ..report.plots import curves, forest_plot, scatter


RATIO_ARM = re.compile(r"real_plus_synthetic_([\d.]+)")

PAGE = """{% extends "base.html" %}
{% from "parts.html" import difference, ending, estimate, head, mark, picture %}
{% block title %}Do the synthetic pairs help?{% endblock %}
{% block body %}
<h1>Do the synthetic pairs help?</h1>
{% for verdict, sentence in conclusions %}
<p class="verdict {{ marks[verdict][0] }}">{{ mark(verdict) }}{{ sentence }}</p>
{% endfor %}
<p>Networks were trained with and without the synthetic pairs and tested on real cases that no model has seen: a
diagnosis classifier (is there a lesion?) and a segmenter (where is it?). The pairs <em>help</em> only where they beat
<em>every</em> control: the real cases alone, the real cases with ordinary augmentation, and the real cases merely shown more
often.
{% if r.notes %}The <a href="#notes">notes</a> say what else to bear in mind.{% endif %}</p>
<nav aria-label="Sections">{% for anchor, name in sections %}<a href="#{{ anchor }}">{{ name }}</a>{% endfor %}</nav>

<h2 id="differences">Against the controls</h2>
{% if tasks %}
<div class="pictures">{% for task in tasks if task.forest %}{{ picture(
  task.forest,
  "Differences of each arm to each control with 95 % intervals, " ~ task.name ~ "; the table below has the numbers",
  (task.name | capitalize) ~ ": what lies right of the line is better than the control, if its bar does not cross the line."
) }}{% endfor %}</div>
{% for task in tasks if task.differences %}
<div class="scroll"><table>
<caption>{{ task.name | capitalize }}: difference in {{ task.metric | plain }} (95 % interval)</caption>
{{ head(["arm"] + task.controls) }}<tbody>
{% for arm, row in task.differences.items() %}<tr><th scope="row">{{ arm }}</th>
{% for control in task.controls %}<td>{{ difference(row[control]) if row[control] else "" }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}
{% else %}<p>Not measured: no arm was evaluated.</p>{% endif %}

<h2 id="arms">The arms</h2>
{% for task in tasks %}
<div class="scroll"><table><caption>{{ task.name | capitalize }}: {{ task.metric | plain }}
({{ "higher" if task.higher_is_better else "lower" }} is better)</caption>
{{ head(
  ["arm", "value", "95 % interval", "spread over seeds", "test cases", "patients", "real", "synthetic", "steps",
   "trained with"], ["trained with"]
) }}<tbody>
{% for row in task.rows %}{% set arm = r.arms[row.arm] %}<tr><th scope="row">{{ row.arm | plain }}</th>
<td>{{ row.value | number }}</td><td class="interval">{{ row.interval | number_interval }}</td>
<td>{{ row.seed_sd | number }}</td><td>{{ row.num_cases }}</td><td>{{ row.num_patients }}</td>
<td>{{ arm.num_real }}</td><td>{{ arm.num_synthetic }}</td><td>{{ arm.steps }}</td>
<td class="text note">{{ arm.description }}</td></tr>
{% endfor %}</tbody></table></div>
{% if task.others %}
<div class="scroll"><table><caption>{{ task.name | capitalize }}: further measures (95 % interval)</caption>
{{ head(["arm"] + task.other_names) }}<tbody>
{% for arm, row in task.others.items() %}<tr><th scope="row">{{ arm }}</th>
{% for cell in row %}<td>{{ estimate(cell) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endif %}
{% endfor %}
{% for group in by_fold %}
<div class="scroll"><table><caption>{{ group.caption }}, by fold of the cross-validation</caption>
{{ head(["arm"] + group.parts) }}<tbody>
{% for arm, row in group.rows.items() %}<tr><th scope="row">{{ arm }}</th>
{% for part in group.parts %}<td>{{ row[part].value | number if row[part] else not_measured }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endfor %}
<p class="note">Spread over seeds: standard deviation over networks trained alike from other random beginnings. Real and
synthetic: how many cases trained each network. All were trained for the same number of steps.</p>

<h2 id="ratio">How many synthetic pairs?</h2>
{% if ratio_plots %}<div class="pictures">{% for name, source in ratio_plots.items() %}{{ picture(
  source, name ~ " against the ratio of synthetic to real cases, with 95 % intervals; the values are in the tables of the arms",
  name ~ ". Ratio 1: as many synthetic pairs as real ones. Horizontal lines: the controls."
) }}{% endfor %}</div>
{% else %}<p>Not measured: fewer than two ratios were evaluated.</p>{% endif %}

<h2 id="filters">Filters of synthetic pairs</h2>
{% if filters %}
<div class="scroll"><table><caption>Difference to no filter, at the same ratio (95 % interval)</caption>
{{ head(["filter", "kept", "dropped"] + filter_columns) }}<tbody>
{% for name, row in filters.items() %}<tr><th scope="row">{{ name | plain }}</th>
<td>{{ row.kept }}</td><td>{{ row.dropped }}</td>
{% for column in filter_columns %}<td>{{ difference(row.cells.get(column)) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% else %}<p>Not measured: no filter was asked for.</p>{% endif %}

<h2 id="sites">By site</h2>
{% if by_site %}{% for group in by_site %}
<div class="scroll"><table><caption>{{ group.caption }} (95 % interval)</caption>
{{ head(["arm"] + group.parts) }}<tbody>
{% for arm, row in group.rows.items() %}<tr><th scope="row">{{ arm }}</th>
{% for part in group.parts %}<td>{{ estimate(row[part]) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endfor %}
<p class="note">Each site in turn was kept out of all training and then tested.</p>
{% else %}<p>Not measured: sites were not left out one by one.</p>{% endif %}

<h2 id="realism">Are the radiographs realistic?</h2>
{% if r.realism %}
<p>Features: {{ r.realism.feature_extractor }}. What two halves of the <em>real</em> cases give stands beside each value: no
generator can be expected to do better.</p>
<div class="scroll"><table><caption>Realism</caption>
{{ head(["measure", "cases", "value", "95 % interval", "real versus real", "real", "synthetic", "note"], ["cases", "note"]) }}
<tbody>
{% for row in r.realism.measures %}<tr><th scope="row">{{ row.name | plain }}</th>
<td class="text">{{ label_name(row.label) }}</td>
<td>{{ row.value | number }}</td><td class="interval">{{ row.interval | number_interval if row.value is not none }}</td>
<td>{{ row.real_versus_real | number }}</td><td>{{ row.num_real }}</td><td>{{ row.num_synthetic }}</td>
<td class="text note">{{ row.note or "" }}</td></tr>
{% endfor %}</tbody></table></div>
{% if tsne %}<div class="narrow">{{ picture(
  tsne, "t-SNE map of the features of real and synthetic radiographs",
  "t-SNE: near in this map is alike in the features. Where real and synthetic points mix, the features do not tell them apart;
the directions and the distances between clusters mean nothing."
) }}</div>{% endif %}
{% else %}<p>Not measured: realism was left out.</p>{% endif %}

<h2 id="fit">Do the masks fit the radiographs?</h2>
{% if r.fit %}
<p>Dice between the masks of a pair and those that a segmenter, trained on real pairs alone, sees in its radiograph. As it
should be, where the synthetic value is near that of real pairs and far above that of shuffled ones.</p>
<div class="scroll"><table><caption>Fit of masks and radiographs (95 % interval)</caption>
{{ head(["mask", "cases", "synthetic pairs", "real pairs", "shuffled pairs", "pairs"], ["cases"]) }}<tbody>
{% for row in r.fit.measures %}<tr><th scope="row">{{ row.mask | plain }}</th><td class="text">{{ label_name(row.label) }}</td>
<td>{{ estimate(row) }}</td><td>{{ estimate({"value": row.real, "interval": row.real_interval}) }}</td>
<td>{{ estimate({"value": row.shuffled, "interval": row.shuffled_interval}) }}</td><td>{{ row.n }}</td></tr>
{% endfor %}</tbody></table></div>
{% else %}<p>Not measured: the fit was left out.</p>{% endif %}

<h2 id="pairs">Real and synthetic pairs</h2>
<p>The first ones of each label, not the best ones. Outlined: anatomy mask cyan, lesion mask red.</p>
{% for label, row in sheets.items() %}<h3>{{ label }}</h3>
<div class="pictures">{% for kind, sheet in row.items() %}{% if sheet %}{{ picture(sheet, kind ~ " pairs, " ~ label, kind) }}
{% else %}<p>{{ kind }}: there are none.</p>{% endif %}{% endfor %}</div>{% endfor %}

<h2 id="glossary">What the numbers mean</h2>
<dl>
<dt>95 % interval</dt><dd>The values that are compatible with the data. It covers chance in the choice of test patients and in
the training of the networks. Where the interval of a difference holds zero, there is no evidence of a difference; that is not
evidence that there is none.</dd>
<dt>ROC AUC</dt><dd>How often the classifier gives a case with a lesion a higher score than a normal one: 1 always, 0.5 by
chance.</dd>
<dt>Sensitivity, specificity</dt><dd>Share of cases with a lesion that are called so, and of normal cases that are called
normal, at a threshold chosen on validation cases. Balanced accuracy is their mean.</dd>
<dt>Dice</dt><dd>Overlap of two outlined areas: 1 the same, 0 no common pixel.</dd>
<dt>Hausdorff distance (95 %)</dt><dd>How far the two outlines lie apart, in pixels, but for the 5 % that lie farthest. Lower
is better.</dd>
<dt>KID</dt><dd>Kernel Inception distance: how much two sets of images differ as a whole, in some network's features. 0 is
alike (by chance also slightly below); values of different feature extractors cannot be compared.</dd>
<dt>Precision, recall</dt><dd>Share of synthetic images that look like some real one, and of real images that look like some
synthetic one, in the same features.</dd>
<dt>Real or synthetic AUC</dt><dd>How well a classifier tells the two apart: 0.5 not at all, 1 always.</dd>
</dl>
{{ ending(r.notes, {"settings": r.settings, "versions": r.versions, "seconds": r.seconds}) }}
{% endblock %}
"""


def write_page(folder: str | Path, result: dict, real: Cases, synthetic: Cases) -> None:
    """`index.html`, self-contained.

    Args:
        folder: an existing one.
        result: what `evaluation.json` says.
        real, synthetic: the pairs of which the first of each label are shown.
    """
    verdicts = [found["verdict"] for found in result["verdicts"].values()]
    tasks = [_task(result, name) for name in result["verdicts"]]
    sections = {
        "differences": "controls",
        "arms": "arms",
        "ratio": "ratio",
        "filters": "filters",
        "sites": "sites",
        "realism": "realism",
        "fit": "fit of masks",
        "pairs": "pictures",
        "glossary": "glossary",
        **({"notes": "notes"} if result["notes"] else {}),
        "settings": "settings",
    }
    filters = _filters(result)
    page = render(
        PAGE,
        r=result,
        conclusions=list(zip(verdicts, result["conclusion"], strict=True)),
        sections=sections.items(),
        tasks=tasks,
        ratio_plots={task["title"]: plot for task in tasks if (plot := _ratio_plot(task))},
        filters=filters,
        filter_columns=list(dict.fromkeys(column for row in filters.values() for column in row["cells"])),
        by_site=_by(result["by_site"], "site", tasks),
        by_fold=_by(result["by_fold"], "fold", tasks),
        tsne=_tsne(result),
        sheets=_sheets(real, synthetic),
        label_name=label_name,
    )
    write_index(Path(folder), page)


def label_name(label: int | None) -> str:
    return "all" if label is None else f"label {label}, {'normal' if label == NORMAL_LABEL else 'lesion'}"


def _task(result: dict, name: str) -> dict:
    """One task's tables and its forest plot."""
    rows = [row for row in result["results"] if row["task"] == name]
    primary = [row for row in rows if row["primary"]]
    metric = primary[0]["metric"]
    found = [row for row in result["differences"] if row["task"] == name and row["metric"] == metric]
    controls = list(dict.fromkeys(plain(row["against"]) for row in found))
    differences: dict[str, dict] = {}
    for row in found:
        arm = differences.setdefault(plain(row["arm"]), dict.fromkeys(controls))
        arm[plain(row["against"])] = row
    other_metrics = list(dict.fromkeys(row["metric"] for row in rows if not row["primary"]))
    others: dict[str, list] = {}
    for row in rows:
        if not row["primary"]:
            cells = others.setdefault(plain(row["arm"]), [None] * len(other_metrics))
            cells[other_metrics.index(row["metric"])] = row
    better = "better" if primary[0]["higher_is_better"] else "worse"
    series = {
        arm: {f"against {control}": row for control, row in by_control.items() if row is not None}
        for arm, by_control in differences.items()
    }
    return {
        "name": name,
        "metric": metric,
        "title": f"{name.capitalize()}: {plain(metric)}",
        "higher_is_better": primary[0]["higher_is_better"],
        "rows": primary,
        "others": others,
        "other_names": [plain(other) for other in other_metrics],
        "controls": controls,
        "differences": differences,
        "forest": forest_plot(series, f"difference in {plain(metric)} (right: {better})", "no difference") if series else None,
    }


def _ratio_plot(task: dict) -> str | None:
    ratios = [(match, row) for row in task["rows"] if (match := RATIO_ARM.fullmatch(row["arm"]))]
    if len(ratios) < 2:
        return None
    points = [{"x": float(match[1]), "value": row["value"], "interval": row["interval"]} for match, row in ratios]
    controls = {
        name: row["value"]
        for row in task["rows"]
        if (name := plain(row["arm"])) in task["controls"] and row["value"] is not None
    }
    return curves(
        {"real + synthetic": points}, "synthetic pairs for each real case", plain(task["metric"]), controls, log_x=True
    )


def _filters(result: dict) -> dict[str, dict]:
    return {
        name: {
            "kept": row["kept"],
            "dropped": row["dropped"],
            "cells": {f"{found['task']}: {plain(found['metric'])}": found for found in row["differences"]},
        }
        for name, row in (result["filters"] or {}).items()
    }


def _by(rows: list[dict] | None, column: str, tasks: list[dict]) -> list[dict]:
    """For each task a table of the primary metric: arms in rows, sites or folds in columns."""
    groups = []
    for task in tasks:
        found = [row for row in rows or () if row["task"] == task["name"] and row["metric"] == task["metric"]]
        parts = list(dict.fromkeys(row[column] for row in found))
        table: dict[str, dict] = {}
        for row in found:
            table.setdefault(plain(row["arm"]), dict.fromkeys(parts))[row[column]] = row
        if table:
            groups.append({"caption": task["title"], "parts": parts, "rows": table})
    return groups


def _tsne(result: dict) -> str | None:
    points = (result["realism"] or {}).get("tsne")
    if not points:
        return None
    groups: dict[str, list] = {}
    for point in sorted(points, key=lambda point: (point["label"], point["kind"])):
        groups.setdefault(f"{point['kind']}, {label_name(point['label'])}", []).append((point["x"], point["y"]))
    return scatter(groups)


def _sheets(real: Cases, synthetic: Cases) -> dict[str, dict]:
    """Contact sheets by label and by kind, None where there is no such pair."""
    sheets = {}
    for label in sorted({*real.class_labels.tolist(), *synthetic.class_labels.tolist()}):
        sheets[label_name(label).capitalize()] = {
            kind: sheet_source(cases.select(chosen)) if len(chosen) else None
            for kind, cases in (("Real", real), ("Synthetic", synthetic))
            for chosen in [(cases.class_labels == label).nonzero().flatten()]
        }
    return sheets
