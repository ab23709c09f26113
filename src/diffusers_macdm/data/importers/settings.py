"""The options of `macdm import-folder`, `macdm import-coco`, `macdm import-dicom` and `macdm roi`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ...checks import check_at_least


Column = Annotated[str | None, tyro.conf.arg(metavar="COLUMN")]


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """What every importer is told.

    Attributes:
        labels: CSV file with a line for each film and a header: the film's file name, and what else is known about it.
        name_column: Its column with the film's name; the first one when not given.
        label_column: Its column with the label: 0 (normal), 1, 2, ..., or names, one of them "normal"; `label` where there is
            one when not given. Without labels a film is 1 where it has a lesion mask and 0 where it has none.
        patient_column: Its column with the patient; `patient_id` where there is one when not given.
        site_column: Its column with the site (hospital, view, ...); `site` where there is one when not given. Of several
            columns, which tick a film with 1, the names of the ticked ones are joined by "+".
        split_column: Its column with the split (train, validation, test); the films are divided by --splits when not given.
        patient_pattern: Regular expression that finds the patient in a film's name (path without suffix); its first group where
            it has one. "^[^_/]+" takes what stands before the first "_" or "/".
        splits: Shares of train, validation and test, by patient; 0 leaves a split out.
        seed: Of the division into splits.
        unannotated: What a film is that has no lesion mask and no label of normal: normal, or left out.
        widen_anatomy: Add lesion pixels outside of the anatomy mask to it; without it such a film is left out.
    """

    labels: Annotated[Path | None, tyro.conf.arg(metavar="CSV")] = None
    name_column: Column = None
    label_column: Column = None
    patient_column: Column = None
    site_column: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    split_column: Column = None
    patient_pattern: Annotated[str | None, tyro.conf.arg(metavar="REGEX")] = None
    splits: Annotated[tuple[float, float, float], tyro.conf.arg(metavar="TRAIN VALIDATION TEST")] = (0.7, 0.15, 0.15)
    seed: int = 0
    unannotated: Literal["normal", "leave-out"] = "normal"
    widen_anatomy: bool = False

    def __post_init__(self):
        check_at_least(self, seed=0)
        columns = {"name": self.name_column, "label": self.label_column, "patient": self.patient_column}
        columns |= {"site": self.site_column or None, "split": self.split_column}
        for name, column in columns.items():
            if column is not None and self.labels is None:
                raise ValueError(f"--{name}-column needs --labels: the file that has this column.")
        if self.patient_pattern is not None:
            if self.patient_column is not None:
                raise ValueError("--patient-pattern and --patient-column both say who the patient is; one of them is allowed.")
            try:
                re.compile(self.patient_pattern)
            except re.error as error:
                raise ValueError(f"patient_pattern={self.patient_pattern} is no regular expression ({error}).") from error
        shares = self.splits
        if not (min(shares) >= 0 and shares[0] > 0 and math.isclose(sum(shares), 1, abs_tol=1e-6)):
            raise ValueError(
                f"--splits {' '.join(f'{share:g}' for share in shares)} is not allowed: three shares that add up to 1 are "
                "needed, that of train above 0."
            )


@dataclass(frozen=True, kw_only=True)
class ImageFileSettings(ImportSettings):
    """What importers of image files are told besides.

    Attributes:
        bits: Bits that the values of 16-bit files have (10, 12, 14, 16, ...); they are stretched to 16. When not given, a file
            without a value above 4095 has 12 bits, and a set of both kinds is refused.
    """

    bits: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.bits is not None and not 9 <= self.bits <= 16:
            raise ValueError(f"bits={self.bits} is not allowed: 9 to 16 are.")


@dataclass(frozen=True)
class FolderSettings(ImageFileSettings):
    """Bring a folder of films and of masks with the same names into the project's layout.

    PNG, TIFF, JPEG and others, 8 or 16 bits. Films are written as grayscale PNG of the same depth. Each file that is left out
    is named with the reason; the exit code is 1 then.

    Attributes:
        src: Folder that holds everything.
        out: New folder.
        films: Where the films are: a folder below SRC ("." for SRC itself), with the folders in it.
        anatomy: Where the anatomy masks are, under the films' names; `anatomy` where there is one when not given.
            "masks/{name}_bone" says how their names differ.
        lesion: Where the lesion masks are, likewise; `lesion` where there is one when not given.
    """

    src: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    films: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "images"
    anatomy: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    lesion: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None


@dataclass(frozen=True)
class CocoSettings(ImageFileSettings):
    """Bring films with outlines in a COCO file into the project's layout.

    Polygons and run lengths (RLE). Films are written as grayscale PNG of the same depth. Each film that is left out is named
    with the reason; the exit code is 1 then.

    Attributes:
        images: Folder of the films, with the folders in it.
        json: COCO file.
        out: New folder.
        lesion: Categories whose outlines are lesions. Of several, each is a label of its own, 1, 2, ... in this order, where
            there are no labels from elsewhere.
        anatomy: Categories whose outlines are the anatomy.
    """

    images: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    json: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="JSON")]
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    lesion: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CATEGORY ...")] = ()
    anatomy: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CATEGORY ...")] = ()


@dataclass(frozen=True)
class DicomSettings(ImportSettings):
    """Bring DICOM radiographs, with masks as image files beside them, into the project's layout.

    Values go through the file's rescaling and window to 16 bits; MONOCHROME1 is inverted. Neither name, date nor number of a
    patient is written, nor the name of a file. Each film that is left out is named with the reason; the exit code is 1 then.

    Attributes:
        src: Folder of the DICOM files, with the folders in it.
        out: New folder.
        key: File with the key of the patients' pseudonyms; a new one is made where there is none. The same key gives the same
            pseudonyms. It stays with you: whoever has it can tell who is who.
        anatomy: Name of the anatomy mask of a film {name}, in the folder of the film, without suffix.
        lesion: Name of the lesion mask, likewise.
        modality: Modalities that are taken.
        window: Map values to gray by the first window (or lookup table) of each file, or the whole range of its stored values.
        take_burned_in: Take films whose tag says that text is burned into them, which may be a name; without it they are left
            out.
    """

    src: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    key: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    anatomy: Annotated[str, tyro.conf.arg(metavar="NAME")] = "{name}_anatomy"
    lesion: Annotated[str, tyro.conf.arg(metavar="NAME")] = "{name}_lesion"
    modality: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CODE ...")] = ("CR", "DX", "RF")
    window: Literal["file", "none"] = "file"
    take_burned_in: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in (self.anatomy, self.lesion):
            if name.count("{name}") != 1 or "/" in name:
                raise ValueError(f"{name} is not allowed as the name of a mask: {{name}} stands in it once, and no folder.")


@dataclass(frozen=True)
class RegionSettings:
    """Cut square regions of interest out of the films of a set.

    Around the lesion in films that have one, shifted at random; in other films at places along the anatomy that are drawn like
    those of the lesions. Masks, patient, site and split stay those of the film; where in the film a region lies is kept in
    its line.

    Attributes:
        data: Set in the project's layout, with lesion masks.
        out: New folder.
        side: Side of a region, as a share of the film's long side; --size pixels of the film when not given.
        size: Side in pixels that the regions are resampled to; as many as in the film when not given.
        per_film: Regions of each film.
        shift: Largest shift of a region from the place that it is around, across and down, as a share of its side; below 0.5.
        seed: Everything random follows from it.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    side: Annotated[float | None, tyro.conf.arg(metavar="FRACTION")] = None
    size: Annotated[int | None, tyro.conf.arg(metavar="S")] = None
    per_film: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    shift: float = 0.25
    seed: int = 0

    def __post_init__(self):
        check_at_least(self, size=8, per_film=1, seed=0)
        if self.side is None and self.size is None:
            raise ValueError("--side or --size is needed: how large a region is in the film, or in pixels.")
        if self.side is not None and not 0 < self.side <= 1:
            raise ValueError(
                f"side={self.side} is not allowed: a share of the film's long side, above 0 and up to 1, is needed."
            )
        if not 0 <= self.shift < 0.5:
            raise ValueError(f"shift={self.shift} is not allowed: 0 or more and below 0.5 is needed.")
