"""The evaluation to look at: one page, readable without knowing the package, from `evaluation.json`'s content alone."""

from __future__ import annotations

import re
from pathlib import Path

from ..data.cases import Cases
from ..macdm.joint_sample import MASKS, NORMAL_LABEL
from ..report.contact_sheet import contact_sheet
from ..report.page import figure_source, image_source, plain, render, write_index
from ..report.plots import curves, forest_plot, scatter


SHEET_COLUMNS, SHEET_ROWS, SHEET_TILE = 4, 3, 128
OUTLINED = {"anatomy_mask": "anatomy mask cyan", "lesion_mask": "lesion mask red"}
RATIO_ARM = re.compile(r"real_plus_synthetic_([\d.]+)")


def write_page(folder: str | Path, result: dict, real: Cases, synthetic: Cases) -> None:
    """Write `index.html`, self-contained.

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
        "evaluation.html.jinja",
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
        outlined=[OUTLINED[mask] for mask in real.known_masks if mask in synthetic.known_masks],
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
        "forest": figure_source(forest_plot(series, f"difference in {plain(metric)} (right: {better})", "no difference"))
        if series
        else None,
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
    xlabel = "synthetic pairs for each real case"
    return figure_source(curves({"real + synthetic": points}, xlabel, plain(task["metric"]), controls, log_x=True))


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
    return figure_source(scatter(groups))


def _sheets(real: Cases, synthetic: Cases) -> dict[str, dict]:
    """Return contact sheets of the first pairs, not the best ones, by label and by kind; None where there is no such pair."""
    sheets = {}
    for label in sorted({*real.class_labels.tolist(), *synthetic.class_labels.tolist()}):
        sheets[label_name(label).capitalize()] = {
            kind: _sheet(cases.select(chosen[: SHEET_COLUMNS * SHEET_ROWS])) if len(chosen) else None
            for kind, cases in (("Real", real), ("Synthetic", synthetic))
            for chosen in [(cases.class_labels == label).nonzero().flatten()]
        }
    return sheets


def _sheet(cases: Cases) -> str:
    """Return a contact sheet as the source of an image element; no outlines where there are no masks."""
    radiographs = (cases.radiographs[:, 0] / 2 + 0.5).clamp(0, 1).numpy()  # [N, H, W] in [0, 1]
    masks = cases.masks.numpy().swapaxes(0, 1)  # [2, N, H, W]
    masks = [of_kind if name in cases.known_masks else None for name, of_kind in zip(MASKS, masks, strict=True)]
    layout = {"columns": SHEET_COLUMNS, "tile": SHEET_TILE, "outlines": bool(cases.known_masks)}
    return image_source(contact_sheet(radiographs, *masks, **layout))
