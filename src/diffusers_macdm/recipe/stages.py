"""Stages that are done once, in a folder that goes on where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..files import SETTINGS_FILE, begin, read_json, write_json


class Stages:
    """The stages of a recipe in one folder; what an earlier call has done is not done again.

    Attributes:
        seconds: spent on each stage, over all calls; what a killed one (SIGKILL) had spent is not known.

    Args:
        out: new or empty folder, or one that this recipe has begun with the same settings.
        recipe: its name; `out`/NAME.json holds its settings and the seconds of its stages.
        settings: all that decides what comes out.
        beside: names that may stand in `out` before the recipe begins.

    Raises:
        ValueError: when `out` was begun with other settings.
        FileExistsError: when `out` holds something else.
    """

    def __init__(self, out: Path, recipe: str, settings: dict, beside: Sequence[str] = ()):
        self._path = out / f"{recipe}.json"
        others = [path for path in (out.iterdir() if out.exists() else ()) if path.name not in beside]
        if others and not (out / SETTINGS_FILE).is_file():
            raise FileExistsError(f"{out} is not empty and no {recipe}: give another folder.")
        begin(out, settings)
        self._state = {"settings": settings, "seconds": {}}
        if self._path.is_file():
            self._state = read_json(self._path)
        write_json(self._path, self._state, indent=2)

    @property
    def seconds(self) -> dict[str, float]:
        return self._state["seconds"]

    def run(self, name: str, done: Path, action: Callable[[], object]) -> None:
        """Do what makes `done`, unless it is there."""
        if done.exists():
            print(f"== {name}: done already", flush=True)
            return
        print(f"== {name}", flush=True)
        start = time.monotonic()
        try:
            action()
        finally:
            self.seconds[name] = self.seconds.get(name, 0) + time.monotonic() - start
            write_json(self._path, self._state, indent=2)

    def note(self, name: str, value: object) -> None:
        """Keep something beside the seconds, under a name of its own."""
        self._state[name] = value
        write_json(self._path, self._state, indent=2)

    def noted(self, name: str):
        """Return what was kept, None where nothing was."""
        return self._state.get(name)


def seconds_of(folder: Path, after: int = 0) -> tuple[float, int]:
    """Seconds that the updates after this one took, and the samples that they saw, by the log of the training."""
    batch = read_json(folder / "training_config.json")["arguments"]
    cases = batch["train_batch_size"] * batch["gradient_accumulation_steps"]
    seconds, samples, before = 0.0, 0, 0
    for line in (folder / "training_log.jsonl").read_text().splitlines():
        row = json.loads(line)
        if before >= after:
            seen = (row["step"] - before) * cases
            samples, seconds = samples + seen, seconds + seen / row["samples_per_second"]
        before = row["step"]
    return seconds, samples
