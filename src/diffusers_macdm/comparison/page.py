"""The comparison to look at: one page, from `comparison.json`'s content and a contact sheet of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..report.page import figure_source, plain, png_source, render, write_index
from ..report.plots import curves, forest_plot
from .models import MODELS


# What each measure of the pairs is best at: 1 high, -1 low; telling real from synthetic is best at 0.5 and has no best here.
DIRECTIONS = {
    "kid": -1,
    "precision": 1,
    "recall": 1,
    "copy_rate": -1,
    "far_rate": -1,
    "anatomy_mask_fit_dice": 1,
    "lesion_mask_fit_dice": 1,
}


def write_comparison_page(folder: str | Path, result: dict, sheets: Mapping[str, Path]) -> None:
    """Write `index.html`, self-contained.

    Args:
        folder: an existing one.
        result: what `comparison.json` says: `conclusion`, `verdicts` (by task and model), `models`, `results` and `differences`
            (as in `evaluation.json`, each with its `train_size`; an arm is a control or a model), `realism` and `fit` (the rows
            of their measures), `copies` and `far` (`value`, `interval`, `nominal_rate`), each row with its `model` and
            `train_size`, `notes`, `settings`, `versions`.
        sheets: a contact sheet of each model, as a PNG file.
    """
    primary = {row["task"]: row["metric"] for row in result["results"] if row["primary"]}
    sizes = [_of_size(result, size, primary) for size in dict.fromkeys(row["train_size"] for row in result["results"])]
    page = render(
        "comparison.html.jinja",
        names={name: title_of(name) for name in MODELS},
        r=result,
        sizes=sizes,
        curves=_curves(sizes, primary) if len(sizes) > 1 else {},
        sheets={name: png_source(Path(path).read_bytes()) for name, path in sheets.items()},
    )
    write_index(Path(folder), page)


def title_of(arm: str) -> str:
    """Return what the page calls a model or another arm."""
    return MODELS[arm].title if arm in MODELS else plain(arm)


def _of_size(result: dict, size: int, primary: Mapping[str, str]) -> dict:
    """All tables and plots of one number of training cases."""
    rows = {
        name: [row for row in result[name] if row["train_size"] == size]
        for name in ("results", "differences", "realism", "fit", "copies", "far")
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
                name, versus = title_of(row["arm"]), title_of(row["against"])
                place = (name, f"against {versus}") if chosen is against_controls else (f"{name} − {versus}", "difference")
                series.setdefault(place[0], {})[place[1]] = row
            forest = forest_plot(series, f"difference in {plain(primary[task])}", "no difference")
            forests[caption] = figure_source(forest)
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
    for row in rows["far"]:
        yield "Masks and copies", row["model"], "far_rate", row, row["nominal_rate"]


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
                    lines.setdefault(title_of(arm), []).append(point)
        if lines:
            plots[title] = figure_source(curves(lines, "training cases", title, log_x=True))
    return plots
