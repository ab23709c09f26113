"""The leak guard: which cases must not be measured on, for they made a model or a synthetic set.

A number measured on a test case means nothing when that case, or another film of its patient, has trained the model or
stands behind a synthetic pair. `records.py` reads what is known about that.

Two hospitals that number their patients alike make a false alarm, which is the safe side; put the hospital into the ids. The
guard sees neither resampled nor cropped copies (`macdm audit` does) nor what was never recorded. That, it refuses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..data.layout import SPLITS
from ..data.loading import load_pairs, radiograph_digest
from ..data.pairs import MissingSplit
from .records import TrainedOn, Trainings, read_provenance, read_rows, read_settings


NETWORK_NAMES = {"unet": "denoiser", "guidance_classifier": "guidance classifier"}
MOST_NAMED = 20  # cases in one sentence


@dataclass(frozen=True)
class Contamination:
    """Reason why one case must not be measured on.

    Attributes:
        case: its name (`data.pairs.Pairs.names`).
        reason: what goes on after "the case", without a full stop: "trained the denoiser".
    """

    case: str
    reason: str


def contaminated_cases(
    real: str | Path,
    split: str,
    *,
    synthetic: str | Path | None = None,
    model: str | Path | None = None,
    allow_unrecorded: bool = False,
) -> list[Contamination]:
    """Find the cases of one split of real data that a model was trained with or a synthetic set was made from.

    Args:
        real: folder or Hub repository of the real data.
        split: the one that is to be measured on, usually "test". (The training split is contaminated, and is meant to be.)
        synthetic: folder of a synthetic set. What trained its model counts, too.
        model: folder or Hub repository of a `MaCDMPipeline`.
        allow_unrecorded: go by what is recorded, and take what is not for clean.

    Returns:
        What was found, in the order of the cases; a case can be in it more than once.

    Raises:
        FileNotFoundError: when there are no such data, set or model.
        ValueError: when a record is missing and nothing was found in the others, unless `allow_unrecorded`; when a record or
            a radiograph cannot be read.
    """
    if synthetic is None and model is None:
        raise ValueError("Neither a synthetic set nor a model is given: there is nothing that could have seen the cases.")
    networks: dict[str, Trainings] = {}
    unrecorded: list[str] = []
    synthetic_set = None
    if synthetic is not None:
        synthetic_set = _SyntheticSet(Path(synthetic))
        unrecorded += [f"{synthetic}: {reason}" for reason in synthetic_set.missing()]
        _add(networks, synthetic_set.trained_on)
    if model is not None:
        trained_on = TrainedOn.read(model)
        unrecorded += [f"{model}: {reason}" for reason in _missing(trained_on)]
        _add(networks, trained_on)

    found = []
    elsewhere = _names_elsewhere(real, split) if synthetic_set is not None and synthetic_set.by_name else set()
    for case in _real_cases(real, split):
        found += [Contamination(case.name, reason) for reason in _by_training(case, networks)]
        if synthetic_set is not None:
            found += [Contamination(case.name, reason) for reason in synthetic_set.made_from(case, split, elsewhere)]
    if not found and unrecorded and not allow_unrecorded:
        raise ValueError(
            f"{unrecorded[0]}, so nothing shows that the {split} split of {real} is new to it; measure on it only where you "
            "know that from elsewhere, and say so with allow_unrecorded=True (--allow-unrecorded)."
        )
    return found


def refuse_contaminated(
    real: str | Path,
    split: str,
    *,
    synthetic: str | Path | None = None,
    model: str | Path | None = None,
    allow_unrecorded: bool = False,
    measured: Collection[str] | None = None,
) -> None:
    """Raise `ValueError`, naming the cases and how, where `contaminated_cases` (same arguments) finds any.

    Args:
        measured: names of the cases that are measured on, where some of the split were left out; all when None.
    """
    found = contaminated_cases(real, split, synthetic=synthetic, model=model, allow_unrecorded=allow_unrecorded)
    if measured is not None:
        found = [contamination for contamination in found if contamination.case in measured]
    if not found:
        return
    reasons: dict[str, list[str]] = {}
    for contamination in found:
        reasons.setdefault(contamination.case, []).append(contamination.reason)
    named = [f"case {case!r} {', and '.join(of_case)}" for case, of_case in list(reasons.items())[:MOST_NAMED]]
    if len(reasons) > MOST_NAMED:
        named.append(f"and {len(reasons) - MOST_NAMED} more")
    cases = f"{len(reasons)} of its cases {'is' if len(reasons) == 1 else 'are'} not new to what is measured"
    raise ValueError(f"The {split} split of {real} must not be measured on, {cases}: {'; '.join(named)}.")


@dataclass(frozen=True)
class _Case:
    name: str
    digest: str
    patient: str | None


def _real_cases(real: str | Path, split: str) -> Iterator[_Case]:
    pairs = load_pairs(real, split)
    for index, (name, patient) in enumerate(zip(pairs.names, pairs["patient_id"], strict=True)):
        try:
            digest = radiograph_digest(pairs.radiograph(index))
        except ValueError as error:
            raise ValueError(f"{real}, split {split!r}, {error}") from error
        yield _Case(name, digest, None if patient is None else str(patient))


def _names_elsewhere(real: str | Path, split: str) -> set[str]:
    """Return the names of the cases of the other splits."""
    names = set()
    for other in SPLITS:
        if other != split:
            with contextlib.suppress(MissingSplit):
                names.update(load_pairs(real, other).names)
    return names


def _by_training(case: _Case, networks: Mapping[str, Trainings]) -> list[str]:
    """Say how the trainings have seen the case: by its pixels, or else by its patient."""
    seen_by: dict[str, list[str]] = {}  # how -> networks
    for network, trainings in networks.items():
        by_pixels = {training.images[case.digest] for training in trainings if training and case.digest in training.images}
        if case.name in by_pixels:
            how = "trained the"
        elif by_pixels:
            name = next(iter(sorted(filter(None, by_pixels))), None)
            how = f"has the same pixels as {'a training case' if name is None else f'training case {name!r}'} of the"
        elif any(training and case.patient in training.patients for training in trainings):
            how = f"is of patient {case.patient!r}, whose films trained the"
        else:
            continue
        seen_by.setdefault(how, []).append(NETWORK_NAMES.get(network, network))
    return [f"{how} {' and the '.join(names)}" for how, names in seen_by.items()]


class _SyntheticSet:
    """Real cases behind a synthetic set, by digest, name and patient."""

    USES = {"source": "is what {} started from", "masks_from": "gave its masks to {}", "lesion_from": "gave its lesion to {}"}

    def __init__(self, folder: Path):
        rows = read_rows(folder)
        provenance = read_provenance(folder)
        self.trained_on, sources, self.split = provenance or (None, {}, read_settings(folder).get("split"))
        self.by_digest: dict[str, dict[str, list[str]]] = {}  # -> use -> pairs
        self.by_name: dict[str, dict[str, list[str]]] = {}  # only where the digest is not recorded
        self.by_patient: dict[str, list[str]] = {}
        for row in rows:
            pair = Path(str(row.get("image_file_name"))).stem
            for column, use in self.USES.items():
                if row.get(column) is not None:
                    digest = (sources.get(row[column]) or {}).get("image_sha256")
                    index, key = (self.by_name, row[column]) if digest is None else (self.by_digest, digest)
                    index.setdefault(key, {}).setdefault(use, []).append(pair)
            if row.get("patient_id") is not None:
                self.by_patient.setdefault(str(row["patient_id"]), []).append(pair)

    def missing(self) -> list[str]:
        """Say what the set does not tell, a clause for each."""
        reasons = _missing(self.trained_on)
        if self.by_name:
            reasons.append(f"nothing records the pixels of {len(self.by_name)} real cases that its pairs were made from")
        return reasons

    def made_from(self, case: _Case, split: str, elsewhere: Collection[str]) -> list[str]:
        """Name the pairs that were made from the case, or else from its patient.

        A name tells the case where the set says that its cases are of this split, or where no case `elsewhere` has it.
        """
        uses = self.by_digest.get(case.digest)
        if uses is None and (self.split == split or case.name not in elsewhere):
            uses = self.by_name.get(case.name)
        if uses is None:
            uses = self.by_name.get(f"{split}/{case.name}")
        if uses is not None:
            return [use.format(_pairs(pairs)) for use, pairs in uses.items()]
        pairs = self.by_patient.get(case.patient) if case.patient is not None else None
        return [f"is of patient {case.patient!r}, whose films are behind {_pairs(pairs)}"] if pairs else []


def _pairs(names: list[str]) -> str:
    return f"synthetic pair {names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _missing(trained_on: TrainedOn | None) -> list[str]:
    if trained_on is None:
        return ["nothing records which cases trained the model"]
    names = [NETWORK_NAMES.get(name, name) for name in trained_on.unrecorded]
    return [f"not everything that trained its {' and its '.join(names)} is recorded"] if names else []


def _add(networks: dict[str, Trainings], trained_on: TrainedOn | None) -> None:
    for name, trainings in (trained_on.networks if trained_on is not None else {}).items():
        networks.setdefault(name, []).extend(trainings)
