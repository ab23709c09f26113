"""From the measures of all points to the sentences and tables of a sweep."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

import numpy as np

from ..audit.verdict import MAX_FAR
from ..report.page import plain
from ..statistics.trainings import interval_over_trainings, welch_interval
from .grid import RETRAINING
from .page import value_name


HURTS_ABOVE = 0.8  # MaC-DM sec. 3: "when the weights are above 0.8 the image quality falls"
UNBOUNDED = ("kid", "median_copy_closeness")  # all other measures lie in [0, 1]


def over_trainings(runs: Sequence[list[dict]]) -> list[dict]:
    """Return the measures of a point: those of its single run, or the mean over its trainings.

    The interval of a mean is that of `statistics.trainings.interval_over_trainings`; what is a share is clipped to [0, 1].
    """
    measures = []
    for entries in zip(*runs, strict=True):
        values = [entry["value"] for entry in entries if entry["value"] is not None]
        value, interval = (float(np.mean(values)) if values else None), entries[0]["interval"]
        if len(runs) > 1:
            known = [entry["interval"] for entry in entries if entry["interval"] is not None]
            interval = interval_over_trainings(values, known)
            if interval is not None and entries[0]["name"] not in UNBOUNDED:
                interval = [max(interval[0], 0.0), min(interval[1], 1.0)]
        measures.append({"name": entries[0]["name"], "value": value, "interval": interval})
    return measures


def finding(weight: str, points: Sequence[dict]) -> dict:
    """Whether a mask weighted above 0.8 hurts the image, as the paper says: by the KID of the trainings with `weight` above 0.8
    minus that of those at or below it, Welch's t interval over trainings. Where one training is sampled in several ways (the
    product of a grid), the mean of its KIDs counts, once.

    Returns:
        `verdict` (confirmed, refuted, not decided), `difference`, `interval` (None with fewer than two trainings on a side) and
        a `sentence`.
    """
    kids: dict[bool, dict] = {True: {}, False: {}}
    for point in points:
        for run in point["runs"]:
            value = next(entry["value"] for entry in run["measures"] if entry["name"] == "kid")
            if point["parameter"] in (None, weight) and weight in run["settings"] and value is not None:
                training = tuple(run["settings"].get(name) for name in (*RETRAINING, "train_seed"))
                kids[run["settings"][weight] > HURTS_ABOVE].setdefault(training, {})[json.dumps(run["settings"])] = value
    above, below = ([float(np.mean([*each.values()])) for each in kids[side].values()] for side in (True, False))
    what = f"{weight}: that masks weighted above {HURTS_ABOVE} hurt the image is"
    if min(len(above), len(below)) < 2:
        return {
            "verdict": "not decided",
            "difference": float(np.mean(above) - np.mean(below)) if above and below else None,
            "interval": None,
            "sentence": f"{what} not decided by this run: it has {len(above)} trainings above and {len(below)} at or below it, "
            "and two of each are needed.",
        }
    low, high = welch_interval(above, below)
    difference = float(np.mean(above) - np.mean(below))
    verdict = "confirmed" if low > 0 else "refuted" if high < 0 else "not decided"
    return {
        "verdict": verdict,
        "difference": difference,
        "interval": [low, high],
        "sentence": f"{what} {verdict} by this run: the KID of {len(above)} trainings above is {difference:+.3g} from that of "
        f"{len(below)} at or below it (95 % interval {low:+.3g} to {high:+.3g}; more is worse).",
    }


def lowest_kid(points: Sequence[dict]) -> list[str]:
    """A sentence for each parameter: where the radiographs come nearest to real ones, and whether that is beyond chance."""
    sentences = []
    for parameter in dict.fromkeys(point["parameter"] for point in points):
        kids = []
        for point in points:
            kid = next(entry for entry in point["measures"] if entry["name"] == "kid")
            if point["parameter"] == parameter and kid["value"] is not None and kid["interval"] is not None:
                kids.append((kid["value"], kid["interval"], value_name(point["value"])))
        if len(kids) < 2:
            continue
        (value, interval, best), *others = sorted(kids)
        alike = [name for _, (low, _), name in others if low <= interval[1]]
        sentences.append(
            f"{plain(parameter) if parameter else 'grid'}: the KID is smallest at {best} ({value:.3g}, 95 % interval "
            f"{interval[0]:.3g} to {interval[1]:.3g})"
            + (
                f"; the intervals of {', '.join(alike)} overlap with it."
                if alike
                else ", and no other interval overlaps with it."
            )
        )
    return sentences


def references_of(points: Sequence[dict]) -> dict[str, dict]:
    """Lines to compare with, by measure: the same at every point, but for those of shuffled pairs, of which it is the mean."""
    lines: dict[str, dict[str, list]] = {}
    for point in points:
        for run in point["runs"]:
            for entry in run["measures"]:
                for line, value in entry["references"].items():
                    lines.setdefault(entry["name"], {}).setdefault(line, []).append(value)
    return {name: {line: float(np.mean(values)) for line, values in of_name.items()} for name, of_name in lines.items()}


def notes_of(num_held_out: int, retrained: Sequence[str], train_seeds: Sequence[int], points: Sequence[dict]) -> list[str]:
    notes = [
        "Diagnosis classifier and segmenter were trained once on the real training cases, and their last state was taken: the "
        "held-out cases that are measured against had no part in it.",
    ]
    if num_held_out < 100:
        notes.append(f"Only {num_held_out} held-out real cases: small differences cannot be seen.")
    if retrained and len(train_seeds) < 3:
        notes.append(f"{len(train_seeds)} training seeds for {' and '.join(retrained)}: fewer than 3 carry no claim.")
    return [*notes, *_far_notes(points)]


def _far_notes(points: Sequence[dict]) -> list[str]:
    """Say at how many points most films are none, whose copies say nothing."""
    far = [entry["value"] for point in points for entry in point["measures"] if entry["name"] == "far_rate"]
    count = sum(value is not None and value > MAX_FAR for value in far)
    if not count:
        return []
    return [
        f"At {count} of {len(far)} points more than half of the films lie farther from every training film than 95 % of real "
        "films do: the copy rate there says nothing about copying."
    ]


def table(points: Sequence[dict]) -> bytes:
    """One line for each point: parameter, value, and each measure with the ends of its interval."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [entry["name"] for entry in points[0]["measures"]]
    writer.writerow(["parameter", "value", *(f"{name}{end}" for name in names for end in ("", "_low", "_high")), "trainings"])
    for point in points:
        cells = [cell for entry in point["measures"] for cell in (entry["value"], *(entry["interval"] or (None, None)))]
        trainings = len(point["runs"]) if "train_seed" in point["runs"][0]["settings"] else None
        writer.writerow([point["parameter"] or "grid", value_name(point["value"]), *cells, trainings])
    return stream.getvalue().encode()
