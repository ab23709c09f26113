"""Records of which cases trained a model and stand behind a synthetic set.

- `training_config.json` (denoiser) and `guidance_classifier_training_config.json`, written by the training scripts: in
  `data`, the patients and the digest of each training radiograph; in `earlier_trainings`, those of the trainings that the run
  went on from: pretrained weights, a resumed run on other data, the model behind synthetic training data;
- `generation.json` of a synthetic set, written by `macdm generate`: in `provenance`, what trained the model's networks, so that
  the guard needs no model, and the digest and the patient of each real case that a pair was made from.

Radiographs are told apart by `data.loading.radiograph_digest`, never by their file names, which mean nothing outside of one
folder; patients by `patient_id` as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from ..data.layout import METADATA, SPLITS
from ..data.loading import load_pairs
from ..data.pairs import Pairs
from ..files import read_json
from ..hub.names import refuse_no_repository, split_revision


MODEL_INDEX, GENERATION = "model_index.json", "generation.json"
TRAINING_RECORDS = {  # network of a pipeline -> the record of its training, beside the pipeline's folders
    "unet": "training_config.json",
    "guidance_classifier": "guidance_classifier_training_config.json",
}


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
        """Read `image_sha256` (case -> digest, or digests alone) and `patients`; None for a record that lacks the digests."""
        digests = (record or {}).get("image_sha256")
        if not digests or not isinstance(digests, (dict, list)):
            return None
        images = {digest: case for case, digest in digests.items()} if isinstance(digests, dict) else dict.fromkeys(digests)
        return cls(images, frozenset(map(str, record.get("patients") or ())))

    def to_dict(self) -> dict:
        """Return the inverse of `from_dict`, except that of two cases with the same pixels one name is kept."""
        named = None not in self.images.values()
        digests = {case: digest for digest, case in self.images.items()} if named else sorted(self.images)
        return {"patients": sorted(self.patients), "image_sha256": digests}


Trainings = list[Training | None]  # None is one of which nothing tells the cases


@dataclass(frozen=True)
class TrainedOn:
    """The trainings of a model.

    Attributes:
        networks: `unet` and, where there is one, `guidance_classifier` -> its trainings, the last one first.
    """

    networks: Mapping[str, Trainings]

    @classmethod
    def read(cls, model: str | Path) -> TrainedOn | None:
        """Read what is recorded beside a saved pipeline; None when that is nothing.

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
        files = {name: TRAINING_RECORDS[name] for name in names}
        networks = {name: trainings_of_record(_read_beside(model, file), f"{model}, {file}") for name, file in files.items()}
        found = cls(networks)
        return found if any(found.trainings()) else None

    @classmethod
    def from_dict(cls, record: dict) -> TrainedOn:
        return cls({name: [*map(Training.from_dict, trainings)] for name, trainings in record.items()})

    def to_dict(self) -> dict:
        return {name: [*map(_training_dict, trainings)] for name, trainings in self.networks.items()}

    def trainings(self) -> Trainings:
        """Return those of all networks."""
        return [training for trainings in self.networks.values() for training in trainings]

    @property
    def unrecorded(self) -> list[str]:
        """Names of the networks of which not every training is recorded."""
        return [name for name, trainings in self.networks.items() if None in trainings]


def trainings_of_record(record: dict | None, source: str | Path | None = None) -> Trainings:
    """Return the trainings in the record of a training script, the run itself first; `[None]` without a record.

    Raises:
        ValueError: naming `source` where something else stands in it.
    """
    record = record or {}
    try:
        earlier = record.get("earlier_trainings") or []
        return _unique([Training.from_dict(record.get("data")), *map(Training.from_dict, earlier)])
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{source or 'a record'} cannot be read as the record of a training: {error!r}") from error


def trainings_of_weights(path: str | Path, network: str) -> Trainings:
    """Return the trainings of a network saved alone: part of a pipeline, or in a checkpoint of the training scripts.

    Args:
        path: its folder, a file, or a Hub repository.
        network: `unet` or `guidance_classifier`.
    """
    record = record_of_weights(path, network)
    if record is not None:
        return trainings_of_record(read_json(record, None), record)
    return [None] if Path(path).exists() else trainings_of_record(_read_beside(path, TRAINING_RECORDS[network]))


def record_of_weights(path: str | Path, network: str) -> Path | None:
    """Return the file in which the training script has recorded the training of these weights; None where there is none."""
    folder = Path(path).resolve()
    if folder.name in ("model", "model_ema") and re.fullmatch(r"checkpoint-\d+", folder.parent.name):
        folder = folder.parent
    if re.fullmatch(r"checkpoint-\d+", folder.name):
        if (folder / TRAINING_RECORDS[network]).is_file():  # its own, of the run that wrote it; not in those of 0.1.0
            return folder / TRAINING_RECORDS[network]
        folder = folder.parent
        if folder.name == f"{network}_checkpoints":
            folder = folder.parent
    elif folder.name in ("unet", "weak_unet", "guidance_classifier"):
        folder = folder.parent
    record = folder / TRAINING_RECORDS[network]
    return record if record.is_file() else None


def trainings_of_data(data: str | Path, pairs: Pairs) -> Trainings:
    """Return the trainings behind training data that are synthetic: the model that made them, and its real cases.

    Args:
        data: folder or Hub repository of the set.
        pairs: its cases, as `load_pairs` reads them.

    Returns:
        An empty list for real data.
    """
    if not any(model is not None for model in (pairs["model"] if "model" in pairs.column_names else ())):
        return []
    provenance = read_provenance(Path(data))
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
    """Return `earlier_trainings` for the record `now` of a run that goes on from the run with the record `before`."""
    earlier = [*map(Training.from_dict, now.get("earlier_trainings") or [])]
    old, new = ((record or {}).get("data") or {} for record in (before, now))
    old_training, new_training = Training.from_dict(old), Training.from_dict(new)
    if old_training is None:  # written before digests were: the names of the cases must do
        same = bool(old.get("cases")) and old["cases"] == new.get("cases")
    else:
        same = new_training is not None and old_training.images.keys() <= new_training.images.keys()
    earlier += [*([] if same else [old_training]), *map(Training.from_dict, (before or {}).get("earlier_trainings") or [])]
    return [*map(_training_dict, _unique(earlier))]


def provenance_record(trained_on: TrainedOn | None, sources: Mapping[str, dict] | None = None) -> dict:
    """Return the part `provenance` of a synthetic set's `generation.json`.

    Args:
        trained_on: what trained the model; None when nothing is recorded.
        sources: `{"image_sha256": digest, "patient_id": id or None}` of each real case that the rows name in `source` or
            `masks_from`, by its name there.
    """
    return {"trained_on": None if trained_on is None else trained_on.to_dict(), "sources": dict(sources or {})}


def digests_alone(record: dict | None) -> dict | None:
    """Return a training as it may be published: the digests of its radiographs, sorted, and neither a case nor a patient."""
    training = Training.from_dict(record)
    return None if training is None else {"image_sha256": sorted(training.images)}


def digests_of_training(*, model: str | Path | None = None, synthetic: str | Path | None = None) -> set[str] | None:
    """Return the digests of the radiographs that trained the denoiser of a model, or of the model behind a synthetic set.

    None where no record tells.
    """
    if model is not None:
        trained_on = TrainedOn.read(model)
    else:
        provenance = read_provenance(Path(synthetic))
        trained_on = None if provenance is None else provenance[0]
    trainings = [] if trained_on is None else trained_on.networks.get("unet", [])
    return {digest for training in trainings if training for digest in training.images} or None


def read_settings(folder: Path) -> dict:
    """Return the settings in `generation.json`; empty without the file."""
    path = folder / GENERATION
    settings = (read_json(path, None).get("settings") or {}) if path.is_file() else {}
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: its part 'settings' is not a JSON object.")
    return settings


def read_provenance(folder: Path) -> tuple[TrainedOn | None, dict[str, dict], str | None] | None:
    """Return the part `provenance` of `generation.json` and the split of the real cases in it; None where there is none."""
    path = folder / GENERATION
    record = read_json(path, None).get("provenance") if path.is_file() else None
    if record is None:
        return None
    try:
        trained_on = None if record["trained_on"] is None else TrainedOn.from_dict(record["trained_on"])
        sources = {name: dict(source) for name, source in record["sources"].items()}
        return trained_on, sources, read_settings(folder).get("split")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: its part 'provenance' cannot be read: {error!r}") from error


def read_rows(folder: Path) -> list[dict]:
    """Return what a synthetic set says of each of its pairs, and `image_file_name`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; the folder of a synthetic set is needed.")
    splits = [split for split in SPLITS if (folder / split / METADATA).is_file()]
    if not splits:
        raise FileNotFoundError(f"{folder}: there is no train/{METADATA}, so it is no set in the project's layout.")
    rows = []
    for split in splits:
        pairs = load_pairs(folder, split)
        rows += [pairs[index] | {"image_file_name": file} for index, file in enumerate(pairs.files)]
    return rows


def _read_beside(model: str | Path, name: str) -> dict | None:
    """Read a JSON file of a folder or of a Hub repository; None where there is none."""
    path = Path(model) / name
    if not Path(model).exists():
        try:
            refuse_no_repository(model)
            repo_id, revision = split_revision(model)
            path = Path(hf_hub_download(repo_id, name, revision=revision))
        except (EntryNotFoundError, HFValidationError, OSError):  # of which FileNotFoundError is one
            return None
    return read_json(path, None) if path.is_file() else None


def _training_dict(training: Training | None) -> dict | None:
    return None if training is None else training.to_dict()


def _unique(trainings: Iterable[Training | None]) -> Trainings:
    found: Trainings = []
    for training in trainings:
        if training not in found:
            found.append(training)
    return found
