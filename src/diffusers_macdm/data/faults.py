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
