"""Which pairs a synthetic set has: known before anything is sampled, the same whenever the set is continued."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

from ..data.dataset import UNLABELED, PairDataset
from ..data.layout import FOLDERS, OPTIONAL_COLUMNS, require_masks
from ..data.loading import load_pairs
from ..data.sampler import shuffled
from ..macdm import MaCDMPipeline
from ..macdm.joint_sample import MASKS, NORMAL_LABEL, masks_of
from ..provenance.weights import weights_digest
from ..seeds import pair_seed
from .insertion import first_that_fits, place
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
        lesion_indices: number of the case whose lesion is painted into each pair's; empty without insertion.
    """

    rows: list[dict]
    cases: PairDataset | None
    case_indices: list[int]
    lesion_indices: list[int] = field(default_factory=list)

    def requests(self, first: int, count: int) -> list[PairRequest]:
        """Return what to sample for at most `count` pairs from number `first` on."""
        return [self._request(index) for index in range(first, min(first + count, len(self.rows)))]

    def _request(self, index: int) -> PairRequest:
        row = self.rows[index]
        if self.cases is None:
            return PairRequest(row["label"], row["seed"])
        case = self.cases[self.case_indices[index]]["joint_sample"]  # [3, H, W]
        if not self.lesion_indices:
            return PairRequest(row["label"], row["seed"], case)
        placement = place(case, self.cases[self.lesion_indices[index]]["joint_sample"], row["placement_seed"])
        return PairRequest(row["label"], row["seed"], case, placement, row["lesion_masks"] == "given")

    def sources(self) -> dict[str, dict]:
        """Return the real cases that pairs are made from, as `provenance_record` takes them."""
        return {
            self.cases.names[i]: {"image_sha256": self.cases.image_sha256(i), "patient_id": self.cases.patient_ids[i]}
            for i in sorted({*self.case_indices, *self.lesion_indices})
        }


def recorded_settings(settings: Settings, pipe: MaCDMPipeline, device: torch.device) -> dict:
    """Return what `generation.json` says of the settings and of the model, with its scheduler in place.

    Raises:
        ValueError: for class labels that the model does not know, and for insertion by one that cannot.
    """
    masks = masks_of(pipe.unet.config)
    if settings.insert_into is not None:
        why = "--insert-into needs: lesions are drawn, and laid at the same place of another anatomy"
        require_masks(masks, MASKS, f"{settings.model}: the model's training set", why)
    networks = {name: getattr(pipe, name, None) for name in ("unet", "guidance_classifier")}
    scheduler = json.loads(pipe.scheduler.to_json_string(), parse_constant=str)  # -Infinity is not JSON
    text = lambda value: None if value is None else str(value)  # noqa: E731
    # By default the model draws the outline: a moved one does not always lie where this bone could break
    # (docs/results/insertion.md).
    insertion = {"insert_into": text(settings.insert_into), "lesion_masks": settings.lesion_masks or "generated"}
    return {
        "model": str(settings.model),
        "weights_sha256": {name: weights_digest(network) for name, network in networks.items() if network is not None},
        "class_labels": _labels(pipe, settings.class_labels, settings.insert_into is not None),
        "num_per_class": settings.num_per_class,
        "from_data": text(settings.from_data),
        "strength": None if settings.strength is None else float(settings.strength),
        "masks_from": text(settings.masks_from),
        **(insertion if settings.insert_into is not None else {}),
        **({} if masks == MASKS else {"masks": list(masks)}),
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


def _labels(pipe: MaCDMPipeline, class_labels: Sequence[int] | None, inserts: bool = False) -> list[int | None]:
    known = list(range(pipe.unet.num_classes))
    if inserts:  # a normal film without a lesion is there already
        known.remove(NORMAL_LABEL)
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
        FileNotFoundError, ValueError: when the data cannot be read, have no case of a label, or lack a mask of the model.
    """
    cases, inherited, labels, members = None, {}, recorded["class_labels"], {}
    inserts, lesion_indices = recorded.get("insert_into") is not None, []
    masks = recorded.get("masks", list(MASKS))
    if data is not None:
        pairs = load_pairs(data, split)
        require_masks(pairs.masks, masks, str(data), "the model makes and which are taken from there")
        cases = PairDataset(pairs, size, null_label=UNLABELED)  # -1: unlabeled cases stand for no label
        columns = [column for column in OPTIONAL_COLUMNS if column in cases.pairs.column_names]
        inherited = {column: list(cases.pairs[column]) for column in columns}
        members = {label: [i for i, other in enumerate(cases.labels) if label in (None, other)] for label in labels}
        if inserts:
            members |= {NORMAL_LABEL: [i for i, other in enumerate(cases.labels) if other == NORMAL_LABEL]}
        for label in members:
            if not members[label]:
                raise ValueError(f"{data}, split {split!r}: there is no case with label {label} to start from.")
    folders = {column: folder for column, folder in FOLDERS.items() if column in ("image", *masks)}
    rows, case_indices = [], []
    for i in range(recorded["num_per_class"] * len(labels)):
        visit, turn = divmod(i, len(labels))
        row = {f"{column}_file_name": f"{folder}/{image_name(i)}" for column, folder in folders.items()}
        row["label"], name = labels[turn], None
        if cases is not None:
            drawn_from = members[NORMAL_LABEL if inserts else labels[turn]]
            cycle, position = divmod(visit, len(drawn_from))
            case_indices.append(int(shuffled(drawn_from, recorded["seed"], turn, cycle)[position]))
            name = cases.names[case_indices[-1]]
            # A variation shows the patient that it was made from, and must never stand in another split.
            row |= {column: values[case_indices[-1]] for column, values in inherited.items()}
        row |= {
            "model": recorded["model"],
            "seed": pair_seed(recorded["seed"], i),
            "source": name if recorded["from_data"] is not None or inserts else None,
            "masks_from": name if recorded["masks_from"] is not None else None,
        }
        if inserts:
            lesion_indices.append(_lesion_for(cases, case_indices[-1], members[labels[turn]], recorded["seed"], i))
            row |= {"lesion_from": cases.names[lesion_indices[-1]], "lesion_masks": recorded["lesion_masks"]}
            row |= {"placement_seed": row["seed"]}
        names = [field.name for field in fields(Sampling)]
        names.insert(names.index("refine_masks"), "scheduler")  # the columns' order in metadata.jsonl
        rows.append(row | {name: recorded[name] for name in names})
    return Plan(rows, cases, case_indices, lesion_indices)


def _lesion_for(cases: PairDataset, film: int, lesions: Sequence[int], seed: int, index: int) -> int:
    """Return the number of the case whose lesion is painted into a film, the first of a random order that fits."""
    order = (int(number) for number in shuffled(lesions, seed, len(cases), index))
    candidates = ((number, cases[number]["joint_sample"]) for number in order)
    chosen = first_that_fits(cases[film]["joint_sample"], candidates, pair_seed(seed, index))
    if chosen is None:
        raise ValueError(
            f"{cases.names[film]}: no lesion of the set fits into the anatomy of this film; check its anatomy mask, or leave "
            "the film out."
        )
    return chosen
