"""What is measured on the test cases, and the values, differences and sentences that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.cases import Cases
from ..statistics import measures as metrics
from ..statistics.bootstrap import Estimate, difference_of_arms, value_of_arm
from .arms import CONTROLS
from .networks import DIAGNOSIS, SEGMENTATION


BETTER, WORSE, NO_EVIDENCE = "better", "worse", "no evidence"
HELPS, HURTS, NO_CLAIM = "helps", "hurts", "no claim"
MIN_SEEDS = 3
AT_CHANCE = (
    "Even the best control is not shown to be better than guessing, so that a benefit could hardly have been seen: this is no "
    "evidence against the pairs either."
)
FEW_PATIENTS = 30

Columns = Mapping[str, np.ndarray]  # what `downstream.measure_*` returns: name -> one number for each test case


@dataclass(frozen=True)
class TestSet:
    """The cases that were predicted, those of all folds one after the other.

    Attributes:
        patient_ids: of each.
        has_lesion: bool `[N]`.
        folds: name of the fold that each was tested in.
    """

    __test__ = False  # no test class

    patient_ids: tuple[str, ...]
    has_lesion: np.ndarray
    folds: np.ndarray

    @classmethod
    def of(cls, parts: Mapping[str, Cases]) -> TestSet:
        """Return the set of the test cases of each fold."""
        return cls(
            sum((cases.patient_ids for cases in parts.values()), ()),
            np.concatenate([cases.has_lesion.numpy() for cases in parts.values()]),
            np.repeat(list(parts), [len(cases) for cases in parts.values()]),
        )

    def few_patients(self) -> str | None:
        """Return a sentence about the smaller class where it has fewer than 30 patients, else None."""
        patients = np.array(self.patient_ids)
        numbers = [(len(set(patients[self.has_lesion == lesion])), lesion) for lesion in (True, False)]
        number, lesion = min(numbers)
        if number >= FEW_PATIENTS:
            return None
        name = "with" if lesion else "without"
        if number == 0:
            return f"There is no test patient {name} a lesion: most measures are not defined."
        only = f"is only 1 test patient {name}" if number == 1 else f"are only {number} test patients {name}"
        return f"There {only} a lesion: the intervals are wide, and rough themselves."


@dataclass(frozen=True)
class Endpoint:
    """One number about an arm.

    Attributes:
        compute: of the columns and the truth of some cases: `(columns, has_lesion, folds) -> float`, nan where undefined.
        rests_on: the groups of cases that it needs: `(columns, has_lesion) -> bool [N] each` (see
            `statistics.bootstrap.patient_bootstrap`).
        upper: end of its range, which begins at 0.
        chance: what guessing gives; None where that depends.
        mask: a mask that the cases may lack, without which there is no such number.
    """

    task: str
    metric: str
    compute: Callable[[Columns, np.ndarray, np.ndarray], float]
    rests_on: Callable[[Columns, np.ndarray], list[np.ndarray]]
    primary: bool = False
    higher_is_better: bool = True
    upper: float = 1.0
    chance: float | None = None
    mask: str | None = None


def _called(metric):
    return lambda columns, lesion, folds: metric(columns["called_lesion"], lesion)


def _roc_auc(columns, lesion, folds):
    # Scores of the networks of two folds cannot be compared: pairs within a fold alone.
    return metrics.roc_auc(columns["lesion_probability"], lesion, folds)


def _all(columns, lesion):
    return [np.ones(len(lesion), dtype=bool)]


def _both_classes(columns, lesion):
    return [lesion, ~lesion]


def _mean_of(metric: str, column: str, **more) -> Endpoint:
    """Mean of a column over the cases that have it."""
    return Endpoint(
        SEGMENTATION,
        metric,
        lambda columns, lesion, folds: metrics.mean_of_defined(columns[column]),
        lambda columns, lesion: [~np.isnan(columns[column])],
        **more,
    )


# Lesion against normal for the diagnosis, at the threshold that the validation cases chose.
ENDPOINTS = (
    Endpoint(DIAGNOSIS, "roc_auc", _roc_auc, _both_classes, primary=True, chance=0.5),
    Endpoint(DIAGNOSIS, "accuracy", _called(metrics.accuracy), _all),
    Endpoint(DIAGNOSIS, "balanced_accuracy", _called(metrics.balanced_accuracy), _both_classes),
    Endpoint(DIAGNOSIS, "sensitivity", _called(metrics.sensitivity), lambda columns, lesion: [lesion]),
    Endpoint(DIAGNOSIS, "specificity", _called(metrics.specificity), lambda columns, lesion: [~lesion]),
    _mean_of("dice", "lesion_dice", primary=True, chance=0.0),
    _mean_of("hausdorff95", "lesion_hausdorff95", higher_is_better=False, upper=np.inf),
    _mean_of("false_lesion_rate", "lesion_found", higher_is_better=False),
    _mean_of("anatomy_dice", "anatomy_dice", mask="anatomy_mask"),
)
PRIMARY = {endpoint.task: endpoint for endpoint in ENDPOINTS if endpoint.primary}
NAMES = {DIAGNOSIS: "Diagnosis (ROC AUC)", SEGMENTATION: "Segmentation (Dice of the lesion)"}


def measured(tasks: Sequence[str], masks: Sequence[str]) -> list[Endpoint]:
    """Return the endpoints of these tasks on cases with these masks."""
    return [endpoint for endpoint in ENDPOINTS if endpoint.task in tasks and endpoint.mask in (None, *masks)]


def statistic(endpoint: Endpoint, columns: Columns, test: TestSet) -> Callable[[np.ndarray], float]:
    """Return the endpoint as a function of case numbers, as a bootstrap resamples it.

    What was computed once is kept: the differences of an arm to several others draw the same cases.
    """
    known: dict[bytes, float] = {}

    def compute(indices: np.ndarray) -> float:
        key = indices.tobytes()
        if key not in known:
            chosen = {name: values[indices] for name, values in columns.items()}
            known[key] = endpoint.compute(chosen, test.has_lesion[indices], test.folds[indices])
        return known[key]

    return compute


class Measurements:
    """Values and differences of arms that were tested on the same cases.

    Args:
        test: those cases.
        columns: task -> arm -> what was measured by each seed's network, the seeds in the same order in all arms.
        num_resamples: of the bootstrap.
    """

    def __init__(self, test: TestSet, columns: Mapping[str, Mapping[str, Sequence[Columns]]], num_resamples: int = 2000):
        self.test = test
        self.num_resamples = num_resamples
        self._statistics = {
            (endpoint.metric, arm): [statistic(endpoint, of_seed, test) for of_seed in per_seed]
            for endpoint in ENDPOINTS
            for arm, per_seed in columns.get(endpoint.task, {}).items()
        }
        self._rests_on = {
            (endpoint.metric, arm): [group for of_seed in per_seed for group in endpoint.rests_on(of_seed, test.has_lesion)]
            for endpoint in ENDPOINTS
            for arm, per_seed in columns.get(endpoint.task, {}).items()
        }

    def has(self, task: str, *arms: str) -> bool:
        return all((PRIMARY[task].metric, arm) in self._statistics for arm in arms)

    def value(self, endpoint: Endpoint, arm: str) -> Estimate:
        key = endpoint.metric, arm
        return value_of_arm(
            self._statistics[key],
            self.test.patient_ids,
            self.num_resamples,
            bounds=(0.0, endpoint.upper),
            rests_on=self._rests_on[key],
        )

    def difference(self, endpoint: Endpoint, arm: str, against: str) -> dict:
        """Return a row of `differences` in evaluation.json: `arm` minus `against`."""
        keys = [(endpoint.metric, name) for name in (arm, against)]
        estimate = difference_of_arms(
            *(self._statistics[key] for key in keys),
            self.test.patient_ids,
            self.num_resamples,
            bounds=(-endpoint.upper, endpoint.upper),
            rests_on=[group for key in keys for group in self._rests_on[key]],
        )
        return {
            "task": endpoint.task,
            "metric": endpoint.metric,
            "arm": arm,
            "against": against,
            "value": estimate.value,
            "interval": None if estimate.interval is None else list(estimate.interval),
            "verdict": verdict(estimate.interval, endpoint.higher_is_better),
        }

    def result(self, endpoint: Endpoint, arm: str) -> dict:
        """Return a row of `results` in evaluation.json, but for the data set's name."""
        return {
            "task": endpoint.task,
            "metric": endpoint.metric,
            "arm": arm,
            **self.value(endpoint, arm).to_dict(),
            "num_cases": len(self.test.has_lesion),
            "primary": endpoint.primary,
            "higher_is_better": endpoint.higher_is_better,
        }


def verdict(interval: Sequence[float] | None, higher_is_better: bool = True) -> str:
    """Return what the interval of a difference says about the first one of the two."""
    if interval is None or interval[0] <= 0 <= interval[1]:
        return NO_EVIDENCE
    return BETTER if (interval[0] > 0) == higher_is_better else WORSE


def conclude(task: str, arm: str | None, description: str, results: Sequence[dict], differences: Sequence[dict]) -> dict:
    """Conclude from the primary endpoint of a task whether the synthetic pairs help.

    They help when the arm is better than *every* control, and hurt when it is worse than every one; all else is no evidence.
    No claim is made from fewer than three seeds or where a control was not evaluated. Where not even the best control is shown
    to be better than guessing, a benefit could hardly have been seen, and the sentence says so: no evidence *for* the pairs is
    no evidence *against* them there.

    Args:
        arm: the arm with synthetic pairs that the validation cases chose; None when there is none.
        description: how the sentence calls it.
        results, differences: rows of evaluation.json.

    Returns:
        `task`, `arm`, `verdict` ("helps", "hurts", "no evidence", "no claim"), `controls_at_chance` (None without a claim) and
        `sentence`.
    """
    metric = PRIMARY[task].metric
    values = {row["arm"]: row for row in results if row["task"] == task and row["metric"] == metric}
    found = {
        row["against"]: row
        for row in differences
        if row["task"] == task and row["metric"] == metric and row["arm"] == arm and row["against"] in CONTROLS
    }
    missing = [control for control in CONTROLS if control not in found]
    outcome, reason = NO_CLAIM, None
    if arm is None:
        reason = "no arm of real and synthetic cases was evaluated"
    elif missing:
        reason = f"not every control was evaluated ({', '.join(missing)} missing)"
    elif len(values[arm]["per_seed"]) < MIN_SEEDS:
        reason = f"{MIN_SEEDS} seeds are needed and there are {len(values[arm]['per_seed'])}"
    elif any(row["value"] is None for row in found.values()):
        reason = "the test cases do not define the measure"
    if reason is not None:
        sentence = f"{NAMES[task]}: no claim is made, {reason}."
        return {"task": task, "arm": arm, "verdict": outcome, "controls_at_chance": None, "sentence": sentence}

    verdicts = {row["verdict"] for row in found.values()}
    outcome = HELPS if verdicts == {BETTER} else HURTS if verdicts == {WORSE} else NO_EVIDENCE
    best = max(found, key=lambda control: values[control]["value"])
    says = {
        HELPS: "the synthetic pairs help: they are better than every control",
        HURTS: "the synthetic pairs hurt: they are worse than every control",
        NO_EVIDENCE: "no evidence that the synthetic pairs help",
    }
    sentence = (
        f"{NAMES[task]}: {says[outcome]}. {description} reached {_with_interval(values[arm])}, the best control "
        f"({best.replace('_', ' ')}) {_with_interval(values[best])}; difference {_with_interval(found[best], signed=True)}."
    )
    at_chance = _at_chance(values[best], PRIMARY[task].chance)
    if at_chance and outcome == NO_EVIDENCE:
        sentence += f" {AT_CHANCE}"
    return {"task": task, "arm": arm, "verdict": outcome, "controls_at_chance": at_chance, "sentence": sentence}


def _at_chance(row: dict, chance: float) -> bool:
    """Whether a measure, of which more is better, is compatible with guessing."""
    return row["value"] <= chance or (row["interval"] is not None and row["interval"][0] <= chance)


def _with_interval(row: dict, signed: bool = False) -> str:
    show = (lambda number: f"{number:+.3f}") if signed else (lambda number: f"{number:.3f}")
    interval = row["interval"]
    ends = "no interval" if interval is None else f"95 % interval {show(interval[0])} to {show(interval[1])}"
    return f"{show(row['value'])} ({ends})"
