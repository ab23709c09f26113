"""How far long work is: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


SECONDS_BETWEEN_LINES = 60


class Progress:
    """Count the units of some work and show how far it is, on stderr.

    On a terminal it is a bar. Elsewhere (a log, a pipe) it prints one line a minute with the count, the rate and the time that
    is left, and nothing for work that takes less than a minute.

    Args:
        total: number of units.
        description: what is done, the first word of the bar or line.
        unit: what is counted.
        initial: units that were done by an earlier call.
        show: False keeps quiet.
    """

    def __init__(self, total: int, description: str, unit: str = "step", initial: int = 0, show: bool = True):
        self.total, self.description, self.unit, self.initial = total, description, unit, initial
        self.count = initial
        self._note = ""
        on_terminal = show and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=initial, desc=description, unit=unit, leave=False) if on_terminal else None
        self._prints = show and not on_terminal
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def describe(self, description: str) -> None:
        """Say what is done from now on."""
        self.description = description
        if self._bar is not None:
            self._bar.set_description(description, refresh=False)

    def update(self, units: int = 1) -> None:
        """Add units that are done."""
        self.count += units
        if self._bar is not None:
            self._bar.update(units)
        now = time.monotonic()
        if self._prints and now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            print(self.line(now - self._started), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Show a few words behind the count, "loss 0.1234" say, from now on."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def line(self, seconds: float) -> str:
        """The line of a log after so many seconds: "generate: 120 of 500 pairs, 2.0 pairs/s, 3 min left"."""
        rate = (self.count - self.initial) / max(seconds, 1e-9)
        each = f"{rate:.1f} {self.unit}s/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/{self.unit}"
        left = (self.total - self.count) / max(rate, 1e-9)
        note = f", {self._note}" if self._note else ""
        return f"{self.description}: {self.count} of {self.total} {self.unit}s, {each}, {duration(left)} left{note}"

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """A time in words: "40 s", "12 min", "3 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
