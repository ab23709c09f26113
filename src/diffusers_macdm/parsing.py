"""The command line of a frozen `Settings` dataclass: options, help and defaults come from its fields, by tyro.

What is wrong with a command line is said in one line with the words that were typed, and ends with exit code 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import os
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import tyro


Settings = TypeVar("Settings")
COLUMNS = 100

# tyro's complaints, and the same as a sentence about the option.
OTHER_KIND = r"\1 \2 is not allowed: a value of another kind is needed"
REWORDED = (
    (r"Error parsing (\S+): invalid literal for int\(\).*: '(.*?)'$", r"\1 \2 is not allowed: it takes whole numbers"),
    (r"Error parsing (\S+): could not convert string to float: '?(.*?)'?$", r"\1 \2 is not allowed: it takes numbers"),
    (r"Error parsing (\S+): Could not parse arguments \[(.*?)\] into .*", OTHER_KIND),
    (r"Error parsing (\S+): .*? could be instantiated from \['?(.*?)'?\].*", OTHER_KIND),
    (r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*?),?\)", r"\2 \1 is not allowed; allowed are \3"),
    (r"Missing value for argument '(\S+)'\. Expected 1 values", r"\1 needs a value"),
    (r"Missing value for argument '(\S+)'\. Expected (\d+) values", r"\1 needs \2 values"),
    (r"Unrecognized options: (.*)", r"\1 is not understood; every value follows its option"),
)


def parse(
    settings_class: type[Settings],
    argv: Sequence[str],
    prog: str,
    description: str | None = None,
    underscores: bool = False,
    renamed: Mapping[str, str | tuple[str, ...]] | None = None,
    default: Settings | None = None,
) -> Settings:
    """Make the settings that a command line asks for.

    Args:
        settings_class: frozen dataclass; nested dataclasses are flattened by `tyro.conf.OmitArgPrefixes`.
        argv: words after the command's name.
        prog: name of the command, the first words of every complaint.
        description: first lines of the help; the docstring of `settings_class` when None.
        underscores: whether options are shown as `--train_batch_size` (diffusers' training scripts) rather than with hyphens.
            Both spellings are always understood.
        renamed: old option -> new option (or options, each of which gets the value), for names of an earlier version; a line on
            stderr says the new name.
        default: settings whose values stand in for what is not given; those of the class when None.

    Raises:
        SystemExit: with code 2 for a command line that cannot be understood, after one line on stderr; with code 0 for help.
    """
    words = _renamed(argv, renamed or {}, prog)
    _refuse_unknown(words, list(option_names(settings_class, underscores)), prog)
    output, complaint = io.StringIO(), io.StringIO()
    try:
        with _columns(COLUMNS), contextlib.redirect_stdout(output), contextlib.redirect_stderr(complaint):
            arguments = {"prog": prog, "description": description, "args": words, "use_underscores": underscores}
            return tyro.cli(settings_class, **arguments, **({} if default is None else {"default": default}))
    except SystemExit as end:
        if not end.code:
            print(_plain_help(output.getvalue()), end="")
            raise
        sentence = _sentence(complaint.getvalue() or output.getvalue(), prog)
        refuse(prog, as_typed(sentence, settings_class, underscores))


def refuse(prog: str, sentence: str) -> typing.NoReturn:
    """End with exit code 2 after one line on stderr."""
    print(f"{prog}: {sentence}", file=sys.stderr)
    raise SystemExit(2) from None


def option_names(settings_class: type, underscores: bool = False) -> dict[str, str]:
    """Return every option of a settings class with its field, `--num-per-class` -> `num_per_class`; no positionals."""
    hints = typing.get_type_hints(settings_class, include_extras=True)
    names: dict[str, str] = {}
    for field in dataclasses.fields(settings_class):
        hint = hints[field.name]
        marks = getattr(hint, "__metadata__", ())
        plain = typing.get_args(hint)[0] if marks else hint
        if dataclasses.is_dataclass(plain):
            names |= option_names(plain, underscores)
            continue
        if any(mark in marks for kind in (tyro.conf.Positional, tyro.conf.Suppress) for mark in kind[int].__metadata__):
            continue
        name = next((mark.name for mark in marks if getattr(mark, "name", None)), field.name)
        spelled = name.replace("-", "_") if underscores else name.replace("_", "-")
        names[f"--{spelled}"] = field.name
        if plain is bool:
            names[f"--no{'_' if underscores else '-'}{spelled}"] = field.name
    return names


def as_typed(sentence: str, settings_class: type, underscores: bool = False) -> str:
    """Say a sentence about settings (`num_inference_steps=0 is not allowed`) in the words of the command line
    (`--num-inference-steps 0 is not allowed`)."""
    sentence = re.sub(r"\b\w+=(?:True|False) \((--[\w-]+)\)", r"\1", sentence)  # "public=True (--public)" says it itself
    for option, field in option_names(settings_class, underscores).items():
        if not option.startswith(("--no-", "--no_")):
            if "_" in field:  # no English word, so that it may stand there without its value
                sentence = re.sub(rf"(?<![\w./-]){re.escape(field)}(?![\w=./])", option, sentence)
            sentence = re.sub(rf"(?<![\w.-]){re.escape(field)}=", f"{option} ", sentence)
    return sentence


@contextlib.contextmanager
def _columns(number: int) -> Iterator[None]:
    """Let tyro break its lines here, whatever the terminal: its complaints are put together again."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(number)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _renamed(words: Sequence[str], renamed: Mapping[str, str | tuple[str, ...]], prog: str) -> list[str]:
    """Put the new names in the place of old ones; a name that became several takes one value, which each of them gets."""
    names = {old.replace("_", "-"): (new,) if isinstance(new, str) else new for old, new in renamed.items()}
    result: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        option, equals, value = word.partition("=")
        new = names.get(option.replace("_", "-")) if option.startswith("--") else None
        if new is None:
            result.append(word)
            continue
        print(f"{prog}: {option} is called {' and '.join(new)} now; the old name goes with the next version.", file=sys.stderr)
        if len(new) > 1 and not equals and waiting:
            equals, value = "=", waiting.pop(0)
        result += [f"{name}{equals}{value}" for name in new]
    return result


def _refuse_unknown(words: Sequence[str], known: Sequence[str], prog: str) -> None:
    comparable = {option.replace("_", "-"): option for option in known} | {"--help": "--help", "-h": "-h"}
    for word in words:
        option = word.partition("=")[0]
        if option == "--":
            return
        if not re.match(r"--?[A-Za-z]", option) or option.replace("_", "-") in comparable:
            continue
        nearest = difflib.get_close_matches(option.replace("_", "-"), comparable, n=1)
        hint = f"; did you mean {comparable[nearest[0]]}?" if nearest else f"; see {prog} --help."
        refuse(prog, f"there is no option {option}{hint}")


def _sentence(complaint: str, prog: str) -> str:
    """Reduce tyro's page about what is wrong to one sentence."""
    lines = [line for line in complaint.splitlines() if line.strip(" -")]
    title, body = (lines[0].strip(), lines[1:]) if lines else ("", [])
    body = list(itertools.takewhile(lambda line: not line.strip().startswith(("For full help", "Argument helptext")), body))
    if title == "Required options":
        missing = [line.split()[0] for line in body if re.match(r" {4,6}\S", line)]
        return f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing; see {prog} --help."
    said = " ".join(line.strip() for line in body)
    said = re.sub(r"^Error parsing (?!-)\w+: ", "", said)  # of `__post_init__`, whose sentences stand alone
    for pattern, replacement in REWORDED:
        said = re.sub(pattern, replacement, said)
    return said if said.endswith((".", "?")) else said + "."


def _plain_help(help_text: str) -> str:
    """Tidy tyro's help: no rules, and no `None` for an option that need not be given, which its sentence says better."""
    lines = [line.rstrip() for line in help_text.splitlines() if not re.fullmatch(r" *-{5,} *", line)]
    lines = [line if line.startswith(" ") else textwrap.fill(line, COLUMNS) for line in lines]
    text = "\n".join(lines) + "\n"
    text = re.sub(r"\{None\}\|", "", text)
    text = re.sub(r"\s*\(default: None\)", "", text)
    return re.sub(r"\{\[(.*?)\]\}", r"[\1]", text)
