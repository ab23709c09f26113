import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffusers_macdm.commands import main as cli


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


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--help"])
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    assert "check" in output and "phantom" in output


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("check",), ("phantom", "x", "--size", "large")])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2
    assert "usage: macdm" in capsys.readouterr().err


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
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_check", interrupted)
    assert cli.main(["check", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_missing_package_is_named(monkeypatch, capsys):
    def without_skimage(args):
        raise ModuleNotFoundError("No module named 'skimage.measure'", name="skimage.measure")

    monkeypatch.setattr(cli, "_check", without_skimage)
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
    args = cli.build_parser().parse_args(["phantom", "x"])
    assert (args.num_normal, args.num_lesion, args.size, args.seed) == (177, 73, 64, 0)
