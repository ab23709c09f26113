"""What a lab's table says about its films: label, patient, site and split of each, by the film's name."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..beside import IMAGE_SUFFIXES
from ..decoding import read_file
from ..faults import brief, shown
from ..labels import is_label, listed
from ..layout import SPLITS
from .settings import ImportSettings


DELIMITERS = ",;\t"
# What the columns are called where no option says it.
USUAL = {"label_column": "label", "patient_column": "patient_id", "site_column": "site"}


def film_name(text: str) -> str:
    """Return what a film is called: its path with "/" and without the suffix of an image file."""
    path = PurePosixPath(text.strip().replace("\\", "/"))
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)


@dataclass
class Table:
    """The lines of a table by the name of the film.

    Attributes:
        name: how sentences call the table: its file's name.
        columns: option -> its columns in the table.
        rows: film -> number of the line and its cells by column.
        used: films that were asked for.
    """

    name: str
    columns: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, tuple[int, dict[str, str]]]
    used: set[str] = field(default_factory=set)

    def values(self, film: str) -> dict:
        """Return what the table says of a film: `label`, `patient_id`, `site` and `split`, those that it has columns for.

        Raises:
            ValueError: when no line names the film, or its label or split is none; the sentence names the line.
        """
        key = film if film in self.rows else PurePosixPath(film).name
        if key not in self.rows:
            raise ValueError(f"no line of {self.name} names it.")
        self.used.add(key)
        line, row = self.rows[key]
        found: dict = {}
        if columns := self.columns.get("label_column"):
            found["label"] = _label(row[columns[0]], f"{self.name}:{line}")
        if columns := self.columns.get("patient_column"):
            found["patient_id"] = row[columns[0]] or None
        if columns := self.columns.get("site_column"):
            ticked = [column for column in columns if row[column] not in ("", "0", "0.0")]
            found["site"] = (row[columns[0]] if len(columns) == 1 else "+".join(ticked)) or None
        if columns := self.columns.get("split_column"):
            found["split"] = row[columns[0]]
            if found["split"] not in SPLITS:
                raise ValueError(
                    f"{self.name}:{line} gives it the split {brief(row[columns[0]])}; {', '.join(SPLITS)} are allowed."
                )
        return found

    def unused(self) -> str | None:
        """Say which lines name no film; None where there is none."""
        names = [name for name in self.rows if name not in self.used]
        if not names:
            return None
        return f"{len(names)} line{'s' if len(names) > 1 else ''} name{'' if len(names) > 1 else 's'} no film: {listed(names)}."


def read_table(settings: ImportSettings) -> Table | None:
    """Read `settings.labels`; None where there is none.

    Separators are comma, semicolon or tab, whichever the header has most of.

    Raises:
        ValueError: when it cannot be read, lacks a column that is asked for, or names a film twice.
    """
    path = settings.labels
    if path is None:
        return None
    try:
        text = read_file(Path(path)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--labels {path} is not written in UTF-8 ({error.reason} at byte {error.start}).") from error
    except ValueError as error:
        raise ValueError(f"--labels {path} {error}") from error
    header, _, _ = text.partition("\n")
    reader = csv.reader(io.StringIO(text), delimiter=max(DELIMITERS, key=header.count))
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise ValueError(f"--labels {path}: line {reader.line_num} cannot be read ({error}).") from error
    if not lines:
        raise ValueError(f"--labels {path} is empty: a header and a line for each film are needed.")
    names = lines[0][1]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"--labels {path} has two columns called {brief(twice)}.")
    columns = _columns(settings, names)
    key = settings.name_column or names[0]
    if key not in names:
        raise ValueError(_no_column("--name-column", key, path, names))
    rows: dict[str, tuple[int, dict[str, str]]] = {}
    for line, cells in lines[1:]:
        if len(cells) != len(names):
            raise ValueError(f"--labels {path}: line {line} has {len(cells)} cells and the header {len(names)}.")
        row = dict(zip(names, cells, strict=True))
        film = film_name(row[key])
        if film in rows:
            raise ValueError(f"--labels {path}: line {line} names {brief(film)} again, which line {rows[film][0]} has.")
        rows[film] = line, row
    return Table(path.name, columns, rows)


def _columns(settings: ImportSettings, names: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the columns of each option: those that it names, or the usual one where the table has it."""
    found = {}
    for option in (*USUAL, "split_column"):
        asked = getattr(settings, option)
        asked = (asked,) if isinstance(asked, str) else tuple(asked or ())
        missing = [column for column in asked if column not in names]
        if missing:
            raise ValueError(_no_column(f"--{option.replace('_', '-')}", missing[0], settings.labels, names))
        usual = () if option == "patient_column" and settings.patient_pattern else (USUAL.get(option),)
        found[option] = asked or tuple(column for column in usual if column in names)
    return found


def _no_column(option: str, column: str, path: Path, names: list[str]) -> str:
    return f"{option} {column}: {path} has no such column; it has {shown(', '.join(names))}."


def _label(cell: str, where: str) -> int | str | None:
    """Return a label from a cell: nothing is unlabeled, a number is a class number, anything else a name."""
    if not cell:
        return None
    label = int(float(cell)) if re.fullmatch(r"\d{1,4}(\.0*)?", cell) else cell
    if not is_label(label):
        raise ValueError(f"{where} gives it the label {brief(cell)}; 0 (normal), 1, 2, ..., a name, or nothing is allowed.")
    return label
