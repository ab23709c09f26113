"""All measures of a set of pairs, each with the value that two halves of the real cases give.

The real cases are ones that the model was not trained on. Both sets are first brought to the same shares of labels (see
`sets.matched`); what is said by label is measured on all cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..data.cases import Cases
from ..evaluation.realism import Sample, kid, telling_apart
from .distances import RANDOM_NAME, detail, patches, random_features, reduced, sliced_wasserstein
from .lesions import lesions
from .sets import films_of, halves, masks_of, matched
from .texture import edge_profiles, grain, profile_distances, texture_features, top_octave


NUM_HALVINGS = 5  # of the real cases, behind a real-versus-real value
MAX_COMPONENTS = 64  # of the features of KID
FEWEST_CASES = 8  # of each set, once their labels' shares are alike


@dataclass(frozen=True)
class _Set:
    """A set in the forms that the measures take; all arrays have one row for each case."""

    cases: Cases
    texture: Sample
    random: Sample
    grain: dict[str, np.ndarray]
    octave: np.ndarray
    profiles: np.ndarray

    @classmethod
    def of(cls, cases: Cases) -> _Set:
        films, (anatomy, _) = films_of(cases), masks_of(cases)
        patients, labels = np.asarray(cases.patient_ids), cases.class_labels.numpy()
        gray = Cases.of(cases.joint_samples.clone(), labels)
        gray.joint_samples[:, 0] = gray.joint_samples.new_tensor(films) / 127.5 - 1  # of 8 bits, as the synthetic ones are
        return cls(
            cases,
            Sample(texture_features(films), patients, labels),
            Sample(random_features()(gray.radiographs).astype(np.float64), patients, labels),
            grain(films, anatomy),
            top_octave(films),
            edge_profiles(films, anatomy),
        )

    def select(self, chosen: np.ndarray) -> _Set:
        return _Set(
            self.cases.select(chosen),
            self.texture[chosen],
            self.random[chosen],
            {name: values[chosen] for name, values in self.grain.items()},
            self.octave[chosen],
            self.profiles[chosen],
        )


def measure(real: Cases, synthetic: Cases, *, judge: Callable[[Cases], dict] | None = None, seed: int = 0) -> dict:
    """Measure synthetic pairs beside real ones.

    Args:
        real: cases that trained no model.
        synthetic: pairs of the same size, their masks as sampled (`refine_masks=False`).
        judge: adds its measures of the synthetic pairs, say a `referee.Referee`.
        seed: of everything random: halves, projections, patches, folds, intervals.

    Returns:
        JSON-ready; "real" below stands for the value of all real cases, `real_versus_real` for what two halves of them give
        (mean over 5 halvings), `ratio` for synthetic by real.

        - `num_real`, `num_synthetic` that are compared, `size` in pixels;
        - `real_or_synthetic_auc`: `value`, `interval`, `real_versus_real`: 5-fold cross-validated logistic regression on
          `texture.texture_features` (`evaluation.realism.telling_apart`); 0.5: cannot be told apart. No
          interval where every film is told rightly: nothing varies;
        - `kid`: the same keys and `features`, their name: unbiased, on whitened
          principal components of `distances.random_features`;
        - `sliced_wasserstein`: of `film` (gray levels), `anatomy`, `lesion` (masks of 0 and 1): `patches` and `global`
          (films also `detail`: patches less their mean), each `value` and `real_versus_real` of sets of one size;
        - `grain`: of `background`, `anatomy`: `value`, `real` (medians, gray levels), `ratio`, `real_versus_real` (a ratio);
        - `top_octave`: the same of the share of the spectral power (means);
        - `edge_profile`: `distances`, `value`, `real` (gray levels), `rms_difference`, `real_versus_real` (of the latter);
        - `lesions`: `synthetic` and `real`, see `lesions.lesions`;
        - what the judge adds.

        A value that is not defined (no region wide enough, a real value of 0) is None.

    Raises:
        ValueError: when a set has no masks, the sizes differ, or there are too few cases of common labels.
    """
    for cases, kind in ((real, "real"), (synthetic, "synthetic")):
        if not len(cases) or not cases.has_masks:
            raise ValueError(f"The {kind} cases have no masks, or there are none: pairs are needed.")
    if real.size != synthetic.size:
        raise ValueError(f"Real cases of {real.size} px and synthetic ones of {synthetic.size} px cannot be compared.")
    one, two = matched(real, synthetic, seed)
    if min(len(one), len(two)) < FEWEST_CASES:
        raise ValueError(f"{len(one)} real and {len(two)} synthetic cases of the same labels are too few: {FEWEST_CASES}.")
    one, two = _Set.of(one), _Set.of(two)
    places = [_halving(one.cases, seed + number) for number in range(NUM_HALVINGS)]
    pairs = [(one.select(first), one.select(second)) for first, second in places]
    return {
        "num_real": len(one.cases),
        "num_synthetic": len(two.cases),
        "size": real.size,
        "real_or_synthetic_auc": _auc(one, two, pairs, seed),
        "kid": _kid(one, two, pairs),
        "sliced_wasserstein": _wasserstein(two, pairs, seed),
        "grain": {name: _ratio(one, two, pairs, lambda s, name=name: _median(s.grain[name])) for name in one.grain},
        "top_octave": _ratio(one, two, pairs, lambda s: _mean(s.octave)),
        "edge_profile": _edge_profile(one, two, pairs),
        "lesions": {"synthetic": lesions(synthetic), "real": lesions(real)},
        **({} if judge is None else judge(synthetic)),
    }


def _halving(cases: Cases, seed: int) -> tuple[np.ndarray, np.ndarray]:
    numbered = Cases.of(cases.joint_samples, cases.class_labels, range(len(cases)), cases.patient_ids)
    return tuple(np.array(half.names) for half in halves(numbered, seed))


def _auc(one: _Set, two: _Set, pairs: list[tuple[_Set, _Set]], seed: int) -> dict:
    value, interval = telling_apart(one.texture, two.texture, seed)
    reference = [telling_apart(a.texture, b.texture, seed, with_interval=False)[0] for a, b in pairs]
    return {"value": _number(value), "interval": interval and list(interval), "real_versus_real": _mean(reference)}


def _kid(one: _Set, two: _Set, pairs: list[tuple[_Set, _Set]]) -> dict:
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Whitened: of raw features a few that follow the exposure decide alone, and grain or blur do not show.
    components = min(MAX_COMPONENTS, max(1, len(one.cases) // 4))
    whitening = make_pipeline(StandardScaler(), PCA(components, whiten=True, random_state=0)).fit(one.random.features)

    def whitened(part: _Set) -> Sample:
        sample = part.random
        return Sample(whitening.transform(sample.features), sample.patient_ids, sample.class_labels)

    value, interval = kid(whitened(one), whitened(two))
    reference = [kid(whitened(a), whitened(b))[0] for a, b in pairs]
    name = f"{RANDOM_NAME}; {components} whitened principal components of the real cases"
    return {"value": _number(value), "interval": interval, "real_versus_real": _mean(reference), "features": name}


def _wasserstein(two: _Set, pairs: list[tuple[_Set, _Set]], seed: int) -> dict:
    """The synthetic set against one half of the real cases, beside the other half against it, all of the same size."""
    found = {}
    for channel, pictures in (
        ("film", films_of),
        ("anatomy", lambda cases: masks_of(cases)[0]),
        ("lesion", lambda cases: masks_of(cases)[1]),
    ):
        forms = {"patches": patches, "global": lambda x, _: reduced(x)}
        if channel == "film":
            forms["detail"] = detail
        values, reference = ({name: [] for name in forms} for _ in range(2))
        for number, (first, second) in enumerate(pairs):
            generator = np.random.default_rng([seed, number])
            sides = [side.cases for side in (first, second, two)]
            count = min(map(len, sides))
            drawn = [pictures(side.select(np.sort(generator.permutation(len(side))[:count]))) for side in sides]
            for name, vectors in forms.items():
                base, other, made = (vectors(part, number) for part in drawn)
                values[name].append(sliced_wasserstein(base, made, number))
                reference[name].append(sliced_wasserstein(base, other, number))
        found[channel] = {name: {"value": _mean(values[name]), "real_versus_real": _mean(reference[name])} for name in values}
    return found


def _ratio(one: _Set, two: _Set, pairs: list[tuple[_Set, _Set]], statistic: Callable[[_Set], float | None]) -> dict:
    def ratio(a, b):
        return None if a is None or not b else a / b

    real, value = statistic(one), statistic(two)
    reference = [ratio(statistic(b), statistic(a)) for a, b in pairs]
    return {
        "value": value,
        "real": real,
        "ratio": ratio(value, real),
        "real_versus_real": _mean([number for number in reference if number is not None]),
    }


def _edge_profile(one: _Set, two: _Set, pairs: list[tuple[_Set, _Set]]) -> dict:
    def profile(part: _Set) -> np.ndarray:
        return np.array([_mean(column) for column in part.profiles.T], dtype=float)  # nan where no film has any

    def rms(a: np.ndarray, b: np.ndarray) -> float | None:
        squares = _mean((a - b) ** 2)
        return None if squares is None else squares**0.5

    real, value = profile(one), profile(two)
    return {
        "distances": profile_distances(),
        "value": [_number(number) for number in value],
        "real": [_number(number) for number in real],
        "rms_difference": rms(value, real),
        "real_versus_real": _mean([found for found in (rms(profile(a), profile(b)) for a, b in pairs) if found is not None]),
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _mean(values) -> float | None:
    """Mean of the finite values, None where there is none."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _median(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None
