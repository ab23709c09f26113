"""Which cases made a model and a synthetic set: the leak guard.

A number measured on a test case means nothing when that case, or another film of its patient, has trained the model or
stands behind a synthetic pair. Three records tell:

- `training_config.json` (denoiser) and `guidance_classifier_training_config.json`, written by the training scripts: in
  `data`, the patients and the digest of each training radiograph; in `earlier_trainings`, those of the trainings that the run
  went on from: pretrained weights, a resumed run on other data, the model behind synthetic training data;
- `generation.json` of a synthetic set, written by `macdm generate`: in `provenance`, what trained the model's networks, so that
  the guard needs no model, and the digest and the patient of each real case that a pair was made from.

Radiographs are told apart by `data.loading.radiograph_digest`, never by their file names, which mean nothing outside of one
folder. Patients are told apart by `patient_id` as text: two hospitals that number their patients alike make a false alarm,
which is the safe side; put the hospital into the ids. The guard sees neither resampled nor cropped copies (`macdm audit` does)
nor what was never recorded. That, it refuses.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from ..data.layout import METADATA, SPLITS
from ..data.loading import MissingSplit, case_names, load_pairs, radiograph_digest
from ..hub.names import split_revision
from ..macdm.image_processor import radiograph_array


if TYPE_CHECKING:
    import datasets


MODEL_INDEX, GENERATION = "model_index.json", "generation.json"
TRAINING_RECORDS = {  # network of a pipeline -> the record of its training, beside the pipeline's folders
    "unet": "training_config.json",
    "guidance_classifier": "guidance_classifier_training_config.json",
}
NETWORK_NAMES = {"unet": "denoiser", "guidance_classifier": "guidance classifier"}
MOST_NAMED = 20  # cases in one sentence


@dataclass(frozen=True)
class Training:
    """The cases of one training.

    Attributes:
        images: digest of each training radiograph -> name of its case, or None where the names are not told.
        patients: their ids; none where they are not told.
    """

    images: Mapping[str, str | None]
    patients: frozenset[str] = frozenset()

    @classmethod
    def from_dict(cls, record: dict | None) -> Training | None:
        """Of `image_sha256` (case -> digest, or digests alone) and `patients`; None for a record that lacks the digests."""
        digests = (record or {}).get("image_sha256")
        if not digests or not isinstance(digests, (dict, list)):
            return None
        images = {digest: case for case, digest in digests.items()} if isinstance(digests, dict) else dict.fromkeys(digests)
        return cls(images, frozenset(map(str, record.get("patients") or ())))

    def to_dict(self) -> dict:
        """The inverse of `from_dict`, except that of two cases with the same pixels one name is kept."""
        named = None not in self.images.values()
        digests = {case: digest for digest, case in self.images.items()} if named else sorted(self.images)
        return {"patients": sorted(self.patients), "image_sha256": digests}


Trainings = list[Training | None]  # None is one of which nothing tells the cases


@dataclass(frozen=True)
class TrainedOn:
    """What trained a model.

    Attributes:
        networks: `unet` and, where there is one, `guidance_classifier` -> its trainings, the last one first.
    """

    networks: Mapping[str, Trainings]

    @classmethod
    def read(cls, model: str | Path) -> TrainedOn | None:
        """What is recorded beside a saved pipeline; None when that is nothing.

        Args:
            model: folder or Hub repository of a `MaCDMPipeline`. A record that cannot be had from the Hub is none.

        Raises:
            FileNotFoundError: when there is no pipeline.
            ValueError: when a record cannot be read.
        """
        index = _read_beside(model, MODEL_INDEX)
        if index is None:
            where = "in the folder" if Path(model).is_dir() else "to be had here or from the Hub"
            raise FileNotFoundError(f"{model}: there is no {MODEL_INDEX} {where}, so it is no saved MaCDMPipeline.")
        has_classifier = (index.get("guidance_classifier") or [None])[0] is not None
        names = ("unet", "guidance_classifier") if has_classifier else ("unet",)
        networks = {name: trainings_of_record(_read_beside(model, TRAINING_RECORDS[name])) for name in names}
        found = cls(networks)
        return found if any(found.trainings()) else None

    @classmethod
    def from_dict(cls, record: dict) -> TrainedOn:
        return cls({name: [*map(Training.from_dict, trainings)] for name, trainings in record.items()})

    def to_dict(self) -> dict:
        return {name: [*map(_to_dict, trainings)] for name, trainings in self.networks.items()}

    def trainings(self) -> Trainings:
        """Those of all networks."""
        return [training for trainings in self.networks.values() for training in trainings]

    @property
    def unrecorded(self) -> list[str]:
        """The networks of which not every training is recorded."""
        return [name for name, trainings in self.networks.items() if None in trainings]


@dataclass(frozen=True)
class Contamination:
    """Why one case must not be measured on.

    Attributes:
        case: its name (`data.loading.case_names`).
        reason: what goes on after "the case", without a full stop: "trained the denoiser".
    """

    case: str
    reason: str


# --- what the writers of records need ---------------------------------------------------------------------------------


def trainings_of_record(record: dict | None) -> Trainings:
    """The trainings in the record of a training script, the run itself first; `[None]` without a record."""
    record = record or {}
    earlier = record.get("earlier_trainings") or []
    return _unique([Training.from_dict(record.get("data")), *map(Training.from_dict, earlier)])


def trainings_of_weights(path: str | Path, network: str) -> Trainings:
    """The trainings of a network that was saved alone: as part of a pipeline, or in a checkpoint of the training scripts.

    Args:
        path: its folder, a file, or a Hub repository.
        network: `unet` or `guidance_classifier`.
    """
    record = record_of_weights(path, network)
    if record is not None:
        return trainings_of_record(_read_json(record))
    return [None] if Path(path).exists() else trainings_of_record(_read_beside(path, TRAINING_RECORDS[network]))


def record_of_weights(path: str | Path, network: str) -> Path | None:
    """The file in which the training script has recorded the training of these weights; None where there is none."""
    folder = Path(path).resolve()
    if folder.name in ("model", "model_ema") and re.fullmatch(r"checkpoint-\d+", folder.parent.name):
        folder = folder.parent
    if re.fullmatch(r"checkpoint-\d+", folder.name):
        folder = folder.parent
        if folder.name == f"{network}_checkpoints":
            folder = folder.parent
    elif folder.name in ("unet", "weak_unet", "guidance_classifier"):
        folder = folder.parent
    record = folder / TRAINING_RECORDS[network]
    return record if record.is_file() else None


def trainings_of_data(data: str | Path, pairs: datasets.Dataset) -> Trainings:
    """What stands behind training data that are synthetic: the model that made them, and its real cases.

    Args:
        data: folder or Hub repository of the set.
        pairs: its cases, as `load_pairs` reads them.

    Returns:
        An empty list for real data.
    """
    if not any(model is not None for model in (pairs["model"] if "model" in pairs.column_names else ())):
        return []
    provenance = _read_provenance(Path(data))
    if provenance is None or provenance[0] is None:
        return [None]
    trained_on, sources, _ = provenance
    behind = trained_on.trainings()
    if sources:
        patients = {source.get("patient_id") for source in sources.values()} - {None}
        digests = {case: source.get("image_sha256") for case, source in sources.items()}
        behind.append(Training.from_dict({"image_sha256": digests, "patients": patients}))
    return _unique(behind)


def earlier_trainings(before: dict | None, now: dict) -> list[dict | None]:
    """`earlier_trainings` for the record `now` of a run that goes on from the run with the record `before`."""
    earlier = [*map(Training.from_dict, now.get("earlier_trainings") or [])]
    old, new = ((record or {}).get("data") or {} for record in (before, now))
    old_training, new_training = Training.from_dict(old), Training.from_dict(new)
    if old_training is None:  # written before digests were: the names of the cases must do
        same = bool(old.get("cases")) and old["cases"] == new.get("cases")
    else:
        same = new_training is not None and old_training.images.keys() <= new_training.images.keys()
    earlier += [*([] if same else [old_training]), *map(Training.from_dict, (before or {}).get("earlier_trainings") or [])]
    return [*map(_to_dict, _unique(earlier))]


def provenance_record(trained_on: TrainedOn | None, sources: Mapping[str, dict] | None = None) -> dict:
    """The part `provenance` of a synthetic set's `generation.json`.

    Args:
        trained_on: what trained the model; None when nothing is recorded.
        sources: `{"image_sha256": digest, "patient_id": id or None}` of each real case that the rows name in `source` or
            `masks_from`, by its name there.
    """
    return {"trained_on": None if trained_on is None else trained_on.to_dict(), "sources": dict(sources or {})}


def digests_alone(record: dict | None) -> dict | None:
    """A training as it may be published: the digests of its radiographs, sorted, and neither a case nor a patient."""
    training = Training.from_dict(record)
    return None if training is None else {"image_sha256": sorted(training.images)}


def digests_of_training(*, model: str | Path | None = None, synthetic: str | Path | None = None) -> set[str] | None:
    """Digests of the radiographs that trained the denoiser of a model, or of the model behind a synthetic set; None where no
    record tells."""
    if model is not None:
        trained_on = TrainedOn.read(model)
    else:
        provenance = _read_provenance(Path(synthetic))
        trained_on = None if provenance is None else provenance[0]
    trainings = [] if trained_on is None else trained_on.networks.get("unet", [])
    return {digest for training in trainings if training for digest in training.images} or None


# --- the guard --------------------------------------------------------------------------------------------------------


def contaminated_cases(
    real: str | Path,
    split: str,
    *,
    synthetic: str | Path | None = None,
    model: str | Path | None = None,
    allow_unrecorded: bool = False,
) -> list[Contamination]:
    """The cases of one split of real data that a model was trained with or a synthetic set was made from.

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
    names = case_names(pairs)
    patients = pairs["patient_id"] if "patient_id" in pairs.column_names else [None] * len(names)
    images = pairs.select_columns(["image"])
    for index, (name, patient) in enumerate(zip(names, patients, strict=True)):
        try:
            digest = radiograph_digest(radiograph_array(images[index]["image"]))
        except (ValueError, OSError) as error:
            raise ValueError(f"{real}, split {split!r}, {name}: {error}") from error
        yield _Case(name, digest, None if patient is None else str(patient))


def _names_elsewhere(real: str | Path, split: str) -> set[str]:
    """Names of the cases of the other splits."""
    names = set()
    for other in SPLITS:
        if other != split:
            with contextlib.suppress(MissingSplit):
                names.update(case_names(load_pairs(real, other)))
    return names


def _by_training(case: _Case, networks: Mapping[str, Trainings]) -> list[str]:
    """How the trainings have seen the case: by its pixels, or else by its patient."""
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
    """What a synthetic set says about itself, by what a real case is found by."""

    USES = {"source": "is what {} started from", "masks_from": "gave its masks to {}"}

    def __init__(self, folder: Path):
        rows = _read_rows(folder)
        provenance = _read_provenance(folder)
        self.trained_on, sources, self.split = provenance or (None, {}, _settings(folder).get("split"))
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
        """What the set does not tell, a clause for each."""
        reasons = _missing(self.trained_on)
        if self.by_name:
            reasons.append(f"nothing records the pixels of {len(self.by_name)} real cases that its pairs were made from")
        return reasons

    def made_from(self, case: _Case, split: str, elsewhere: Collection[str]) -> list[str]:
        """The pairs that were made from the case, or else from its patient.

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


# --- files ------------------------------------------------------------------------------------------------------------


def _settings(folder: Path) -> dict:
    """Those of `generation.json`; empty without the file."""
    path = folder / GENERATION
    settings = (_read_json(path).get("settings") or {}) if path.is_file() else {}
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: its part 'settings' is not a JSON object.")
    return settings


def _read_provenance(folder: Path) -> tuple[TrainedOn | None, dict[str, dict], str | None] | None:
    """The part `provenance` of `generation.json` and the split of the real cases in it; None where there is none."""
    path = folder / GENERATION
    record = _read_json(path).get("provenance") if path.is_file() else None
    if record is None:
        return None
    try:
        trained_on = None if record["trained_on"] is None else TrainedOn.from_dict(record["trained_on"])
        return trained_on, {name: dict(source) for name, source in record["sources"].items()}, _settings(folder).get("split")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: its part 'provenance' cannot be read: {error!r}") from error


def _read_rows(folder: Path) -> list[dict]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; the folder of a synthetic set is needed.")
    metadata = [folder / split / METADATA for split in SPLITS if (folder / split / METADATA).is_file()]
    if not metadata:
        raise FileNotFoundError(f"{folder}: there is no train/{METADATA}, so it is no set in the project's layout.")
    rows = []
    for path in metadata:
        try:
            rows += [dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not valid JSON, line by line: {error}") from error
    return rows


def _read_beside(model: str | Path, name: str) -> dict | None:
    """A JSON file of a folder or of a Hub repository; None where there is none."""
    path = Path(model) / name
    if not Path(model).exists():
        try:
            repo_id, revision = split_revision(model)
            path = Path(hf_hub_download(repo_id, name, revision=revision))
        except (EntryNotFoundError, HFValidationError, OSError):
            return None
    return _read_json(path) if path.is_file() else None


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object.")
    return content


def _to_dict(training: Training | None) -> dict | None:
    return None if training is None else training.to_dict()


def _unique(trainings: Iterable[Training | None]) -> Trainings:
    found: Trainings = []
    for training in trainings:
        if training not in found:
            found.append(training)
    return found
