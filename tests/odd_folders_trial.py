"""Tries an odd data folder: by `macdm check`, by the reader, and by a training's first steps."""

import contextlib
import io
import signal
import tempfile
from pathlib import Path

import numpy as np
from odd_folders import NAMED, READ, Odd

from diffusers_macdm.commands.main import main
from diffusers_macdm.data.check import inspect_dataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.training.data import describe_data, load_training_data
from diffusers_macdm.training.settings import DenoiserSettings


SECONDS = 20  # after which a folder counts as one that hangs
WRONG, TRACEBACK, HANG = "wrong", "traceback", "hang"


class Hangs(BaseException):
    pass


@contextlib.contextmanager
def at_most(seconds):
    def stop(number, frame):
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(odd: Odd) -> tuple[str, str]:
    """Try it; what became of it (`READ`, `NAMED`, `WRONG`, `TRACEBACK` or `HANG`), and why."""
    with tempfile.TemporaryDirectory(prefix="odd-") as top:
        folder = odd.write(Path(top))
        try:
            with at_most(SECONDS):
                return _attempt(odd, folder)
        except Hangs:
            return HANG, f"more than {SECONDS} s"
        except (ValueError, OSError) as error:
            return WRONG, f"an error where none was expected: {error}"
        except Exception as error:
            return TRACEBACK, f"{type(error).__name__}: {error}"


def _attempt(odd: Odd, folder) -> tuple[str, str]:
    report = inspect_dataset(folder.root)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main(["check", str(folder.root)] if not folder.root.name.startswith("-") else ["check", "--", str(folder.root)])
    printed.getvalue().encode("utf-8")
    if code != bool(report.faults):
        return WRONG, f"macdm check ends with {code} and {len(report.faults)} faults: {printed.getvalue()[-300:]}"
    refusals = [*_refusals(folder), *_training(folder)]
    if report.faults:
        sentences = [f"{fault.file}: {fault.reason}" for fault in report.faults]
        if any("\n" in sentence for sentence in sentences + refusals):
            return WRONG, "a sentence of several lines"
        if odd.words and not any(word in sentence for word in odd.words for sentence in sentences):
            return WRONG, f"none of {odd.words} is in {sentences}"
        if not refusals and odd.outcome == READ:
            return WRONG, f"faults: {sentences}"
        return NAMED, sentences[0]
    if refusals:
        return WRONG, f"no fault, and refused: {refusals}"
    difference = _difference(folder)
    return (WRONG, difference) if difference else (READ, "")


def _refusals(folder) -> list[str]:
    """What the reader says; it has to read or refuse, case by case."""
    said = []
    for split in ("train", "validation", "test"):
        if not (folder.root / split).is_dir():
            continue
        try:
            pairs = load_pairs(folder.root, split)
        except (ValueError, OSError) as error:
            said.append(str(error))
            continue
        for index in range(len(pairs)):
            try:
                pairs.arrays(index)
            except ValueError as error:
                said.append(str(error))
    return said


def _training(folder) -> list[str]:
    settings = DenoiserSettings(train_data_dir=str(folder.root), output_dir=str(folder.root / "out"), resolution=16)
    try:
        describe_data(load_training_data(settings))
    except (ValueError, OSError) as error:
        return [str(error)]
    return []


def _difference(folder) -> str | None:
    """Compare what is read with what was written."""
    for split in dict.fromkeys(case.split for case in folder.cases):
        if not (folder.root / split).is_dir():
            continue
        pairs, cases = load_pairs(folder.root, split), folder.of(split)
        if pairs["label"] != [case.label for case in cases] or pairs.names != [case.name for case in cases]:
            return f"{split}: other cases: {pairs.names} {pairs['label']}"
        for index, case in enumerate(cases):
            for array, right in zip(pairs.arrays(index), (case.radiograph, case.anatomy, case.lesion), strict=True):
                if not np.array_equal(array, right):
                    return f"{case.name}: other pixels"
    return None
