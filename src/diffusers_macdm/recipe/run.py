"""From a data folder to a model in one command: `macdm train`.

OUT/index.html           links everything that there is
OUT/plan.json, OUT/plan/ what `macdm plan` writes
OUT/model/               what both trainings write: `MaCDMPipeline.from_pretrained` loads it
OUT/training/index.html  loss curves, samples over time, the audit's verdict
OUT/synthetic/           pairs, as `macdm generate` writes them
OUT/audit/               their copy audit
OUT/card/                the model card and its picture, for the Hub
OUT/settings.json, OUT/train.json   what it was begun with; seconds of each stage
"""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..audit.run import AUDIT_FILE
from ..audit.run import run as run_audit
from ..files import LOCK_FILE, locked, new_folder, write_text
from ..generate.run import run as run_generate
from ..generate.synthetic_set import SUMMARY_FILE
from ..hub.card import model_card, model_card_files
from ..planning.plan_file import PARTS, settings_of, words_of
from ..planning.run import WRITTEN
from ..training.launching import CLASSIFIER, DENOISER, Child, launch_options, wait_until_free
from .forecast import read_log, seconds_left
from .overview import write_overview
from .page import training_page
from .prepare import Prepared, prepare
from .settings import Settings
from .stages import Stages


MODEL, SYNTHETIC, AUDIT, CARD, TRAINING = "model", "synthetic", "audit", "card", "training"
SECONDS_BETWEEN_LOOKS = 0.5
CARD_NAME = "your-name/your-model"  # nothing is pushed


def run(settings: Settings, *, show_progress: bool = True) -> dict[str, Any]:
    """Make a model of a data folder, or go on with one that was interrupted.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        `verdict` of the copy audit (None without one), `seconds` of each stage, and of this call `took` and `said` (what was
        said after 20 updates; None where there were no 20 left).

    Raises:
        FileNotFoundError: when there is no such data or plan.
        FileExistsError: when `out` holds something else, or another process is writing there.
        ValueError: when nothing can be learned from the data here in this time, a plan has a field that it cannot have, or
            `out` was begun with another plan or other data; nothing is written then. And when a training fails.
    """
    started = time.monotonic()
    out = Path(settings.out)
    with _ending_by_sigterm(), locked(out):
        wait_until_free(out / MODEL)  # of a call that was killed, the training may be keeping its last update yet
        prepared = prepare(settings, out, show_progress=show_progress)
        beside = (*WRITTEN, LOCK_FILE)
        prepared.write(out, settings.data)  # first: a call that is killed here goes on with this plan
        stages = Stages(out, "train", prepared.record(), beside)
        stages.note("measured", prepared.measured)
        return _Run(settings, out, prepared, stages, started, show_progress).all()


@contextmanager
def _ending_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process as an exception does, so that a training is asked to keep its step."""

    def end(number, frame):
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class _Run:
    """The stages of a call, and the pages that are written between them."""

    settings: Settings
    out: Path
    prepared: Prepared
    stages: Stages
    started: float
    show_progress: bool
    said: float | None = None
    shown: set[str] = field(default_factory=set)

    def all(self) -> dict[str, Any]:
        out, plan, stages = self.out, self.prepared.plan, self.stages
        self.pages()
        if plan.get("classifier") is not None:
            stages.run("classifier", out / MODEL / "guidance_classifier", lambda: self.train("classifier"))
        stages.run("denoiser", out / MODEL / "model_index.json", lambda: self.train("denoiser"))
        stages.run("samples", out / SYNTHETIC / SUMMARY_FILE, self.sample)
        self.pages()
        if plan.get("audit") is not None:
            stages.run("audit", out / AUDIT / AUDIT_FILE, self.audit)
        stages.run("card", out / CARD / "README.md", self.card)
        took = time.monotonic() - self.started
        if self.said is not None:
            stages.note("forecast", {"said": self.said, "took": took})
        facts = self.pages()
        return {"verdict": facts["verdict"], "seconds": dict(stages.seconds), "took": took, "said": self.said}

    def pages(self) -> dict[str, Any]:
        """Write the training's page and the overview as things stand."""
        facts = training_page(self.out, self.prepared.plan, self.stages)
        write_overview(self.out)
        return facts

    # --- the trainings ----------------------------------------------------------------------------------------------

    def train(self, part: str) -> None:
        """Train the denoiser or the classifier in a child, and look at its log and its pictures meanwhile."""
        processes, model = self.settings.processes, self.out / MODEL
        rows = read_log(model / "training_log.jsonl")
        begun = rows[-1]["step"] if rows else 0  # or less, of the checkpoint that is gone on from
        child = Child(self.words(part), model, processes)
        try:
            while child.status() is None:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                if part == "denoiser":
                    self.look(begun)
        except BaseException:
            print(f"the training of the {part} is asked to keep its update and to end", file=sys.stderr, flush=True)
            child.stop()
            raise
        if child.status():
            raise ValueError(f"the training of the {part} ended with status {child.status()}; its output above says why.")

    def words(self, part: str) -> list[str]:
        """The words after `accelerate launch`."""
        values, processes = dict(self.prepared.plan[part]), self.settings.processes
        settings_class = PARTS[part][0]
        if processes > 1:
            batch = values.get("train_batch_size", settings_class.train_batch_size)
            values["train_batch_size"] = batch // processes  # `prepare` refuses what does not divide it
        own = ["--train_data_dir", str(Path(self.settings.data).resolve()), "--output_dir", str((self.out / MODEL).resolve())]
        own += ["--resume_from_checkpoint", "latest"]
        target, precision = (DENOISER if part == "denoiser" else CLASSIFIER), values.get("mixed_precision") or "no"
        return launch_options(target, [*own, *words_of(settings_class, values)], precision, processes)

    def look(self, begun: int) -> None:
        """Say how long the whole will take, once; and show every picture when it comes."""
        if self.said is None:
            rows = read_log(self.out / MODEL / "training_log.jsonl")
            left = seconds_left(self.prepared.plan, self.prepared.measured, rows, begun)
            if left is not None:
                took = time.monotonic() - self.started
                self.said = took + left
                print(
                    f"== after {rows[-1]['step'] - begun} updates: {self.said / 60:.1f} min in all, "
                    f"{left / 60:.1f} min from now",
                    flush=True,
                )
        pictures = {path.name for path in (self.out / MODEL / "samples").glob("step-*.png")}
        if pictures - self.shown:
            self.shown |= pictures
            self.pages()

    # --- what follows -----------------------------------------------------------------------------------------------

    def sample(self) -> None:
        values, plan = self.prepared.plan["samples"], self.prepared.plan
        own = {"model": str(self.out / MODEL), "out": self.out / SYNTHETIC}
        seed = {} if "seed" in values else {"seed": plan["denoiser"].get("seed", 0)}
        run_generate(settings_of("samples", {**values, **seed}, "plan.json", **own), show_progress=self.show_progress)

    def audit(self) -> None:
        own = {"real": self.settings.data, "synthetic": str(self.out / SYNTHETIC), "out": self.out / AUDIT}
        run_audit(settings_of("audit", self.prepared.plan["audit"], "plan.json", **own), show_progress=self.show_progress)

    def card(self) -> None:
        model, synthetic, audit = (self.out / name for name in (MODEL, SYNTHETIC, AUDIT))
        audited = audit if (audit / AUDIT_FILE).is_file() else None
        card = model_card(model, CARD_NAME, audit_dir=audited, synthetic_dir=synthetic)
        with new_folder(self.out / CARD) as folder:
            for name, path in model_card_files(model, synthetic_dir=synthetic).items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / name)
            write_text(folder / "README.md", card)
