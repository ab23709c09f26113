"""How far chance goes: 95 % intervals of a measurement, and of the difference of two arms.

Two things are left to chance in an evaluation: which patients are in the test set, and how a training turned out (initial
weights, order of the batches). Cases of one patient are no independent observations, so patients are drawn, never cases.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


Statistic = Callable[[np.ndarray], float]
MIN_PATIENTS = 5  # of a percentile interval: n values lie on one side of the truth with probability 2^(1 - n), 6 % for five


@dataclass(frozen=True)
class Estimate:
    """A value and its interval.

    Attributes:
        value: None where it is not defined (a class is missing, say).
        interval: lower and upper end. None where chance cannot be estimated: too few patients, a single training run, half of
            the resamples without a value, or resamples that do not vary. All of n patients right, for example, is no proof of
            perfection (a failure in 3 of n patients is still compatible with it), and a bootstrap cannot see that.
        num_patients: that the test cases stem from.
        num_undefined: resamples in which the value was not defined and which were left out.
        per_seed: the value of each training run on all test cases; None where a single one is measured.
    """

    value: float | None
    interval: tuple[float, float] | None
    num_patients: int
    num_undefined: int = 0
    per_seed: tuple[float, ...] | None = None

    def to_dict(self) -> dict:
        """For JSON; `per_seed` and `seed_sd` (standard deviation over the training runs) only where there are runs."""
        content = {
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "num_patients": self.num_patients,
            "num_undefined": self.num_undefined,
        }
        if self.per_seed is not None:
            content["per_seed"] = [None if np.isnan(value) else value for value in self.per_seed]
            spread = float(np.std(self.per_seed, ddof=1)) if len(self.per_seed) > 1 else np.nan
            content["seed_sd"] = None if np.isnan(spread) else spread
        return content


def patient_bootstrap(
    statistic: Statistic,
    patient_ids: Sequence,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    rests_on: Sequence[np.ndarray] | None = None,
) -> Estimate:
    """Percentile bootstrap over patients: they are drawn with replacement, each with all of its cases.

    The percentiles are those of the expanded percentile interval (Hesterberg 2015, "What Teachers Should Know About the
    Bootstrap", sec. 5.3): the bootstrap's spread is too small by sqrt((n - 1) / n) and knows no t distribution, which for 20
    patients is 7 % of the interval. n counts those patients that the value rests on (`rests_on`); with fewer than 5 there is
    no interval, since no percentile lies beyond the patients that there are. Where a value is at the end of its range the
    interval is too short nonetheless.

    Args:
        statistic: takes case numbers, int `[M]`, some of them more than once, and returns a number, or nan where there is none.
        patient_ids: of each case; a case with None is a patient of its own.
        num_resamples: drawn.
        level: of the interval, between 0 and 1.
        seed: of the draws.
        rests_on: bool `[N]` each, the groups of cases without any of which there would be no value: those that are not nan for
            a mean, those with and those without a lesion for an AUC. The patients of the smallest group are counted. All cases
            when None.

    Raises:
        ValueError: for no case, and for numbers that are not allowed.
    """
    groups = _cases_of_patients(patient_ids, num_resamples, level)
    num_patients, num_cases = len(groups), len(patient_ids)
    num_behind = _patients_behind(groups, rests_on)
    value = float(statistic(np.arange(num_cases)))
    if np.isnan(value):
        return Estimate(None, None, num_patients)
    if num_behind < MIN_PATIENTS:
        return Estimate(value, None, num_patients)
    values = np.array([statistic(indices) for indices in _resamples(groups, num_resamples, seed)], dtype=float)
    defined = values[~np.isnan(values)]
    num_undefined = len(values) - len(defined)
    if not _enough(defined, num_resamples):
        return Estimate(value, None, num_patients, num_undefined)
    factor = np.sqrt(num_behind / (num_behind - 1)) * t_quantile(level, num_behind - 1)
    tail = NormalDist().cdf(-factor)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Estimate(value, (float(low), float(high)), num_patients, num_undefined)


def two_sample_bootstrap(
    statistic: Statistic,
    patient_ids: Sequence[Sequence],
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the percentile interval of a statistic of two samples whose patients are drawn apart, with replacement.

    Args:
        statistic: takes case numbers, int `[M]`, those of the second sample after those of the first, and returns a number or
            nan.
        patient_ids: of each case, sample by sample; a case with None is a patient of its own.
        num_resamples: number of draws.
        level: level of the interval, between 0 and 1.
        seed: seed of the draws.

    Returns:
        Both ends, of the resamples in which the statistic is defined; None where it is defined in none.

    Raises:
        ValueError: for a sample without a case, and for numbers that are not allowed.
    """
    starts = np.cumsum([0, *map(len, patient_ids)])
    samples = [
        [start + cases for cases in _cases_of_patients(ids, num_resamples, level)]
        for start, ids in zip(starts, patient_ids, strict=False)
    ]
    generator, values = np.random.default_rng(seed), []
    for _ in range(num_resamples):
        drawn = [patients[i] for patients in samples for i in generator.integers(len(patients), size=len(patients))]
        values.append(statistic(np.concatenate(drawn)))
    defined = np.array(values)[~np.isnan(values)]
    if not len(defined):
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def difference_of_arms(
    per_seed_statistic_a: Sequence[Statistic],
    per_seed_statistic_b: Sequence[Statistic],
    patient_ids: Sequence,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    rests_on: Sequence[np.ndarray] | None = None,
) -> Estimate:
    """Mean over training runs of a - b, with an interval for other test patients *and* other training runs.

    Both arms were trained with the same n seeds and have predicted the same test cases of P patients (counted are those that
    the value rests on, see `patient_bootstrap`). Patients and runs are crossed, as cases and readers are in a reader study, and
    the difference d_s of run s is the sum of an effect of the run, one of the patients and one of their interaction (a run
    fails on patients of its own). The variance of mean(d) is A + B,

        A = s^2 / n                      runs, with the interaction: s^2 is the variance of d_s on the test set as it is
        B = max(0, SE_p^2 - v / n)       patients alone

    where SE_p^2 is the variance of mean(d) when patients are drawn again (paired bootstrap). The patients are the same for all
    runs, so their effect is not in s^2; but the interaction is in both. Its part in SE_p^2 is taken off: v is the variance of
    d_s - mean(d) when patients are drawn again, summed over the runs and divided by n - 1. The interval is mean(d) +- the
    larger of

        t* sqrt(A + B),   t* = (A t_{n-1} + B t_{P-1}) / (A + B)      (Cochran 1964)
        t_{P-1} SE_p                                                  (as if the runs were alike)

    Satterthwaite's degrees of freedom in place of t* would give shorter intervals, of which up to 8 % miss the truth with three
    runs; of these it is at most 5 %, and about 2 % where the interaction is all there is. More runs are what makes them short:
    t_{n-1} is 4.3 with three runs and 2.8 with five.

    Args:
        per_seed_statistic_a, per_seed_statistic_b: one function for each seed, in the same order; each as in
            `patient_bootstrap`.
        patient_ids, num_resamples, level, seed, rests_on: as in `patient_bootstrap`.
        bounds: of the difference; the interval is clipped to them.

    Raises:
        ValueError: where the arms have different numbers of seeds, or none; and as `patient_bootstrap`.
    """
    num_seeds = len(per_seed_statistic_a)
    if num_seeds != len(per_seed_statistic_b):
        raise ValueError(f"The arms have {num_seeds} and {len(per_seed_statistic_b)} seeds: a difference needs the same ones.")

    def differences(indices: np.ndarray) -> list[float]:
        return [a(indices) - b(indices) for a, b in zip(per_seed_statistic_a, per_seed_statistic_b, strict=True)]

    return _mean_over_seeds(differences, num_seeds, patient_ids, num_resamples, level, seed, bounds, rests_on)


def value_of_arm(
    per_seed_statistic: Sequence[Statistic],
    patient_ids: Sequence,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    rests_on: Sequence[np.ndarray] | None = None,
) -> Estimate:
    """Mean over training runs of one arm, with the interval of `difference_of_arms`, clipped to `bounds`.

    Args and errors: as `difference_of_arms`.
    """

    def values(indices: np.ndarray) -> list[float]:
        return [statistic(indices) for statistic in per_seed_statistic]

    return _mean_over_seeds(values, len(per_seed_statistic), patient_ids, num_resamples, level, seed, bounds, rests_on)


def _mean_over_seeds(per_seed, num_seeds, patient_ids, num_resamples, level, seed, bounds, rests_on) -> Estimate:
    if num_seeds == 0:
        raise ValueError("There is no seed to take the mean over.")
    groups = _cases_of_patients(patient_ids, num_resamples, level)
    num_patients, num_behind = len(groups), _patients_behind(groups, rests_on)
    values = np.array(per_seed(np.arange(len(patient_ids))), dtype=float)  # [seeds]
    value = float(values.mean())
    if np.isnan(value):
        return Estimate(None, None, num_patients, per_seed=tuple(values.tolist()))
    runs = {"per_seed": tuple(values.tolist())}
    if num_seeds == 1 or num_behind < 2:
        return Estimate(value, None, num_patients, **runs)
    resampled = np.array([per_seed(indices) for indices in _resamples(groups, num_resamples, seed)], dtype=float)
    resampled = resampled[~np.isnan(resampled).any(axis=1)]  # [resamples, seeds]
    num_undefined = num_resamples - len(resampled)
    if 2 * len(resampled) < num_resamples:
        return Estimate(value, None, num_patients, num_undefined, **runs)
    unbiased = num_behind / (num_behind - 1)
    means = resampled.mean(axis=1)  # [resamples]
    of_patients = unbiased * means.var()  # SE_p^2
    interaction = unbiased * (resampled - means[:, None]).var(axis=0).sum() / (num_seeds - 1)  # v
    runs_part = values.var(ddof=1) / num_seeds  # A
    patients_part = max(0.0, of_patients - interaction / num_seeds)  # B
    variance = runs_part + patients_part
    if max(variance, of_patients) < 1e-24:  # no resample and no run differs by more than rounding
        return Estimate(value, None, num_patients, num_undefined, **runs)
    t_runs, t_patients = t_quantile(level, num_seeds - 1), t_quantile(level, num_behind - 1)
    # t* sqrt(A + B); 0 where A and B are: runs that are alike on the whole and differ in which patients they fail on
    of_both = (runs_part * t_runs + patients_part * t_patients) / np.sqrt(variance) if variance > 0 else 0.0
    margin = max(of_both, t_patients * np.sqrt(of_patients))
    low, high = np.clip([value - margin, value + margin], *bounds)
    return Estimate(value, (float(low), float(high)), num_patients, num_undefined, **runs)


def _cases_of_patients(patient_ids: Sequence, num_resamples: int, level: float) -> list[np.ndarray]:
    """The case numbers of each patient, patients in order of first appearance; the arguments of a bootstrap are checked."""
    if len(patient_ids) == 0:
        raise ValueError("There is no case to resample.")
    if num_resamples < 1:
        raise ValueError(f"num_resamples={num_resamples} is not allowed: at least 1.")
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not allowed: between 0 and 1, 0.95 for a 95 % interval.")
    groups: dict = {}
    for index, patient in enumerate(patient_ids.tolist() if hasattr(patient_ids, "tolist") else patient_ids):
        patient = patient.item() if hasattr(patient, "item") else patient  # tensors are alike by identity alone
        if not isinstance(patient, Hashable):
            raise ValueError(f"patient_ids hold {patient!r}: a text or a number is needed for each case, or None.")
        unknown = patient is None or patient != patient  # nan, as tables have it
        groups.setdefault(("case", index) if unknown else ("patient", patient), []).append(index)
    return [np.array(indices) for indices in groups.values()]


def _patients_behind(groups: list[np.ndarray], rests_on: Sequence[np.ndarray] | None) -> int:
    """Patients of the smallest group of cases that a value rests on."""
    if rests_on is None:
        return len(groups)
    return min(sum(bool(mask[cases].any()) for cases in groups) for mask in rests_on)


def _resamples(groups: list[np.ndarray], num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Case numbers of as many patients as there are, drawn with replacement."""
    generator = np.random.default_rng(seed)
    for drawn in generator.integers(len(groups), size=(num_resamples, len(groups))):
        yield np.concatenate([groups[patient] for patient in drawn.tolist()])


def _enough(defined: np.ndarray, num_resamples: int) -> bool:
    return 2 * len(defined) >= num_resamples and np.ptp(defined) > 1e-12


def t_quantile(level: float, degrees: int) -> float:
    """Upper end of the central `level` of Student's t distribution."""
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, degrees))
