"""A full disk, a count without an end, a place that cannot be written to: one sentence, and nothing that looks whole."""

import resource
import sys

import pytest
from forking import Fork
from tiny_models import tiny_pipeline

from diffusers_macdm.commands import main as cli
from diffusers_macdm.generate import generate
from diffusers_macdm.phantom import write_phantom


MANY = "1000000000"
QUICK = ("--num-inference-steps", "2", "--device", "cpu")
AUDIT = ("audit", "--real", "data", "--synthetic", "set", "--out", "out", "--embedding-steps", "1", "--planted", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    tiny_pipeline().save_pretrained(folder / "model")
    write_phantom(folder / "data", 6, 6, 32, 0)
    generate(folder / "model", folder / "set", 4, num_inference_steps=2, device="cpu", progress=False)
    return folder


@pytest.mark.parametrize(
    ("words", "largest"),
    [
        (("generate", "model", "out", "--num-per-class", "2", *QUICK), 100),
        (("generate", "model", "out", "--num-per-class", "2", *QUICK), 2500),
        (("phantom", "out", "--num-normal", "2", "--num-lesion", "2"), 300),
        ((*AUDIT, "--device", "cpu"), 20_000),  # enough for all but the embedding, whose writer has errors of its own
    ],
)
def test_no_file_may_grow(folder, tmp_path, monkeypatch, words, largest):
    """As on a full disk (EFBIG for ENOSPC): the limit of a file's size is the process's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("model", "data", "set"):
        (tmp_path / name).symlink_to(folder / name)

    def run():
        log, sys.stderr = sys.stderr, open(tmp_path / "said", "w", buffering=1)
        sys.stdout = log
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        code = cli.main(list(words))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sys.exit(code)

    fork = Fork(run, tmp_path / "log")
    code, said = fork.wait(), (tmp_path / "said").read_text()
    assert code == 1 and "Traceback" not in fork.said, (said, fork.said)
    sentence = said.splitlines()[-1]
    assert sentence.startswith(f"macdm {words[0]}: the disk is full") and "give the same command again" in sentence
    out = tmp_path / "out"
    assert not (out / "summary.json").exists() and not (out / "audit.json").exists() and not (out / ".lock").exists()
    assert Fork(lambda: sys.exit(cli.main(list(words))), tmp_path / "log").wait() == 0  # with room it is done


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate", "model", "out", "--num-per-class", MANY, *QUICK), f"--num-per-class {MANY} is not allowed: at most"),
        ((*AUDIT[:-1], "1000000000"), "--planted 1000000000 is not allowed: at most"),
        ((*AUDIT, "--variations", "1000000000"), "--variations 1000000000 is not allowed"),
        (("sweep", "model", "--real", "data", "--out", "out", "--grid", "w2=1", "--num-per-class", MANY), "at most"),
        (("generate", "model", "file/out", "--num-per-class", "1", *QUICK), "file/out: not a directory."),
        (("generate", "model", "/proc/out", "--num-per-class", "1", *QUICK), "/proc/out: no such file or directory."),
        (("generate", "model", "nothing", "--num-per-class", "1", *QUICK), "nothing is a link to nothing."),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_at_once(folder, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "data", "set"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "file").write_text("")
    (tmp_path / "nothing").symlink_to("nowhere")
    try:
        code = cli.main(list(words))
    except SystemExit as error:
        code = error.code
    said = capsys.readouterr().err.strip().splitlines()
    assert code in (1, 2) and message in said[-1], said
    assert not (tmp_path / "out").exists()


def test_two_phantoms_in_one_folder(tmp_path):
    """The second one is refused, also while the first is at work: it would take the first one's place."""
    words = ["--num-normal", "40", "--num-lesion", "20", "--size", "64"]
    forks = [
        Fork(lambda seed=seed: sys.exit(cli.main(["phantom", str(tmp_path / "out"), *words, "--seed", seed])), tmp_path / seed)
        for seed in ("1", "2", "3")
    ]
    codes = [fork.wait() for fork in forks]
    assert sorted(codes) == [0, 1, 1], [fork.said for fork in forks]
    for fork, code in zip(forks, codes, strict=True):
        assert code == 0 or "is being written by another process" in fork.said or "is not empty" in fork.said, fork.said
    alone = tmp_path / "alone"
    write_phantom(alone, 40, 20, 64, 1 + codes.index(0))
    files = [path.relative_to(alone) for path in alone.rglob("*") if path.is_file()]
    assert all((tmp_path / "out" / path).read_bytes() == (alone / path).read_bytes() for path in files)
    assert not (tmp_path / "out" / ".lock").exists()
