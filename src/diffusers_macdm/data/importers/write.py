"""From films and masks, wherever they come from, to a set in the project's layout that `macdm check` finds no fault in.

Each film is decoded by the one decoder and looked at by the checks of `macdm check`; what is at fault is left out by name.
Films are divided into splits when it is known which of them are taken; a set that is not whole leaves nothing behind.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...files import new_folder, refuse_filled, write_json, write_json_lines
from ...macdm.joint_sample import MASK_WORDS, MASKS
from ...progress import Progress
from ..check import check_labels
from ..check_cases import CaseInspection
from ..decoding import Case, Decoded, ImageFile
from ..faults import Fault, Report, shown
from ..labels import is_normal, number_labels
from ..layout import FOLDERS, METADATA, SPLITS
from ..reader import FILE_NAME_COLUMNS, read_folder
from ..splits import check_patients, split_by_patient
from .films import decode_film, film_values, stretched, write_film, write_mask
from .settings import ImportSettings
from .tables import Table, read_table


RECORD_FILE = "import.json"  # of a set that was imported: what was left out, and why
STAGING = "films"  # folder of the films until their splits are known
DUPLICATE = "duplicate radiograph"  # a kind of fault


@dataclass(frozen=True)
class Source:
    """A film with its masks, as a reader found it.

    Attributes:
        name: path of the film without suffix, with "/"; what tables and patterns know it by.
        files: image column -> its file; None for the lesion mask of a film that has none, and no key for a mask that the set
            does not have.
        label: class that the reader knows, when its lesion mask is not empty; 1 when None.
        values: what else the reader knows: `patient_id`, `site`, further columns.
        new_name: what its files are called in the set; `name` when None.
    """

    name: str
    files: Mapping[str, ImageFile | None]
    label: int | None = None
    values: Mapping[str, object] = field(default_factory=dict)
    new_name: str | None = None


@dataclass
class Imported:
    """What came of an import.

    Attributes:
        taken: split -> number of films that are in it; empty where nothing was written.
        refused: why nothing was written, where the films make no set; None else.
        left_out: what was left out without being asked for.
        as_asked: what was left out because the options say so.
        notes: what is worth a look.
        out: the folder.
    """

    out: Path
    taken: dict[str, int] = field(default_factory=dict)
    left_out: list[Fault] = field(default_factory=list)
    as_asked: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)
    refused: str | None = None

    def leave_out(self, file: str, kind: str, reason: str) -> None:
        self.left_out.append(Fault(shown(file), shown(reason), kind))

    def leave_out_as_asked(self, file: str, kind: str, reason: str) -> None:
        self.as_asked.append(Fault(shown(file), shown(reason), kind))

    def note(self, file: str, kind: str, reason: str) -> None:
        self.notes.append(Fault(shown(file), shown(reason), kind))


def import_sources(
    command: str,
    sources: Sequence[Source],
    masks: Sequence[str],
    settings: ImportSettings,
    imported: Imported,
    bits: int | None = None,
    pseudonym: Callable[[str], str] | None = None,
    show_progress: bool = True,
) -> Imported:
    """Write what can be used of these films to `imported.out`; `imported.refused` says why nothing was written.

    Args:
        command: name of the command, for the record.
        sources: the films.
        masks: those of `MASKS` that the set has.
        settings: labels, patients, splits.
        imported: has what the reader left out already; gets the rest.
        bits: of the values in 16-bit files, as `--bits` says them.
        pseudonym: what stands in the set for a patient; the patient itself when None. Where there is one, names of files are in
            no record either.
        show_progress: whether to show a progress bar on stderr.

    Raises:
        FileExistsError: when `imported.out` is no new folder.
        ValueError: when the table is at fault, or nothing could say which films are normal.
    """
    refuse_filled(imported.out)
    table = read_table(settings)
    labels_known = table is not None and table.columns["label_column"]
    if "lesion_mask" not in masks and not labels_known:
        raise ValueError(
            f"there are {MASK_WORDS[MASKS[0]]} and no {MASK_WORDS[MASKS[1]]}: --labels with a column for the label has "
            "to say which films are normal."
        )
    taker = _Taker(settings, table, tuple(masks), imported, bits, pseudonym)
    try:
        with new_folder(imported.out) as folder:
            staging = folder / STAGING
            for column in ("image", *masks):
                (staging / FOLDERS[column]).mkdir(parents=True)
            with Progress(len(sources), command, "film", show=show_progress) as progress:
                for source in sources:
                    taker.take(source, staging)
                    progress.update()
            if table is not None and (unused := table.unused()) is not None:
                imported.note(table.name, "lines without a film", unused)
            taker.check_as_a_whole()
            imported.taken = _divide(folder, taker.rows, settings, imported)
            _record(folder, command, settings, imported, with_names=pseudonym is None)
    except _Refused as error:
        imported.taken, imported.refused = {}, str(error)
    return imported


class _Refused(ValueError):
    """Ends an import whose films, read one by one, make no set: no folder is made."""


class _Taker:
    """Decodes one film after the other and writes those that can be used.

    Attributes:
        rows: the line of each film that is taken, with its `split` where the table says it.
    """

    def __init__(
        self,
        settings: ImportSettings,
        table: Table | None,
        masks: tuple[str, ...],
        imported: Imported,
        bits: int | None,
        pseudonym: Callable[[str], str] | None,
    ):
        self.settings, self.table, self.masks, self.imported = settings, table, masks, imported
        self.bits, self.pseudonym = bits, pseudonym
        self.rows: list[dict] = []
        self._whole = CaseInspection(Report())
        self._first_with_content: dict[str, str] = {}  # digest of a radiograph -> its file
        self._names: set[str] = set()

    def take(self, source: Source, staging: Path) -> None:
        """Write the film and its masks, or say why it is left out."""
        film = source.files["image"].name
        try:
            values = self._values(source)
        except ValueError as error:
            return self.imported.leave_out(film, "unknown film", str(error))
        if self._is_unannotated(source, values):
            return self.imported.leave_out_as_asked(
                film, "unannotated", "has no lesion mask, and no label says that it is normal."
            )
        decoded = decode_film(Case(f"{source.name}:", values, dict(source.files)))
        if decoded.refusals:
            return self._leave_out(film, decoded.refusals)
        if "label" not in values:
            values["label"] = (source.label or 1) if decoded.lesion_mask.any() else 0
        if self.settings.widen_anatomy and decoded.anatomy_mask is not None and decoded.lesion_mask is not None:
            decoded.anatomy_mask = decoded.anatomy_mask | decoded.lesion_mask
        faults = self._faults(source, values, decoded)
        try:
            pixels = film_values(decoded)
            if self.bits is not None and decoded.depth in (12, 16):
                pixels, decoded.depth = stretched(pixels, self.bits), 16
        except ValueError as error:
            faults.append(Fault(film, str(error), "not allowed values"))
        if faults:
            return self._leave_out(film, faults)
        return self._write(source, values, decoded, pixels, staging)

    def check_as_a_whole(self) -> None:
        """Refuse a set of several depths, one that is dark throughout, and one whose labels do not fit together."""
        self._whole.compare_all()
        for fault in self._whole.report.faults:
            remedy = (
                ""
                if set(self._whole.first_of_depth) <= {1, 8}
                else " --bits says how many bits the values of 16-bit files have."
            )
            raise _Refused(f"{fault.file} {fault.reason}{remedy}")
        if not self.rows:
            raise _Refused("no film is left.")
        try:
            number_labels({"train": [row["label"] for row in self.rows]})
        except ValueError as error:
            raise _Refused(f"--labels {self.settings.labels}: {error}") from error

    def _leave_out(self, film: str, faults: Sequence[Fault]) -> None:
        """Leave a film out, with every reason; what is wrong with a mask is said of the film, and names the mask."""
        for fault in faults:
            reason = fault.reason if fault.file == film else f"{fault.file}: {fault.reason}"
            self.imported.leave_out(film, fault.kind, reason)

    def _values(self, source: Source) -> dict:
        """Return label, patient, site and split of a film, what is known of them.

        Raises:
            ValueError: when it has to be left out, with the reason.
        """
        values = dict(source.values)
        if self.table is not None:
            values |= self.table.values(source.name)
            label = values.get("label")
            has_mask = source.files.get("lesion_mask") is not None
            if "lesion_mask" in self.masks and label is not None and not is_normal(label) and not has_mask:
                raise ValueError(f"label {label!r} means a lesion, but there is no lesion mask.")
            if not self.table.columns["label_column"]:
                values.pop("label", None)
        if self.settings.patient_pattern is not None:
            found = re.search(self.settings.patient_pattern, source.name)
            patient = found and (found[1] if found.re.groups else found[0])
            if not patient:
                raise ValueError(f"--patient-pattern {self.settings.patient_pattern} finds no patient in its name.")
            values["patient_id"] = patient
        if self.pseudonym is not None and values.get("patient_id") is not None:
            values["patient_id"] = self.pseudonym(str(values["patient_id"]))
        return values

    def _is_unannotated(self, source: Source, values: dict) -> bool:
        """Whether a film is to be left out since nothing says that it is normal."""
        has_mask = "lesion_mask" not in self.masks or source.files["lesion_mask"] is not None
        return self.settings.unannotated == "leave-out" and not has_mask and not is_normal(values.get("label"))

    def _faults(self, source: Source, values: dict, decoded: Decoded) -> list[Fault]:
        """Return what `macdm check` would say against the film, and note what is odd about it."""
        label = values["label"]
        number = label if isinstance(label, int | None) else int(not is_normal(label))
        inspection = CaseInspection(Report())
        inspection.check("train", Case("", {"label": number}, dict(source.files)), decoded)
        odd = [fault for fault in inspection.report.faults if fault in decoded.findings]
        faults = [fault for fault in inspection.report.faults if fault not in odd]
        if faults:
            return faults
        for digest, of_split in inspection.first_with_content.items():
            first = self._first_with_content.setdefault(digest, of_split["train"])
            if first != of_split["train"]:
                return [Fault(of_split["train"], f"has the same content, pixel by pixel, as {first}.", DUPLICATE)]
        for fault in [*odd, *inspection.report.notes]:
            self.imported.note(fault.file, fault.kind, fault.reason)
        if self.bits is None:
            for depth, file in inspection.first_of_depth.items():
                self._whole.first_of_depth.setdefault(depth, file)
            for depth, brightest in inspection.brightest.items():
                self._whole.brightest[depth] = max(self._whole.brightest.get(depth, 0), brightest)
        return []

    def _write(self, source: Source, values: dict, decoded: Decoded, pixels: np.ndarray, staging: Path) -> None:
        name = self._new_name(source.new_name or source.name)
        row = {FILE_NAME_COLUMNS["image"]: f"{FOLDERS['image']}/{name}.png"}
        write_film(staging / row[FILE_NAME_COLUMNS["image"]], pixels)
        for column in self.masks:
            mask = getattr(decoded, column)
            if column == "lesion_mask" and not mask.any() and is_normal(values["label"]):
                row[FILE_NAME_COLUMNS[column]] = None
                continue
            row[FILE_NAME_COLUMNS[column]] = f"{FOLDERS[column]}/{name}.png"
            write_mask(staging / row[FILE_NAME_COLUMNS[column]], mask)
        self.rows.append(row | {key: value for key, value in values.items() if value is not None or key == "label"})

    def _new_name(self, name: str) -> str:
        """Return a file name without folders that no other film has, in whatever case its letters are."""
        plain = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", name).strip(". ") or "film"
        chosen, number = plain, 1
        while chosen.casefold() in self._names:
            number += 1
            chosen = f"{plain}_{number}"
        self._names.add(chosen.casefold())
        return chosen


def _divide(folder: Path, rows: list[dict], settings: ImportSettings, imported: Imported) -> dict[str, int]:
    """Move the films into their splits, and write their lines; return the number of films of each split."""
    patients = [row.get("patient_id") for row in rows]
    unknown = patients.count(None)
    if unknown:
        how_many = "the films have" if unknown == len(rows) else f"{unknown} films have"
        reason = (
            f"{how_many} no patient: each counts as a patient of its own. Where several are of one, say so by a column of "
            "--labels or by --patient-pattern, or the same patient may be in two splits."
        )
        imported.note(METADATA, "no patients", reason)
    splits = _splits(rows, patients, settings, imported)
    for split, indices in splits.items():
        of_split = [{key: value for key, value in rows[index].items() if key != "split"} for index in indices]
        for column, name in FOLDERS.items():
            if FILE_NAME_COLUMNS[column] in rows[0]:
                (folder / split / name).mkdir(parents=True)
        for row in of_split:
            for column in FILE_NAME_COLUMNS.values():
                if row.get(column) is not None:
                    (folder / STAGING / row[column]).rename(folder / split / row[column])
        write_json_lines(folder / split / METADATA, of_split)
    for name in sorted((folder / STAGING).iterdir()):
        name.rmdir()
    (folder / STAGING).rmdir()
    report, written = Report(), read_folder(folder)
    check_labels(written, report)
    for fault in [*written.refusals, *written.faults, *report.faults]:
        raise _Refused(f"the set would have a fault: {fault.file}: {fault.reason}")
    return {split: len(indices) for split, indices in splits.items()}


def _splits(rows: list[dict], patients: list, settings: ImportSettings, imported: Imported) -> dict[str, list[int]]:
    """Return the films of each split: as the table says, or divided by patient and, as well as that allows, by label."""
    if any("split" in row for row in rows):
        splits = {split: [index for index, row in enumerate(rows) if row["split"] == split] for split in SPLITS}
        splits = {split: indices for split, indices in splits.items() if indices}
        try:
            check_patients({split: [patients[index] for index in indices] for split, indices in splits.items()})
        except ValueError as error:
            raise _Refused(f"--split-column {settings.split_column}: {error}") from error
        if "train" not in splits:
            raise _Refused(f"--split-column {settings.split_column}: no film that can be used is in the split train.")
        return splits
    fractions = {split: share for split, share in zip(SPLITS, settings.splits, strict=True) if share > 0}
    total = math.fsum(fractions.values())
    fractions = {split: share / total for split, share in fractions.items()}
    labels = [row["label"] for row in rows]
    for by_label in (labels, [None] * len(rows)):
        try:
            splits = split_by_patient(patients, by_label, fractions, settings.seed)
        except ValueError:  # a split would be empty
            continue
        if by_label is not labels:
            reason = "too few patients to divide each label in these shares: the films are divided without regard to labels."
            imported.note(METADATA, "few patients", reason)
        return splits
    num_patients = len(set(patients) - {None}) + patients.count(None)
    raise _Refused(
        f"{len(rows)} films of {num_patients} patient{'s' if num_patients > 1 else ''} are too few for --splits "
        f"{' '.join(f'{share:g}' for share in settings.splits)}: a split would be empty. --splits 1 0 0 makes one of all."
    )


def _record(folder: Path, command: str, settings: ImportSettings, imported: Imported, with_names: bool) -> None:
    """Write what was taken and left out; no path of the machine is in it."""
    content = {
        "command": command,
        "taken": imported.taken,
        "splits": list(settings.splits),
        "seed": settings.seed,
        "left_out": _faults(imported.left_out, with_names),
        "left_out_as_asked": _faults(imported.as_asked, with_names),
        "notes": dict(Counter(fault.kind for fault in imported.notes)),
    }
    write_json(folder / RECORD_FILE, content)


def _faults(faults: Sequence[Fault], with_names: bool) -> list[dict]:
    """Return faults for the record; without names the kinds alone, since a reason names files, too."""
    return [vars(fault) if with_names else {"kind": fault.kind} for fault in faults]
