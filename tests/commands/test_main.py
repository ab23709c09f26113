import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffusers_macdm import __version__
from diffusers_macdm.commands import main as cli
from diffusers_macdm.data import check
from diffusers_macdm.parsing import option_names
from diffusers_macdm.phantom.settings import Settings


@pytest.fixture
def data(tmp_path):
    """One normal case in train."""
    root = tmp_path / "set"
    for kind in ("images", "anatomy", "lesion"):
        (root / "train" / kind).mkdir(parents=True)
        values = np.arange(64, dtype=np.uint8).reshape(8, 8) * (kind != "lesion")
        Image.fromarray(values).save(root / "train" / kind / "a.png")
    row = {f"{column}_file_name": f"{kind}/a.png" for column, kind in COLUMNS.items()} | {"label": 0}
    (root / "train/metadata.jsonl").write_text(json.dumps(row) + "\n")
    return root


COLUMNS = {"image": "images", "anatomy_mask": "anatomy", "lesion_mask": "lesion"}


def test_help_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"\n  {name} " in output and command.summary in output for name, command in cli.COMMANDS.items())


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"macdm {__version__}\n"


def test_without_a_command_the_help_is_an_error(capsys):
    assert cli.main([]) == 2
    assert "usage: macdm" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["nonsense"], "macdm: there is no command nonsense; see macdm --help."),
        (["evalute"], "macdm: there is no command evalute; did you mean evaluate?"),
        (["check"], "macdm check: DATA is missing; see macdm check --help."),
        (["phantom", "x", "--size", "large"], "macdm phantom: --size large is not allowed: it takes whole numbers."),
        (["phantom", "x", "--sise", "9"], "macdm phantom: there is no option --sise; did you mean --size?"),
        (
            ["generate", "m", "o", "--num-per-class", "0"],
            "macdm generate: --num-per-class 0 is not allowed: at least 1 is needed.",
        ),
    ],
)
def test_wrong_usage_is_one_line(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == sentence + "\n" and not captured.out


def test_errors_of_the_library_name_options_as_typed(tmp_path, capsys):
    words = ["generate", str(tmp_path), str(tmp_path / "out"), "--num-per-class", "1", "--strength", "0.5"]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err == "macdm generate: --strength 0.5 needs --from: the real cases to start from.\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_settings_run_and_words(name, capsys):
    """Each option has a sentence, and the functions behind the command are there."""
    command = cli.COMMANDS[name]
    settings_class = cli.named(command.settings)
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and all(option in text for option in option_names(settings_class))
    assert callable(cli.named(command.run)) and callable(cli.named(f"commands.words.{command.words}"))
    new = [option for names in command.renamed.values() for option in ([names] if isinstance(names, str) else names)]
    assert set(new) <= set(option_names(settings_class)) and not set(command.renamed) & set(option_names(settings_class))


def test_help_loads_neither_torch_nor_diffusers():
    """The list of packages that `macdm COMMAND --help` imports: what it takes to start at once."""
    code = """
import json, sys
from diffusers_macdm.commands import main
for words in (["--help"], *([name, "--help"] for name in main.COMMANDS)):
    try:
        main.main(words)
    except SystemExit as end:
        assert not end.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    loaded = {name for name in json.loads(result.stdout.splitlines()[-1]) if not name.startswith(("_", "sitecustomize"))}
    assert loaded <= {"diffusers_macdm", "tyro", "docstring_parser", "typeguard", "typing_extensions"}


def test_check_passes(data, capsys):
    assert cli.main(["check", str(data)]) == 0
    assert capsys.readouterr().out == "no faults; cases: 1 in train\n"


def test_check_lists_faults_as_text_and_json(data, tmp_path, capsys):
    (data / "train/lesion/a.png").unlink()
    report = tmp_path / "report.json"
    assert cli.main(["check", str(data), "--json", str(report)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "train/lesion/a.png: lesion_mask_file_name in line 1 names it, but it is not there.",
        "1 fault; cases: 1 in train",
    ]
    content = json.loads(report.read_text())
    assert content["faults"] == [{"file": "train/lesion/a.png", "reason": lines[0].partition(": ")[2], "kind": "missing file"}]
    assert content["num_cases"] == {"train": 1} and content["notes"] == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_check_notes_do_not_fail(data, capsys):
    Image.new("L", (8, 8)).save(data / "train/anatomy/a.png")
    assert cli.main(["check", str(data)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train/anatomy/a.png: note: the anatomy mask is empty.",
        "no faults, 1 note; cases: 1 in train",
    ]


def test_check_overwrites_nothing(data, tmp_path, capsys):
    report = tmp_path / "report.json"
    report.write_text("mine")
    assert cli.main(["check", str(data), "--json", str(report)]) == 1
    assert report.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["check", str(data), "--json", str(tmp_path / "no" / "report.json")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_errors_are_one_sentence_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "diffusers_macdm", "check", str(tmp_path / "nowhere")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == f"macdm check: {tmp_path / 'nowhere'}: no such folder.\n"


def test_interrupt(monkeypatch, capsys):
    def interrupted(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "run", interrupted)
    assert cli.main(["check", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_missing_package_is_named(monkeypatch, capsys):
    def without_skimage(settings):
        raise ModuleNotFoundError("No module named 'skimage.measure'", name="skimage.measure")

    monkeypatch.setattr(check, "run", without_skimage)
    assert cli.main(["check", "x"]) == 1
    assert "'skimage.measure' is missing; install diffusers-macdm[train,eval]" in capsys.readouterr().err


def test_phantom_then_check(tmp_path, capsys):
    out = tmp_path / "phantom"
    arguments = ["phantom", str(out), "--num-normal", "4", "--num-lesion", "4", "--size", "32", "--seed", "5"]
    assert cli.main(arguments) == 0
    assert "train: 4 normal, 4 lesion" in capsys.readouterr().out
    assert cli.main(["check", str(out)]) == 0
    assert "cases: 8 in train, 2 in validation, 2 in test" in capsys.readouterr().out
    assert cli.main(arguments) == 1
    assert "not empty" in capsys.readouterr().err


def test_phantom_defaults_are_the_size_of_the_paper():
    settings = Settings("x")
    assert (settings.num_normal, settings.num_lesion, settings.size, settings.seed) == (177, 73, 64, 0)
