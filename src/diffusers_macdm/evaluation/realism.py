"""How near synthetic radiographs come to real ones, in a feature space that is named: KID, precision and recall, and whether a
classifier can tell them apart. Each stands beside its real-versus-real value, what two halves of the real cases give.

The real cases are held-out ones (validation and test). The training cases are no measure: the default extractor was trained on
them, so that their features are sharper than those of any new film, and a model that copies them would come out best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..data.cases import Cases
from ..data.splits import split_by_patient
from ..statistics.bootstrap import patient_bootstrap
from ..statistics.measures import roc_auc
from ..statistics.trainings import jackknife_interval
from .features import FeatureExtractor


NEIGHBOURS = 3  # k of precision and recall (Kynkäänniemi et al., arXiv 1904.06991, sec. 3)
NUM_HALVINGS = 10  # random halvings of the real cases behind a real-versus-real value
NUM_GROUPS = 25  # of patients, left out in turn by the jackknife of precision and recall
NUM_FOLDS = 5
MAX_COMPONENTS = 32  # principal components that the real-or-synthetic classifier sees
MAX_POINTS = 1000  # of the t-SNE picture
FEW_CASES = 30


@dataclass(frozen=True)
class Sample:
    """Features of one set.

    Attributes:
        features: `[N, D]`.
        patient_ids: of each; all cases of a patient stand and fall together.
        class_labels: int `[N]`.
    """

    features: np.ndarray
    patient_ids: np.ndarray
    class_labels: np.ndarray

    @classmethod
    def of(cls, cases: Cases, extractor: FeatureExtractor) -> Sample:
        return cls(extractor(cases.radiographs).astype(np.float64), np.asarray(cases.patient_ids), cases.class_labels.numpy())

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, chosen) -> Sample:
        return Sample(self.features[chosen], self.patient_ids[chosen], self.class_labels[chosen])


def realism(held_out: Cases, synthetic: Cases, extractor: FeatureExtractor, seed: int = 0) -> dict:
    """Measure how near synthetic radiographs come to real ones: all cases (`label` None), and each label of both sets.

    Args:
        held_out: real cases that trained neither the generative model nor the extractor.
        synthetic: of the generative model.
        seed: everything random follows from it.

    Returns:
        JSON-ready: `feature_extractor`, `measures` (of each `name`, `label`, `value`, `interval`, `real_versus_real`,
        `num_real`, `num_synthetic`, `note`) and `tsne` (of each point `x`, `y`, `kind` real or synthetic, `label`). What could
        not be measured has the value None and a note why.

    Raises:
        ValueError: when a set is empty or the extractor fails.
    """
    if not len(held_out) or not len(synthetic):
        raise ValueError(f"{len(held_out)} real and {len(synthetic)} synthetic cases: at least one of each is needed.")
    real, synthetic = Sample.of(held_out, extractor), Sample.of(synthetic, extractor)
    shared = sorted(set(real.class_labels.tolist()) & set(synthetic.class_labels.tolist()))
    measures = []
    for label in (None, *(shared if len(shared) > 1 else ())):
        chosen = [sample if label is None else sample[sample.class_labels == label] for sample in (real, synthetic)]
        entries = {**quality(*chosen, seed), "real_or_synthetic_auc": _real_or_synthetic(*chosen, seed)}
        measures += [{"name": name, "label": label, **entry} for name, entry in entries.items()]
    return {"feature_extractor": extractor.name, "measures": measures, "tsne": _tsne(real, synthetic, seed)}


def quality(real: Sample, synthetic: Sample, seed: int = 0) -> dict[str, dict]:
    """`kid`, `precision` and `recall` of synthetic cases, each an entry of `realism`'s measures without name and label."""
    halves = _halves(real, seed)
    sizes = len(real), len(synthetic)
    reference = [kid(real[one], real[two])[0] for one, two in halves]
    note = "unbiased, over all pairs of cases; interval: jackknife over patients, too wide near 0"
    entries = {"kid": _entry(*kid(real, synthetic), reference, note, sizes, sizes)}
    # Precision and recall grow with the size of the sets: against one half stand as many synthetic cases as the other half has.
    generator = np.random.default_rng(seed)
    against = [(half, generator.permutation(len(synthetic))[: len(other)]) for half, other in halves]
    note = (
        f"{NEIGHBOURS} neighbours; mean over {NUM_HALVINGS} halves of the real cases against as many synthetic ones, the sizes "
        "of the real-versus-real value; interval: jackknife over patients"
    )
    used = (len(against[0][0]), len(against[0][1])) if against else sizes
    for name, coverage in (("precision", lambda one, two: covered(two, one)), ("recall", covered)):
        reference = [coverage(real.features[one], real.features[two]) for one, two in halves]
        entries[name] = _entry(*_matched_coverage(real, synthetic, against, coverage), reference, note, used, sizes)
    return entries


def _real_or_synthetic(real: Sample, synthetic: Sample, seed: int) -> dict:
    reference = [telling_apart(real[one], real[two], seed, with_interval=False)[0] for one, two in _halves(real, seed)]
    note = f"logistic regression, {NUM_FOLDS} folds by patient; 0.5: cannot be told; interval: bootstrap over patients"
    sizes = len(real), len(synthetic)
    return _entry(*telling_apart(real, synthetic, seed), reference, note, sizes, sizes)


def _entry(value, interval, reference, note: str, used: tuple[int, int], sizes: tuple[int, int]) -> dict:
    """One measure. `used`: real and synthetic cases behind the value, `sizes`: those that there are."""
    reference = [number for number in reference if np.isfinite(number)]
    is_measured = value is not None and np.isfinite(value)
    few = [f"only {size} {kind} cases" for size, kind in zip(sizes, ("real", "synthetic"), strict=True) if size < FEW_CASES]
    return {
        "value": float(value) if is_measured else None,
        "interval": None if interval is None else [float(end) for end in interval],
        "real_versus_real": float(np.mean(reference)) if reference else None,
        "num_real": used[0],
        "num_synthetic": used[1],
        "note": "; ".join([note if is_measured else "not measured: too few patients", *few]),
    }


# --- KID --------------------------------------------------------------------------------------------------------------


# Binkowski et al., arXiv 1801.01401, sec. 3, eq. 4
def kid(one: Sample, two: Sample) -> tuple[float, list[float] | None]:
    """Kernel Inception distance: unbiased MMD^2 with the kernel `k(x, y) = (x.y / d + 1)^3`, and its interval.

    Over all pairs of cases, which is what the customary average over random subsets estimates. Pairs within one patient are
    left out, as those of a case with itself are: they are alike for another reason than the distribution.

    The interval is that of the jackknife that leaves out one patient of either set at a time: a bootstrap draws patients
    twice, and the pairs of a patient with itself are what is left out here. Where the two distributions are the same it
    is too wide, by about a half.

    The kernel is not scaled: values in different feature spaces (other extractors, a classifier trained anew) cannot be
    compared, and images unlike anything that a small classifier knows may give very large ones.

    Returns:
        The value, nan where a set has fewer than two patients, and the interval, None there.
    """
    codes = [np.unique(sample.patient_ids, return_inverse=True)[1] for sample in (one, two)]
    if min(code.max(initial=-1) for code in codes) < 1:
        return float("nan"), None
    within, between, counts = [], [], []
    for sample, other, code in ((one, two, codes[0]), (two, one, codes[1])):
        within.append(np.bincount(code, _row_sums(sample.features, sample.features, code)))  # [patients]
        between.append(np.bincount(code, _row_sums(sample.features, other.features)))  # [patients]
        counts.append(np.bincount(code))  # [patients]
    sizes = [count.sum() for count in counts]
    num_pairs = [size**2 - (count**2).sum() for size, count in zip(sizes, counts, strict=True)]
    means = [sums.sum() / pairs for sums, pairs in zip(within, num_pairs, strict=True)]
    cross = between[0].sum()
    value = means[0] + means[1] - 2 * cross / (sizes[0] * sizes[1])
    leave_one_out = []
    for side in (0, 1):
        count = counts[side]
        pairs = num_pairs[side] - 2 * count * (sizes[side] - count)  # [patients]
        with np.errstate(divide="ignore", invalid="ignore"):  # of two patients only one is left
            mean = (within[side].sum() - 2 * within[side]) / pairs
            rest = (cross - between[side]) / ((sizes[side] - count) * sizes[1 - side])
        leave_one_out.append(mean + means[1 - side] - 2 * rest)
    return float(value), jackknife_interval(value, leave_one_out)


def _row_sums(rows: np.ndarray, columns: np.ndarray, codes: np.ndarray | None = None, block: int = 1024) -> np.ndarray:
    """Sum of the kernel of each row over all columns `[N]`; with `codes`, over those of another patient."""
    sums = []
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        kernel = (rows[part] @ columns.T / rows.shape[1] + 1) ** 3  # [block, M]
        if codes is not None:
            kernel[codes[part, None] == codes] = 0
        sums.append(kernel.sum(axis=1))
    return np.concatenate(sums)


# --- precision and recall ---------------------------------------------------------------------------------------------


# Kynkäänniemi et al., arXiv 1904.06991, eq. 1
def covered(points: np.ndarray, manifold: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """Share of `points` `[N, D]` within reach of `manifold` `[M, D]`: nearer to one of its points than that one's k-th
    neighbour. Precision is that of synthetic points in the real manifold, recall that of real points in the synthetic one.
    Points that are far from everything reach far, so that recall says little where precision is small.

    Returns:
        nan where there is no point, or the manifold has no k + 1 points.
    """
    if not len(points) or len(manifold) <= neighbours:
        return float("nan")
    own = _distances(manifold, manifold)  # [M, M]
    np.fill_diagonal(own, -np.inf)  # so that the point itself is the zeroth
    radius = np.partition(own, neighbours, axis=1)[:, neighbours]  # [M]
    return float((_distances(points, manifold) <= radius).any(axis=1).mean())


def _distances(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    squares = (one**2).sum(axis=1)[:, None] + (two**2).sum(axis=1) - 2 * one @ two.T  # [N, M]
    return np.sqrt(np.maximum(squares, 0))


def _halves(real: Sample, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random halvings of the cases by patient, stratified by label; none where there are too few patients."""
    try:
        splits = [
            split_by_patient(real.patient_ids.tolist(), real.class_labels.tolist(), {"one": 0.5, "two": 0.5}, seed + number)
            for number in range(NUM_HALVINGS)
        ]
    except ValueError:
        return []
    return [(np.array(split["one"]), np.array(split["two"])) for split in splits]


def _matched_coverage(
    real: Sample, synthetic: Sample, against: list[tuple[np.ndarray, np.ndarray]], coverage: Callable
) -> tuple[float, list[float] | None]:
    """Mean of `coverage(real half, synthetic part)` over the halves, and its jackknife interval, within [0, 1]. It is
    rather too wide, for the nearest neighbours change at once when a group is left out."""
    if not against:
        return float("nan"), None

    def mean(keep_real, keep_synthetic):
        parts = [(real.features[one[keep_real[one]]], synthetic.features[two[keep_synthetic[two]]]) for one, two in against]
        return np.mean([coverage(*part) for part in parts])

    everyone = np.ones(len(real), bool), np.ones(len(synthetic), bool)
    value = mean(*everyone)
    leave_one_out = []
    for side, sample in enumerate((real, synthetic)):
        patients = np.unique(sample.patient_ids, return_inverse=True)[1]
        groups = patients % min(NUM_GROUPS, patients.max() + 1)
        kept = [[groups != group if place == side else everyone[place] for place in (0, 1)] for group in np.unique(groups)]
        leave_one_out.append(np.array([mean(*keep) for keep in kept]))
    interval = jackknife_interval(value, leave_one_out)
    return value, interval and [max(interval[0], 0.0), min(interval[1], 1.0)]


# --- telling real from synthetic --------------------------------------------------------------------------------------


def telling_apart(one: Sample, two: Sample, seed: int, *, with_interval: bool = True) -> tuple[float, list[float] | None]:
    """Cross-validated AUC of logistic regression between two sets, on standardised principal components.

    Folds are by patient. The AUC compares cases within a fold only: the folds' offsets would bias it. The interval is a
    bootstrap over patients, of the predictions as they are.

    Returns:
        The AUC (0.5: cannot be told apart) and its interval; nan and None where a set has fewer than two patients.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    patients = np.concatenate([np.char.add("a", one.patient_ids.astype(str)), np.char.add("b", two.patient_ids.astype(str))])
    num_folds = min(NUM_FOLDS, len(np.unique(one.patient_ids)), len(np.unique(two.patient_ids)))
    if num_folds < 2:
        return float("nan"), None
    features = np.concatenate([one.features, two.features])  # [N, D]
    is_two = np.repeat([0, 1], [len(one), len(two)])
    folds = split_by_patient(patients.tolist(), is_two.tolist(), {str(fold): 1 / num_folds for fold in range(num_folds)}, seed)
    scores, fold_of = np.zeros(len(is_two)), np.zeros(len(is_two), int)
    for fold, test in enumerate(folds.values()):
        train = np.setdiff1d(np.arange(len(is_two)), test)
        if len(set(is_two[train])) < 2:
            return float("nan"), None
        components = max(1, min(MAX_COMPONENTS, len(train) // 4, features.shape[1]))
        classifier = make_pipeline(
            StandardScaler(),
            PCA(components, random_state=seed),
            StandardScaler(),
            LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000),
        )
        scores[test] = classifier.fit(features[train], is_two[train]).decision_function(features[test])
        fold_of[test] = fold

    def auc(chosen):
        return roc_auc(scores[chosen], is_two[chosen], fold_of[chosen])

    if not with_interval:
        return auc(slice(None)), None
    estimate = patient_bootstrap(auc, patients, seed=seed, rests_on=[is_two == 0, is_two == 1])
    return estimate.value, estimate.interval


# --- picture ----------------------------------------------------------------------------------------------------------


def _tsne(real: Sample, synthetic: Sample, seed: int) -> list[dict]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    generator = np.random.default_rng(seed)
    share = min(1.0, MAX_POINTS / (len(real) + len(synthetic)))
    parts = [sample[np.sort(generator.permutation(len(sample))[: int(len(sample) * share)])] for sample in (real, synthetic)]
    features = np.concatenate([part.features for part in parts])
    if len(features) < 5:
        return []
    reduced = PCA(min(50, *features.shape), random_state=seed).fit_transform(features)
    places = TSNE(2, perplexity=min(30, (len(reduced) - 1) / 3), init="pca", random_state=seed).fit_transform(reduced)
    kinds = np.repeat(["real", "synthetic"], [len(part) for part in parts])
    labels = np.concatenate([part.class_labels for part in parts])
    return [
        {"x": round(float(x), 2), "y": round(float(y), 2), "kind": str(kind), "label": int(label)}
        for (x, y), kind, label in zip(places, kinds, labels, strict=True)
    ]
