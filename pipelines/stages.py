"""What the recipes share: commands that are run and shown as a user would type them; their stages are the package's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diffusers_macdm.recipe.stages import Stages, seconds_of
from diffusers_macdm.training.launching import launch_environment, launch_options, mixed_precision


__all__ = ["ROOT", "Stages", "launch", "macdm", "mixed_precision", "said_in_one_sentence", "seconds_of", "seconds_per_update"]
ROOT = Path(__file__).resolve().parent.parent
PROBE_UPDATES, PROBE_WARM_UP = 30, 10


def launch(script: str, options: Sequence[str]) -> None:
    """Run a training script as a user does, showing the command."""
    arguments = launch_options([f"training/{script}"], options, mixed_precision())
    _run(["accelerate", "launch"], "accelerate.commands.launch", arguments, script)


def macdm(*arguments: str) -> None:
    """Run a command of the console as a user does, showing it."""
    _run(["macdm"], "diffusers_macdm", arguments, f"macdm {arguments[0]}")


def _run(shown: Sequence[str], module: str, arguments: Sequence[str], name: str) -> None:
    print("$ " + " ".join([*shown, *arguments]), flush=True)
    finished = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, env=launch_environment(1))
    if finished.returncode:
        raise SystemExit(f"error: {name} ended with status {finished.returncode}; its output above says why.")


@contextmanager
def said_in_one_sentence(continues: bool = True) -> Iterator[None]:
    """End a recipe by one sentence, where what it was given cannot be used or somebody interrupts it.

    Args:
        continues: whether the same command goes on where it stopped; else it has written nothing before its end.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted; {'the same command continues' if continues else 'nothing was written'}") from None


def seconds_per_update(probe: Path, train: Callable[[list[str]], None]) -> float:
    """Time an update of a training by a short one, in a folder that is removed again.

    Args:
        probe: that folder.
        train: trains with these further options: output folder, number of updates, how often they are logged.
    """
    shutil.rmtree(probe, ignore_errors=True)
    train(["--output_dir", str(probe), "--max_train_steps", str(PROBE_UPDATES), "--logging_steps", str(PROBE_WARM_UP)])
    seconds, _ = seconds_of(probe, after=PROBE_WARM_UP)
    shutil.rmtree(probe)
    return seconds / (PROBE_UPDATES - PROBE_WARM_UP)
