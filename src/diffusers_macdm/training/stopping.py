"""SIGTERM, SIGINT and the end of the launcher: a training finishes its step and keeps it."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Within these seconds a second signal is the same one: that of a terminal reaches everybody, and the launcher hands it on too.
SAME_SIGNAL = 3.0
# Set where the standard input is a pipe that a command holds open, and nothing is ever written into: it ends with the command.
HELD_BY_COMMAND = "MACDM_STDIN_HELD"
LOOK_EVERY = 1.0  # seconds between two looks for the launcher, where nobody asks


class Interrupted(BaseException):
    """Raised in an `interruptible` block; `number` is that of the signal. No `Exception`, so that nobody else takes it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Stopping:
    """Notices that the training is to end; a context that handles the signals until its end.

    In the loop (`deferred`) a signal is remembered, and the loop asks for it after each update; a second one ends the process
    at once. What may take minutes between two updates is `interruptible`. Elsewhere, where there is nothing to keep, the first
    one does. The launcher of accelerate dies of a signal without handing it on: its end counts as SIGTERM, so that no training
    is left behind. So does the end, SIGKILL included, of a command that has started the launcher and holds the standard input
    (`HELD_BY_COMMAND`).
    """

    def __init__(self):
        self._signal: int | None = None
        self._since = 0.0
        self._deferred = self._interruptible = False
        is_launched = "ACCELERATE_MIXED_PRECISION" in os.environ  # which the launcher always sets
        self._launcher = os.getppid() if is_launched else None
        self._is_held = os.environ.get(HELD_BY_COMMAND) == "1" and os.name == "posix"

    def __enter__(self) -> Stopping:
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # no other can
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Remember signals until the end of the block."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """End the block by `Interrupted` as soon as the training is to end: what it does must be of no use unless complete."""
        if number := self.requested():
            raise Interrupted(number)
        ended = threading.Event()
        if self._launcher is not None or self._is_held:
            threading.Thread(target=self._look_for_its_end, args=(ended,), daemon=True).start()
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False
            ended.set()

    def _look_for_its_end(self, ended: threading.Event) -> None:
        while not ended.wait(LOOK_EVERY):
            if self._is_left():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def requested(self) -> int:
        """Return the signal that this process is to end by; 0 as long as there is none."""
        if self._signal is None and self._is_left():
            self._signal = int(signal.SIGTERM)
        return self._signal or 0

    def _is_left(self) -> bool:
        """Whether the launcher, or the command that has started it, is gone."""
        if self._launcher is not None and os.getppid() != self._launcher:
            return True
        return self._is_held and bool(select.select([sys.__stdin__], [], [], 0)[0])  # readable at its end alone

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self._signal is not None and time.monotonic() - self._since > SAME_SIGNAL
        if not self._deferred or again:
            name = signal.Signals(number).name
            # Not by `logging`, whose lock whoever is interrupted may hold.
            kept = "this step is not kept, the last checkpoint is" if self._deferred else "no update was going on"
            os.write(sys.__stderr__.fileno(), f"{name}: ended at once; {kept}.\n".encode())
            raise SystemExit(128 + number)
        if self._signal is None:
            self._signal, self._since = number, time.monotonic()
            if self._interruptible:
                raise Interrupted(number)


def ignore_signals(worker: int) -> None:
    """In the processes that load the data: they go when the training goes, which needs them to finish its step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
