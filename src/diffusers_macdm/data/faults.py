"""The faults of a data folder, as `macdm check` lists them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        file: path relative to the data folder, with `/`; `:LINE` follows where a row of `metadata.jsonl` is at fault.
        reason: one sentence: what is there, and what is allowed.
        kind: which check failed, in a few fixed words (`missing file`, `size mismatch`, ...).
    """

    file: str
    reason: str
    kind: str


@dataclass
class Report:
    """Result of `inspect_dataset`: faults, notes (worth a look, but allowed) and the number of rows by split."""

    faults: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)
    num_cases: dict[str, int] = field(default_factory=dict)

    def fault(self, file: str, kind: str, reason: str) -> None:
        """Add a fault."""
        self.faults.append(Fault(file, reason, kind))

    def note(self, file: str, kind: str, reason: str) -> None:
        """Add a note."""
        self.notes.append(Fault(file, reason, kind))

    def to_dict(self) -> dict:
        """Return everything JSON-ready."""
        return asdict(self)


LONGEST = 400  # characters of a value that a sentence shows


def shown(text: str) -> str:
    """Return a text that a terminal shows and a file keeps: what cannot be printed is escaped, what is long is cut."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def brief(value) -> str:
    """Return a JSON value as a sentence shows it."""
    try:
        return "null" if value is None else shown(repr(value))
    except (RecursionError, ValueError):  # nested without an end, or a number without one
        return f"a {type(value).__name__}"
