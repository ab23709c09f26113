"""The console command `macdm`: arguments in, one call of the library, a short result and an exit code out.

Each subcommand has a function `add_NAME(subparsers)` that declares its arguments and names the function that runs it;
the modules behind a command are imported when it runs, so that `macdm --help` stays quick.

Exit codes: 0 done; 1 it could not be done, or `check` found faults; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run `macdm` with these arguments (those of the process when None) and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("\nmacdm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough (`macdm check DATA | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == __package__:
            raise
        print(
            f"macdm {args.command}: the package {error.name!r} is missing; install diffusers-macdm[train].",
            file=sys.stderr,
        )
        return 1
    except (ValueError, OSError) as error:  # what the library says about bad input is one sentence already
        print(f"macdm {args.command}: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="macdm",
        description="Synthetic radiographs with an anatomy mask, a lesion mask and a class label (MaC-DM).",
    )
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for add_command in (add_check, add_phantom):
        add_command(subparsers)
    return parser


def add_check(subparsers) -> None:
    parser = subparsers.add_parser(
        "check",
        help="list every fault of a data folder",
        description="List every fault of a data folder by file and reason. Exit code 0 when there is none, else 1.",
    )
    parser.add_argument("data", metavar="DATA", help="folder with train/, and optionally validation/ and test/")
    parser.add_argument("--json", metavar="PATH", type=Path, help="also write the report to this new JSON file")
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from .data.check import inspect_dataset

    _refuse_existing(args.json)
    report = inspect_dataset(args.data, show_progress=sys.stderr.isatty())
    for fault in report.faults:
        print(f"{fault.file}: {fault.reason}")
    for note in report.notes:
        print(f"{note.file}: note: {note.reason}")
    _write_json(args.json, {"data": str(args.data), **report.to_dict()})
    cases = ", ".join(f"{count} in {split}" for split, count in report.num_cases.items()) or "none"
    notes = f", {_count(len(report.notes), 'note')}" if report.notes else ""
    print(f"{_count(len(report.faults), 'fault')}{notes}; cases: {cases}")
    return 1 if report.faults else 0


def add_phantom(subparsers) -> None:
    parser = subparsers.add_parser(
        "phantom",
        help="write the embedded set: procedural distal tibias with and without lesions",
        description="Write a data set of procedural distal tibias with and without metaphyseal lesions.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder")
    parser.add_argument(
        "--num-normal", type=int, default=177, help="cases without a lesion in train; validation and test get a quarter"
    )
    parser.add_argument("--num-lesion", type=int, default=73, help="cases with a lesion in train, likewise")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=0, help="everything random follows from it")
    parser.set_defaults(run=_phantom)


def _phantom(args: argparse.Namespace) -> int:
    from .data.phantom import write_phantom

    counts = write_phantom(args.out, args.num_normal, args.num_lesion, args.size, args.seed, show_progress=sys.stderr.isatty())
    for split, by_class in counts.items():
        print(f"{split}: " + ", ".join(f"{count} {name}" for name, count in by_class.items()))
    print(f"written to {args.out}")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _refuse_existing(path: Path | None) -> None:
    """Said before the work starts rather than after it."""
    if path is not None and path.exists():
        raise FileExistsError(f"{path} exists already; nothing is overwritten.")
    if path is not None and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} into.")


def _write_json(path: Path | None, content: dict) -> None:
    if path is None:
        return
    _refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.rename(path)
