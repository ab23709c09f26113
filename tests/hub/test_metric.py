"""Pushing a metric: a Space that `evaluate` loads."""

import pytest
from hub_pushes import in_another_process

from diffusers_macdm.commands import main as cli
from diffusers_macdm.hub import push_metric
from diffusers_macdm.metrics import metric_folder


METRIC_READER = """
import sys
import evaluate
from huggingface_hub import snapshot_download

inputs = {"predictions": [0, 1, 1], "references": [1, 1, 0]}
folder = snapshot_download("alice/recall", repo_type="space", local_dir=sys.argv[1])
print(evaluate.load(folder).compute(**inputs)["sensitivity"], evaluate.load("alice/recall").compute(**inputs)["sensitivity"])
"""


def test_a_metric_is_a_space_that_evaluate_loads(hub, tmp_path, capsys):
    assert cli.main(["push-metric", "sensitivity", "alice/recall", "--tag", "v1"]) == 0
    repo = hub.repo("alice/recall", "space")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"3 files of 3 new or changed, commit {repo.tags['v1'][:8]}, tag v1; private: {hub.url}/spaces/alice/recall"
    assert repo.private and sorted(repo.files()) == [".gitattributes", "README.md", "recall.py", "requirements.txt"]
    assert repo.files()["recall.py"] == (metric_folder("sensitivity") / "sensitivity.py").read_bytes()
    assert push_metric("sensitivity", "alice/recall").changed == []
    repo.private = False  # the download of `evaluate` has no token
    reader = hub.environment(tmp_path / "cache") | {"HF_EVALUATE_OFFLINE": "0"}
    pulled = in_another_process(["-c", METRIC_READER], tmp_path / "recall", **reader)
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.splitlines()[-1] == "0.5 0.5"


def test_metrics_that_are_not_pushed(hub, capsys):
    assert cli.main(["push-metric", "dice", "alice/dice", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "README.md",
        "dice.py",
        "requirements.txt",
        "3 files would go to alice/dice; nothing was sent",
    ]
    assert hub.requests == []
    for arguments, message in (
        (["iou", "alice/iou"], "'iou' is no metric of this package: balanced_accuracy, dice, "),
        (["dice", "dice"], "dice: not the name of a Hub repository"),
        (["dice", "alice/dice.v2"], "alice/dice.v2: `evaluate` cannot load a metric from a repository with a dot"),
    ):
        assert cli.main(["push-metric", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"macdm push-metric: {message}") and error.count("\n") == 1
    hub.create("alice/open", "space", private=False)
    with pytest.raises(ValueError, match="alice/open is a public repository"):
        push_metric("dice", "alice/open")
    assert push_metric("dice", "alice/open", private=False).deleted == []
