"""The console command `macdm`: a table of commands, each a `Settings` dataclass, a function `run` and what is printed after it.

The rooms behind a command are imported when it runs, so that `macdm --help` needs neither torch nor diffusers.

Exit codes: 0 done; 1 it could not be done, or `check` found faults; 2 wrong usage; 130 interrupted, 143 ended by SIGTERM.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from .. import __version__
from ..parsing import as_typed, parse, refuse


@dataclass(frozen=True)
class Command:
    """One command of `macdm`.

    Attributes:
        summary: line of `macdm --help`.
        settings: dotted name of the settings class, below the package.
        run: dotted name of the function that takes the settings, below the package.
        words: name of the function in `commands.words` that prints the result and returns the exit code.
        renamed: option of an earlier version -> its name now, or the names of those that it set together.
        goes_on: whether the same command, given again, goes on where it stopped.
    """

    summary: str
    settings: str
    run: str
    words: str
    renamed: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    goes_on: bool = False


COMMANDS = {
    "check": Command("List every fault of a data folder.", "data.settings.CheckSettings", "data.check.run", "check"),
    "phantom": Command(
        "Write the embedded set: procedural distal tibias with and without lesions.",
        "phantom.settings.Settings",
        "phantom.write.run",
        "phantom",
    ),
    "import-folder": Command(
        "Bring a folder of films and same-named masks into the layout.",
        "data.importers.settings.FolderSettings",
        "data.importers.folder.run",
        "imported",
    ),
    "import-coco": Command(
        "Bring films with outlines in a COCO file into the layout.",
        "data.importers.settings.CocoSettings",
        "data.importers.coco.run",
        "imported",
    ),
    "import-dicom": Command(
        "Bring DICOM radiographs into the layout, without names and dates.",
        "data.importers.settings.DicomSettings",
        "data.importers.dicom.run",
        "imported",
    ),
    "roi": Command(
        "Cut square regions of interest out of the films of a set.",
        "data.importers.settings.RegionSettings",
        "data.importers.regions.run",
        "regions",
    ),
    "show": Command(
        "Write a contact sheet of what a training sees: resampled, outlined, augmented.",
        "planning.settings.ShowSettings",
        "planning.show.run",
        "show",
    ),
    "plan": Command(
        "Find the settings of the trainings from the data and the device.",
        "planning.settings.PlanSettings",
        "planning.run.run",
        "plan",
    ),
    "train": Command(
        "From a data folder to a model: plan, training, samples, copy audit, page.",
        "recipe.settings.Settings",
        "recipe.run.run",
        "train",
        goes_on=True,
    ),
    "generate": Command(
        "Write a synthetic set with a trained model.",
        "generate.settings.Settings",
        "generate.run.run",
        "generate",
        goes_on=True,
    ),
    "audit": Command("Find copies of training images in a synthetic set.", "audit.settings.Settings", "audit.run.run", "audit"),
    "evaluate": Command(
        "Measure whether synthetic pairs help a diagnosis classifier and a lesion segmenter.",
        "evaluation.settings.Settings",
        "evaluation.run.run",
        "evaluate",
        goes_on=True,
        renamed={"--steps": "--downstream-steps", "--batch-size": "--downstream-batch-size"},
    ),
    "compare": Command(
        "Set MaC-DM beside other generative models: same data, same budget, same evaluation.",
        "comparison.settings.Settings",
        "comparison.run.run",
        "compare",
        goes_on=True,
        renamed={
            "--eval-steps": "--downstream-steps",
            "--eval-batch-size": "--downstream-batch-size",
            "--audit-steps": "--embedding-steps",
        },
    ),
    "sweep": Command(
        "Measure what guidance, strength, steps and channel weights do to the pairs.",
        "sweep.settings.Settings",
        "sweep.run.run",
        "sweep",
        goes_on=True,
        renamed={"--eval-steps": "--downstream-steps", "--width": ("--classifier-width", "--segmenter-width")},
    ),
    "push": Command("Publish a trained pipeline on the Hub.", "hub.settings.PushSettings", "hub.model.run", "push"),
    "push-dataset": Command(
        "Publish a synthetic set on the Hub.", "hub.settings.PushDatasetSettings", "hub.dataset.run", "push"
    ),
    "push-metric": Command("Publish a metric on the Hub.", "hub.settings.PushMetricSettings", "hub.metric.run", "push"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `macdm` with these arguments (those of the process when None) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview(), file=sys.stdout if words else sys.stderr, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"macdm {__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        refuse("macdm", f"there is no command {name}; " + (f"did you mean {nearest[0]}?" if nearest else "see macdm --help."))
    command = COMMANDS[name]
    settings_class = named(command.settings)
    settings = parse(settings_class, words[1:], f"macdm {name}", renamed=command.renamed)
    with _ended_by_sigterm(name):
        return _run(name, command, settings)


def overview() -> str:
    """Return the help of `macdm` itself: every command with its line."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: macdm [-h] [--version] COMMAND ...",
            "",
            "Synthetic radiographs with an anatomy mask, a lesion mask and a class label (MaC-DM).",
            "",
            "commands (macdm COMMAND --help shows the options of one)",
            *lines,
            "",
        ]
    )


def named(dotted: str):
    """Import what a dotted name below the package stands for."""
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(f"..{module}", __package__), name)


@contextmanager
def _ended_by_sigterm(name: str) -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: what is half done goes, and the output folder is free for the next one."""
    if threading.current_thread() is not threading.main_thread():  # no other may
        yield
        return
    process = os.getpid()

    def end(number: int, frame) -> None:
        if os.getpid() != process:  # a loader of data, which its parent ends
            os._exit(128 + number)
        os.write(2, f"macdm {name}: ended by SIGTERM\n".encode())  # not by `print`, which whoever is interrupted may hold
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _of_the_system(error: Exception) -> str | None:
    """Say an error of the operating system; None where it is a sentence already."""
    from ..files import DISK_IS_FULL, error_number

    number, file = error_number(error), getattr(error, "filename", None)
    if number in DISK_IS_FULL:
        where = f" at {file}" if file else ""
        return f"the disk is full{where}: free some space, and give the same command again."
    if number is None or not file or not str(error).startswith("[Errno"):
        return None
    return f"{file}: {error.strerror[0].lower()}{error.strerror[1:]}."


def _run(name: str, command: Command, settings) -> int:
    if os.environ.get("LOCAL_RANK") and int(os.environ.get("RANK") or 0) > 0:  # by accelerate or torchrun
        rank, world = os.environ["RANK"], os.environ.get("WORLD_SIZE", "?")
        print(f"macdm {name}: runs in one process, the first; this one ({rank} of {world}) has nothing to do.", file=sys.stderr)
        return 0
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")  # else `datasets` asks for a host even to read local files
    # Of files that are local `datasets` says that it downloads them: not what one wants to read beside films of patients.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        run = named(command.run)
        if not sys.stderr.isatty() and "diffusers" in sys.modules:
            importlib.import_module("diffusers.utils.logging").disable_progress_bar()
        result = run(settings)
        named("recipe.overview.refresh_around")(getattr(settings, "out", None))
        return named(f"commands.words.{command.words}")(settings, result) or 0
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where it stopped" if command.goes_on else ""
        print(f"\nmacdm: interrupted{goes_on}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough (`macdm check DATA | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == __package__.partition(".")[0]:
            raise
        extra = "import" if name.startswith("import-") else "train,eval"
        sentence = f"the package {error.name!r} is missing; install diffusers-macdm[{extra}]."
    except (ValueError, OSError) as error:  # what the library says about bad input is one sentence already
        sentence = _of_the_system(error) or as_typed(str(error), type(settings))
    except Exception as error:
        sentence = _of_the_system(error)  # safetensors has a class of its own for a full disk
        if sentence is None:
            raise
    print(f"macdm {name}: {sentence}", file=sys.stderr)
    return 1
