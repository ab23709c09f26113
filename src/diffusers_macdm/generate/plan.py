"""Which pairs a synthetic set has: known before anything is sampled, the same whenever the set is continued."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ..data.dataset import UNLABELED, PairDataset
from ..data.layout import FOLDERS, OPTIONAL_COLUMNS
from ..data.loading import load_pairs
from ..data.sampler import shuffled
from ..macdm import MaCDMPipeline
from ..provenance.weights import weights_digest
from ..seeds import pair_seed
from .pairs import PairRequest, Sampling
from .settings import Settings
from .synthetic_set import image_name


@dataclass(frozen=True)
class Plan:
    """The pairs of a set.

    Attributes:
        rows: row of `metadata.jsonl` of each pair, as far as it is known before sampling.
        cases: the real cases that the pairs are made from; None where they come from noise.
        case_indices: number of each pair's case; empty without cases.
    """

    rows: list[dict]
    cases: PairDataset | None
    case_indices: list[int]

    def requests(self, first: int, count: int) -> list[PairRequest]:
        """Return what to sample for at most `count` pairs from number `first` on."""
        return [
            PairRequest(row["label"], row["seed"], self._case(first + i))
            for i, row in enumerate(self.rows[first : first + count])
        ]

    def _case(self, index: int) -> torch.Tensor | None:
        return None if self.cases is None else self.cases[self.case_indices[index]]["joint_sample"]

    def sources(self) -> dict[str, dict]:
        """Return the real cases that pairs are made from, as `provenance_record` takes them."""
        return {
            self.cases.names[i]: {"image_sha256": self.cases.image_sha256(i), "patient_id": self.cases.patient_ids[i]}
            for i in sorted(set(self.case_indices))
        }


def recorded_settings(settings: Settings, pipe: MaCDMPipeline, device: torch.device) -> dict:
    """Return what `generation.json` says of the settings and of the model, with its scheduler in place.

    Raises:
        ValueError: for class labels that the model does not know.
    """
    networks = {name: getattr(pipe, name, None) for name in ("unet", "guidance_classifier")}
    scheduler = json.loads(pipe.scheduler.to_json_string(), parse_constant=str)  # -Infinity is not JSON
    text = lambda value: None if value is None else str(value)  # noqa: E731
    return {
        "model": str(settings.model),
        "weights_sha256": {name: weights_digest(network) for name, network in networks.items() if network is not None},
        "class_labels": _labels(pipe, settings.class_labels),
        "num_per_class": settings.num_per_class,
        "from_data": text(settings.from_data),
        "strength": None if settings.strength is None else float(settings.strength),
        "masks_from": text(settings.masks_from),
        "split": settings.split,
        "guidance_scale": float(settings.guidance_scale),
        "guidance_interval": [float(level) for level in settings.guidance_interval],
        "classifier_free_guidance_scale": float(settings.classifier_free_guidance_scale),
        "num_inference_steps": settings.num_inference_steps,
        "scheduler": type(pipe.scheduler).__name__,
        "scheduler_config": {name: value for name, value in sorted(scheduler.items()) if not name.startswith("_")},
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "refine_masks": settings.refine_masks,
        "reject_copies": text(settings.reject_copies),
        "device": device.type,
        "dtype": settings.dtype,
    }


def _labels(pipe: MaCDMPipeline, class_labels: Sequence[int] | None) -> list[int | None]:
    known = list(range(pipe.unet.num_classes))
    if class_labels is None:
        return known or [None]
    labels = [int(label) for label in class_labels]
    if not labels or len(set(labels)) < len(labels) or not set(labels) <= set(known):
        raise ValueError(
            f"class_labels={labels} is not allowed: this model knows {', '.join(map(str, known)) or 'no labels'}; "
            "each at most once."
        )
    return labels


def plan_pairs(recorded: dict, data: str | Path | None, split: str, size: int) -> Plan:
    """Say of each pair which label, seed and real case it has; the labels take turns, and so do the cases of a label.

    Args:
        recorded: `recorded_settings`.
        data, split: the real cases to start from, if any.
        size: side of the model's samples in pixels.

    Raises:
        FileNotFoundError, ValueError: when the data cannot be read, or have no case of a label.
    """
    cases, inherited, labels, members = None, {}, recorded["class_labels"], {}
    if data is not None:
        cases = PairDataset(load_pairs(data, split), size, null_label=UNLABELED)  # -1: unlabeled cases stand for no label
        columns = [column for column in OPTIONAL_COLUMNS if column in cases.pairs.column_names]
        inherited = {column: list(cases.pairs[column]) for column in columns}
        members = {label: [i for i, other in enumerate(cases.labels) if label in (None, other)] for label in labels}
        for label in labels:
            if not members[label]:
                raise ValueError(f"{data}, split {split!r}: there is no case with label {label} to start from.")
    rows, case_indices = [], []
    for i in range(recorded["num_per_class"] * len(labels)):
        visit, turn = divmod(i, len(labels))
        row = {f"{column}_file_name": f"{folder}/{image_name(i)}" for column, folder in FOLDERS.items()}
        row["label"], name = labels[turn], None
        if cases is not None:
            cycle, place = divmod(visit, len(members[labels[turn]]))
            case_indices.append(int(shuffled(members[labels[turn]], recorded["seed"], turn, cycle)[place]))
            name = cases.names[case_indices[-1]]
            # A variation shows the patient that it was made from, and must never stand in another split.
            row |= {column: values[case_indices[-1]] for column, values in inherited.items()}
        row |= {
            "model": recorded["model"],
            "seed": pair_seed(recorded["seed"], i),
            "source": name if recorded["from_data"] is not None else None,
            "masks_from": name if recorded["masks_from"] is not None else None,
        }
        names = [field.name for field in fields(Sampling)]
        names.insert(names.index("refine_masks"), "scheduler")  # the columns' order in metadata.jsonl
        rows.append(row | {name: recorded[name] for name in names})
    return Plan(rows, cases, case_indices)
