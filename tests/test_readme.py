"""The commands of the README and the pages are commands that there are, with options that they have."""

import re
import shlex
from pathlib import Path

import pytest

from diffusers_macdm.commands.main import COMMANDS, named
from diffusers_macdm.parsing import parse
from diffusers_macdm.training.settings import ClassifierSettings, DenoiserSettings


ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = {"training/train_macdm.py": DenoiserSettings, "training/train_guidance_classifier.py": ClassifierSettings}


def commands(page: Path) -> list[list[str]]:
    """The words of every command in the page's shell blocks."""
    found = []
    variables: dict[str, str] = {}
    for language, block in re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines() if language == "bash" else ():
            line = re.sub(r"\$(\w+)", lambda name, known=variables: known.get(name[1], "1"), line)
            variables |= re.findall(r'^(\w+)="(.*)"$', line)
            words = shlex.split(line, comments=True) if re.match(r"(macdm|accelerate launch|OMP_NUM_THREADS)", line) else []
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
                words.pop(0)
            if words:
                found.append(words)
    return found


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_command_is_understood(page):
    for words in commands(page):
        if words[0] == "macdm":
            command = COMMANDS[words[1]]
            parse(named(command.settings), words[2:], " ".join(words[:2]))
        else:
            number = next(i for i, word in enumerate(words) if word in SCRIPTS)
            settings = parse(SCRIPTS[words[number]], words[number + 1 :], words[number], underscores=True)
            settings.check()


def test_the_readme_shows_every_kind_of_command():
    shown = {words[1] if words[0] == "macdm" else "train" for words in commands(ROOT / "README.md")}
    assert shown >= {"train", "phantom", "check", "generate", "audit", "evaluate", "compare", "sweep", "push", "push-dataset"}
    assert shown >= {"show", "plan"}


def test_the_readme_can_be_read():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180
